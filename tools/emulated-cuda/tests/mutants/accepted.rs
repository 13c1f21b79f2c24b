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

const ENTRY: &str = "the test before the first round of a loop that every launch enters";
const PREFETCH: &str = "keeps a round from fetching what lies behind the last tile: the mask of the rows brings zeros there, which nobody reads";
const INSIDE: &str = "a row of the first tiles that lies inside the matrix for every size of the case";
const ALIKE: &str = "one lane writes what all of them hold: the same value from each, which is no error";
const EVERY_WARP: &str = "the first warp alone does what any could: each comes to the same values";
const LAST_VALUE: &str = "the last value that is left of its half of a switch: always equal";
const FEW_ROUNDS: &str =
    "the function's loop has one to three rounds: its unrolled form does not run, its rest always does";
const MINUS_INFINITY: &str =
    "guards a row whose logits are all minus infinity, and a difference of infinities: no case has one";
const LAST_LANE: &str = "the lane behind the last one set is never asked for: a loop ends before";
const IDENTITY: &str =
    "the strides of less than a warp go through shared memory or through shuffles: the same exchange";
const BLOCKS: &str = "orders blocks against each other in global memory, which blocks here see at once and in order (README, what is not \
                      looked for)";

const fn accepted(
    place: &'static str,
    kind: &'static str,
    before: &'static str,
    reason: &'static str,
) -> Accepted {
    Accepted { place, kind, before, reason }
}

const FALSE: &str = "mask always false";
const TRUE: &str = "mask always true";
const NEGATED: &str = "predicate negated";

/// All of them.
pub const ACCEPTED: &[Accepted] = &[
    accepted("nvcc/attention_bwd", FALSE, "%p9, %r2, %r54", ENTRY),
    accepted("nvcc/gemm_f32", TRUE, "%p1, %r30, 0", ENTRY),
    accepted("clang/gemm_f32", TRUE, "%p1, %r32, 0", ENTRY),
    accepted("nvcc/attention_fwd", FALSE, "%p4, %r382, %r1", PREFETCH),
    accepted("nvcc/gemm_mma", FALSE, "%p1, %r442, %r6", PREFETCH),
    accepted("nvcc/gemm_mma", FALSE, "%p8, %r452, %r6", PREFETCH),
    accepted("clang/gemm_mma", FALSE, "%p3, %r428, %r6", PREFETCH),
    accepted("clang/gemm_mma", FALSE, "%p10, %r206, %r6", PREFETCH),
    accepted("nvcc/attention_fwd", TRUE, "%p3, %r39, %r16", INSIDE),
    accepted("nvcc/gemm_mma", TRUE, "%p4, %r160, %r79", INSIDE),
    accepted("clang/gemm_mma", TRUE, "%p6, %r160, %r89", INSIDE),
    accepted("nvcc/attention_fwd", FALSE, "%p24, %r339, 0", ALIKE),
    accepted("nvcc/attention_fwd", NEGATED, "@%p24 bra", ALIKE),
    accepted("nvcc/attention_fwd", FALSE, "%p28, %r360, 0", ALIKE),
    accepted("nvcc/attention_fwd", NEGATED, "@%p28 bra", ALIKE),
    accepted("nvcc/cross_entropy", FALSE, "%p30, %r62, 0", ALIKE),
    accepted("nvcc/cross_entropy", NEGATED, "@%p30 bra", ALIKE),
    accepted("nvcc/rmsnorm", FALSE, "%p9, %r33, 0", ALIKE),
    accepted("nvcc/rmsnorm", NEGATED, "@%p9 bra", ALIKE),
    accepted("nvcc/cross_entropy", FALSE, "%p23, %f198, 0fFF800000", MINUS_INFINITY),
    accepted("nvcc/divergent", TRUE, "%p2, %r37, 3", FEW_ROUNDS),
    accepted("nvcc/divergent", TRUE, "%p3, %r51, 0", FEW_ROUNDS),
    accepted("nvcc/divergent", FALSE, "%p3, %r51, 0", FEW_ROUNDS),
    accepted("nvcc/divergent", NEGATED, "@%p3 bra \t$L__BB1_3", FEW_ROUNDS),
    accepted("nvcc/divergent", FALSE, "%p4, %r65, 0", FEW_ROUNDS),
    accepted("clang/divergent", TRUE, "%p2, %r37, 7", FEW_ROUNDS),
    accepted("clang/divergent", TRUE, "%p3, %r102, %r112", FEW_ROUNDS),
    accepted("clang/divergent", FALSE, "%p3, %r102, %r112", FEW_ROUNDS),
    accepted("clang/divergent", NEGATED, "@%p3 bra \tLBB2_4", FEW_ROUNDS),
    accepted("clang/divergent", FALSE, "%p4, %r103, 0", FEW_ROUNDS),
    accepted("nvcc/divergent", TRUE, "%p9, %rs1, 8", LAST_VALUE),
    accepted("nvcc/divergent", TRUE, "%p13, %rs1, 5", LAST_VALUE),
    accepted("nvcc/divergent", TRUE, "%p16, %rs1, 0", LAST_VALUE),
    accepted("clang/divergent", TRUE, "%p9, %rd11, 8", LAST_VALUE),
    accepted("clang/divergent", TRUE, "%p13, %rd11, 5", LAST_VALUE),
    accepted("clang/divergent", TRUE, "%p16, %rd11, 0", LAST_VALUE),
    accepted("clang/divergent", FALSE, "%p5, %r2, 0", LAST_LANE),
    accepted("clang/divergent", FALSE, "%p9, %r46, 0", LAST_LANE),
    accepted("nvcc/pipeline", FALSE, "%p19, %r1, 0", ALIKE),
    accepted("nvcc/pipeline", NEGATED, "@%p19 bra", ALIKE),
    accepted("nvcc/pipeline", FALSE, "%p7, %r2, 0", ALIKE),
    accepted("nvcc/pipeline", NEGATED, "@%p7 bra", ALIKE),
    accepted("nvcc/scan", NEGATED, "@%p1 bra \t$L__BB1_16", EVERY_WARP),
    accepted("clang/scan", NEGATED, "@%p1 bra \tLBB1_18", EVERY_WARP),
    accepted("nvcc/sort", TRUE, "%p3, %r64, 31", IDENTITY),
    accepted("clang/sort", FALSE, "%p3, %r33, 32", IDENTITY),
    accepted("nvcc/scan", "fence deleted", "membar.gl", BLOCKS),
    accepted("clang/scan", "fence deleted", "membar.gl", BLOCKS),
    accepted("nvcc/grid_sync", "fence deleted", "membar.gl", BLOCKS),
    accepted("clang/grid_sync", "fence deleted", "membar.gl", BLOCKS),
];
