//! Pretraining runs on a few kilobytes of text, in process.

use std::collections::BTreeMap;

use warptune::device::Device;
use warptune::tensor::DType;
use warptune::train::Interrupt;
use warptune::train::base_model::{self, BaseModel};
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
        train: TrainOptions { max_steps: Some(30), save_every: 10, keep_last: 0, ..options() },
        output: folder.path().join(name),
        device: Device::Cpu,
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

    // The text holds no turn markers: in the result, not in the last step's weights, their rows are the mean of the rows in use.
    let table = |folder: &str| {
        let BaseModel { model, tokenizer } =
            base_model::load(&whole.output.join(folder), DType::F32).unwrap();
        let embedding = model.parameters().into_iter().find(|p| p.name().ends_with("embed_tokens.weight"));
        (embedding.unwrap().value().fetch_f32().unwrap(), tokenizer)
    };
    let ((raw, _), (rows, tokenizer)) = (table("checkpoints/checkpoint-30"), table("model"));
    let mut used = tokenizer.encode(&verse.repeat(60), false).unwrap();
    used.extend(tokenizer.eos_id());
    used.sort_unstable();
    used.dedup();
    let row = |table: &[f32], id: u32| table[id as usize * 16..(id as usize + 1) * 16].to_vec();
    for marker in ["<|im_start|>", "<|im_end|>"] {
        let id = tokenizer.token_to_id(marker).unwrap();
        assert_ne!(row(&raw, id), row(&rows, id), "{marker}");
        for (j, &x) in row(&rows, id).iter().enumerate() {
            let sum: f64 = used.iter().map(|&id| f64::from(row(&raw, id)[j])).sum();
            let mean = (sum / used.len() as f64) as f32;
            assert!((x - mean).abs() <= f32::EPSILON * mean.abs(), "{marker}, column {j}: {x} for {mean}");
        }
    }
    for id in (0..tokenizer.vocab_size() as u32).filter(|id| used.contains(id)) {
        assert_eq!(row(&raw, id), row(&rows, id));
    }

    let model = |name: &str| std::fs::read(options(name).output.join("model/model.safetensors")).unwrap();
    let before = model("whole");
    run(&whole, &launch(Start::Checkpoint(whole.output.join("checkpoints/checkpoint-10")))).unwrap();
    assert!(records == computed(&whole.output));
    assert!(before == model("whole"), "the resumed run ends with other weights");
}
