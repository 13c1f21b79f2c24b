//! Mutants that no run can tell from the kernel as it is, each with the reason.

use super::mutate::Mutant;

/// Mutants of one kind in one file.
pub struct Accepted {
    /// `compiler/file`.
    pub place: &'static str,
    /// Their kind.
    pub kind: &'static str,
    /// The instruction as it was; in part.
    pub before: &'static str,
    /// Why it makes no difference.
    pub reason: &'static str,
}

impl Accepted {
    /// Whether it speaks of this mutant.
    pub fn covers(&self, place: &str, mutant: &Mutant) -> bool {
        self.place == place && self.kind == mutant.kind && mutant.before.contains(self.before)
    }
}

/// All of them.
pub const ACCEPTED: &[Accepted] = &[];
