//! The real SmolLM2-135M-Instruct, where its GGUF file is at hand.

use std::path::Path;

use warptune::autograd::Tape;
use warptune::formats::Checkpoint;
use warptune::models::Decoder;
use warptune::nn::TokenBatch;
use warptune::tensor::DType;

/// The variable that says where the file is.
const GGUF: &str = "WARPTUNE_SMOLLM2_GGUF";

#[test]
fn the_capital_of_france() {
    let Some(path) = std::env::var_os(GGUF) else {
        eprintln!("skipped: {GGUF} is not set (the path of SmolLM2-135M-Instruct.Q4_1.gguf)");
        return;
    };
    let checkpoint = Checkpoint::open(Path::new(&path)).unwrap();
    // The figures are those of an engine that dequantizes to f16 and computes in f32.
    let model = Decoder::load_via_f16(&checkpoint, &checkpoint.config().unwrap(), DType::F32).unwrap();
    // 'The capital of France is'
    let batch = TokenBatch::packed(&[[504, 3575, 282, 4649, 314]]).unwrap();
    let hidden = model.hidden(&Tape::inference(), &batch).unwrap();
    let logits = model.logits(&hidden.value().rows(4, 1).unwrap()).unwrap().to_vec_f32().unwrap();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    for (&ours, (id, logit)) in order.iter().zip([(7042, 17.379), (260, 14.900), (4528, 13.250)]) {
        assert_eq!(ours, id);
        assert!((logits[id] - logit).abs() <= 0.01, "token {id}: {}, expected {logit}", logits[id]);
    }
}
