//! Any bytes, read as a safetensors file: an error or tensors, never a panic or an allocation beyond the input's size.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use warptune::formats::Checkpoint;
use warptune::formats::safetensors::SafetensorsFile;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = SafetensorsFile::from_bytes(Path::new("fuzz"), data.to_vec()) else { return };
    let Ok(checkpoint) = Checkpoint::from_safetensors(vec![file]) else { return };
    for name in checkpoint.names() {
        if let Ok(tensor) = checkpoint.get(name) {
            let _ = tensor.to_f32();
        }
    }
});
