//! A tiny model with a tokenizer, and a data set for it, in a temporary folder.

use std::path::{Path, PathBuf};

use serde_json::json;
use warptune::formats::DecoderConfig;
use warptune::models::Decoder;
use warptune::tensor::DType;
use warptune::text::train_byte_level_bpe;

/// The folder; it goes with the value.
pub struct Tiny {
    folder: tempfile::TempDir,
}

impl Tiny {
    /// A Llama of one layer with random weights in `model/`, and 24 questions and answers in `data.jsonl`.
    pub fn new() -> Tiny {
        Tiny::sized(16, 1)
    }

    /// As [`Tiny::new`], with a model of this width and depth.
    pub fn sized(hidden: usize, layers: usize) -> Tiny {
        let tiny = Tiny { folder: tempfile::tempdir().unwrap() };
        let examples: Vec<(String, String)> = (0..24).map(example).collect();
        let texts = examples.iter().map(|(q, a)| format!("user assistant {q} {a}"));
        let tokenizer = train_byte_level_bpe(texts, 320).unwrap();
        let config = json!({
            "model_type": "llama", "vocab_size": tokenizer.vocab_size(), "hidden_size": hidden, "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": true, "initializer_range": 0.2,
            "eos_token_id": tokenizer.eos_ids(),
        });
        let config = DecoderConfig::from_json(Path::new("tiny"), config.as_object().unwrap()).unwrap();
        Decoder::init(&config, 7, DType::F32).unwrap().save(&tiny.model()).unwrap();
        tokenizer.save(tiny.model()).unwrap();
        let lines = examples.iter().map(|(q, a)| json!({"prompt": q, "completion": a}).to_string() + "\n");
        std::fs::write(tiny.data(), lines.collect::<String>()).unwrap();
        tiny
    }

    /// Takes the chat template out of the model's folder.
    pub fn forget_chat_template(&self) {
        let path = self.model().join("tokenizer_config.json");
        let mut config: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert!(config.remove("chat_template").is_some());
        std::fs::write(path, serde_json::to_string(&config).unwrap()).unwrap();
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The model's folder.
    pub fn model(&self) -> PathBuf {
        self.path("model")
    }

    /// The data file.
    pub fn data(&self) -> PathBuf {
        self.path("data.jsonl")
    }
}

fn example(i: usize) -> (String, String) {
    let names = ["zero", "one", "two", "three", "four", "five"];
    let (a, b) = (i % 6, i / 6 + 1);
    (format!("What follows {}, {b} times?", names[a]), [names[(a + 1) % 6]].repeat(b).join(" ") + ".")
}
