//! Which states stay on a device, and which go to host memory.

use super::States;
use super::blockwise::{BLOCK, LEAST_ELEMENTS};
use crate::tensor::DType;

/// Bytes that AdamW keeps of a parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateBytes {
    /// What is always where the parameter is: scales of blocks.
    pub fixed: usize,
    /// What may be in host memory: averages, and a master copy.
    pub pageable: usize,
}

impl StateBytes {
    /// Those of a parameter of `n` elements; of a bf16 one with its master copy, if `master`. `block` says what memory a tensor of so many bytes takes.
    pub fn of(
        n: usize,
        dtype: DType,
        states: States,
        master: bool,
        block: impl Fn(usize) -> usize,
    ) -> StateBytes {
        let (average, absmax) = match form(states, n) {
            States::F32 => (block(4 * n), 0),
            States::Blockwise8 => (block(n), block(4 * n.div_ceil(BLOCK))),
        };
        let master = if master && dtype == DType::BF16 { block(4 * n) } else { 0 };
        StateBytes { fixed: 2 * absmax, pageable: 2 * average + master }
    }

    /// Everything.
    pub fn total(self) -> usize {
        self.fixed + self.pageable
    }
}

/// The form in which a parameter of `elements` elements has its averages.
pub(super) fn form(states: States, elements: usize) -> States {
    if elements < LEAST_ELEMENTS { States::F32 } else { states }
}

/// For each parameter, whether its pageable state goes to host memory if a device has `room` bytes for states: the largest are placed first, each
/// on the device if it still fits there, so that as few bytes as may be are on the other side of the bus. Of equal sizes the first is first.
pub fn in_host_memory(sizes: &[StateBytes], room: usize) -> Vec<bool> {
    let mut room = room.saturating_sub(sizes.iter().map(|size| size.fixed).sum());
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(sizes[i].pageable));
    let mut on_host = vec![false; sizes.len()];
    for i in order {
        match room.checked_sub(sizes[i].pageable) {
            Some(left) => room = left,
            None => on_host[i] = true,
        }
    }
    on_host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pageable(sizes: &[usize]) -> Vec<StateBytes> {
        sizes.iter().map(|&pageable| StateBytes { fixed: 0, pageable }).collect()
    }

    #[test]
    fn the_largest_that_fit_stay_on_the_device() {
        let sizes = pageable(&[10, 50, 30, 50, 0]);
        let plan = |room| in_host_memory(&sizes, room);
        assert_eq!(plan(140), [false; 5]);
        assert_eq!(plan(usize::MAX), [false; 5]);
        assert_eq!(plan(139), [true, false, false, false, false]);
        assert_eq!(plan(100), [true, false, true, false, false]);
        assert_eq!(plan(99), [false, false, false, true, false]);
        assert_eq!(plan(40), [false, true, false, true, false]);
        assert_eq!(plan(0), [true, true, true, true, false]);
        assert!(in_host_memory(&[], 0).is_empty());
    }

    #[test]
    fn what_is_fixed_is_on_the_device_first() {
        let mut sizes = pageable(&[10, 20]);
        sizes[0].fixed = 5;
        assert_eq!(in_host_memory(&sizes, 25), [true, false]);
        assert_eq!(in_host_memory(&sizes, 24), [false, true]);
        assert_eq!(in_host_memory(&sizes, 3), [true, true]);
    }

    /// For every room: what stays fits, and nothing that would still fit was sent away.
    #[test]
    fn no_room_is_exceeded_and_none_is_wasted() {
        let sizes = pageable(&[7, 3, 12, 1, 9, 9, 4]);
        for room in 0..50 {
            let on_host = in_host_memory(&sizes, room);
            let on = |host: bool| {
                sizes.iter().zip(&on_host).filter(move |(_, h)| **h == host).map(|(s, _)| s.pageable)
            };
            let used: usize = on(false).sum();
            assert!(used <= room && on(true).all(|size| used + size > room), "{room}: {on_host:?}");
        }
    }

    #[test]
    fn bytes_of_a_parameter() {
        let of = |n, dtype, states, master| {
            let bytes = StateBytes::of(n, dtype, states, master, |bytes| bytes);
            (bytes.fixed, bytes.pageable)
        };
        assert_eq!(of(5000, DType::F32, States::F32, true), (0, 40_000));
        assert_eq!(of(5000, DType::F32, States::Blockwise8, true), (160, 10_000));
        assert_eq!(of(4095, DType::F32, States::Blockwise8, true), (0, 8 * 4095));
        assert_eq!(of(5000, DType::BF16, States::Blockwise8, true), (160, 30_000));
        assert_eq!(of(5000, DType::BF16, States::Blockwise8, false), (160, 10_000));
        let blocks = StateBytes::of(5000, DType::F32, States::F32, true, |bytes| bytes.next_multiple_of(512));
        assert_eq!(blocks.total(), 2 * 20_480);
    }
}
