//! Any bytes, read as a GGUF file: metadata, tokenizer, config and every tensor.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use warptune::formats::Checkpoint;
use warptune::formats::gguf::GgufFile;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = GgufFile::from_bytes(Path::new("fuzz"), data.to_vec()) else { return };
    if let Ok(tokenizer) = file.tokenizer() {
        let _ = tokenizer.tokenizer.encode_fast("Hello wörld 12", true);
    }
    let Ok(checkpoint) = Checkpoint::from_gguf(file) else { return };
    for name in checkpoint.names() {
        if let Ok(tensor) = checkpoint.get(name) {
            let _ = tensor.to_f32();
        }
    }
});
