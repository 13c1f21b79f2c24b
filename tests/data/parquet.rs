//! Parquet files, written here by the `parquet` crate.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use warptune::data::{DataFormat, Example, Record, open};

use super::sources::file;

/// Two rows of `messages`, as the Hugging Face `datasets` library lays them out; the second has a null column `id`.
fn two_rows(compression: Compression) -> Vec<u8> {
    let schema = "message schema {
        optional int64 id;
        optional group messages (LIST) { repeated group list { optional group element {
            optional binary role (UTF8); optional binary content (UTF8); optional binary name (UTF8);
        } } }
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[7], Some(&[1, 0]), None).unwrap();
    column.close().unwrap();
    let texts = |texts: [&'static str; 4]| texts.map(|text| ByteArray::from(text.as_bytes().to_vec()));
    for values in [texts(["user", "assistant", "user", "assistant"]), texts(["q", "ä", "r", "b"])] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[4; 4]), Some(&[0, 1, 0, 1])).unwrap();
        column.close().unwrap();
    }
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&[], Some(&[3; 4]), Some(&[0, 1, 0, 1])).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn rows_are_records_without_their_nulls() {
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())]
    {
        let (_folder, path) = file("d.parquet", two_rows(compression));
        let records: Vec<Record> = open(&path).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(records[0].fields["id"], 7);
        assert!(!records[1].fields.contains_key("id") && records[1].line == 2);
        let expected =
            serde_json::json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "ä"}]);
        assert_eq!(records[0].fields["messages"], expected);
        let format = DataFormat::detect(&records[1].fields).unwrap();
        let Example::Chat { conversation, .. } = format.example(&records[1].fields).unwrap() else {
            panic!()
        };
        assert_eq!(conversation.messages[1]["content"], "b");
    }
}

/// Every byte of the footer, which says where everything lies, with values that turn lengths, signs and types over.
#[test]
fn damaged_footers_are_refused_in_words() {
    let bytes = two_rows(Compression::UNCOMPRESSED);
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    for at in bytes.len() - 8 - footer..bytes.len() {
        for byte in [0, 1, 5, 0x7F, 0x80, 0xFF] {
            let mut damaged = bytes.clone();
            damaged[at] = byte;
            read_all(&damaged);
        }
    }
}

/// Reads until the end or the first error; whatever the file says, that comes soon.
fn read_all(bytes: &[u8]) {
    let (_folder, path) = file("d.parquet", bytes);
    if let Ok(records) = open(&path) {
        assert!(records.take(1000).count() < 1000, "two rows became a thousand");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_files_are_refused_in_words(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(), truncate: bool) {
        let mut bytes = two_rows(Compression::UNCOMPRESSED);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes);
    }
}
