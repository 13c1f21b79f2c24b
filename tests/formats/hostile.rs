//! Broken files of every kind end in an error, quickly and without large allocations: truncations, flipped bits, noise.

use std::path::Path;

use proptest::prelude::*;
use warptune::formats::Checkpoint;
use warptune::formats::gguf::GgufFile;
use warptune::formats::safetensors::SafetensorsFile;

use super::golden;

/// Reads everything that a caller could ask of the bytes as a safetensors file.
fn read_safetensors(bytes: Vec<u8>) {
    let Ok(file) = SafetensorsFile::from_bytes(Path::new("x"), bytes) else { return };
    for name in file.names() {
        if let Ok(tensor) = file.get(name) {
            let _ = tensor.to_f32();
        }
    }
    let _ = Checkpoint::from_safetensors(vec![file]);
}

/// Reads everything that a caller could ask of the bytes as a GGUF file.
fn read_gguf(bytes: Vec<u8>) {
    let Ok(file) = GgufFile::from_bytes(Path::new("x"), bytes) else { return };
    if let Ok(tokenizer) = file.tokenizer() {
        let _ = tokenizer.tokenizer.encode_fast("Hello wörld 12", true);
    }
    let Ok(checkpoint) = Checkpoint::from_gguf(file) else { return };
    for name in checkpoint.names() {
        if let Ok(tensor) = checkpoint.get(name) {
            let _ = tensor.to_f32();
        }
    }
}

fn flip(mut bytes: Vec<u8>, flips: &[(prop::sample::Index, u8)], within: usize) -> Vec<u8> {
    for (at, bit) in flips {
        let at = at.index(within.min(bytes.len()));
        bytes[at] ^= 1 << (bit % 8);
    }
    bytes
}

fn flips() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn safetensors_cut_short_is_an_error(cut in any::<prop::sample::Index>()) {
        let bytes = std::fs::read(golden("gguf/llama/model.safetensors")).unwrap();
        let cut = bytes[..cut.index(bytes.len())].to_vec();
        prop_assert!(SafetensorsFile::from_bytes(Path::new("x"), cut).is_err());
    }

    #[test]
    fn safetensors_with_flipped_bits(flips in flips()) {
        let bytes = std::fs::read(golden("gguf/llama/model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        read_safetensors(flip(bytes, &flips, header));
    }

    #[test]
    fn gguf_cut_short_is_an_error(cut in any::<prop::sample::Index>()) {
        let bytes = std::fs::read(golden("gguf/llama.gguf")).unwrap();
        // The last tensor's padding may go.
        let cut = bytes[..cut.index(bytes.len() - 32)].to_vec();
        prop_assert!(GgufFile::from_bytes(Path::new("x"), cut).is_err());
    }

    #[test]
    fn gguf_model_with_flipped_bits(flips in flips()) {
        read_gguf(flip(std::fs::read(golden("gguf/gpt2.gguf")).unwrap(), &flips, 3000));
    }

    #[test]
    fn gguf_tokenizer_with_flipped_bits(flips in flips(), sentencepiece: bool) {
        let name = if sentencepiece { "sentencepiece" } else { "llama-bpe" };
        let bytes = std::fs::read(golden(&format!("gguf/tokenizer-{name}.gguf"))).unwrap();
        let length = bytes.len();
        read_gguf(flip(bytes, &flips, length));
    }

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..400), header in 0u64..400) {
        read_safetensors(bytes.clone());
        read_safetensors([&header.to_le_bytes(), bytes.as_slice()].concat());
        read_gguf([b"GGUF\x03\0\0\0", bytes.as_slice()].concat());
        read_gguf([b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0", bytes.as_slice()].concat());
    }
}
