//! How the addresses of a warp's access lie to each other.

/// Neighbouring lanes whose bytes lie side by side, or in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first lane.
    pub lane: u32,
    /// How many.
    pub lanes: u32,
    /// Address of the first lane.
    pub address: u64,
    /// Whether all have that address, instead of consecutive ones.
    pub same: bool,
}

impl Run {
    /// Bytes from the first to the last.
    #[inline(always)]
    pub fn len(&self, size: usize) -> usize {
        if self.same { size } else { self.lanes as usize * size }
    }

    /// Its lanes, a bit each.
    #[inline(always)]
    pub fn mask(&self) -> u32 {
        (u32::MAX >> (32 - self.lanes)) << self.lane
    }

    /// The runs of one lane that it consists of.
    pub fn split(self, size: usize) -> impl Iterator<Item = Run> {
        let step = if self.same { 0 } else { size as u64 };
        (0..self.lanes).map(move |i| Run {
            lane: self.lane + i,
            lanes: 1,
            address: self.address.wrapping_add(u64::from(i) * step),
            same: false,
        })
    }
}

/// The runs of an access, by their first lane.
pub(super) struct Runs<'a> {
    addresses: &'a [u64; 32],
    left: u32,
    size: u64,
    same: bool,
}

impl<'a> Runs<'a> {
    /// Of the lanes of `mask`, `size` bytes each. Lanes with the same address make a run only where `same` is set.
    #[inline(always)]
    pub fn new(addresses: &'a [u64; 32], mask: u32, size: usize, same: bool) -> Self {
        Self { addresses, left: mask, size: size as u64, same }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    #[inline(always)]
    fn next(&mut self) -> Option<Run> {
        if self.left == 0 {
            return None;
        }
        let lane = self.left.trailing_zeros();
        let address = self.addresses[lane as usize];
        // Lanes from `lane` on that are all in the mask.
        let most = (!(self.left >> lane)).trailing_zeros();
        let others = &self.addresses[lane as usize..][..most as usize];
        let same = self.same && most > 1 && others[1] == address;
        let step = if same { 0 } else { self.size };
        let mut next = address;
        let mut lanes = 0;
        while lanes < most && others[lanes as usize] == next {
            next = next.wrapping_add(step);
            lanes += 1;
        }
        let run = Run { lane, lanes, address, same };
        self.left &= !run.mask();
        Some(run)
    }
}

/// The lanes of a mask, from the lowest.
#[inline(always)]
pub(super) fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

/// Repeats the `size` bytes at `first` until there are so many of them, side by side.
#[inline(always)]
pub(super) fn repeat(data: &mut [u8], first: usize, size: usize, count: usize) {
    #[inline(always)]
    fn fill<const SIZE: usize>(data: &mut [u8]) {
        let (pattern, rest) = data.split_at_mut(SIZE);
        let mut value = [0; SIZE];
        value.copy_from_slice(pattern);
        rest.chunks_exact_mut(SIZE).for_each(|to| to.copy_from_slice(&value));
    }
    let data = &mut data[first..][..size * count];
    match size {
        1 => fill::<1>(data),
        2 => fill::<2>(data),
        4 => fill::<4>(data),
        8 => fill::<8>(data),
        16 => fill::<16>(data),
        _ => fill::<32>(data),
    }
}
