//! Generation with a model of SmolLM2-135M's shape and random weights: one token after 128 cached ones, at batch 1 and 4,
//! against reading the weights once (what bounds it at batch 1); and the prompt of 128 tokens.

mod common;

use common::{DIM, HIDDEN, VOCAB, compare, criterion, ids};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use warptune::formats::DecoderConfig;
use warptune::models::Decoder;
use warptune::nn::{KvCache, TokenBatch};
use warptune::tensor::DType;

const PROMPT: usize = 128;

fn model() -> Decoder {
    let json = serde_json::json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": DIM, "intermediate_size": HIDDEN,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "max_position_embeddings": 8192, "rope_theta": 100_000.0, "tie_word_embeddings": true,
    });
    let config = DecoderConfig::from_json("config.json".as_ref(), json.as_object().unwrap()).unwrap();
    Decoder::init(&config, 1, DType::F32).unwrap()
}

/// Feeds `new` tokens to each cache and takes them back.
fn step(model: &Decoder, caches: &mut [KvCache], new: &[u32]) {
    let starts: Vec<usize> = caches.iter().map(KvCache::len).collect();
    let batch = TokenBatch::continued(&vec![new; caches.len()], &starts).unwrap();
    let mut refs: Vec<&mut KvCache> = caches.iter_mut().collect();
    let hidden = model.forward_cached(&batch, &mut refs).unwrap();
    let last = hidden.rows(batch.tokens() - caches.len(), caches.len()).unwrap();
    std::hint::black_box(model.logits(&last).unwrap());
    caches.iter_mut().zip(starts).for_each(|(cache, len)| cache.truncate(len));
}

fn generate(c: &mut Criterion) {
    let model = model();
    let prompt = ids(1, PROMPT, VOCAB).as_u32().unwrap().to_vec();
    let weights: Vec<_> = model.parameters().iter().map(|p| p.value()).collect();
    let bytes: usize = weights.iter().map(|w| w.numel() * 4).sum();
    let read = || {
        let sum = |x: &[f32]| x.iter().fold(0u32, |s, x| s ^ x.to_bits());
        let total = weights
            .iter()
            .map(|w| w.as_f32().unwrap().par_chunks(1 << 16).map(sum).reduce(|| 0, |a, b| a ^ b));
        std::hint::black_box(total.fold(0, |a, b| a ^ b));
    };
    for batch in [1, 4] {
        let mut caches = vec![model.new_cache(); batch];
        for cache in &mut caches {
            model.forward_cached(&TokenBatch::packed(&[&prompt]).unwrap(), &mut [cache]).unwrap();
        }
        let ours = || step(&model, &mut caches, &[7]);
        let name = format!("token/batch {batch}");
        compare(c, "generate", &name, Throughput::Bytes(bytes as u64), ours, ("reading the weights", read));
    }
    let mut caches = [model.new_cache()];
    let ours = || step(&model, &mut caches, &prompt);
    let throughput = Throughput::Elements(PROMPT as u64);
    compare(c, "generate", "prompt of 128", throughput, ours, ("reading the weights", read));
}

criterion_group!(name = benches; config = criterion(); targets = generate);
criterion_main!(benches);
