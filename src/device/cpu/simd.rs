//! Which vector instructions this processor has. Kernels are compiled for each kind through
//! the `lanes` module.

use std::sync::OnceLock;

/// A set of vector instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 (F, BW, VL, DQ), FMA and F16C: 16 floats.
    Avx512,
    /// AVX2, FMA and F16C: 8 floats.
    Avx2,
    /// What every processor of the target has.
    Baseline,
}

impl Isa {
    /// The set in use: the best of this processor, or the one that the environment variable `WARPTUNE_SIMD` (`baseline`,
    /// `avx2`) names if that is lesser, for tests of the kernels of lesser processors. Decided at the first call.
    pub fn detect() -> Isa {
        static IN_USE: OnceLock<Isa> = OnceLock::new();
        *IN_USE.get_or_init(|| match (std::env::var("WARPTUNE_SIMD").as_deref(), Isa::of_processor()) {
            (Ok("baseline"), _) => Isa::Baseline,
            (Ok("avx2"), Isa::Avx512) => Isa::Avx2,
            (_, best) => best,
        })
    }

    fn of_processor() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            let fma = is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            match (fma, avx512) {
                (true, true) => return Isa::Avx512,
                (true, false) => return Isa::Avx2,
                _ => {}
            }
        }
        Isa::Baseline
    }

    /// The set's name, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "AVX-512",
            Isa::Avx2 => "AVX2",
            Isa::Baseline => "baseline",
        }
    }
}
