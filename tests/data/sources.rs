//! Files to records.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use warptune::data::{JsonLines, Record, open};

/// A file with this content in a folder that lives as long as the first value.
pub fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn read(content: &[u8]) -> Vec<warptune::Result<Record>> {
    JsonLines::new(Cursor::new(content), Path::new("d.jsonl")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn json_lines_take_any_bytes(content in prop::collection::vec(any::<u8>(), 0..200)) {
        read(&content);
    }

    #[test]
    fn json_lines_take_any_text(content in "([{}\\[\\]\",:0-9a\\\\ue.-]{0,20}\r?\n){0,6}") {
        let records = read(content.as_bytes());
        prop_assert!(records.iter().rev().skip(1).all(|r| r.is_ok()), "it goes on after an error");
    }

    #[test]
    fn records_come_back_with_their_lines(texts in prop::collection::vec(("\\PC{0,12}", 0..3usize), 0..8)) {
        let (mut content, mut lines, mut line) = (String::new(), Vec::new(), 0);
        for (text, blank) in &texts {
            content += &"\n".repeat(*blank);
            content += &format!("{}\n", serde_json::json!({"text": text}));
            line += blank + 1;
            lines.push(line);
        }
        let records: Vec<Record> = read(content.as_bytes()).into_iter().collect::<Result<_, _>>().unwrap();
        let got: Vec<(&str, usize)> = records.iter().map(|r| (r.fields["text"].as_str().unwrap(), r.line)).collect();
        let expected: Vec<(&str, usize)> = texts.iter().map(|(t, _)| t.as_str()).zip(lines).collect();
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn bad_lines_are_named() {
    let cases: [(&[u8], &str); 5] = [
        (b"{\"a\": 1}\n\n{\"a\": }\n", "d.jsonl:3: not valid JSON: expected value (column 7)"),
        (b"{\"a\": 1}\n[1]\n", "d.jsonl:2: expected a JSON object"),
        (b"{\"a\": \"\xff\"}", "d.jsonl:1: not UTF-8 at byte 8"),
        (b"{\"a\": 1}{\"a\": 2}", "d.jsonl:1: not valid JSON: trailing characters"),
        (b"{\"a\": 1", "d.jsonl:1: not valid JSON: EOF"),
    ];
    for (content, expected) in cases {
        let error = read(content).pop().unwrap().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn line_ends_and_byte_order_marks_of_windows_are_taken() {
    assert_eq!(
        read(b"\xEF\xBB\xBF{\"a\": 1}\r\n{\"a\": 2}\r\n")
            .into_iter()
            .map(|r| r.unwrap().line)
            .collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn the_kind_of_a_file_shows_in_its_content() {
    let lines = |content: &[u8]| -> warptune::Result<Vec<usize>> {
        let (_folder, path) = file("data", content);
        open(&path)?.map(|r| r.map(|r| r.line)).collect()
    };
    assert_eq!(lines(b"{\"a\": 1}\n{\"a\": 2}").unwrap(), [1, 2]);
    assert_eq!(lines(b" [{\"a\": 1},\n {\"a\": 2}]").unwrap(), [1, 2]);
    for (content, expected) in [
        (&b""[..], "the file is empty"),
        (b" \n ", "the file is empty"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"a,b\n1,2\n", "neither JSON lines"),
        (b"[{\"a\": 1}, 2]", "data:2: expected a JSON object"),
        (b"[{\"a\": 1},\n", "data:2: not a valid JSON array"),
    ] {
        let error = lines(content).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(open("no such file").err().unwrap().to_string().contains("cannot open"));
}
