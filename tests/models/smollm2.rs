//! The real SmolLM2-135M-Instruct, where its GGUF file is at hand, against transformers (tests/golden/smollm2.json).

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;
use warptune::autograd::Tape;
use warptune::formats::Checkpoint;
use warptune::generate::{GenerateOptions, generate};
use warptune::models::Decoder;
use warptune::nn::TokenBatch;
use warptune::ops::linear_cross_entropy::IGNORE_LABEL;
use warptune::tensor::{DType, Tensor};
use warptune::text::Conversation;
use warptune::train::base_model;

use crate::support::golden::assert_near;

/// The variable that says where the file is.
const GGUF: &str = "WARPTUNE_SMOLLM2_GGUF";

/// The model with its weights rounded to f16, as the reference has it; `None` (and a word about it) without the file.
fn model() -> Option<Decoder> {
    let Some(path) = std::env::var_os(GGUF) else {
        eprintln!("skipped: {GGUF} is not set (the path of SmolLM2-135M-Instruct.Q4_1.gguf)");
        return None;
    };
    let checkpoint = Checkpoint::open(Path::new(&path)).unwrap();
    Some(Decoder::load_via_f16(&checkpoint, &checkpoint.config().unwrap(), DType::F32).unwrap())
}

fn prompts() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    golden["prompts"].as_array().unwrap().clone()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn the_capital_of_france() {
    let Some(model) = model() else { return };
    // 'The capital of France is'
    let batch = TokenBatch::packed(&[[504, 3575, 282, 4649, 314]]).unwrap();
    let hidden = model.hidden(&Tape::inference(), &batch).unwrap();
    let logits = model.logits(&hidden.value().rows(4, 1).unwrap()).unwrap().fetch_f32().unwrap();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    for (&ours, (id, logit)) in order.iter().zip([(7042, 17.379), (260, 14.900), (4528, 13.250)]) {
        assert_eq!(ours, id);
        assert!((logits[id] - logit).abs() <= 0.01, "token {id}: {}, expected {logit}", logits[id]);
    }
}

#[test]
fn logits_losses_and_greedy_tokens_are_those_of_transformers() {
    let Some(model) = model() else { return };
    let prompts = prompts();
    let sequences: Vec<Vec<u32>> = prompts.iter().map(|prompt| ids(&prompt["ids"])).collect();
    for (prompt, sequence) in prompts.iter().zip(&sequences) {
        let text = prompt["text"].as_str().unwrap_or_default();
        let batch = TokenBatch::packed(&[sequence]).unwrap();
        let hidden = model.hidden(&Tape::inference(), &batch).unwrap();
        let last = model.logits(&hidden.value().rows(sequence.len() - 1, 1).unwrap()).unwrap();
        let last = last.as_f32().unwrap();
        let top = prompt["top"].as_array().unwrap();
        let expected: Vec<f32> = top.iter().map(|pair| pair[1].as_f64().unwrap() as f32).collect();
        let ours: Vec<f32> = top.iter().map(|pair| last[pair[0].as_u64().unwrap() as usize]).collect();
        // As for the small models: three times the reference's own error.
        assert_near(text, &ours, &expected, 3.0 * prompt["f32_error"].as_f64().unwrap());

        let labels: Vec<u32> = sequence[1..].iter().copied().chain([IGNORE_LABEL]).collect();
        let labels = Tensor::from_u32(labels, &[sequence.len()]);
        let count = (sequence.len() - 1) as f32;
        let loss = model.loss(&Tape::inference(), &batch, &labels, count).unwrap().value().item().unwrap();
        let (f32_run, f64_run) = (prompt["loss"].as_f64().unwrap(), prompt["loss_f64"].as_f64().unwrap());
        let allowed = 3.0 * (f32_run - f64_run).abs() + 8.0 * DType::F32.unit_roundoff() * f64_run;
        assert!((f64::from(loss) - f64_run).abs() <= allowed, "{text}: loss {loss}, expected {f64_run}");
    }
    let options = GenerateOptions { max_new_tokens: 24, ..GenerateOptions::default() };
    let answers = generate(&model, &sequences, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    for (prompt, answer) in prompts.iter().zip(answers) {
        assert_eq!(answer.ids, ids(&prompt["greedy"]), "{}", prompt["text"]);
    }
}

#[test]
fn in_a_chat_it_explains_the_blue_sky() {
    let Some(model) = model() else { return };
    let path = std::env::var_os(GGUF).unwrap();
    let tokenizer = base_model::load_tokenizer(Path::new(&path)).unwrap();
    let (template, note) = tokenizer.chat_template(false).unwrap();
    assert_eq!(note, None, "the file brings its template");
    let question = Conversation::from_turns([("user", "Why is the sky blue?")]);
    let prompt = tokenizer.encode(&template.render(&question, true).unwrap(), false).unwrap();
    let stop_ids = tokenizer.eos_ids().to_vec();
    let options = GenerateOptions { max_new_tokens: 96, stop_ids, ..GenerateOptions::default() };
    let answers = generate(&model, &[prompt], &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let text = tokenizer.decode(&answers[0].ids, true).unwrap();
    assert!(text.contains("Rayleigh scattering"), "{text}");
}
