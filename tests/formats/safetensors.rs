//! safetensors, against the reference implementation in both directions, and every way a header can lie.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use warptune::formats::safetensors::{SafetensorsFile, TensorSpec, write, write_tensors};
use warptune::formats::{RawDType, RawTensor};

/// A file made of a header and `data` zero bytes.
fn file_of(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

fn error_of(bytes: Vec<u8>) -> String {
    SafetensorsFile::from_bytes(Path::new("x.safetensors"), bytes).unwrap_err().to_string()
}

#[test]
fn lies_are_found_and_named() {
    let one = |shape: &str, range: &str| {
        format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{range}}}}}"#)
    };
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[1],"data_offsets":{b}}}}}"#
        )
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "at least 8"),
        (vec![1, 2, 3], "at least 8"),
        (u64::MAX.to_le_bytes().to_vec(), "at most 100000000"),
        (100_000_001u64.to_le_bytes().to_vec(), "at most 100000000"),
        (50_000_000u64.to_le_bytes().to_vec(), "cut off"),
        (file_of("[]", 0), "broken header"),
        (file_of(r#"{"w":"#, 0), "broken header"),
        (file_of(r#"{"w":{"dtype":"F99","shape":[],"data_offsets":[0,0]}}"#, 0), "'w'"),
        (file_of(r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#, 0), "'w'"),
        (file_of(&one("[1]", "[0,8]"), 4), "outside the file"),
        (file_of(&one("[1]", "[0,18446744073709551615]"), 4), "outside the file"),
        (file_of(&one("[1]", "[4,0]"), 4), "end before they start"),
        (file_of(&one("[2]", "[0,4]"), 4), "does not fill"),
        (file_of(&one("[4294967296,4294967296]", "[0,4]"), 4), "does not fill"),
        (file_of(&one("[9223372036854775807]", "[0,4]"), 4), "does not fill"),
        (file_of(&one("[1]", "[0,4]"), 5), "after its last tensor"),
        (file_of(&two("[0,4]", "[0,4]"), 4), "overlap"),
        (file_of(&two("[0,4]", "[2,6]"), 6), "overlap"),
        (file_of(&two("[0,4]", "[8,12]"), 12), "gap"),
        (file_of(&one("[1]", "[4,8]"), 8), "gap"),
        (file_of(&two("[0,4]", "[4,8]").replace(r#""b""#, r#""a""#), 8), "'a' appears twice"),
        (file_of(r#"{"__metadata__":{"k":1}}"#, 0), "broken header"),
    ];
    for (bytes, expected) in cases {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let error = error_of(bytes);
        assert!(error.contains(expected) && error.contains("x.safetensors"), "{text:?}: {error}");
    }
}

#[test]
fn a_deeply_nested_header_is_refused() {
    assert!(error_of(file_of(&"[".repeat(200_000), 0)).contains("broken header"));
    assert!(
        error_of(file_of(&format!(r#"{{"a":{}"#, "{\"a\":".repeat(100_000)), 0)).contains("broken header")
    );
}

#[test]
fn an_unknown_type_stops_only_its_own_tensor() {
    let header = r#"{"w":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},"v":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}"#;
    let file = SafetensorsFile::from_bytes(Path::new("x"), file_of(header, 4 + 4)).unwrap();
    assert!(file.get("w").unwrap_err().to_string().contains("F8_E4M3"));
    assert_eq!(file.get("v").unwrap().to_f32().unwrap(), [0.0]);
    assert!(file.get("u").unwrap_err().to_string().contains("no tensor of this name"));
}

#[test]
fn the_reference_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let floats: Vec<f32> = (0..6).map(|i| i as f32 - 2.5).collect();
    let tensors = [
        RawTensor::new("half", RawDType::BF16, vec![3], vec![1u8, 2, 3, 4, 5, 6]).unwrap(),
        RawTensor::new("f16", RawDType::F16, vec![3], vec![1u8, 2, 3, 4, 5, 6]).unwrap(),
        RawTensor::from_f32("z \"quoted\" é", vec![2, 3], &floats).unwrap(),
        RawTensor::new("empty", RawDType::F32, vec![0, 4], vec![]).unwrap(),
        RawTensor::new("scalar", RawDType::I64, vec![], 7i64.to_le_bytes().to_vec()).unwrap(),
    ];
    write_tensors(&path, &tensors, &[("format", "pt")]).unwrap();

    let bytes = std::fs::read(&path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let ours = SafetensorsFile::open(&path).unwrap();
    assert_eq!(ours.names().count(), tensors.len());
    assert_eq!(ours.metadata()["format"], "pt");
    for tensor in &tensors {
        let view = reference.tensor(tensor.name()).unwrap();
        assert_eq!((view.shape(), view.data()), (tensor.shape(), tensor.bytes()));
        let read = ours.get(tensor.name()).unwrap();
        assert_eq!(
            (read.dtype(), read.shape(), read.bytes()),
            (tensor.dtype(), tensor.shape(), tensor.bytes())
        );
        // Every tensor is aligned in the file, so that a mapping can be used as it is.
        let offset = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert_eq!(offset % tensor.dtype().block_bytes(), 0, "{}", tensor.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn we_read_what_the_reference_writes(shapes in prop::collection::vec(prop::collection::vec(0usize..5, 0..4), 0..6)) {
        let dtypes = [(Dtype::F32, RawDType::F32, 4), (Dtype::BF16, RawDType::BF16, 2), (Dtype::U8, RawDType::U8, 1)];
        let data: Vec<Vec<u8>> = shapes.iter().enumerate()
            .map(|(i, shape)| (0..shape.iter().product::<usize>() * dtypes[i % 3].2).map(|b| (b * 7 + i) as u8).collect())
            .collect();
        let views: HashMap<String, TensorView<'_>> = shapes.iter().zip(&data).enumerate()
            .map(|(i, (shape, data))| (format!("t{i}"), TensorView::new(dtypes[i % 3].0, shape.clone(), data).unwrap()))
            .collect();
        let file = SafetensorsFile::from_bytes(Path::new("x"), safetensors::serialize(&views, None).unwrap()).unwrap();
        prop_assert_eq!(file.names().count(), shapes.len());
        for (i, (shape, data)) in shapes.iter().zip(&data).enumerate() {
            let tensor = file.get(&format!("t{i}")).unwrap();
            prop_assert_eq!((tensor.dtype(), tensor.shape(), tensor.bytes()), (dtypes[i % 3].1, shape.as_slice(), data.as_slice()));
        }
    }
}

#[test]
fn writing_streams_one_tensor_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let spec = |name: &str, dtype| TensorSpec { name: name.into(), dtype, shape: vec![2] };
    let specs = [spec("b", RawDType::F16), spec("c", RawDType::F32), spec("a", RawDType::F16)];
    let mut asked = Vec::new();
    write(&path, &specs, &[], |spec| {
        asked.push(spec.name.clone());
        Ok(Cow::Owned(vec![asked.len() as u8; 2 * spec.dtype.block_bytes()]))
    })
    .unwrap();
    assert_eq!(asked, ["c", "a", "b"]);
    assert_eq!(SafetensorsFile::open(&path).unwrap().get("b").unwrap().bytes(), [3; 4]);
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, "old").unwrap();
    let spec = |name: &str, dtype| TensorSpec { name: name.into(), dtype, shape: vec![2] };
    let short = |_: &TensorSpec| Ok(Cow::Borrowed(&[0u8; 7][..]));
    let failing = |_: &TensorSpec| Err(warptune::Error::model("w", "gone"));
    let two = [spec("w", RawDType::F32), spec("w", RawDType::F32)];
    let quantized = [TensorSpec { name: "q".into(), dtype: RawDType::Q4_0, shape: vec![32] }];
    for (error, expected) in [
        (write(&path, &two[..1], &[], short), "7 bytes do not make F32"),
        (write(&path, &two[..1], &[], failing), "gone"),
        (write(&path, &two, &[], short), "name is taken"),
        (write(&path, &quantized, &[], short), "no Q4_0"),
    ] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let path = Path::new("/no/such/folder/model.safetensors");
    let error = write_tensors(path, &[], &[]).unwrap_err().to_string();
    assert!(error.contains("/no/such/folder/model.safetensors"), "{error}");
    assert!(SafetensorsFile::open(path).unwrap_err().to_string().contains("cannot open"));
}

/// What a full disk does, done by the limit on file sizes: the system refuses to write on. The test runs itself again
/// in a shell that sets the limit (and ignores the signal that would kill it).
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    const CHILD: &str = "WARPTUNE_TEST_FULL_DISK";
    if let Some(folder) = std::env::var_os(CHILD) {
        let path = Path::new(&folder).join("model.safetensors");
        let specs = [TensorSpec { name: "w".into(), dtype: RawDType::U8, shape: vec![4 << 20] }];
        let result = write(&path, &specs, &[], |_| Ok(Cow::Owned(vec![1; 4 << 20])));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("model.safetensors: cannot write: File too large"), "{error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, "old").unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" --exact formats::safetensors::a_full_disk_leaves_nothing_half_written"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
