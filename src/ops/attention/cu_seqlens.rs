//! Where the sequences of a packed batch end.

use std::ops::Deref;
use std::sync::Arc;

use crate::device::{Copies, Device};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// 0, then the end of each sequence of a packed batch: sequence s is rows `ends[s] .. ends[s + 1]`. Cheap to clone. What kernels
/// need of it is copied to a device once, by whoever asks first, and shared by all clones: so a batch uploads it once, not
/// each layer.
#[derive(Clone)]
pub struct CuSeqlens(Arc<Shared>);

struct Shared {
    ends: Box<[usize]>,
    copies: Copies<Tensor, What>,
}

/// What a copy on a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Ends,
    Tiles { rows: usize, order: Order },
}

/// The work that a tile of rows is, by which tables of tiles are sorted: how many rows of its sequence see it, or it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Those before its end: queries under a causal mask.
    Before,
    /// Those from its start on: keys under a causal mask.
    After,
    /// All.
    Whole,
}

impl CuSeqlens {
    /// The ends, u32 `[sequences + 1]`, on a device.
    ///
    /// # Errors
    /// [`Error::Shape`] if an end is 2^31 or more; [`Error::Cuda`] when the copy fails.
    pub fn on(&self, device: Device) -> Result<Tensor> {
        self.0.copies.get(device, What::Ends, || {
            let ends = self.0.ends.iter().map(|&end| match i32::try_from(end) {
                Ok(_) => Ok(end as u32),
                Err(_) => {
                    let detail = format!("a batch of {end} tokens, less than 2^31 expected");
                    Err(Error::Shape { op: "attention", detail })
                }
            });
            let ends = ends.collect::<Result<Vec<u32>>>()?;
            Tensor::from_u32(ends, &[self.0.ends.len()]).to_device(device)
        })
    }

    /// The tiles of `rows` rows that the sequences fall into, u32 `[tiles, 2]`: the sequence, and the tile's first row in it. The
    /// longest work comes first, so that the blocks that run last, when others have ended, are short.
    pub(super) fn tiles(&self, device: Device, rows: usize, order: Order) -> Result<Tensor> {
        self.0.copies.get(device, What::Tiles { rows, order }, || {
            let table = tile_table(&self.0.ends, rows, order);
            let len = table.len();
            Tensor::from_u32(table.into_flattened(), &[len, 2]).to_device(device)
        })
    }
}

/// See [`CuSeqlens::tiles`].
fn tile_table(ends: &[usize], rows: usize, order: Order) -> Vec<[u32; 2]> {
    let mut tiles = Vec::new();
    for (sequence, ends) in ends.windows(2).enumerate() {
        let len = ends[1] - ends[0];
        for first in (0..len).step_by(rows) {
            let work = match order {
                Order::Before => len.min(first + rows),
                Order::After => len - first,
                Order::Whole => len,
            };
            tiles.push((work, [sequence as u32, first as u32]));
        }
    }
    tiles.sort_by_key(|(work, _)| std::cmp::Reverse(*work));
    tiles.into_iter().map(|(_, tile)| tile).collect()
}

impl Deref for CuSeqlens {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0.ends
    }
}

impl From<Box<[usize]>> for CuSeqlens {
    fn from(ends: Box<[usize]>) -> CuSeqlens {
        CuSeqlens(Arc::new(Shared { ends, copies: Copies::default() }))
    }
}

impl From<Vec<usize>> for CuSeqlens {
    fn from(ends: Vec<usize>) -> CuSeqlens {
        ends.into_boxed_slice().into()
    }
}

impl From<Arc<[usize]>> for CuSeqlens {
    fn from(ends: Arc<[usize]>) -> CuSeqlens {
        Box::<[usize]>::from(&ends[..]).into()
    }
}

impl std::fmt::Debug for CuSeqlens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.ends.fmt(f)
    }
}

impl PartialEq for CuSeqlens {
    fn eq(&self, other: &CuSeqlens) -> bool {
        self.0.ends == other.0.ends
    }
}

impl Eq for CuSeqlens {}

#[cfg(test)]
mod tests {
    use super::{Order, tile_table};

    #[test]
    fn every_row_is_in_one_tile_and_the_longest_work_comes_first() {
        let ends = [0, 5, 5, 261, 325, 326];
        for rows in [64, 128] {
            for order in [Order::Before, Order::After, Order::Whole] {
                let table = tile_table(&ends, rows, order);
                let mut seen = [0; 326];
                let mut last = usize::MAX;
                for [sequence, first] in table {
                    let (start, end) = (ends[sequence as usize], ends[sequence as usize + 1]);
                    let (len, first) = (end - start, first as usize);
                    assert!(first < len && first.is_multiple_of(rows));
                    seen[start + first..end.min(start + first + rows)].iter_mut().for_each(|n| *n += 1);
                    let work = match order {
                        Order::Before => len.min(first + rows),
                        Order::After => len - first,
                        Order::Whole => len,
                    };
                    assert!(work <= last, "{order:?}");
                    last = work;
                }
                assert_eq!(seen, [1; 326]);
            }
        }
        assert_eq!(tile_table(&[0, 0], 64, Order::Before), [[0; 2]; 0]);
        assert_eq!(tile_table(&[0, 130], 64, Order::Before), [[0, 128], [0, 64], [0, 0]]);
        assert_eq!(tile_table(&[0, 130], 64, Order::After), [[0, 0], [0, 64], [0, 128]]);
        assert_eq!(tile_table(&[0, 65, 195], 64, Order::Whole), [[1, 0], [1, 64], [1, 128], [0, 0], [0, 64]]);
    }
}
