//! Any text as a chat template: it renders, refuses or is stopped; no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warptune::text::{ChatTemplate, Conversation, SpecialTokens};

fuzz_target!(|source: &str| {
    if let Ok(template) = ChatTemplate::new(source, &SpecialTokens::default()) {
        let turns = [("system", "be kind"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
        let _ = template.render_with_spans(&Conversation::from_turns(turns));
    }
});
