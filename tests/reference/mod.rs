//! Oracles: plain loops over slices, written from the formulas and independent of src/. Generic over the number type: in
//! f64 they say what is right; in f32 they are the naive implementation whose error sets the tolerance.

pub mod adamw;
pub mod attention;
pub mod dropout;
pub mod embedding;
pub mod epilogue;
pub mod gelu;
pub mod layer_norm;
pub mod linear_cross_entropy;
pub mod lora_matmul;
pub mod matmul;
pub mod mse;
pub mod quantize;
pub mod rms_norm;
pub mod rope;
pub mod sample;
pub mod sign_matmul;
pub mod swiglu;

use half::{bf16, f16};
use warptune::tensor::DType;

/// f32 or f64.
pub trait Real:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::iter::Sum
{
    fn of(x: f64) -> Self;
    fn f64(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
}

macro_rules! real {
    ($t:ident) => {
        impl Real for $t {
            fn of(x: f64) -> $t {
                x as $t
            }
            fn f64(self) -> f64 {
                self as f64
            }
            fn exp(self) -> $t {
                $t::exp(self)
            }
            fn ln(self) -> $t {
                $t::ln(self)
            }
            fn sqrt(self) -> $t {
                $t::sqrt(self)
            }
            fn sin(self) -> $t {
                $t::sin(self)
            }
            fn cos(self) -> $t {
                $t::cos(self)
            }
        }
    };
}
real!(f32);
real!(f64);

/// Numbers in another type: exact from bf16, f16 or f32 values to f64 or f32.
pub fn cast<A: Real, B: Real>(x: &[A]) -> Vec<B> {
    x.iter().map(|x| B::of(x.f64())).collect()
}

/// What a naive implementation would store as `dtype`, as f64 for comparing.
pub fn stored<A: Real>(x: &[A], dtype: DType) -> Vec<f64> {
    let round = |x: &A| match dtype {
        DType::BF16 => bf16::from_f32(x.f64() as f32).to_f64(),
        DType::F16 => f16::from_f32(x.f64() as f32).to_f64(),
        _ => f64::from(x.f64() as f32),
    };
    x.iter().map(round).collect()
}
