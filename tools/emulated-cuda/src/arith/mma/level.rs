//! Which vector instructions the processor has.

/// A set of vector instructions that this processor is known to have. Every level gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(pub(super) Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// What the crate was compiled for.
    Baseline,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The fastest level. Costs a few cycles: the answer is kept by the standard library.
    #[inline(always)]
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if avx512() {
                return Self(Set::Avx512);
            }
            if avx2() {
                return Self(Set::Avx2);
            }
        }
        Self(Set::Baseline)
    }

    /// Every level that this processor has, the baseline first.
    pub fn all() -> Vec<Self> {
        let mut levels = vec![Self(Set::Baseline)];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(avx2().then_some(Self(Set::Avx2)));
            levels.extend(avx512().then_some(Self(Set::Avx512)));
        }
        levels
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn avx512() -> bool {
    avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}
