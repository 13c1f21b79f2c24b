//! Mutants that go unnoticed, each with the reason.

use super::mutate::Mutant;

const FALSE: &str = "mask always false";
const TRUE: &str = "mask always true";
const NEGATED: &str = "predicate negated";

/// Mutants that make no difference, or none that can be seen, for one reason.
pub struct Accepted {
    /// The reason.
    pub reason: &'static str,
    /// Compiler and file, kinds, and the instruction as it was, in part.
    pub mutants: &'static [(&'static str, &'static [&'static str], &'static str)],
}

impl Accepted {
    /// The place in `mutants` that speaks of this mutant.
    pub fn find(&self, place: &str, mutant: &Mutant) -> Option<usize> {
        let fits = |(at, kinds, before): &(&str, &[&str], &str)| {
            *at == place && kinds.contains(&mutant.kind) && squeeze(&mutant.before).starts_with(before)
        };
        self.mutants.iter().position(fits)
    }
}

/// The text with single blanks.
fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All of them.
pub const ACCEPTED: &[Accepted] = &[
    Accepted {
        reason: "More threads than one store the same value to the same place.",
        mutants: &[
            ("nvcc/attention_fwd", &[FALSE], "setp.ne.s32 %p24, %r339, 0"),
            ("nvcc/attention_fwd", &[NEGATED], "@%p24 bra"),
            ("nvcc/attention_fwd", &[FALSE], "setp.ne.s32 %p28, %r360, 0"),
            ("nvcc/attention_fwd", &[NEGATED], "@%p28 bra"),
            ("nvcc/cross_entropy", &[FALSE], "setp.ne.s32 %p30, %r62, 0"),
            ("nvcc/cross_entropy", &[NEGATED], "@%p30 bra"),
            ("nvcc/bytes", &[FALSE], "setp.ne.s32 %p16, %r1, 0"),
            ("nvcc/bytes", &[NEGATED], "@%p16 bra"),
            ("nvcc/meet", &[FALSE], "setp.ne.s32 %p7, %r2, 0"),
            ("nvcc/meet", &[NEGATED], "@%p7 bra"),
            ("nvcc/meet", &[NEGATED], "@%p8 bra $L__BB0_14"),
            ("clang/meet", &[FALSE], "setp.ne.s32 %p2, %r2, 0"),
            ("clang/meet", &[NEGATED], "@%p2 bra LBB0_"),
            ("clang/meet", &[TRUE], "setp.eq.s32 %p9, %r1, 0"),
            ("clang/meet", &[NEGATED], "@%p9 bra LBB0_13"),
            ("nvcc/pipeline", &[FALSE], "setp.ne.s32 %p7, %r2, 0"),
            ("nvcc/pipeline", &[NEGATED], "@%p7 bra"),
            ("nvcc/pipeline", &[FALSE], "setp.ne.s32 %p19, %r1, 0"),
            ("nvcc/pipeline", &[NEGATED], "@%p19 bra"),
            ("nvcc/rmsnorm", &[FALSE], "setp.ne.s32 %p9, %r33, 0"),
            ("nvcc/rmsnorm", &[NEGATED], "@%p9 bra"),
        ],
    },
    Accepted {
        reason: "A tile behind the last is copied too, as zeros, and nobody reads it.",
        mutants: &[
            ("nvcc/attention_fwd", &[FALSE], "setp.ge.s32 %p4, %r382, %r1"),
            ("nvcc/gemm_mma", &[FALSE], "setp.ge.s32 %p1, %r442, %r6"),
            ("nvcc/gemm_mma", &[FALSE], "setp.ge.s32 %p8, %r452, %r6"),
            ("clang/gemm_mma", &[FALSE], "setp.ge.s32 %p3, %r428, %r6"),
            ("clang/gemm_mma", &[FALSE], "setp.ge.s32 %p10, %r206, %r6"),
            ("nvcc/gemm_f32", &[TRUE], "setp.gt.s32 %p1, %r30, 0"),
            ("clang/gemm_f32", &[TRUE], "setp.gt.s32 %p1, %r32, 0"),
        ],
    },
    Accepted {
        reason: "The compiler asks what cannot be otherwise: it does not know that a block owns a key, that a warp that votes has a \
                 vote, that a row has a number in it, or that its own branches before have ruled out the rest.",
        mutants: &[
            ("nvcc/bytes", &[FALSE], "setp.ge.s32 %p1, %r108, %r36"),
            ("nvcc/bytes", &[TRUE], "setp.lt.s32 %p3, %r108, %r36"),
            ("nvcc/attention_bwd", &[FALSE], "setp.ge.s32 %p9, %r2, %r54"),
            ("nvcc/cross_entropy", &[FALSE], "setp.eq.f32 %p23, %f198, 0fFF800000"),
            ("clang/divergent", &[FALSE], "setp.eq.s32 %p5, %r2, 0"),
            ("clang/divergent", &[FALSE], "setp.eq.s32 %p9, %r46, 0"),
            ("nvcc/divergent", &[TRUE], "setp.eq.s16 %p9, %rs1, 8"),
            ("nvcc/divergent", &[TRUE], "setp.eq.s16 %p13, %rs1, 5"),
            ("nvcc/divergent", &[TRUE], "setp.eq.s16 %p16, %rs1, 0"),
            ("clang/divergent", &[TRUE], "setp.eq.s64 %p9, %rd11, 8"),
            ("clang/divergent", &[TRUE], "setp.eq.s64 %p13, %rd11, 5"),
            ("clang/divergent", &[TRUE], "setp.eq.s64 %p16, %rd11, 0"),
        ],
    },
    Accepted {
        reason: "Other threads wait for the flag, or set it, or all do: the barrier beside it orders the rest of the block.",
        mutants: &[
            ("nvcc/meet", &[NEGATED], "@%p2 bra $L__BB1_"),
            ("nvcc/meet", &[TRUE], "setp.eq.s32 %p2, %r4, 0"),
            ("nvcc/meet", &[NEGATED], "@%p2 bra $L__BB2_2"),
            ("clang/meet", &[NEGATED], "@%p2 bra LBB1_5"),
            ("clang/meet", &[NEGATED], "@%p2 bra LBB2_5"),
        ],
    },
    Accepted {
        reason: "The barrier of the block does what that of the warp would.",
        mutants: &[
            ("nvcc/sort", &[TRUE], "setp.gt.s32 %p3, %r64, 31"),
            ("clang/sort", &[FALSE], "setp.lt.s32 %p3, %r33, 32"),
        ],
    },
];
