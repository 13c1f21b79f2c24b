//! Every architecture against transformers: logits, loss, gradients.

use warptune::autograd::{Gradients, Tape};
use warptune::models::Decoder;
use warptune::nn::{KvCache, TokenBatch};
use warptune::tensor::{DType, Tensor};

use crate::support::bits;
use crate::support::devices::on_each;
use crate::support::golden::{Golden, MODELS};

fn logits(model: &Decoder, batch: &TokenBatch) -> Tensor {
    model.logits(model.hidden(&Tape::inference(), batch).unwrap().value()).unwrap()
}

/// The loss of the golden batch, and its gradients.
fn loss_and_gradients(golden: &Golden, model: &Decoder) -> (f32, Gradients) {
    let tape = Tape::recording();
    let loss = model.loss(&tape, &golden.batch(), &golden.labels(), golden.denominator()).unwrap();
    let mut gradients = Gradients::new();
    tape.backward(&loss, &mut gradients).unwrap();
    (loss.value().item().unwrap(), gradients)
}

#[test]
fn logits_of_each_sequence_alone() {
    on_each(|device| {
        for name in MODELS {
            let golden = Golden::open(name);
            let model = golden.model_at(device);
            for (i, sequence) in golden.sequences().iter().enumerate() {
                let logits = logits(&model, &TokenBatch::packed(&[sequence]).unwrap());
                assert_eq!(logits.shape(), golden.tensor(&format!("logits.{i}")).shape, "{name}");
                golden.assert_close(&format!("logits.{i}"), &logits.fetch_f32().unwrap());
            }
        }
    });
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    on_each(|device| {
        for name in MODELS {
            let golden = Golden::open(name);
            let batch = golden.batch();
            let logits = logits(&golden.model_at(device), &batch);
            for (i, ends) in batch.cu_seqlens().windows(2).enumerate() {
                let rows = logits.rows(ends[0], ends[1] - ends[0]).unwrap();
                golden.assert_close(&format!("logits.{i}"), &rows.fetch_f32().unwrap());
            }
        }
    });
}

#[test]
fn cached_decoding_is_the_full_forward() {
    on_each(|device| {
        for name in MODELS {
            let golden = Golden::open(name);
            let model = golden.model_at(device);
            let sequences = golden.sequences();
            // Sequences of different lengths side by side, with three tokens at first and then one or two at a time.
            let mut caches: Vec<KvCache> = sequences.iter().map(|_| model.new_cache()).collect();
            let mut rows: Vec<Vec<f32>> = vec![Vec::new(); sequences.len()];
            let mut step = 0;
            while caches.iter().zip(&sequences).any(|(cache, s)| cache.len() < s.len()) {
                let (mut new, mut starts, mut active) = (Vec::new(), Vec::new(), Vec::new());
                let mut chosen: Vec<&mut KvCache> = Vec::new();
                for (i, (cache, sequence)) in caches.iter_mut().zip(&sequences).enumerate() {
                    let take = if step == 0 { 3 } else { 1 + (step + i) % 2 };
                    let (start, end) = (cache.len(), (cache.len() + take).min(sequence.len()));
                    if start < end {
                        new.push(&sequence[start..end]);
                        starts.push(start);
                        active.push(i);
                        chosen.push(cache);
                    }
                }
                let batch = TokenBatch::continued(&new, &starts).unwrap();
                let hidden = model.forward_cached(&batch, &mut chosen).unwrap();
                let logits = model.logits(&hidden).unwrap();
                for (ends, i) in batch.cu_seqlens().windows(2).zip(active) {
                    let part = logits.rows(ends[0], ends[1] - ends[0]).unwrap();
                    rows[i].extend_from_slice(&part.fetch_f32().unwrap());
                }
                step += 1;
            }
            for (i, rows) in rows.iter().enumerate() {
                golden.assert_close(&format!("logits.{i}"), rows);
            }
        }
    });
}

