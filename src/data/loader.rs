//! Samples to micro-batches, in an order that can be taken up again anywhere.

use serde::{Deserialize, Serialize};

use super::random::shuffled;
use super::{Batch, Sample, pack};
use crate::{Error, Result};

/// How a [`Loader`] forms batches.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Rows a micro-batch: samples, or packs of samples with `pack_to`.
    pub micro_batch: usize,
    /// Pack samples into rows of at most this many tokens.
    pub pack_to: Option<usize>,
    /// A new order every epoch; otherwise that of the file.
    pub shuffle: bool,
    /// Decides the orders.
    pub seed: u64,
}

/// A place in the sequence of micro-batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Epochs completed.
    pub epoch: u64,
    /// Micro-batches of this epoch that are done.
    pub index: usize,
}

/// An endless sequence of micro-batches: epoch after epoch, each sample once an epoch. The batch at a [`Cursor`] depends on
/// the samples, the options and the cursor only.
#[derive(Debug)]
pub struct Loader {
    samples: Vec<Sample>,
    rows: Vec<Vec<usize>>,
    options: LoaderOptions,
    cursor: Cursor,
    /// The order of `rows` in the cursor's epoch.
    order: Vec<usize>,
}

impl Loader {
    /// A loader at the first batch of the first epoch.
    ///
    /// # Errors
    /// If there are no samples, `micro_batch` is 0, or a sample does not fit into a pack.
    pub fn new(samples: Vec<Sample>, options: LoaderOptions) -> Result<Loader> {
        if samples.is_empty() {
            return Err(Error::config("data", "there is no example to make batches of"));
        }
        if options.micro_batch == 0 {
            return Err(Error::config("train.micro_batch", "must be at least 1"));
        }
        let rows = match options.pack_to {
            Some(capacity) => pack(&samples.iter().map(|s| s.ids.len()).collect::<Vec<_>>(), capacity)?,
            None => (0..samples.len()).map(|i| vec![i]).collect(),
        };
        let mut loader = Loader { samples, rows, options, cursor: Cursor::default(), order: Vec::new() };
        loader.order = loader.order_of(0);
        Ok(loader)
    }

    /// Micro-batches in one epoch; the last may be smaller.
    pub fn batches_per_epoch(&self) -> usize {
        self.rows.len().div_ceil(self.options.micro_batch)
    }

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Where the next batch comes from.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Goes on from `cursor`.
    ///
    /// # Errors
    /// If the epoch has no such batch: the data or the batch size are not those of the run that saved it.
    pub fn seek(&mut self, cursor: Cursor) -> Result<()> {
        if cursor.index >= self.batches_per_epoch() {
            return Err(Error::config(
                "resume",
                format!(
                    "batch {} of an epoch was asked for, but the data makes {} an epoch: data and batch size must be those of \
                     the saved run",
                    cursor.index,
                    self.batches_per_epoch()
                ),
            ));
        }
        self.order = self.order_of(cursor.epoch);
        self.cursor = cursor;
        Ok(())
    }

    /// The batch at the cursor, which moves on.
    pub fn next_batch(&mut self) -> Batch {
        let batch = self.batch(&self.order, self.cursor.index);
        self.cursor.index += 1;
        if self.cursor.index == self.batches_per_epoch() {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, index: 0 };
            self.order = self.order_of(self.cursor.epoch);
        }
        batch
    }

    /// All samples once, in the order of the file: for evaluation.
    pub fn pass(&self) -> impl Iterator<Item = Batch> + '_ {
        let order: Vec<usize> = (0..self.rows.len()).collect();
        (0..self.batches_per_epoch()).map(move |index| self.batch(&order, index))
    }

    fn batch(&self, order: &[usize], index: usize) -> Batch {
        let start = index * self.options.micro_batch;
        let rows = &order[start..order.len().min(start + self.options.micro_batch)];
        Batch::new(rows.iter().flat_map(|&row| &self.rows[row]).map(|&i| &self.samples[i]))
    }

    fn order_of(&self, epoch: u64) -> Vec<usize> {
        if self.options.shuffle {
            shuffled(self.rows.len(), self.options.seed, epoch.wrapping_add(1))
        } else {
            (0..self.rows.len()).collect()
        }
    }
}
