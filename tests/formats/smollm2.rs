//! The real SmolLM2-135M-Instruct, from the GGUF file that the environment variable WARPTUNE_SMOLLM2_GGUF names.

use std::path::PathBuf;

use warptune::formats::{Architecture, Checkpoint, RawDType};

#[test]
fn the_real_file_reads_as_its_makers_say() {
    let Some(path) = std::env::var_os("WARPTUNE_SMOLLM2_GGUF").map(PathBuf::from) else {
        println!("WARPTUNE_SMOLLM2_GGUF is not set: nothing was tested");
        return;
    };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let config = checkpoint.config().unwrap();
    assert_eq!(config.architecture, Architecture::Llama);
    assert_eq!((config.num_layers, config.hidden_size, config.intermediate_size), (30, 576, 1536));
    assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (9, 3, 64));
    assert_eq!((config.vocab_size, config.max_positions), (49152, 8192));
    assert_eq!((config.rope.unwrap().theta, config.norm_eps), (100000.0, 1e-5));
    assert!(config.tie_word_embeddings && !config.qkv_bias);
    assert_eq!(checkpoint.names().count(), 272);
    let embedding = checkpoint.get("model.embed_tokens.weight").unwrap();
    assert_eq!((embedding.dtype(), embedding.shape()), (RawDType::Q8_0, &[49152, 576][..]));
    for name in checkpoint.names() {
        let values = checkpoint.get(name).unwrap().to_f32_via_f16().unwrap();
        assert!(values.iter().all(|v| v.is_finite()), "{name}");
    }

    let tokenizer = checkpoint.gguf().unwrap().tokenizer().unwrap();
    assert_eq!(
        (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.add_bos),
        (Some(1), Some(2), Some(2), false)
    );
    assert!(tokenizer.chat_template.as_deref().unwrap().contains("<|im_start|>"));
    let ids = |text: &str| tokenizer.tokenizer.encode_fast(text, true).unwrap().get_ids().to_vec();
    assert_eq!(ids("The capital of France is"), [504, 3575, 282, 4649, 314]);
    // These three by transformers' own GGUF tokenizer.
    assert_eq!(
        ids("<|im_start|>user\nWhy is the sky blue?<|im_end|>\n"),
        [1, 4093, 198, 4898, 314, 260, 6376, 4461, 47, 2, 198]
    );
    assert_eq!(ids("    leading   spaces  and trailing   "), [333, 2899, 256, 5600, 216, 284, 35079, 333]);
    assert_eq!(
        ids("日本語 emoji 🎉🚀"),
        [23274, 115, 40993, 179, 120, 248, 649, 33777, 15107, 232, 227, 10813, 244, 218]
    );
}
