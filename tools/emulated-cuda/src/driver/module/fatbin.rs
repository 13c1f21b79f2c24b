//! Fatbins: containers of PTX and machine code for several architectures.
//!
//! A header of 16 bytes (magic, version, size of the header, bytes that follow), then entries, each with a
//! header of its own of at least 64 bytes. A payload may be compressed with LZ4 (a bare block) or Zstandard.
//! NVIDIA documents none of this; it was read off what nvcc 12 and 13 write.

use std::io::Read;

use super::{
    super::{
        ffi::In,
        status::{Outcome, Status},
    },
    TARGET,
    image::Failure,
};

/// How a fatbin starts.
pub const MAGIC: [u8; 4] = 0xba55_ed50u32.to_le_bytes();
/// How the structure starts that nvcc puts around one.
pub const WRAPPER: [u8; 4] = 0x4662_43b1u32.to_le_bytes();

const HEADER: usize = 16;
const ENTRY_HEADER: usize = 64;
const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
/// PTX for one architecture only, as compute_90a.
const FLAG_SPECIFIC: u64 = 0x10_0000;
/// A fatbin and a decompressed payload at most: larger ones are taken for damaged.
const SIZE_LIMIT: u64 = 1 << 30;

/// Reads a fatbin in the program's memory.
pub fn read(address: usize) -> Outcome<Vec<u8>> {
    let image = In::<u8>::from_address(address);
    let header = image.all(HEADER)?;
    let size = u64::from_le_bytes(at(&header, 8).ok_or(Status::INVALID_IMAGE)?);
    if size > SIZE_LIMIT {
        return Err(Status::INVALID_IMAGE);
    }
    image.all(HEADER + size as usize)
}

/// Reads the fatbin that a wrapper points to: magic, version, address.
pub fn read_wrapped(address: usize) -> Outcome<Vec<u8>> {
    let [_, data] = In::<[usize; 2]>::from_address(address).get()?;
    let magic = In::<[u8; 4]>::from_address(data).get()?;
    if magic == MAGIC { read(data) } else { Err(Status::INVALID_IMAGE) }
}

/// Bytes at an offset.
fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// An entry.
struct Entry<'a> {
    kind: u16,
    architecture: u32,
    flags: u64,
    /// Its bytes, as they are stored.
    payload: &'a [u8],
    /// Bytes of the payload once it is decompressed.
    size: u64,
}

impl<'a> Entry<'a> {
    /// The entry at the start of `bytes` and what follows it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let kind = u16::from_le_bytes(at(bytes, 0)?);
        let header = u32::from_le_bytes(at(bytes, 4)?) as usize;
        let padded = usize::try_from(u64::from_le_bytes(at(bytes, 8)?)).ok()?;
        let stored = u32::from_le_bytes(at(bytes, 16)?) as usize;
        let architecture = u32::from_le_bytes(at(bytes, 28)?);
        let flags = u64::from_le_bytes(at(bytes, 40)?);
        let size = u64::from_le_bytes(at(bytes, 56)?);
        if header < ENTRY_HEADER {
            return None;
        }
        let payload = bytes.get(header..header.checked_add(padded)?)?;
        let rest = &bytes[header + padded..];
        let compressed = flags & (FLAG_LZ4 | FLAG_ZSTD) != 0;
        let payload = if compressed { payload.get(..stored)? } else { payload };
        Some((Self { kind, architecture, flags, payload, size }, rest))
    }

    fn is_specific(&self) -> bool {
        self.flags & FLAG_SPECIFIC != 0
    }

    /// What it is, in words.
    fn describe(&self) -> String {
        let kind = match self.kind {
            KIND_PTX => "PTX for compute_",
            KIND_ELF => "machine code for sm_",
            _ => "something for sm_",
        };
        format!("{kind}{}{}", self.architecture, if self.is_specific() { "a" } else { "" })
    }

    /// Its text.
    fn text(&self) -> Result<String, String> {
        let mut bytes =
            if self.flags & (FLAG_LZ4 | FLAG_ZSTD) != 0 { self.decompress()? } else { self.payload.to_vec() };
        if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            bytes.truncate(end);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn decompress(&self) -> Result<Vec<u8>, String> {
        if self.size > SIZE_LIMIT {
            return Err(format!("its payload claims to have {} bytes", self.size));
        }
        let mut bytes = Vec::new();
        if self.flags & FLAG_LZ4 != 0 {
            // A byte of LZ4 stands for at most 255.
            if self.size > 255 * self.payload.len() as u64 {
                return Err(format!("its payload claims to have {} bytes", self.size));
            }
            bytes =
                lz4_flex::block::decompress(self.payload, self.size as usize).map_err(|e| e.to_string())?;
        } else {
            let decoder = ruzstd::decoding::StreamingDecoder::new(self.payload).map_err(|e| e.to_string())?;
            decoder.take(self.size + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        }
        if bytes.len() as u64 == self.size {
            Ok(bytes)
        } else {
            Err(format!("its payload has {} bytes and should have {}", bytes.len(), self.size))
        }
    }
}

/// The PTX of a fatbin that suits the device best: that of the newest architecture which is not newer than
/// the device's.
pub fn ptx(bytes: &[u8]) -> Result<String, Failure> {
    let damaged = |message: String| Failure { status: Status::INVALID_IMAGE, message };
    let header = u16::from_le_bytes(at(bytes, 6).ok_or_else(|| damaged("the fatbin is cut short".into()))?);
    let size = at(bytes, 8).map(u64::from_le_bytes).and_then(|size| usize::try_from(size).ok());
    let end = size.and_then(|size| size.checked_add(header.into()));
    let mut rest = end
        .and_then(|end| bytes.get(header.into()..end))
        .ok_or_else(|| damaged("the fatbin is cut short".into()))?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, after) =
            Entry::split(rest).ok_or_else(|| damaged("an entry of the fatbin is damaged".into()))?;
        entries.push(entry);
        rest = after;
    }
    let suits =
        |entry: &&Entry| entry.kind == KIND_PTX && entry.architecture <= TARGET && !entry.is_specific();
    let best = entries.iter().filter(suits).max_by_key(|entry| entry.architecture);
    match best {
        Some(entry) => entry
            .text()
            .map_err(|why| damaged(format!("{} in the fatbin is damaged: {why}", entry.describe()))),
        None => {
            let list: Vec<_> = entries.iter().map(Entry::describe).collect();
            let message = format!(
                "the fatbin holds no PTX that an sm_{TARGET} device can run, only: {}; \
                 compile with -gencode arch=compute_{TARGET},code=compute_{TARGET}",
                list.join(", ")
            );
            Err(Failure { status: Status::NO_BINARY_FOR_GPU, message })
        }
    }
}
