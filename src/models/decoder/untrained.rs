//! Rows of the embedding that training only pushed away.

use super::Decoder;
use crate::Result;
use crate::tensor::Tensor;

impl Decoder {
    /// Gives each token of `ids` the mean row of the tokens for which `seen` holds, in the embedding and in the output projection.
    ///
    /// A token that never occurs in training is pushed away from everything, and all such tokens in one direction, so that
    /// a later fine-tuning cannot tell them apart. The mean row is a neutral start, as it is for tokens that are added to a
    /// vocabulary.
    ///
    /// # Errors
    /// Those of writing a parameter.
    pub fn average_rows(&self, ids: &[u32], seen: &[bool]) -> Result<()> {
        let mut params = vec![self.embedding.weight().clone()];
        if !self.config.tie_word_embeddings {
            params.push(self.head.clone());
        }
        for param in params {
            param.update(|table| {
                let (_, width) = table.dims2("average_rows")?;
                let mut values = table.fetch_f32()?;
                let rows = || values.chunks_exact(width).zip(seen).filter(|(_, seen)| **seen);
                let count = rows().count().max(1) as f64;
                let mean: Vec<f32> = (0..width)
                    .map(|j| (rows().map(|(row, _)| f64::from(row[j])).sum::<f64>() / count) as f32)
                    .collect();
                for &id in ids {
                    if let Some(row) = values.chunks_exact_mut(width).nth(id as usize) {
                        row.copy_from_slice(&mean);
                    }
                }
                let device = table.device();
                *table =
                    Tensor::from_f32(values, table.shape()).to_dtype(table.dtype())?.to_device(device)?;
                Ok(())
            })?;
        }
        Ok(())
    }
}
