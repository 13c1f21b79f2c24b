//! The committed PTX is that of the committed sources.

use std::{fs, path::Path};

/// What POSIX `cksum` prints for these bytes: a CRC-32, most significant bit first, over the bytes and their number.
fn cksum(bytes: &[u8]) -> u32 {
    let mut len = bytes.len();
    let len_bytes = std::iter::from_fn(|| {
        let byte = len as u8;
        (len > 0).then(|| {
            len >>= 8;
            byte
        })
    });
    let step = |crc: u32, byte: u8| {
        (0..8).fold(crc ^ u32::from(byte) << 24, |c, _| c << 1 ^ if c >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    };
    !bytes.iter().copied().chain(len_bytes).fold(0, step)
}

#[test]
fn the_checksum_is_that_of_posix() {
    assert_eq!(cksum(b""), 4_294_967_295);
    assert_eq!(cksum(b"123456789"), 930_766_865);
}

#[test]
fn the_committed_ptx_is_not_stale() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let manifest = fs::read_to_string(folder.join("ptx/MANIFEST")).expect("a manifest");
    let mut listed = Vec::new();
    for line in manifest.lines() {
        let [sum, len, name] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("not a checksum: {line}")
        };
        let bytes = fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let now = (cksum(&bytes).to_string(), bytes.len().to_string());
        assert!(now == (sum.into(), len.into()), "{name} has changed: run tests/kernels/build");
        listed.push(name.to_owned());
    }
    for sub in ["cu", "ptx/nvcc", "ptx/clang"] {
        for entry in fs::read_dir(folder.join(sub)).expect("a folder") {
            let name = format!("{sub}/{}", entry.expect("an entry").file_name().display());
            assert!(listed.contains(&name), "{name} is not in the manifest: run tests/kernels/build");
        }
    }
}
