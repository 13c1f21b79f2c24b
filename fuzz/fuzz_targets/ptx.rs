//! Any text, read as PTX: a module, or an error with its line.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    if let Err(error) = emulated_cuda::ptx::parse(&text) {
        assert!(error.line >= 1 && !error.message.is_empty());
    }
});
