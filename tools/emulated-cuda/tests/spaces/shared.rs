//! Shared memory, and matrices in it.

use cuda::machine::{Checks, FaultKind::*, op::Window, windows};

use super::*;

#[test]
fn bounds_and_alignment() {
    for checks in [Checks::ALL, Checks::NONE] {
        let machine = machine(checks, 4);
        let mut spaces = machine.spaces(32);
        let end = u64::from(SHARED);
        store(&mut spaces, Window::Shared, &every(end - 128, 4), FULL, shape(1, 4), &data(0)).unwrap();
        let result = store(&mut spaces, Window::Shared, &every(end - 64, 4), FULL, shape(1, 4), &data(0));
        assert_eq!(fault(result), (IllegalAddress, 16));
        for address in [end, end - 2, u64::MAX, u64::MAX - 3, 1 << 32] {
            let result = load(&mut spaces, Window::Shared, &[address; 32], 8, shape(1, 4));
            assert_eq!(fault(result), (IllegalAddress, 3), "{address:#x}");
        }
        assert_eq!(fault(load(&mut spaces, Window::Shared, &[end - 6; 32], 8, shape(1, 4))), (Misaligned, 3));
    }
}

#[test]
fn reads_of_unwritten_bytes() {
    let machine = machine(WRITTEN, 1);
    let mut spaces = machine.spaces(32);
    store(&mut spaces, Window::Shared, &every(0, 4), FULL, shape(1, 2), &data(0)).unwrap();
    load(&mut spaces, Window::Shared, &every(0, 4), FULL, shape(1, 2)).unwrap();
    let trouble = load(&mut spaces, Window::Shared, &every(0, 4), FULL << 3, shape(1, 4)).unwrap_err();
    assert_eq!((trouble.kind, trouble.lane), (Uninitialised, 3));
    assert!(trouble.message.contains("byte 2"), "{}", trouble.message);
    // The next block starts anew.
    spaces.reset(0);
    assert_eq!(fault(load(&mut spaces, Window::Shared, &every(0, 4), FULL, shape(1, 2))), (Uninitialised, 0));
}

#[test]
fn poison_without_the_check() {
    let machine = machine(Checks::NONE, 4);
    let mut spaces = machine.spaces(32);
    store(&mut spaces, Window::Shared, &every(0, 4), FULL, shape(1, 4), &[0; 1024]).unwrap();
    spaces.reset(0);
    let loaded = load(&mut spaces, Window::Shared, &every(0, 4), FULL, shape(1, 4)).unwrap();
    assert_eq!(loaded[..128], [0xff; 128]);
}

#[test]
fn matrices() {
    let machine = machine(WRITTEN, 4);
    let mut spaces = machine.spaces(32);
    let bytes = data(5);
    for first in [0, 1024] {
        store(&mut spaces, Window::Shared, &every(first, 32), FULL, shape(4, 8), &bytes).unwrap();
    }
    for count in [1u8, 2, 4] {
        let lanes = 8 * count as usize;
        // Rows all over the memory; the addresses of other lanes are ignored.
        let addresses: [u64; 32] =
            std::array::from_fn(|l| if l < lanes { (l as u64 * 37 % 128) * 16 } else { u64::MAX });
        let generic = addresses.map(|a| a.wrapping_add(windows::SHARED));
        for (window, addresses) in [(Window::Shared, addresses), (Window::Generic, generic)] {
            let mut rows = [[0xee; 16]; 32];
            spaces.ldmatrix(site(0, 3), window, &addresses, count, &mut rows).unwrap();
            for (lane, row) in rows.iter().enumerate() {
                let at = lane * 37 % 128 * 16 % 1024;
                let expected = if lane < lanes { bytes[at..at + 16].to_vec() } else { vec![0xee; 16] };
                assert_eq!(row.to_vec(), expected, "lane {lane} of {count} matrices");
            }
        }
        let rows: [[u8; 16]; 32] = std::array::from_fn(|l| [l as u8; 16]);
        spaces
            .stmatrix(site(0, 3), Window::Generic, &every(windows::SHARED + 2048, 48), count, &rows)
            .unwrap();
        for (lane, row) in rows[..lanes].iter().enumerate() {
            let mut back = [0; 16];
            spaces.peek(0, 0, windows::SHARED + 2048 + lane as u64 * 48, &mut back).unwrap();
            assert_eq!(back, *row);
        }
    }
    let mut rows = [[0; 16]; 32];
    let mut addresses = every(0, 16);
    addresses[6] = 8;
    assert_eq!(fault(spaces.ldmatrix(site(0, 3), Window::Shared, &addresses, 1, &mut rows)), (Misaligned, 6));
    addresses[6] = u64::from(SHARED);
    assert_eq!(
        fault(spaces.ldmatrix(site(0, 3), Window::Shared, &addresses, 1, &mut rows)),
        (IllegalAddress, 6)
    );
    let outside = every(windows::LOCAL, 16);
    assert_eq!(
        fault(spaces.ldmatrix(site(0, 3), Window::Generic, &outside, 1, &mut rows)),
        (IllegalAddress, 0)
    );
}
