//! GGUF: models as transformers reads them, metadata of every type, refusals.

use std::path::Path;

use warptune::formats::gguf::GgufFile;
use warptune::formats::{Checkpoint, DecoderConfig, RopeScaling};

use super::gguf_bytes::{Builder, Meta};
use super::golden;

#[test]
fn models_equal_what_transformers_reads() {
    for arch in ["llama", "qwen2", "qwen3", "gpt2"] {
        let gguf = Checkpoint::open(&golden(&format!("gguf/{arch}.gguf"))).unwrap();
        let folder = Checkpoint::open(&golden(&format!("gguf/{arch}"))).unwrap();
        assert_eq!(gguf.names().collect::<Vec<_>>(), folder.names().collect::<Vec<_>>(), "{arch}");
        for name in folder.names() {
            let (got, want) = (gguf.get(name).unwrap(), folder.get(name).unwrap());
            assert_eq!((got.name(), got.shape()), (name, want.shape()), "{arch}");
            assert!(got.to_f32().unwrap() == want.to_f32().unwrap(), "{arch}: {name} differs");
        }
        let (got, want) = (gguf.config().unwrap(), folder.config().unwrap());
        // A GGUF file says neither of these.
        let unsaid =
            |c: DecoderConfig| DecoderConfig { raw: Default::default(), dtype: None, norm_eps: 1e-5, ..c };
        assert_eq!(got.norm_eps, 1e-5);
        assert_eq!(unsaid(got), unsaid(want), "{arch}");
    }
}

fn error_of(bytes: Vec<u8>) -> String {
    GgufFile::from_bytes(Path::new("x.gguf"), bytes).unwrap_err().to_string()
}

#[test]
fn headers_that_lie_are_refused() {
    let ok = || Builder::new().meta("general.architecture", Meta::Str("llama")).tensor("w", &[4], 0, 0, 16);
    GgufFile::from_bytes(Path::new("x.gguf"), ok().build()).unwrap();
    let tensor =
        |dims: &[u64], kind, offset, data| Builder::new().tensor("w", dims, kind, offset, data).build();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "the magic number"),
        (b"GGML".to_vec(), "does not begin with 'GGUF'"),
        (ok().version(1).build(), "GGUF version 1"),
        (ok().version(2u32.swap_bytes()).build(), "big-endian"),
        (ok().counts(u64::MAX, 1).build(), "past the end"),
        (Builder::new().meta("k", Meta::U32(1)).counts(0, u64::MAX).unpadded().build(), "past the end"),
        (
            ok().meta("general.architecture", Meta::U32(1)).build(),
            "'general.architecture': the metadata key appears twice",
        ),
        (ok().meta("k", Meta::RawKind(13)).build(), "unknown value type 13"),
        (ok().meta("k", Meta::ArrayOfKind(9, 0)).build(), "array of arrays"),
        (ok().meta("k", Meta::ArrayOfKind(4, u64::MAX)).build(), "past the end"),
        (ok().meta("k", Meta::ArrayOfKind(4, u64::MAX / 4)).build(), "past the end"),
        (ok().meta("k", Meta::ArrayOfKind(8, 1 << 60)).build(), "past the end"),
        (ok().meta("k", Meta::StrOfLength(u64::MAX)).build(), "past the end"),
        (ok().meta("k", Meta::Bytes(&[0xff, 0xfe])).build(), "not UTF-8"),
        (ok().meta("general.alignment", Meta::U32(0)).build(), "power of two"),
        (ok().meta("general.alignment", Meta::U32(24)).build(), "power of two"),
        (ok().meta("general.alignment", Meta::Str("32")).build(), "whole number"),
        (ok().meta("split.count", Meta::U32(3)).build(), "split into several files"),
        (tensor(&[4, 4, 4, 4, 4], 0, 0, 16), "has 5 axes"),
        (tensor(&[1 << 40, 1 << 40], 0, 0, 16), "overflows"),
        (tensor(&[u64::MAX], 0, 0, 16), "overflows"),
        (tensor(&[33], 2, 0, 64), "does not divide into blocks of 32"),
        (tensor(&[128], 12, 0, 144), "does not divide into blocks of 256"),
        (tensor(&[4], 0, 0, 15), "cut off"),
        (tensor(&[4], 0, u64::MAX, 16), "leave the file"),
        (tensor(&[4], 0, 32, 32), "leave the file"),
        (tensor(&[4], 0, 8, 64), "not a multiple of the alignment"),
        (tensor(&[4], 18, 0, 64), "IQ3_XXS"),
        (tensor(&[4], 999, 0, 64), "number 999"),
        (Builder::new().tensor("w", &[16], 0, 0, 0).tensor("w", &[8], 0, 64, 96).build(), "appears twice"),
        (Builder::new().tensor("v", &[16], 0, 0, 0).tensor("w", &[8], 0, 32, 96).build(), "overlap"),
    ];
    for (i, (bytes, expected)) in cases.into_iter().enumerate() {
        let error = error_of(bytes);
        assert!(
            error.contains(expected) && error.contains("x.gguf"),
            "case {i}: expected {expected:?}, got {error}"
        );
    }
}

