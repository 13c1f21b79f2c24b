//! Decoding by steps, which become graphs on a device, against the passes that they stand for.

use serde_json::json;
use warptune::device::Device;
use warptune::formats::DecoderConfig;
use warptune::models::{DecodeStep, Decoder};
use warptune::nn::{KvCache, TokenBatch};
use warptune::tensor::{DType, Tensor};

use crate::support::bits;
use crate::support::devices::on_each;
use crate::support::golden::Golden;

const VOCAB: usize = 40;

fn model(device: Device, dtype: DType) -> Decoder {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4, "tie_word_embeddings": true, "initializer_range": 0.2,
    });
    let config = DecoderConfig::from_json("config.json".as_ref(), config.as_object().unwrap()).unwrap();
    let model = Decoder::init(&config, 3, dtype).unwrap();
    model.to_device(device).unwrap();
    model
}

/// The most likely token of each row.
fn greedy(logits: &Tensor) -> Vec<u32> {
    let logits = logits.fetch_f32().unwrap();
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
    logits.chunks_exact(VOCAB).map(best).collect()
}

/// One greedy step of sequences of tokens, of which all but the last are cached; `pass(ids, caches)` gives the logits, whose bits it returns.
fn step(
    sequences: &mut [(KvCache, Vec<u32>)],
    pass: impl FnOnce(&[u32], &mut [&mut KvCache]) -> Tensor,
) -> Vec<u32> {
    let ids: Vec<u32> = sequences.iter().map(|(_, tokens)| *tokens.last().unwrap()).collect();
    let mut caches: Vec<&mut KvCache> = sequences.iter_mut().map(|(cache, _)| cache).collect();
    let logits = pass(&ids, &mut caches);
    assert_eq!(logits.shape(), [ids.len(), VOCAB]);
    for ((_, tokens), id) in sequences.iter_mut().zip(greedy(&logits)) {
        tokens.push(id);
    }
    bits(&logits)
}

/// Sequences of different lengths, one of which needs a second page on the way; one ends before the others; ids from the host and from
/// the device. What a graph computes is what the pass computes, bit by bit.
#[test]
fn steps_are_the_passes_that_they_stand_for() {
    on_each(|device| {
        for (dtype, reserved) in [(DType::F32, false), (DType::BF16, false), (DType::F16, true)] {
            let model = model(device, dtype);
            let prompt = |len: u32| (0..len).map(|i| (i * 7 + len) % VOCAB as u32).collect::<Vec<_>>();
            let mut passes: Vec<(KvCache, Vec<u32>)> = Vec::new();
            for tokens in [prompt(9), prompt(250), prompt(2)] {
                let mut cache = model.new_cache();
                let batch = TokenBatch::packed(&[&tokens[..tokens.len() - 1]]).unwrap();
                model.forward_cached(&batch, &mut [&mut cache]).unwrap();
                passes.push((cache, tokens));
            }
            let mut steps = passes.clone();
            if reserved {
                steps[2].0.reserve(300).unwrap();
            }
            let mut decode = DecodeStep::new(&model);
            for round in 0..14 {
                if round == 10 {
                    passes.remove(0);
                    steps.remove(0);
                }
                let expected = step(&mut passes, |ids, caches| {
                    let starts: Vec<usize> = caches.iter().map(|cache| cache.len()).collect();
                    let new: Vec<[u32; 1]> = ids.iter().map(|&id| [id]).collect();
                    let batch = TokenBatch::continued(&new, &starts).unwrap();
                    model.logits(&model.forward_cached(&batch, caches).unwrap()).unwrap()
                });
                let found = step(&mut steps, |ids, caches| {
                    let ids = Tensor::from_u32(ids.to_vec(), &[ids.len()]);
                    let ids = if round % 2 == 0 { ids } else { ids.to_device(device).unwrap() };
                    let logits = decode.step(&ids, caches).unwrap();
                    assert_eq!(logits.device(), device);
                    logits.to_device(Device::Cpu).unwrap()
                });
                assert!(found == expected, "step {round}, {dtype} on {device}");
                // A step of its kind for the first time: at the start, with two pages, and without the first sequence.
                let is_new = [0, 10].contains(&round) || (round == 7 && !reserved);
                assert_eq!(
                    decode.is_captured(),
                    device != Device::Cpu && !is_new,
                    "step {round} on {device}"
                );
            }
            for ((cache, tokens), (_, expected)) in steps.iter().zip(&passes) {
                assert_eq!(tokens, expected);
                assert_eq!(cache.len(), tokens.len() - 1);
            }
        }
    });
}

#[test]
fn steps_that_cannot_be_are_refused_and_leave_the_caches() {
    on_each(|device| {
        let model = Golden::open("gpt2").model_at(device);
        let vocab = model.config().vocab_size as u32;
        let mut decode = DecodeStep::new(&model);
        let mut cache = model.new_cache();
        let mut run = |ids: &[u32], caches: &mut [&mut KvCache]| {
            let ids = Tensor::from_u32(ids.to_vec(), &[ids.len()]);
            decode.step(&ids, caches).map(bits).map_err(|e| e.to_string())
        };
        let first = run(&[1], &mut [&mut cache]).unwrap();
        assert!(run(&[1, 2], &mut [&mut cache]).unwrap_err().contains("1 caches for 2 sequences"));
        assert!(run(&[], &mut []).unwrap_err().contains("a step of no sequences"));
        assert!(run(&[vocab], &mut [&mut cache]).unwrap_err().contains(&format!("token id {vocab}")));
        let foreign = &mut KvCache::new(1, 5);
        assert!(run(&[1], &mut [foreign]).unwrap_err().contains("made for 1 layers"));
        assert_eq!(cache.len(), 1);
        let limit = model.config().max_positions;
        for len in 1..limit {
            run(&[1], &mut [&mut cache]).unwrap();
            assert_eq!(cache.len(), len + 1);
        }
        let error = run(&[1], &mut [&mut cache]).unwrap_err();
        assert!(error.contains(&format!("position {limit}")), "{error}");
        assert_eq!(cache.len(), limit);
        cache.truncate(0);
        assert_eq!(run(&[1], &mut [&mut cache]).unwrap(), first);
    });
}
