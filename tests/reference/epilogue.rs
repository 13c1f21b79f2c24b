//! What a product's epilogue makes of its sums, by the definitions.

use super::Real;
use super::gelu::{gelu_erf, gelu_tanh};
use super::swiglu::{swiglu, swiglu_backward};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    None,
    Residual,
    GeluErf,
    GeluTanh,
    SwiGlu,
}

pub const KINDS: [Kind; 5] = [Kind::None, Kind::Residual, Kind::GeluErf, Kind::GeluTanh, Kind::SwiGlu];

impl Kind {
    pub fn has_operand(self) -> bool {
        matches!(self, Kind::Residual | Kind::SwiGlu)
    }

    /// y of z and the operand (of as many elements, or none).
    pub fn apply<R: Real>(self, z: &[R], operand: &[R]) -> Vec<R> {
        match self {
            Kind::None => z.to_vec(),
            Kind::Residual => z.iter().zip(operand).map(|(&z, &r)| z + r).collect(),
            Kind::GeluErf => z.iter().map(|&z| gelu_erf(z).0).collect(),
            Kind::GeluTanh => z.iter().map(|&z| gelu_tanh(z).0).collect(),
            Kind::SwiGlu => swiglu(operand, z),
        }
    }

    /// Gradients of z and of the operand.
    pub fn backward<R: Real>(self, z: &[R], operand: &[R], dy: &[R]) -> [Vec<R>; 2] {
        let times = |slope: fn(R) -> (R, R)| z.iter().zip(dy).map(|(&z, &d)| d * slope(z).1).collect();
        match self {
            Kind::None => [dy.to_vec(), Vec::new()],
            Kind::Residual => [dy.to_vec(), dy.to_vec()],
            Kind::GeluErf => [times(gelu_erf), Vec::new()],
            Kind::GeluTanh => [times(gelu_tanh), Vec::new()],
            Kind::SwiGlu => {
                let [dgate, dz] = swiglu_backward(operand, z, dy);
                [dz, dgate]
            }
        }
    }
}
