//! Blocks of 4-bit codes on the CPU: numbers to codes and back. The layout is that of
//! [`QuantizedTensor`](crate::tensor::QuantizedTensor).

mod decode;
mod encode;
mod gemv;
mod scales;

pub(crate) use decode::Packed;
pub(super) use decode::PackedRows;
pub(crate) use encode::{Table, encode};
pub(super) use gemv::rows_times;
pub(crate) use scales::{decode_scales, dynamic_map, nearest, nest, unsigned_dynamic_map};