#[test]
fn loss_and_every_gradient() {
    on_each(|device| {
        for name in MODELS {
            let golden = Golden::open(name);
            let model = golden.model_at(device);
            let (loss, gradients) = loss_and_gradients(&golden, &model);
            golden.assert_scalar("loss", f64::from(loss));
            let mut names: Vec<String> = model.parameters().iter().map(|p| p.name().to_string()).collect();
            // GPT-2's linear layers: [in, out] on disk, [out, in] in memory.
            let conv1d: Vec<String> = match name {
                "gpt2" => model.linears().map(|(path, _)| format!("{path}.weight")).collect(),
                _ => Vec::new(),
            };
            let mut squares = 0.0;
            for param in model.parameters() {
                let key = format!("grad.{}", param.name());
                let grad = gradients
                    .get(&param)
                    .unwrap_or_else(|| panic!("{name}: no gradient of {}", param.name()));
                let expected = &golden.tensor(&key).shape;
                let mut values = grad.fetch_f32().unwrap();
                squares += values.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
                if conv1d.contains(&param.name().to_string()) {
                    let [out, input] = *grad.shape() else { panic!("{name}: {key}: {:?}", grad.shape()) };
                    assert_eq!(expected, &[input, out], "{name}: {key}");
                    values = (0..input * out).map(|i| values[i % out * input + i / out]).collect();
                } else {
                    assert_eq!(expected, grad.shape(), "{name}: {key}");
                }
                golden.assert_close(&key, &values);
            }
            golden.assert_scalar("grad_norm", squares.sqrt());
            names.sort();
            assert_eq!(names, golden.names("grad."), "{name}: the parameters");
        }
    });
}

#[test]
fn checkpointing_gives_the_same_bits() {
    on_each(|device| {
        for name in MODELS {
            let golden = Golden::open(name);
            let mut model = golden.model_at(device);
            let (plain_loss, plain) = loss_and_gradients(&golden, &model);
            model.set_checkpointing(true);
            let (loss, gradients) = loss_and_gradients(&golden, &model);
            assert_eq!(loss.to_bits(), plain_loss.to_bits(), "{name}");
            for param in model.parameters() {
                let (a, b) = (gradients.get(&param).unwrap(), plain.get(&param).unwrap());
                assert!(bits(a) == bits(b), "{name}: the gradient of {} differs", param.name());
            }
        }
    });
}

/// The same in f16, whose roundings are 8 times smaller, against transformers in f32: the whole sequence, and token by token.
#[test]
fn f16_stays_near_f32() {
    on_each(|device| {
        for name in ["qwen3", "gpt2"] {
            let golden = Golden::open(name);
            let model = golden.model_as(DType::F16);
            model.to_device(device).unwrap();
            for (i, sequence) in golden.sequences().iter().enumerate() {
                let exact = &golden.tensor(&format!("logits.{i}")).values;
                let whole = logits(&model, &TokenBatch::packed(&[sequence]).unwrap());
                let mut cache = model.new_cache();
                let mut rows = Vec::new();
                for (at, id) in sequence.iter().enumerate() {
                    let batch = TokenBatch::continued(&[[*id]], &[at]).unwrap();
                    let hidden = model.forward_cached(&batch, &mut [&mut cache]).unwrap();
                    rows.extend(model.logits(&hidden).unwrap().fetch_f32().unwrap());
                }
                for (how, ours) in [("whole", whole.fetch_f32().unwrap()), ("cached", rows)] {
                    assert_stays_near(&format!("{name}.{i}, {how}, on {device}"), DType::F16, &ours, exact);
                }
            }
        }
    });
}

/// Two layers of about ten roundings each, of weights and of activations, independent of each other: sqrt(40) of them, with a factor 2 for
/// what attention and the norms amplify.
#[track_caller]
pub fn assert_stays_near(what: &str, dtype: DType, ours: &[f32], exact: &[f32]) {
    assert_eq!(ours.len(), exact.len(), "{what}");
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let error = norm(&mut exact.iter().zip(ours).map(|(a, b)| a - b));
    let size = norm(&mut exact.iter().copied());
    let allowed = 2.0 * 40f64.sqrt() * dtype.unit_roundoff() * size;
    assert!(error > 0.0 && error <= allowed, "{what}: {error} off {size}, {allowed} allowed");
}

