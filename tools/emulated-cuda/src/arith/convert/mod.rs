//! `cvt`: conversions between numbers.
//!
//! - [`Conversion::parse`] knows which combinations of types and modifiers the ISA allows.
//! - `lane` converts one value, exactly, in integers.
//! - `rows` converts 32 of them, as vector code where kernels do it often.

mod lane;
mod rows;

use super::{exact::Format, round::Rounding};

/// A type that `cvt` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// An integer.
    Integer {
        /// 8, 16, 32 or 64.
        bits: u32,
        signed: bool,
    },
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    /// Two values in one register, the first source in the upper half.
    F16x2,
    Bf16x2,
    E4m3x2,
    E5m2x2,
}

use Kind::{Bf16, Bf16x2, E4m3x2, E5m2x2, F16, F16x2, F32, F64, Integer, Tf32};

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "u8" => Integer { bits: 8, signed: false },
            "u16" => Integer { bits: 16, signed: false },
            "u32" => Integer { bits: 32, signed: false },
            "u64" => Integer { bits: 64, signed: false },
            "s8" => Integer { bits: 8, signed: true },
            "s16" => Integer { bits: 16, signed: true },
            "s32" => Integer { bits: 32, signed: true },
            "s64" => Integer { bits: 64, signed: true },
            "f16" => F16,
            "bf16" => Bf16,
            "tf32" => Tf32,
            "f32" => F32,
            "f64" => F64,
            "f16x2" => F16x2,
            "bf16x2" => Bf16x2,
            "e4m3x2" => E4m3x2,
            "e5m2x2" => E5m2x2,
            _ => return None,
        })
    }

    /// Bits of a register that holds it.
    fn bits(self) -> u32 {
        match self {
            Integer { bits, .. } => bits,
            F16 | Bf16 | E4m3x2 | E5m2x2 => 16,
            Tf32 | F32 | F16x2 | Bf16x2 => 32,
            F64 => 64,
        }
    }

    /// The format of the number, or of each of the two.
    fn format(self) -> Option<&'static Format> {
        Some(match self {
            Integer { .. } => return None,
            F16 | F16x2 => &Format::F16,
            Bf16 | Bf16x2 => &Format::BF16,
            Tf32 => &Format::TF32,
            F32 => &Format::F32,
            F64 => &Format::F64,
            E4m3x2 => &Format::E4M3,
            E5m2x2 => &Format::E5M2,
        })
    }

    fn is_pair(self) -> bool {
        matches!(self, F16x2 | Bf16x2 | E4m3x2 | E5m2x2)
    }
}

/// What a rounding modifier asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// None is named.
    Exact,
    /// `.rn`, `.rz`, `.rm`, `.rp`: to the target's format.
    Float(Rounding),
    /// `.rni`, `.rzi`, `.rmi`, `.rpi`: to an integer.
    Integral(Rounding),
    /// `.rna`: to nearest, ties away from zero.
    Away,
}

impl Mode {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "rn" => Self::Float(Rounding::Rn),
            "rz" => Self::Float(Rounding::Rz),
            "rm" => Self::Float(Rounding::Rm),
            "rp" => Self::Float(Rounding::Rp),
            "rni" => Self::Integral(Rounding::Rn),
            "rzi" => Self::Integral(Rounding::Rz),
            "rmi" => Self::Integral(Rounding::Rm),
            "rpi" => Self::Integral(Rounding::Rp),
            "rna" => Self::Away,
            _ => return None,
        })
    }
}

/// A `cvt` instruction: from what to what, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    to: Kind,
    from: Kind,
    mode: Mode,
    /// Subnormals of f32 are zeros.
    ftz: bool,
    /// Clamps to the integer's range, or to 0 to 1.
    sat: bool,
    /// Clamps to 0 from below.
    relu: bool,
    /// Clamps to the greatest finite number.
    satfinite: bool,
}

impl Conversion {
    /// What follows `cvt.`, such as `["rn", "f16", "f32"]`.
    ///
    /// # Errors
    /// An unknown modifier or type, or a combination that the ISA does not allow: the message names it.
    pub fn parse(modifiers: &[&str]) -> Result<Self, String> {
        let all = modifiers;
        let [modifiers @ .., to, from] = all else { return Err("cvt takes two types".into()) };
        let kind =
            |name: &str| Kind::named(name).ok_or_else(|| format!("cvt does not know the type .{name}"));
        let (to, from) = (kind(to)?, kind(from)?);
        let mut parsed =
            Self { to, from, mode: Mode::Exact, ftz: false, sat: false, relu: false, satfinite: false };
        for (at, modifier) in modifiers.iter().enumerate() {
            // The ISA puts them in this order, and nvcc prints both orders of the last two.
            let place = match (*modifier, Mode::named(modifier)) {
                (_, Some(mode)) => {
                    parsed.mode = mode;
                    at == 0
                }
                ("ftz", _) => !std::mem::replace(&mut parsed.ftz, true) && !parsed.sat,
                ("sat", _) => !std::mem::replace(&mut parsed.sat, true),
                ("relu", _) => !std::mem::replace(&mut parsed.relu, true),
                ("satfinite", _) => !std::mem::replace(&mut parsed.satfinite, true),
                _ => return Err(format!("cvt does not know the modifier .{modifier}")),
            };
            if !place {
                return Err(format!("cvt has .{modifier} out of place"));
            }
        }
        parsed.check().map_err(|wrong| format!("cvt.{} {wrong}", all.join(".")))?;
        Ok(parsed)
    }

