//! New tokens' keys and values into pages: kernels/kv_append.cu.

use super::cuda::is_packed;
use super::paged::{KvTable, check, check_layer};
use crate::device::cuda::{Entry, Grid, Pointer, kernel};
use crate::ops::place::extent;
use crate::ops::rope::{self, RopePairing, RopeTable};
use crate::tensor::Tensor;
use crate::{Error, Result};

const OP: &str = "kv_append";

kernel! {
    /// Keys and values.
    Append in "kv_append" {
        k: Pointer, v: Pointer, sequences: Pointer, pages: Pointer, page_capacity: u32, layer: u32, kv_heads: u32,
        head_dim: u32, packed: u32,
    }
}

kernel! {
    /// The same, with queries and keys turned.
    AppendTurned in "kv_append" {
        q: Pointer, k: Pointer, v: Pointer, positions: Pointer, frequencies: Pointer, q_out: Pointer, sequences: Pointer,
        pages: Pointer, page_capacity: u32, layer: u32, heads: u32, kv_heads: u32, pairs: u32, block_tokens: u32, packed: u32,
    }
}

/// Adds the new tokens' keys and values `[tokens, kv_heads * head_dim]`, in the type of the pages, to a layer of the pages.
///
/// Errors: [`Error::Shape`] or [`Error::DType`] if they do not fit the table's pages; operands elsewhere.
pub(crate) fn kv_append(table: &KvTable, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
    const THREADS: usize = 256;
    check_layer(OP, table, layer)?;
    for x in [k, v] {
        check(OP, table, x, table.shape().width())?;
    }
    let (shape, sizes) = (table.shape(), table.sizes());
    let (device, (dtype, kv_heads, head_dim)) = (shape.device(), shape.head());
    let entry = Entry::of(OP, dtype.select(OP, ["kv_append_f32", "kv_append_bf16"])?, &[dtype])?;
    let [k_at, v_at] = [k.pointer(OP, device)?, v.pointer(OP, device)?];
    let packed = is_packed(dtype, head_dim, &[k_at, v_at]);
    let packs = sizes.most_new * shape.width() / if packed { dtype.pack() } else { 1 };
    extent(OP, packs)?;
    let [sequences, pages] = table.parts()?;
    let arguments = Append {
        k: k_at,
        v: v_at,
        sequences: sequences.pointer(OP, device)?,
        pages: pages.pointer(OP, device)?,
        page_capacity: extent(OP, sizes.page_capacity)?,
        layer: extent(OP, layer)?,
        kv_heads: extent(OP, kv_heads)?,
        head_dim: extent(OP, head_dim)?,
        packed: u32::from(packed),
    };
    let blocks = [packs.div_ceil(THREADS), sizes.sequences, 2];
    device.launch(entry, arguments, Grid { blocks, threads: THREADS as u32, shared: 0 })
}

/// Turns the new tokens' queries `[tokens, heads * head_dim]` and keys by their positions (u32 `[tokens]`), adds the keys and the values to a
/// layer of the pages, and returns the queries: one launch, with the bits of [`rope`](rope::rope) and [`kv_append`].
///
/// Errors: those of the two.
pub(crate) fn kv_append_turned(
    table: &KvTable,
    layer: usize,
    [q, k, v]: [&Tensor; 3],
    positions: &Tensor,
    turns: &RopeTable,
) -> Result<Tensor> {
    check_layer(OP, table, layer)?;
    for x in [k, v] {
        check(OP, table, x, table.shape().width())?;
    }
    check(OP, table, q, q.dims2(OP)?.1)?;
    let (shape, sizes) = (table.shape(), table.sizes());
    let (device, (dtype, kv_heads, head_dim)) = (shape.device(), shape.head());
    rope::check(q, positions, turns, head_dim)?;
    let entries = match turns.pairing {
        RopePairing::Half => ["kv_append_turned_f32_half", "kv_append_turned_bf16_half"],
        RopePairing::Interleaved => ["kv_append_turned_f32_interleaved", "kv_append_turned_bf16_interleaved"],
    };
    let (heads, pairs) = (q.shape()[1] / head_dim, head_dim / 2);
    let q_out = Tensor::uninitialised(device, q.shape(), dtype)?;
    let frequencies = turns.frequencies_on(positions.device())?;
    let at = |x: &Tensor| x.pointer(OP, device);
    let [q_at, k_at, v_at, out_at] = [at(q)?, at(k)?, at(v)?, at(&q_out)?];
    let packed = rope::cuda::is_packed(turns.pairing, dtype, pairs, &[q_at, k_at, v_at, out_at]);
    let pack = if packed { rope::cuda::pack(turns.pairing, dtype) } else { 1 };
    // Pages hold no longer heads than one block has angles for.
    let plan = rope::cuda::Plan::new(sizes.most_new, heads + kv_heads, pairs, pack);
    // What a block counts in 32 bits.
    extent(OP, plan.block_tokens.saturating_mul((heads + kv_heads) * head_dim))?;
    let [sequences, pages] = table.parts()?;
    let arguments = AppendTurned {
        q: q_at,
        k: k_at,
        v: v_at,
        positions: at(positions)?,
        frequencies: at(&frequencies)?,
        q_out: out_at,
        sequences: at(&sequences)?,
        pages: at(&pages)?,
        page_capacity: extent(OP, sizes.page_capacity)?,
        layer: extent(OP, layer)?,
        heads: extent(OP, heads)?,
        kv_heads: extent(OP, kv_heads)?,
        pairs: pairs as u32,
        block_tokens: plan.block_tokens as u32,
        packed: u32::from(packed),
    };
    let [blocks, parts, _] = plan.grid.blocks;
    if parts != 1 {
        return Err(Error::Shape { op: OP, detail: format!("heads of {head_dim} elements") });
    }
    let grid = Grid { blocks: [blocks, sizes.sequences, 1], ..plan.grid };
    device.launch(Entry::of(OP, dtype.select(OP, entries)?, &[dtype])?, arguments, grid)?;
    Ok(q_out)
}
