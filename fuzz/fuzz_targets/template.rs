//! Any text, compiled as a chat template and applied to a conversation, with and without the assistant's spans.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warptune::text::{ChatTemplate, Conversation, SpecialTokens};

fuzz_target!(|source: &str| {
    let special =
        SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..SpecialTokens::default() };
    let Ok(template) = ChatTemplate::new(source, &special) else { return };
    let conversation =
        Conversation::from_turns([("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]);
    let _ = template.render(&conversation, true);
    if let Ok(rendered) = template.render_with_spans(&conversation) {
        for span in rendered.spans {
            assert!(rendered.text.get(span).is_some(), "a span lies outside the text or cuts a character");
        }
    }
});
