//! Pretraining runs on a few kilobytes of text, in process.

use std::collections::BTreeMap;

use warptune::tensor::DType;
use warptune::train::Interrupt;
use warptune::train::base_model;
use warptune::train::launch::{Launch, Start};
use warptune::train::options::TrainOptions;
use warptune::train::recipes::pretrain::{ModelShape, Options, TokenizerSource, run};

use super::options;
use super::sft::computed;

#[test]
fn a_new_model_learns_a_text_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    let verse = "The rain it raineth every day upon the just and unjust fella.\n";
    std::fs::write(&text, verse.repeat(60)).unwrap();
    let options = |name: &str| Options {
        model: ModelShape {
            hidden_size: 16,
            intermediate_size: 32,
            num_layers: 1,
            num_heads: 2,
            num_kv_heads: 1,
            max_positions: 64,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            tie_word_embeddings: true,
        },
        dtype: DType::F32,
        tokenizer: TokenizerSource::Train(300),
        files: vec![text.clone()],
        block: 32,
        validation_fraction: 0.1,
        train: TrainOptions { max_steps: Some(30), save_every: 11, keep_last: 0, ..options() },
        output: folder.path().join(name),
    };
    let launch = |start| Launch {
        config_toml: String::new(),
        settings: BTreeMap::new(),
        start,
        dry_run: false,
        interrupt: Interrupt::new(),
        resume_command: String::new(),
    };
    let whole = options("whole");
    run(&whole, &launch(Start::New)).unwrap();
    let records = computed(&whole.output);
    let loss = |i: usize| records[i].loss.unwrap();
    assert_eq!(records.len(), 30);
    assert!(loss(29) < 0.8 * loss(0), "{} -> {}", loss(0), loss(29));
    base_model::load(&whole.output.join("model"), DType::F32).unwrap();

    let model = |name: &str| std::fs::read(options(name).output.join("model/model.safetensors")).unwrap();
    let before = model("whole");
    run(&whole, &launch(Start::Checkpoint(whole.output.join("checkpoints/checkpoint-11")))).unwrap();
    assert!(records == computed(&whole.output));
    assert!(before == model("whole"), "the resumed run ends with other weights");
}