    /// Says what is wrong with the combination, if anything is.
    fn check(&self) -> Result<(), &'static str> {
        if self.to.is_pair() || self.from.is_pair() {
            return self.check_pair();
        }
        let Self { to, from, mode, .. } = *self;
        if from == Tf32 {
            return Err("does not exist");
        }
        let to_small = matches!(to, F16 | Bf16 | Tf32) && from == F32;
        if (self.relu || self.satfinite) && !to_small {
            return Err("takes neither .relu nor .satfinite");
        }
        if to == Tf32 {
            return match mode {
                _ if from != F32 => Err("does not exist"),
                _ if self.ftz || self.sat => Err("takes neither .ftz nor .sat"),
                Mode::Away if self.relu => Err("takes no .relu with .rna"),
                Mode::Away | Mode::Float(Rounding::Rn | Rounding::Rz) => Ok(()),
                _ => Err("needs .rna, .rn or .rz"),
            };
        }
        if (self.relu || self.satfinite) && (self.ftz || self.sat) {
            return Err("takes no .ftz or .sat with .relu or .satfinite");
        }
        if (self.relu || self.satfinite) && !matches!(mode, Mode::Float(Rounding::Rn | Rounding::Rz)) {
            return Err("needs .rn or .rz with .relu or .satfinite");
        }
        if self.ftz && to != F32 && from != F32 {
            return Err("takes no .ftz: neither type is .f32");
        }
        match (to, from) {
            (Integer { .. }, Integer { .. }) if mode != Mode::Exact => Err("takes no rounding modifier"),
            (Integer { bits, signed }, Integer { bits: from_bits, signed: from_signed }) => {
                let all_fit = match (signed, from_signed) {
                    (true, false) => bits > from_bits,
                    (false, true) => false,
                    _ => bits >= from_bits,
                };
                if self.sat && all_fit { Err("takes no .sat: every value fits") } else { Ok(()) }
            }
            (Integer { .. }, _) if matches!(mode, Mode::Integral(_)) => Ok(()),
            (Integer { .. }, _) => Err("needs .rni, .rzi, .rmi or .rpi"),
            (Bf16, _) if self.sat => Err("takes no .sat"),
            _ if self.rounds() && matches!(mode, Mode::Float(_)) => Ok(()),
            _ if self.rounds() => Err("needs .rn, .rz, .rm or .rp"),
            _ if mode == Mode::Exact || to == from && matches!(mode, Mode::Integral(_)) => Ok(()),
            _ if to == from => Err("takes no other rounding modifier than .rni, .rzi, .rmi or .rpi"),
            _ => Err("takes no rounding modifier"),
        }
    }

    /// Whether a conversion to floating-point may lose something.
    fn rounds(&self) -> bool {
        matches!(
            (self.to, self.from),
            (_, Integer { .. }) | (F16 | Bf16, F32 | F64) | (F32, F64) | (F16, Bf16) | (Bf16, F16)
        )
    }

    fn check_pair(&self) -> Result<(), &'static str> {
        if self.ftz || self.sat {
            return Err("takes neither .ftz nor .sat");
        }
        let nearest = self.mode == Mode::Float(Rounding::Rn);
        match (self.to, self.from) {
            (F16x2 | Bf16x2, F32) if nearest || self.mode == Mode::Float(Rounding::Rz) => Ok(()),
            (F16x2 | Bf16x2, F32) => Err("needs .rn or .rz"),
            (E4m3x2 | E5m2x2, F32 | F16x2) if nearest && self.satfinite => Ok(()),
            (E4m3x2 | E5m2x2, F32 | F16x2) => Err("needs .rn and .satfinite"),
            (F16x2, E4m3x2 | E5m2x2) if nearest && !self.satfinite => Ok(()),
            (F16x2, E4m3x2 | E5m2x2) => Err("needs .rn and takes no .satfinite"),
            _ => Err("does not exist"),
        }
    }

    /// How many source operands it takes.
    pub fn sources(self) -> usize {
        if self.to.is_pair() && self.from == F32 { 2 } else { 1 }
    }

    /// Whether every bit of the result is one of the source's, or constant: integers that are cut off or extended.
    pub fn moves_bits(self) -> bool {
        matches!((self.to, self.from), (Integer { .. }, Integer { .. })) && !self.sat
    }

    /// Bits of a source.
    pub fn source_bits(self) -> u32 {
        self.from.bits()
    }

    /// Bits of the target.
    pub fn target_bits(self) -> u32 {
        self.to.bits()
    }
}
