//! Decoding as a graph: the whole pass of one new token for each of some sequences is one launch.

use super::Decoder;
use super::cached::bad;
use crate::Result;
use crate::autograd::Var;
use crate::device::Device;
use crate::device::cuda::{CudaDevice, Graph};
use crate::nn::{KvCache, KvSteps, TokenBatch};
use crate::tensor::{DType, Tensor};

/// Steps of one token for each of some sequences. On a CUDA device a step that comes a second time (as many sequences, and room for their
/// lengths) is captured, and is one launch from then on: ids, positions and the places of the caches are read from device memory, where
/// each step writes them. In host memory a step is [`Decoder::forward_cached`].
///
/// A graph keeps the parameters' tensors alive and goes on using them: after parameters were replaced, make a new one.
pub struct DecodeStep<'m> {
    model: &'m Decoder,
    fixed: Option<Fixed>,
    logits: Option<Tensor>,
}

/// What a graph reads, at one place for all steps of a kind.
struct Fixed {
    ids: Tensor,
    positions: Tensor,
    caches: KvSteps,
    /// Whether such a step has run.
    has_run: bool,
    /// The graph, and the logits that it writes.
    graph: Option<(Graph, Tensor)>,
}

impl<'m> DecodeStep<'m> {
    /// Steps of a model.
    pub fn new(model: &'m Decoder) -> DecodeStep<'m> {
        DecodeStep { model, fixed: None, logits: None }
    }

    /// Whether the last step was the launch of a graph.
    pub fn is_captured(&self) -> bool {
        self.fixed.as_ref().is_some_and(|fixed| fixed.graph.is_some())
    }

    /// Logits `[S, vocab]`, f32, of what follows token `ids[i]` after those in `caches[i]`, where it is added; `ids`: u32 `[S]`, in
    /// host memory or where the model is (then nothing waits for them). The next step may write the logits' memory again.
    ///
    /// # Errors
    /// Caches of another model, another number of caches than of ids, an id in host memory outside the vocabulary, a position
    /// that the model has no embedding for. After an error the caches are as before.
    pub fn step(&mut self, ids: &Tensor, caches: &mut [&mut KvCache]) -> Result<&Tensor> {
        let model = self.model;
        if ids.dims1("decode step")? != caches.len() {
            return bad(format!("{} caches for {} sequences", caches.len(), ids.numel()));
        }
        if caches.is_empty() {
            return bad("a step of no sequences".to_string());
        }
        caches.iter().try_for_each(|cache| model.check_cache(cache))?;
        let positions: Vec<u32> = caches.iter().map(|cache| cache.len() as u32).collect();
        let positions = Tensor::from_u32(positions, &[caches.len()]);
        let logits = match model.device() {
            Device::Cpu => {
                let ids = ids.to_device(Device::Cpu)?;
                let batch = TokenBatch::new(ids, positions, (0..=caches.len()).collect::<Vec<_>>())?;
                model.logits(&model.forward_cached(&batch, caches)?)?
            }
            device => {
                if ids.device() == Device::Cpu {
                    model.check_ids(ids)?;
                }
                model.check_positions(&positions)?;
                self.step_on(device.cuda()?, ids, &positions, caches)?
            }
        };
        Ok(self.logits.insert(logits))
    }

    fn step_on(
        &mut self,
        device: &'static CudaDevice,
        ids: &Tensor,
        positions: &Tensor,
        caches: &mut [&mut KvCache],
    ) -> Result<Tensor> {
        let fits = self.fixed.as_ref().is_some_and(|fixed| fixed.caches.fit(caches));
        if !fits {
            // The memory of the graph before is free for what comes.
            self.fixed = None;
            self.logits = None;
        }
        let fixed = match &mut self.fixed {
            Some(fixed) => fixed,
            none => none.insert(Fixed::new(device, caches)?),
        };
        fixed.ids.overwrite(ids)?;
        fixed.positions.overwrite(positions)?;
        fixed.caches.prepare(caches)?;
        let logits = fixed.run(device, self.model)?;
        KvSteps::commit(caches);
        Ok(logits)
    }
}

impl Fixed {
    fn new(device: &'static CudaDevice, caches: &[&mut KvCache]) -> Result<Fixed> {
        let numbers = || Tensor::uninitialised(device, &[caches.len()], DType::U32);
        Ok(Fixed {
            ids: numbers()?,
            positions: numbers()?,
            caches: KvSteps::new(caches)?,
            has_run: false,
            graph: None,
        })
    }

    /// Queues the step that has been written; its logits.
    fn run(&mut self, device: &'static CudaDevice, model: &Decoder) -> Result<Tensor> {
        let work = || {
            let hidden =
                model.through_layers(&self.ids, &self.positions, |layer, attention, [q, k, v]| {
                    let [q, k, v] = [q, k, v].map(Var::value);
                    let spec = attention.cached_spec();
                    match &attention.rope {
                        Some(table) => {
                            let q = self.caches.append_turned(layer, [q, k, v], &self.positions, table)?;
                            self.caches.attend(layer, &q, &spec)
                        }
                        None => {
                            self.caches.append(layer, k, v)?;
                            self.caches.attend(layer, q, &spec)
                        }
                    }
                })?;
            model.logits(&hidden)
        };
        if !self.has_run {
            // It loads the kernels, and a step that comes once is not worth a capture.
            let logits = work()?;
            self.has_run = true;
            return Ok(logits);
        }
        let (graph, logits) = match &mut self.graph {
            Some(graph) => graph,
            None => {
                let captured = device.capture(work)?;
                self.graph.insert(captured)
            }
        };
        graph.launch()?;
        Ok(logits.clone())
    }
}
