//! Fatbins, put together by hand as nvcc writes them.

use std::ffi::c_void;

use cudarc::{driver::sys, nvrtc::Ptx};

use super::support::{Code, KERNELS, context, fails, ok, place};

const PTX: u16 = 1;
const ELF: u16 = 2;
const PLAIN: u64 = 0x11;
const LZ4: u64 = 0x2011;
const ZSTD: u64 = 0x8011;
const SPECIFIC: u64 = 0x10_0011;

/// An entry: header of 64 bytes, payload filled up to 8.
fn entry(kind: u16, architecture: u32, flags: u64, payload: &[u8], size: usize) -> Vec<u8> {
    let padded = payload.len().next_multiple_of(8);
    let compressed = flags & 0xa000 != 0;
    let stored = if compressed { payload.len() } else { 0 };
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0x101u16.to_le_bytes());
    bytes.extend(64u32.to_le_bytes());
    bytes.extend((padded as u64).to_le_bytes());
    bytes.extend((stored as u32).to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend([0, 0, 8, 0]);
    bytes.extend(architecture.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(flags.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend((if compressed { size as u64 } else { 0 }).to_le_bytes());
    assert_eq!(bytes.len(), 64);
    bytes.extend(payload);
    bytes.resize(64 + padded, 0);
    bytes
}

fn fatbin(entries: &[Vec<u8>]) -> Vec<u8> {
    let size: usize = entries.iter().map(Vec::len).sum();
    let mut bytes = 0xba55_ed50u32.to_le_bytes().to_vec();
    bytes.extend([1, 0, 16, 0]);
    bytes.extend((size as u64).to_le_bytes());
    bytes.extend(entries.concat());
    bytes
}

/// A text that says which it is by the name of its kernel.
fn text(name: &str) -> Vec<u8> {
    KERNELS.replace("bounded", name).into_bytes()
}

/// The kernel that tells the texts apart, or the code of the failed load.
fn loaded(image: &[u8], names: &[&str]) -> Result<Vec<String>, Code> {
    let context = context();
    let module = context.load_module(Ptx::from_binary(image.to_vec())).map_err(|error| error.0)?;
    let found = names.iter().filter(|name| module.load_function(name).is_ok());
    Ok(found.map(|name| name.to_string()).collect())
}

/// An LZ4 block that holds literals only.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0];
    let mut left = bytes.len() - 15;
    while left >= 255 {
        block.push(255);
        left -= 255;
    }
    block.push(left as u8);
    block.extend(bytes);
    block
}

/// A Zstandard frame of raw blocks.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut frame = 0xfd2f_b528u32.to_le_bytes().to_vec();
    // One segment, its size in four bytes, no checksum.
    frame.push(0b1010_0000);
    frame.extend((bytes.len() as u32).to_le_bytes());
    let last = (bytes.len() << 3 | 1) as u32;
    frame.extend(&last.to_le_bytes()[..3]);
    frame.extend(bytes);
    frame
}

#[test]
fn the_newest_text_that_the_device_can_run_is_taken() {
    let plain = |architecture, flags, name: &str| entry(PTX, architecture, flags, &text(name), 0);
    let image = fatbin(&[
        plain(75, PLAIN, "seventy_five"),
        entry(ELF, 80, PLAIN, b"\x7fELF machine code", 0),
        plain(80, PLAIN, "eighty"),
        plain(80, SPECIFIC, "special"),
        plain(86, PLAIN, "eighty_six"),
        plain(70, PLAIN, "seventy"),
    ]);
    let names = ["seventy", "seventy_five", "eighty", "special", "eighty_six"];
    assert_eq!(loaded(&image, &names), Ok(vec!["eighty".into()]));
}

#[test]
fn compressed_texts_are_read() {
    let text = text("packed");
    for (flags, payload) in [(LZ4, lz4(&text)), (ZSTD, zstd(&text))] {
        let image = fatbin(&[entry(PTX, 80, flags, &payload, text.len())]);
        assert_eq!(loaded(&image, &["packed"]), Ok(vec!["packed".into()]), "{flags:#x}");
        // A size that is not the text's, and one that nobody should allocate.
        for size in [text.len() - 1, text.len() + 1, 1 << 40] {
            let image = fatbin(&[entry(PTX, 80, flags, &payload, size)]);
            assert_eq!(loaded(&image, &[]), Err(Code::CUDA_ERROR_INVALID_IMAGE), "{flags:#x} {size}");
        }
    }
}

#[test]
fn machine_code_alone_is_no_use() {
    let image = fatbin(&[
        entry(ELF, 80, PLAIN, b"\x7fELF machine code", 0),
        entry(PTX, 90, PLAIN, &text("ninety"), 0),
    ]);
    assert_eq!(loaded(&image, &[]), Err(Code::CUDA_ERROR_NO_BINARY_FOR_GPU));
    assert_eq!(loaded(b"\x7fELF\x02\x01\x01\0", &[]), Err(Code::CUDA_ERROR_NO_BINARY_FOR_GPU));
}

#[test]
fn the_wrapper_that_nvcc_writes_is_looked_through() {
    let context = context();
    let image = fatbin(&[entry(PTX, 80, PLAIN, &text("wrapped"), 0)]);
    let wrapper: [u64; 3] = [0x1_4662_43b1, image.as_ptr() as u64, 0];
    let (mut module, mut function) = (place(), place());
    ok!(sys::cuModuleLoadFatBinary(&mut module, wrapper.as_ptr().cast::<c_void>()));
    ok!(sys::cuModuleGetFunction(&mut function, module, c"wrapped".as_ptr()));
    let wrong: [u64; 3] = [0x1_4662_43b1, wrapper.as_ptr() as u64, 0];
    fails!(sys::cuModuleLoadData(&mut module, wrong.as_ptr().cast()), CUDA_ERROR_INVALID_IMAGE);
    drop(context);
}

#[test]
fn damaged_containers_are_refused() {
    let whole = fatbin(&[entry(PTX, 80, PLAIN, &text("whole"), 0)]);
    let damage = |at: usize, byte: u8| {
        let mut image = whole.clone();
        image[at] = byte;
        loaded(&image, &[])
    };
    // The size of an entry's header, and of its payload.
    assert_eq!(damage(16 + 4, 63), Err(Code::CUDA_ERROR_INVALID_IMAGE));
    assert_eq!(damage(16 + 7, 255), Err(Code::CUDA_ERROR_INVALID_IMAGE));
    assert_eq!(damage(16 + 8, whole[16 + 8].wrapping_add(8)), Err(Code::CUDA_ERROR_INVALID_IMAGE));
    assert_eq!(damage(16 + 15, 255), Err(Code::CUDA_ERROR_INVALID_IMAGE));
    // The size of the whole.
    assert_eq!(damage(15, 255), Err(Code::CUDA_ERROR_INVALID_IMAGE));
}
