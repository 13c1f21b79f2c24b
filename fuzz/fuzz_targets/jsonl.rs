//! Any bytes, read as a JSON-lines data set: records and examples, or an error with its line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warptune::data::{DataFormat, JsonLines};

fuzz_target!(|data: &[u8]| {
    for record in JsonLines::new(data, "fuzz").map_while(Result::ok) {
        if let Ok(format) = DataFormat::detect(&record.fields) {
            let _ = format.example(&record.fields);
        }
    }
});
