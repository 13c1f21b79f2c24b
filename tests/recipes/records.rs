//! metrics.jsonl, TensorBoard events and loss.svg.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use warptune::train::metrics::{self, MetricsFile, Record};
use warptune::train::tensorboard::{self, EventFile};
use warptune::train::{Recorder, TimeLeft};

fn record(step: u64) -> Record {
    Record { step, loss: Some(1.0 / step as f64), lr: Some(1e-3), tokens: 10 * step, ..Record::default() }
}

#[test]
fn metrics_come_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let (mut file, before) = MetricsFile::open(&path, None).unwrap();
    assert!(before.is_empty());
    // serde_json reads numbers back exactly only with its feature float_roundtrip.
    let written: Vec<Record> = (1..=100).map(record).collect();
    written.iter().for_each(|r| file.append(r).unwrap());
    assert!(metrics::read(&path).unwrap() == written);
}

#[test]
fn a_resumed_run_holds_no_step_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let (mut file, _) = MetricsFile::open(&path, None).unwrap();
    (1..=7).for_each(|step| file.append(&record(step)).unwrap());
    // A kill in the middle of a write leaves a torn line.
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\":8,\"lo").unwrap();
    let (mut file, kept) = MetricsFile::open(&path, Some(5)).unwrap();
    assert_eq!(kept.len(), 5);
    (6..=9).for_each(|step| file.append(&record(step)).unwrap());
    let steps: Vec<u64> = metrics::read(&path).unwrap().iter().map(|r| r.step).collect();
    assert_eq!(steps, (1..=9).collect::<Vec<_>>());
}

#[test]
fn a_line_that_is_no_record_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    fs::write(&path, "{\"step\":1,\"epoch\":0.0,\"tokens\":1}\nnonsense\n{}\n").unwrap();
    let message = metrics::read(&path).unwrap_err().to_string();
    assert!(message.contains("metrics.jsonl:2:"), "{message}");
}

#[test]
fn events_are_framed_as_tensorflow_frames_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = EventFile::open(folder.path(), None).unwrap();
    file.append(3, &[("train/loss", 0.5)]).unwrap();
    let bytes = fs::read(folder.path().join(tensorboard::FILE_NAME)).unwrap();
    // The first record's length and checksum. The latter was computed by TensorFlow's own masking of CRC-32C over
    // the length 24 as 8 little-endian bytes.
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(length, 24, "wall time (9 bytes) and the 13 letters of the version with their key and length");
    assert_eq!(u32::from_le_bytes(bytes[8..12].try_into().unwrap()), masked_crc_bitwise(&bytes[..8]));
    assert_eq!(&bytes[12 + 9..12 + 24], b"\x1a\x0dbrain.Event:2");
    let events = tensorboard::read(&folder.path().join(tensorboard::FILE_NAME)).unwrap();
    assert_eq!(events.len(), 2);
    let scalar = &events[1].summary.as_ref().unwrap().value[0];
    assert_eq!((events[1].step, scalar.tag.as_str(), scalar.simple_value), (3, "train/loss", 0.5));
}

/// CRC-32C bit by bit, then TFRecord's mask: written from the definition, apart from the crate that is used.
fn masked_crc_bitwise(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[test]
fn events_after_the_resumed_step_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(tensorboard::FILE_NAME);
    let mut file = EventFile::open(folder.path(), None).unwrap();
    (1..=6).for_each(|step| file.append(step, &[("train/loss", 1.0)]).unwrap());
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[9, 0, 0]).unwrap();
    let mut file = EventFile::open(folder.path(), Some(4)).unwrap();
    file.append(5, &[("train/loss", 2.0)]).unwrap();
    let steps: Vec<i64> = tensorboard::read(&path).unwrap().iter().map(|e| e.step).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn the_curve_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::open(folder.path(), None, 3).unwrap();
    recorder.record(Record { eval_loss: Some(2.0), ..Record::default() }).unwrap();
    recorder.record(record(1)).unwrap();
    recorder.record(Record { eval_loss: Some(1.0), ..record(2) }).unwrap();
    let svg = fs::read_to_string(folder.path().join("loss.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("<circle").count(), 2, "a point for each evaluation");
    assert!(svg.contains("training") && svg.contains("validation"));
}

#[test]
fn the_time_left_counts_steps_and_not_the_evaluation_before_them() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let seconds = |left: Option<Duration>| left.map(|left| left.as_secs_f64().round() as u64);

    // A run of 10 steps: the first evaluation takes 100 s, each step 2 s, and one more evaluation 6 s.
    let mut new = TimeLeft::new(0, 10, at(0));
    assert_eq!(seconds(new.after(0, at(100))), None);
    assert_eq!(seconds(new.after(1, at(102))), Some(18));
    assert_eq!(seconds(new.after(4, at(108))), Some(12));
    assert_eq!(seconds(new.after(5, at(116))), Some(16), "later evaluations come again: they count");
    assert_eq!(seconds(new.after(10, at(126))), Some(0));

    // A resumed run has done none of the steps before it.
    let mut resumed = TimeLeft::new(90, 100, at(0));
    assert_eq!(seconds(resumed.after(91, at(3))), Some(27));
}