#[test]
fn bf16_stays_near_f32() {
    on_each(|device| {
        for name in MODELS {
            let golden = Golden::open(name);
            let batch = golden.batch();
            let exact = logits(&golden.model(), &batch).fetch_f32().unwrap();
            let rounded = golden.model_as(DType::BF16);
            rounded.to_device(device).unwrap();
            let rounded = logits(&rounded, &batch).fetch_f32().unwrap();
            assert_stays_near(name, DType::BF16, &rounded, &exact);
        }
    });
}

#[test]
fn ids_and_positions_outside_the_model_are_errors() {
    let model = Golden::open("gpt2").model();
    let vocab = model.config().vocab_size as u32;
    let run = |ids: &[u32], start: usize| {
        let batch = TokenBatch::continued(&[ids], &[start]).unwrap();
        model.hidden(&Tape::inference(), &batch).map(|_| ()).unwrap_err().to_string()
    };
    assert!(run(&[1, vocab], 0).contains(&format!("token id {vocab}")));
    let limit = model.config().max_positions;
    assert!(run(&[1, 2], limit - 1).contains(&format!("position {limit}")));
}

#[test]
fn a_value_that_is_not_finite_is_traced_to_its_module() {
    for (name, weight) in
        [("llama", "model.layers.1.mlp.up_proj.weight"), ("gpt2", "transformer.h.0.ln_2.weight")]
    {
        let golden = Golden::open(name);
        let mut model = golden.model();
        let param = model.parameters().into_iter().find(|p| p.name() == weight).unwrap();
        param
            .update(|value| {
                value.make_mut_f32()?[3] = f32::INFINITY;
                Ok(())
            })
            .unwrap();
        for checkpointing in [false, true] {
            model.set_checkpointing(checkpointing);
            let tape = Tape::recording().checking_finite();
            let error = model.loss(&tape, &golden.batch(), &golden.labels(), 1.0).unwrap_err().to_string();
            assert!(error.contains(weight.trim_end_matches(".weight")), "{error}");
        }
    }
}

#[test]
fn caches_that_do_not_fit_are_refused_and_left_as_they_were() {
    let model = Golden::open("llama").model();
    let mut cache = model.new_cache();
    let batch = |ids: &[u32], start| TokenBatch::continued(&[ids], &[start]).unwrap();
    model.forward_cached(&batch(&[1, 2, 3], 0), &mut [&mut cache]).unwrap();
    let vocab = model.config().vocab_size as u32;
    for (new, what) in
        [(batch(&[4], 0), "go on"), (batch(&[4], 4), "go on"), (batch(&[4, vocab], 3), "token id")]
    {
        let error = model.forward_cached(&new, &mut [&mut cache]).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(cache.len(), 3);
    }
    assert!(model.forward_cached(&batch(&[4], 3), &mut []).is_err());
    let mut foreign = KvCache::new(1, 5);
    assert!(model.forward_cached(&batch(&[4], 0), &mut [&mut foreign]).is_err());
    model.forward_cached(&batch(&[4], 3), &mut [&mut cache]).unwrap();
    assert_eq!(cache.len(), 4);
}

#[test]
fn batches_whose_parts_do_not_fit_are_errors() {
    let tensor = |n: usize| Tensor::from_u32(vec![0; n], &[n]);
    assert!(TokenBatch::new(tensor(4), tensor(4), vec![0, 1, 1, 4]).is_ok());
    assert!(TokenBatch::new(tensor(0), tensor(0), vec![0]).is_ok());
    assert!(TokenBatch::new(tensor(4), tensor(3), vec![0, 4]).is_err());
    assert!(TokenBatch::new(Tensor::zeros(&[4], DType::F32), tensor(4), vec![0, 4]).is_err());
    assert!(TokenBatch::new(Tensor::zeros(&[2, 2], DType::U32), tensor(4), vec![0, 4]).is_err());
    for ends in [vec![], vec![0], vec![1, 4], vec![0, 3], vec![0, 5], vec![0, 3, 2, 4]] {
        let refused = TokenBatch::new(tensor(4), tensor(4), ends.clone());
        assert!(refused.is_err(), "{ends:?}");
    }
    assert!(TokenBatch::continued(&[[1, 2]], &[u32::MAX as usize]).is_err());
}
