//! Any bytes as JSON lines: records, formats, examples; errors in words, no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warptune::data::{DataFormat, JsonLines};

fuzz_target!(|data: &[u8]| {
    for record in JsonLines::new(data, "fuzz.jsonl").flatten() {
        if let Ok(format) = DataFormat::detect(&record.fields) {
            let _ = format.example(&record.fields);
        }
    }
});
