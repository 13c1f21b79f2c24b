//! Gradient checkpointing: keep a region's inputs, not its saved state, and compute the region again in the backward.

use crate::Result;
use crate::autograd::tape::Mode;
use crate::autograd::{Tape, Var};

impl Tape {
    /// Runs `f` on `inputs` without recording what is inside; the backward runs it once more, recorded. `f` must compute
    /// the same both times; dropout does, because the random streams are numbered.
    pub fn checkpoint(
        &self,
        inputs: &[&Var],
        f: impl Fn(&Tape, &[Var]) -> Result<Var> + 'static,
    ) -> Result<Var> {
        let mode = self.mode();
        let first_use = self.dropout_uses();
        let scopes = self.scope_names();
        let plain = Tape::with_mode(Mode { recording: false, ..mode }, first_use, scopes.clone());
        let values: Vec<_> = inputs.iter().map(|v| v.value().clone()).collect();
        let constants: Vec<Var> = values.iter().cloned().map(Var::constant).collect();
        let output = f(&plain, &constants)?.into_value();
        self.set_dropout_uses(plain.dropout_uses());
        // Parameters inside may be trainable although no input requires a gradient, so it is always recorded.
        self.record_if(true, "checkpoint", inputs, output, move |dy, context| {
            let tape = Tape::with_mode(mode, first_use, scopes);
            let inputs: Vec<Var> = values
                .into_iter()
                .enumerate()
                .map(|(i, value)| if context.needs(i) { tape.input(value) } else { Var::constant(value) })
                .collect();
            let output = f(&tape, &inputs)?;
            if !output.requires_grad() {
                return Ok(());
            }
            let wanted: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i].requires_grad()).collect();
            let leaves: Vec<&Var> = wanted.iter().map(|&i| &inputs[i]).collect();
            let grads = tape.backward_inputs(&output, dy, &leaves, context.gradients())?;
            for (i, grad) in wanted.into_iter().zip(grads) {
                if let Some(grad) = grad {
                    context.give(i, grad)?;
                }
            }
            Ok(())
        })
    }
}
