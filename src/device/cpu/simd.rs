//! Which vector instructions this processor has, and loops compiled once for each kind.

/// A set of vector instructions that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 (F, BW, VL, DQ) and FMA: 16 floats.
    Avx512,
    /// AVX2 and FMA: 8 floats.
    Avx2,
    /// What every processor of the target has.
    Baseline,
}

impl Isa {
    /// The best set of this processor. The answer is cached by the standard library.
    #[inline]
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            let fma = is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2");
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

/// `a * b + c`, in one rounding where the instruction set has it. Without the const parameter a processor that lacks FMA
/// would call a library function for each.
#[inline(always)]
pub fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Defines a function that is compiled for each [`Isa`] and picks the best at run time. `body` is a function, generic over
/// `const FMA: bool` first, whose loops the compiler vectorises; it should be `#[inline(always)]`.
///
/// ```
/// use warptune::device::cpu::simd::mul_add;
///
/// #[inline(always)]
/// fn axpy_body<const FMA: bool>(a: f32, x: &[f32], y: &mut [f32]) {
///     y.iter_mut().zip(x).for_each(|(y, x)| *y = mul_add::<FMA>(a, *x, *y));
/// }
/// warptune::multiversion!(fn axpy(a: f32, x: &[f32], y: &mut [f32]) = axpy_body);
///
/// let mut y = [1.0];
/// axpy(2.0, &[3.0], &mut y);
/// assert_eq!(y, [7.0]);
/// ```
#[macro_export]
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident$(<$T:ident: $bound:path>)?($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        $vis fn $name$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
            fn avx512$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                $body::<true$(, $T)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2$(<$T: $bound>)?($($arg: $ty),*) $(-> $ret)? {
                $body::<true$(, $T)?>($($arg),*)
            }
            match $crate::device::cpu::simd::Isa::detect() {
                // SAFETY: the processor has these features, `detect` says.
                #[cfg(target_arch = "x86_64")]
                $crate::device::cpu::simd::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::device::cpu::simd::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body::<false$(, $T)?>($($arg),*),
            }
        }
    };
}