#[test]
fn an_empty_tensor_at_the_end_is_no_reason_to_read_past_it() {
    let bytes = Builder::new().tensor("w", &[0], 0, 0, 0).unpadded().build();
    let file = GgufFile::from_bytes(Path::new("x.gguf"), bytes).unwrap();
    assert_eq!(file.get("w").unwrap().elems(), 0);
}

/// A minimal Llama: one layer, width 8, two heads.
fn tiny_llama() -> Builder {
    Builder::new()
        .meta("general.architecture", Meta::Str("llama"))
        .meta("llama.embedding_length", Meta::U32(8))
        .meta("llama.block_count", Meta::U32(1))
        .meta("llama.feed_forward_length", Meta::U32(8))
        .meta("llama.context_length", Meta::U32(64))
        .meta("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-6))
}

#[test]
fn metadata_that_makes_no_model_is_named() {
    let with_heads = |heads| {
        tiny_llama().meta("llama.attention.head_count", Meta::U32(heads)).tensor(
            "token_embd.weight",
            &[8, 3],
            0,
            0,
            96,
        )
    };
    let config = |b: Builder| GgufFile::from_bytes(Path::new("x.gguf"), b.build()).unwrap().config();
    assert_eq!(config(with_heads(2)).unwrap().head_dim, 4);
    let cases = [
        (tiny_llama(), "'llama.attention.head_count': is missing"),
        (with_heads(0), "'llama.attention.head_count': must be between 1 and"),
        (with_heads(3), "'llama.attention.head_count': is 3, which does not divide"),
        (with_heads(2).meta("llama.attention.head_count_kv", Meta::U32(4)), "'num_key_value_heads': is 4"),
        (with_heads(2).meta("llama.expert_count", Meta::U32(8)), "mixture of experts"),
        (
            with_heads(2).meta("llama.rope.dimension_count", Meta::U32(2)),
            "rotation of 2 of a head's 4 dimensions",
        ),
        (with_heads(2).meta("llama.rope.scaling.type", Meta::Str("yarn")), "rope scaling 'yarn'"),
        (with_heads(2).meta("llama.attention.head_count_kv", Meta::ArrayOfKind(4, 0)), "a value per layer"),
        (
            tiny_llama().meta("llama.attention.head_count", Meta::U32(2)),
            "'token_embd.weight': there is no such tensor",
        ),
        (Builder::new(), "'general.architecture': is missing"),
        (Builder::new().meta("general.architecture", Meta::Str("rwkv7")), "the GGUF architecture 'rwkv7'"),
    ];
    for (builder, expected) in cases {
        let error = config(builder).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?}, got {error}");
    }
    let stranger = with_heads(2).tensor("blk.0.ffn_gate_inp.weight", &[8], 0, 96, 128).build();
    let error =
        Checkpoint::from_gguf(GgufFile::from_bytes(Path::new("x.gguf"), stranger).unwrap()).unwrap_err();
    assert!(error.to_string().contains("'blk.0.ffn_gate_inp.weight'"), "{error}");
}

/// llama.cpp stores Llama 3's scaling as divisors of the frequencies; transformers computes them from four settings.
#[test]
fn llama3_scaling_is_recognized() {
    let (head_dim, theta, factor) = (64usize, 500000.0f64, 32.0f64);
    let divisor = |i: usize| {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        if wavelength < 8192.0 / 4.0 {
            1.0
        } else if wavelength > 8192.0 {
            factor
        } else {
            let smooth = (8192.0 / wavelength - 1.0) / 3.0;
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let model = |spoil: f64| {
        let divisors: Vec<u8> = (0..head_dim / 2)
            .flat_map(|i| ((divisor(i) * if i == 20 { spoil } else { 1.0 }) as f32).to_le_bytes())
            .collect();
        let bytes = Builder::new()
            .meta("general.architecture", Meta::Str("llama"))
            .meta("llama.embedding_length", Meta::U32(128))
            .meta("llama.block_count", Meta::U32(1))
            .meta("llama.feed_forward_length", Meta::U32(8))
            .meta("llama.context_length", Meta::U32(131072))
            .meta("llama.attention.head_count", Meta::U32(2))
            .meta("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5))
            .meta("llama.rope.freq_base", Meta::F32(500000.0))
            .tensor("token_embd.weight", &[128, 2], 0, 128, 0)
            .tensor("rope_freqs.weight", &[head_dim as u64 / 2], 0, 0, 0)
            .data([divisors, vec![0; 1024]].concat())
            .build();
        Checkpoint::from_gguf(GgufFile::from_bytes(Path::new("x.gguf"), bytes).unwrap())
    };
    let checkpoint = model(1.0).unwrap();
    let want = RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };
    assert_eq!(checkpoint.config().unwrap().rope.unwrap().scaling, want);
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["model.embed_tokens.weight"]);
    assert!(model(1.01).unwrap_err().to_string().contains("'rope_freqs.weight'"));
}
