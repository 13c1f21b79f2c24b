//! CUDA kernels of the rotary embedding: see kernels/rope.cu.

use super::{Direction, OP, RopePairing};
use crate::Result;
use crate::device::cuda::{CudaDevice, Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::tensor::Tensor;

kernel! {
    /// The turned heads.
    Turn in "rope" {
        x: Pointer, positions: Pointer, frequencies: Pointer, y: Pointer, tokens: u64, heads: u32, pairs: u32,
        block_tokens: u32, packed: u32,
    }
}

/// Threads of a block, and the angles that its shared memory holds.
const THREADS: usize = 256;
const ANGLES: usize = 1024;

/// What turns a batch's heads, forward and back.
pub(super) struct Turner {
    pub device: &'static CudaDevice,
    pub positions: Tensor,
    pub frequencies: Tensor,
    pub pairing: RopePairing,
}

impl Turner {
    /// x `[T, heads * head_dim]` with each head's pairs turned by (or, backward, against) their token's angles.
    pub(super) fn turn(&self, x: &Tensor, direction: Direction) -> Result<Tensor> {
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
        let entry = Entry::of(OP, x.dtype().select(OP, entries)?, &[x.dtype()])?;
        let (tokens, cols) = x.dims2(OP)?;
        let pairs = self.frequencies.numel();
        let heads = cols / (2 * pairs);
        let y = Tensor::uninitialised(self.device, x.shape(), x.dtype())?;
        let (x_at, y_at) = (x.pointer(OP, self.device)?, y.pointer(OP, self.device)?);
        // The pairs that a thread turns at once: its loads are of one half each, or of whole pairs.
        let pack = match self.pairing {
            RopePairing::Half => x.dtype().pack(),
            RopePairing::Interleaved => x.dtype().pack() / 2,
        };
        let packed = pairs.is_multiple_of(pack) && x_at.is_aligned() && y_at.is_aligned();
        let plan = Plan::new(tokens, heads, pairs, if packed { pack } else { 1 });
        let arguments = Turn {
            x: x_at,
            positions: self.positions.pointer(OP, self.device)?,
            frequencies: self.frequencies.pointer(OP, self.device)?,
            y: y_at,
            tokens: tokens as u64,
            heads: extent(OP, cols)? / (2 * pairs) as u32,
            pairs: pairs as u32,
            block_tokens: plan.block_tokens as u32,
            packed: u32::from(packed),
        };
        self.device.launch(entry, arguments, plan.grid)?;
        Ok(y)
    }
}

/// How tokens and angles are shared out.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plan {
    grid: Grid,
    block_tokens: usize,
}

impl Plan {
    /// For `tokens` tokens of `heads` heads of `pairs` pairs, `pack` of which a thread turns at once: so many tokens a block
    /// that each of its threads has two packs, as far as the tokens' angles fit the shared memory. Of longer heads a block has
    /// a part.
    fn new(tokens: usize, heads: usize, pairs: usize, pack: usize) -> Plan {
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
