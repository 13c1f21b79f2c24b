//! Which kernel makes a product on a CUDA device: a pure function of shapes and types.

use crate::tensor::DType;

/// Which operand lies transposed, and the shape of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// `A B^T`: A `[m, k]`, B `[n, k]`.
    Nt,
    /// `A B`: A `[m, k]`, B `[k, n]`.
    Nn,
    /// `A^T B`: A `[k, m]`, B `[k, n]`.
    Tn,
}

/// How a product C `[m, n]` is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// kernels/gemv.cu, the kernel for groups of up to so many rows. A row's bits depend on k alone, not on m, n or the kernel.
    Gemv { rows: usize },
    /// Tensor cores.
    TensorCores,
    /// f32 on the ordinary cores.
    OrdinaryCores,
}

/// Rows from which on the tensor cores' tiles are better than reading W once for all rows.
const GEMV_ROWS: usize = 16;
/// Rows that a kernel of gemv.cu on the ordinary cores can have: more go in groups.
const GEMV_GROUP: usize = 8;

impl Plan {
    /// For C of m rows, and operands of types `a` and `b`.
    pub(super) fn new(case: Case, m: usize, a: DType, b: DType) -> Plan {
        // An f32 is three bf16; f16 has not the range.
        let tensor_cores = b.is_half() && (a == b || (a, b) == (DType::F32, DType::BF16));
        match case {
            Case::Nt if m <= GEMV_ROWS && tensor_cores => Plan::Gemv { rows: if m <= 8 { 8 } else { 16 } },
            Case::Nt if m <= GEMV_ROWS => Plan::Gemv { rows: m.next_power_of_two().min(GEMV_GROUP) },
            _ if a == b && a.is_half() => Plan::TensorCores,
            _ => Plan::OrdinaryCores,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Case, Plan};
    use crate::tensor::DType::{BF16, F16, F32};

    #[test]
    fn few_rows_are_streamed_and_many_tiled() {
        let gemv = |rows| Plan::Gemv { rows };
        let plan = Plan::new;
        for x in [F32, BF16] {
            assert_eq!([1, 8, 9, 16].map(|m| plan(Case::Nt, m, x, BF16)), [8, 8, 16, 16].map(gemv));
            let rows = [1, 2, 3, 5, 8, 9, 16].map(|m| plan(Case::Nt, m, x, F32));
            assert_eq!(rows, [1, 2, 4, 8, 8, 8, 8].map(gemv));
            assert_eq!(plan(Case::Nt, 17, x, F32), Plan::OrdinaryCores);
        }
        assert_eq!(plan(Case::Nt, 17, F32, BF16), Plan::OrdinaryCores);
        // f16 with f16 as bf16 with bf16; with an f32, on the ordinary cores.
        for m in [1, 8, 9, 16, 17, 4096] {
            assert_eq!(plan(Case::Nt, m, F16, F16), plan(Case::Nt, m, BF16, BF16));
            assert_eq!(plan(Case::Nt, m, F32, F16), plan(Case::Nt, m, F32, F32));
            assert_eq!(plan(Case::Nt, m, F16, F32), plan(Case::Nt, m, BF16, F32));
        }
        assert_eq!(plan(Case::Tn, 17, F16, F16), plan(Case::Tn, 17, BF16, BF16));
        assert_eq!(plan(Case::Nt, 17, BF16, BF16), Plan::TensorCores);
        assert_eq!(plan(Case::Nt, 4096, BF16, BF16), Plan::TensorCores);
        // The gradients' products are tiled whatever their sizes.
        assert_eq!(plan(Case::Nn, 1, F32, F32), Plan::OrdinaryCores);
        assert_eq!(plan(Case::Nn, 1, BF16, BF16), Plan::TensorCores);
    }
}
