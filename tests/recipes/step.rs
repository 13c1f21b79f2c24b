//! The optimizer step: accumulation, missing gradients, values that are not finite.

use warptune::Error;
use warptune::autograd::Param;
use warptune::data::{Batch, Sample};
use warptune::models::Decoder;
use warptune::tensor::Tensor;
use warptune::train::batch::batch_loss;
use warptune::train::options::TrainOptions;
use warptune::train::step::{StepReport, Stepper, Window, decay_matrices};

use super::options;
use crate::support::golden::Golden;
use crate::support::random::Random;

/// Sequences of different lengths, of which some have few labels: a mean of means would show.
fn samples(vocab: usize) -> Vec<Sample> {
    let mut random = Random::new(3);
    let sample = |i: usize| {
        let length = 4 + 3 * i;
        let ids = (0..length).map(|_| random.below(vocab) as u32).collect();
        Sample { ids, trained: (0..length).map(|t| t >= length - 1 - i * i / 2).collect(), line: i + 1 }
    };
    (0..6).map(sample).collect()
}

fn steps(model: &Decoder, batches: &[Batch], count: u64) -> Vec<StepReport> {
    model.set_trainable(true);
    let options = TrainOptions { clip_norm: Some(1.0), ..options() };
    let mut stepper = Stepper::new(decay_matrices(model.parameters()), &options).unwrap();
    let labelled = batches.iter().map(|b| b.loss_tokens).sum();
    let step = |i: u64| {
        let window = Window { batches, labelled, step: i + 1, micro_step: i * batches.len() as u64 };
        stepper.step(&window, 1e-3, &|tape, batch, n| batch_loss(model, tape, batch, n)).unwrap()
    };
    (0..count).map(step).collect()
}

#[test]
fn accumulation_equals_the_large_batch() {
    let golden = Golden::open("smollm2");
    let (whole, parts) = (golden.model(), golden.model());
    let samples = samples(whole.config().vocab_size);
    let one = [Batch::new(&samples)];
    let three: Vec<Batch> = samples.chunks(2).map(Batch::new).collect();
    let (a, b) = (steps(&whole, &one, 1), steps(&parts, &three, 1));
    // One step: the same numbers summed in another order.
    let close = |x: f64, y: f64| (x - y).abs() <= 1e-6 * x.abs();
    assert!(close(a[0].loss, b[0].loss) && close(a[0].grad_norm, b[0].grad_norm), "{a:?} {b:?}");
    // A mean of the micro-batches' means would be far away.
    let naive: f64 =
        three.iter().map(|m| steps(&golden.model(), std::slice::from_ref(m), 1)[0].loss).sum::<f64>() / 3.0;
    assert!((naive - a[0].loss).abs() > 1e-3 * a[0].loss, "{naive} is too near {} to tell", a[0].loss);
}

#[test]
fn a_parameter_without_a_gradient_is_named_at_step_1() {
    let model = Golden::open("llama").model();
    model.set_trainable(true);
    let mut params = model.parameters();
    params.push(Param::new("forgotten.weight", Tensor::from_f32(vec![1.0], &[1])));
    let mut stepper = Stepper::new(decay_matrices(params), &options()).unwrap();
    let batch = [Batch::new(&samples(model.config().vocab_size))];
    let window = |step| Window { batches: &batch, labelled: batch[0].loss_tokens, step, micro_step: 0 };
    let loss = |tape: &_, batch: &Batch, n| batch_loss(&model, tape, batch, n);
    let error = stepper.step(&window(1), 1e-3, &loss).unwrap_err().to_string();
    assert!(error.contains("step 1") && error.contains("forgotten.weight"), "{error}");
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    let model = Golden::open("llama").model();
    model.set_trainable(true);
    let params = model.parameters();
    let up = params.iter().find(|p| p.name() == "model.layers.1.mlp.up_proj.weight").unwrap();
    // Large, but finite: the product overflows.
    up.update(|value| {
        value.make_mut_f32()?[..8].fill(3e38);
        Ok(())
    })
    .unwrap();
    let before: Vec<Vec<f32>> = params.iter().map(|p| p.value().fetch_f32().unwrap()).collect();
    let mut stepper = Stepper::new(decay_matrices(params.clone()), &options()).unwrap();
    let batch = [Batch::new(&samples(model.config().vocab_size))];
    let window = Window { batches: &batch, labelled: batch[0].loss_tokens, step: 17, micro_step: 0 };
    let loss = |tape: &_, batch: &Batch, n| batch_loss(&model, tape, batch, n);
    let error = stepper.step(&window, 1e-3, &loss).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }));
    let text = error.to_string();
    assert!(
        text.contains("step 17") && text.contains("op 'matmul'") && text.contains("model.layers.1"),
        "{text}"
    );
    let after: Vec<Vec<f32>> = params.iter().map(|p| p.value().fetch_f32().unwrap()).collect();
    assert!(before == after, "a failed step must not change the parameters");

    up.update(|value| {
        value.make_mut_f32()?[3] = f32::NAN;
        Ok(())
    })
    .unwrap();
    let text = stepper.step(&window, 1e-3, &loss).unwrap_err().to_string();
    assert!(text.contains("model.layers.1.mlp.up_proj.weight"), "{text}");
}
