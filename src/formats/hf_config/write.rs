//! [`DecoderConfig`] back to the JSON that transformers loads.

use serde_json::{Map, Value, json};

use super::{Activation, Architecture, DecoderConfig};

impl DecoderConfig {
    /// The object of a config.json for this model: every key that was read and is not understood here, with the ones
    /// that are set to their present values, in the spellings of transformers 5 and, beside them, of transformers 4.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = self.raw.clone();
        map.insert("architectures".into(), json!([self.architecture.class_name()]));
        map.insert("model_type".into(), json!(self.architecture.model_type()));
        map.insert("vocab_size".into(), json!(self.vocab_size));
        match self.architecture {
            Architecture::Gpt2 => self.write_gpt2(&mut map),
            _ => self.write_llama_family(&mut map),
        }
        map.insert("tie_word_embeddings".into(), json!(self.tie_word_embeddings));
        map.insert("bos_token_id".into(), json!(self.bos));
        map.insert("eos_token_id".into(), ids(&self.eos));
        map.insert("pad_token_id".into(), json!(self.pad));
        if let Some(dtype) = &self.dtype {
            map.insert("dtype".into(), json!(dtype));
            map.insert("torch_dtype".into(), json!(dtype));
        }
        map
    }

    fn write_llama_family(&self, map: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        set("hidden_size", json!(self.hidden_size));
        set("intermediate_size", json!(self.intermediate_size));
        set("num_hidden_layers", json!(self.num_layers));
        set("num_attention_heads", json!(self.num_heads));
        set("num_key_value_heads", json!(self.num_kv_heads));
        set("head_dim", json!(self.head_dim));
        set("max_position_embeddings", json!(self.max_positions));
        set("rms_norm_eps", json!(self.norm_eps));
        set("hidden_act", json!(activation_name(self.activation)));
        match self.architecture {
            Architecture::Llama => {
                set("attention_bias", json!(self.qkv_bias));
                set("mlp_bias", json!(self.mlp_bias));
            }
            Architecture::Mistral => {
                set("sliding_window", json!(self.sliding_window));
            }
            Architecture::Qwen2 | Architecture::Qwen3 => {
                if self.architecture == Architecture::Qwen3 {
                    set("attention_bias", json!(self.qkv_bias));
                }
                set("use_sliding_window", json!(self.sliding_window.is_some()));
                set("sliding_window", json!(self.sliding_window));
                let kind = |&w: &bool| if w { "sliding_attention" } else { "full_attention" };
                set("layer_types", self.windowed_layers.iter().map(kind).collect());
            }
            Architecture::Gpt2 => {}
        }
        if let Some(rope) = &self.rope {
            rope.write(map);
        }
    }

    fn write_gpt2(&self, map: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        set("n_embd", json!(self.hidden_size));
        set("n_inner", json!(self.intermediate_size));
        set("n_layer", json!(self.num_layers));
        set("n_head", json!(self.num_heads));
        set("n_positions", json!(self.max_positions));
        set("layer_norm_epsilon", json!(self.norm_eps));
        set("activation_function", json!(activation_name(self.activation)));
    }
}

fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_new",
        Activation::GeluErf => "gelu",
    }
}

/// One id as a number, several as a list, none as null.
fn ids(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    }
}
