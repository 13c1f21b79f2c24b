//! CUDA kernels of the rotary embedding: see kernels/rope.cu.

use super::{Direction, OP, RopePairing, RopeTable};
use crate::Result;
use crate::device::cuda::{CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::{DType, Tensor};

kernel! {
    /// The turned heads of two tensors.
    Turn in "rope" {
        q: Pointer, k: Pointer, positions: Pointer, frequencies: Pointer, q_out: Pointer, k_out: Pointer,
        tokens: u64, q_heads: u32, k_heads: u32, pairs: u32, block_tokens: u32, packed: u32,
    }
}

/// Threads of a block, and the angles that its shared memory holds.
const THREADS: usize = 256;
const ANGLES: usize = 1024;

/// What turns a batch's heads, forward and back.
pub(super) struct Turner {
    device: &'static CudaDevice,
    positions: Tensor,
    frequencies: Tensor,
    pairing: RopePairing,
}

impl Turner {
    /// By a table, at these positions.
    pub(super) fn new(device: &'static CudaDevice, positions: &Tensor, table: &RopeTable) -> Result<Turner> {
        let frequencies = table.frequencies_on(positions.device())?;
        Ok(Turner { device, positions: positions.clone(), frequencies, pairing: table.pairing })
    }

    /// x `[T, heads * head_dim]` with each head's pairs turned by (or, backward, against) their token's angles.
    pub(super) fn turn(&self, x: &Tensor, direction: Direction) -> Result<Tensor> {
        let y = Tensor::uninitialised(self.device, x.shape(), x.dtype())?;
        self.launch(x.dtype(), [Some((x, &y)), None], direction)?;
        Ok(y)
    }

    /// Two of them, of the same tokens and type, in one launch.
    pub(super) fn turn_both(&self, x: [&Tensor; 2], direction: Direction) -> Result<[Tensor; 2]> {
        let new = |x: &Tensor| Tensor::uninitialised(self.device, x.shape(), x.dtype());
        let y = [new(x[0])?, new(x[1])?];
        self.launch(x[0].dtype(), [Some((x[0], &y[0])), Some((x[1], &y[1]))], direction)?;
        Ok(y)
    }

    fn launch(
        &self,
        dtype: DType,
        pairs_of: [Option<(&Tensor, &Tensor)>; 2],
        direction: Direction,
    ) -> Result<()> {
        let entries = match (direction, self.pairing) {
            (Direction::Forward, RopePairing::Half) => ["rope_fwd_f32_half", "rope_fwd_bf16_half"],
            (Direction::Forward, RopePairing::Interleaved) => {
                ["rope_fwd_f32_interleaved", "rope_fwd_bf16_interleaved"]
            }
            (Direction::Backward, RopePairing::Half) => ["rope_bwd_f32_half", "rope_bwd_bf16_half"],
            (Direction::Backward, RopePairing::Interleaved) => {
                ["rope_bwd_f32_interleaved", "rope_bwd_bf16_interleaved"]
            }
        };
        let entry = Entry::of(OP, dtype.select(OP, entries)?, &[dtype])?;
        let pairs = self.frequencies.numel();
        let (mut heads, mut at) = ([0; 2], [[Pointer::NULL; 2]; 2]);
        for (i, of) in pairs_of.iter().enumerate() {
            if let Some((x, y)) = of {
                heads[i] = extent(OP, x.dims2(OP)?.1)? / (2 * pairs) as u32;
                at[i] = [x.pointer(OP, self.device)?, y.pointer(OP, self.device)?];
            }
        }
        let packed = is_packed(self.pairing, dtype, pairs, at.as_flattened());
        let pack = if packed { pack(self.pairing, dtype) } else { 1 };
        let (tokens, all_heads) = (self.positions.numel(), (heads[0] + heads[1]) as usize);
        let plan = Plan::new(tokens, all_heads, pairs, pack);
        let [[q, q_out], [k, k_out]] = at;
        let arguments = Turn {
            q,
            k,
            positions: self.positions.pointer(OP, self.device)?,
            frequencies: self.frequencies.pointer(OP, self.device)?,
            q_out,
            k_out,
            tokens: tokens as u64,
            q_heads: heads[0],
            k_heads: heads[1],
            pairs: pairs as u32,
            block_tokens: plan.block_tokens as u32,
            packed: u32::from(packed),
        };
        self.device.launch(entry, arguments, plan.grid)
    }
}

/// The pairs that a thread turns at once: its loads are of one half each, or of whole pairs.
pub(in crate::ops) fn pack(pairing: RopePairing, dtype: DType) -> usize {
    match pairing {
        RopePairing::Half => dtype.pack(),
        RopePairing::Interleaved => dtype.pack() / 2,
    }
}

/// Whether a thread can turn so many, of heads of `pairs` pairs.
pub(in crate::ops) fn is_packed(pairing: RopePairing, dtype: DType, pairs: usize, at: &[Pointer]) -> bool {
    pairs.is_multiple_of(pack(pairing, dtype)) && at.iter().all(|at| at.is_aligned())
}

/// How tokens and angles are shared out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::ops) struct Plan {
    pub grid: Grid,
    pub block_tokens: usize,
}

impl Plan {
    /// For `tokens` tokens of `heads` heads of `pairs` pairs, `pack` of which a thread turns at once: so many tokens a block
    /// that each of its threads has two packs, as far as the tokens' angles fit the shared memory. Of longer heads a block has
    /// a part.
    pub fn new(tokens: usize, heads: usize, pairs: usize, pack: usize) -> Plan {
        let packs = heads * (pairs / pack);
        let block_tokens = (2 * THREADS / packs.max(1)).clamp(1, (ANGLES / pairs).max(1));
        let blocks = [tokens.div_ceil(block_tokens), pairs.div_ceil(ANGLES), 1];
        Plan { grid: Grid { blocks, threads: THREADS as u32, shared: 0 }, block_tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::{ANGLES, Plan};

    #[test]
    fn angles_fit_and_tokens_and_pairs_are_covered() {
        for tokens in [0, 1, 7, 4096] {
            for heads in [1, 3, 8, 32, 128] {
                for pairs in [1, 2, 16, 32, 33, 64, 80, 128, 1000, 1024, 1025, 5000] {
                    for pack in [1, 2, 4, 8] {
                        let Plan { grid, block_tokens } = Plan::new(tokens, heads, pairs, pack);
                        assert!(block_tokens * pairs.min(ANGLES) <= ANGLES);
                        assert!(grid.blocks[0] * block_tokens >= tokens && grid.blocks[1] * ANGLES >= pairs);
                        assert!(tokens > 0 || grid.blocks[0] == 0);
                    }
                }
            }
        }
    }

    #[test]
    fn short_rows_share_a_block() {
        // 32 and 8 heads of 128 in bf16; one head of 64, whose tokens are limited by their angles.
        assert_eq!(Plan::new(4096, 32, 64, 8).block_tokens, 2);
        assert_eq!(Plan::new(4096, 8, 64, 8).block_tokens, 8);
        assert_eq!(Plan::new(4096, 1, 32, 8).block_tokens, 32);
        assert_eq!(Plan::new(1, 128, 64, 1).block_tokens, 1);
    }
}
