//! `shfl`, `vote`, `match`, `redux`.

use cuda::{
    arith::{
        Row,
        warp::{match_all, match_any, redux, shuffle, vote},
    },
    machine::op::{ReduxOp, ShuffleMode, VoteMode},
};

use super::Random;

const MODES: [ShuffleMode; 4] = [ShuffleMode::Up, ShuffleMode::Down, ShuffleMode::Bfly, ShuffleMode::Idx];

/// The source lane and the predicate, by the pseudo-code of the ISA, in signed numbers.
fn isa_source(mode: ShuffleMode, lane: i32, b: u32, c: u32) -> (i32, bool) {
    let bval = (b % 32) as i32;
    let cval = (c % 32) as i32;
    let segmask = (c / 256 % 32) as i32;
    let max_lane = (lane & segmask) | (cval & !segmask);
    let min_lane = lane & segmask;
    let (j, pval) = match mode {
        ShuffleMode::Up => (lane - bval, lane - bval >= max_lane),
        ShuffleMode::Down => (lane + bval, lane + bval <= max_lane),
        ShuffleMode::Bfly => (lane ^ bval, (lane ^ bval) <= max_lane),
        ShuffleMode::Idx => {
            let j = min_lane | (bval & !segmask);
            (j, j <= max_lane)
        }
    };
    (if pval { j } else { lane }, pval)
}

#[test]
fn shuffles_follow_the_pseudo_code() {
    let mut random = Random::new(20);
    for round in 0..4000 {
        for mode in MODES {
            let a = random.row();
            // Operands that are the same in all lanes, as compilers make them, and others.
            let (b, c) = if round % 2 == 0 {
                ([random.word(); 32], [random.word(); 32])
            } else {
                (random.row(), random.row())
            };
            let masks = [u32::MAX, random.word(), random.word() | random.word() | random.word()];
            let executing = masks[random.below(3) as usize];
            let mask = masks[random.below(3) as usize];
            let got = shuffle(mode, &a, &b, &c, executing, mask);
            for lane in 0..32 {
                let (source, pval) = isa_source(mode, lane as i32, b[lane], c[lane]);
                assert_eq!(got.in_range >> lane & 1 == 1, pval, "{mode:?} lane {lane}");
                assert_eq!(got.row[lane], a[source as usize], "{mode:?} lane {lane}");
                let runs = |lane: usize| executing & 1 << lane != 0;
                let undefined = runs(lane) && !(runs(source as usize) && mask & 1 << source != 0);
                assert_eq!(got.undefined >> lane & 1 == 1, undefined, "{mode:?} lane {lane} from {source}");
            }
        }
    }
}

/// What the programming guide promises for `__shfl_*_sync(mask, value, x, width)`, with the clamp that nvcc makes of the width.
#[test]
fn shuffles_do_what_cuda_promises() {
    let mut random = Random::new(21);
    let a = random.row();
    for width in [1, 2, 4, 8, 16, 32] {
        let segments = (32 - width) << 8;
        for x in 0..32 {
            for mode in MODES {
                let c = if mode == ShuffleMode::Up { segments } else { segments | 31 };
                let got = shuffle(mode, &a, &[x; 32], &[c; 32], u32::MAX, u32::MAX);
                assert_eq!(got.undefined, 0);
                for lane in 0..32 {
                    let first = lane - lane % width;
                    let last = first + width - 1;
                    let source = match mode {
                        ShuffleMode::Up if lane >= first + x => lane - x,
                        ShuffleMode::Down if lane + x <= last => lane + x,
                        ShuffleMode::Idx => first + x % width,
                        // A lane of a segment before its own may be read, one after it may not.
                        ShuffleMode::Bfly if lane ^ x <= last => lane ^ x,
                        _ => lane,
                    };
                    assert_eq!(
                        got.row[lane as usize], a[source as usize],
                        "{mode:?} {width} {x} lane {lane}"
                    );
                }
            }
        }
    }
}

#[test]
fn votes_count_members_alone() {
    let mut random = Random::new(22);
    for round in 0..2000 {
        let members = random.word() & random.word() | 1 << random.below(32);
        let predicate = match round % 4 {
            0 => random.word(),
            1 => members | random.word(),
            2 => random.word() & !members,
            _ => members & !(1 << random.below(32)),
        };
        let lanes = (0..32).filter(|lane| members >> lane & 1 == 1).map(|lane| predicate >> lane & 1 == 1);
        let truth = |holds: bool| if holds { u32::MAX } else { 0 };
        let mut all = lanes.clone();
        assert_eq!(vote(VoteMode::All, predicate, members), truth(all.all(|p| p)));
        let mut any = lanes.clone();
        assert_eq!(vote(VoteMode::Any, predicate, members), truth(any.any(|p| p)));
        let trues = lanes.clone().filter(|&p| p).count();
        assert_eq!(vote(VoteMode::Uni, predicate, members), truth(trues == 0 || trues == lanes.count()));
        let ballot: u32 =
            (0..32).filter(|lane| members >> lane & predicate >> lane & 1 == 1).map(|lane| 1 << lane).sum();
        assert_eq!(vote(VoteMode::Ballot, predicate, members), ballot);
    }
}

#[test]
fn matches_compare_members_alone() {
    let mut random = Random::new(23);
    let mut all_equal = 0;
    for round in 0..2000 {
        let members = random.word() | 1 << random.below(32);
        let kinds = 1 + round % 5;
        // Values that differ in the high half alone.
        let mut wide: [u64; 32] = std::array::from_fn(|_| u64::from(random.below(kinds)) << 32 | 7);
        if round % 3 == 0 {
            wide = std::array::from_fn(|lane| if members >> lane & 1 == 1 { wide[0] } else { 99 << 32 | 7 });
        }
        let narrow: Row = wide.map(|x| (x >> 32) as u32);
        let any = match_any(&wide, members);
        assert_eq!(match_any(&narrow, members), any);
        let mut equal = true;
        for lane in (0..32).filter(|lane| members >> lane & 1 == 1) {
            for other in 0..32 {
                let same = members >> other & 1 == 1 && wide[lane] == wide[other];
                assert_eq!(any[lane] >> other & 1 == 1, same, "{lane}, {other}");
                equal &= same || members >> other & 1 == 0;
            }
        }
        let wanted = if equal { members } else { 0 };
        assert_eq!(match_all(&wide, members), wanted);
        assert_eq!(match_all(&narrow, members), wanted);
        all_equal += u32::from(equal);
    }
    assert!((700..1500).contains(&all_equal), "{all_equal}");
}

#[test]
fn redux_reduces_members_alone() {
    let mut random = Random::new(24);
    for round in 0..1000 {
        let members = random.word() & random.word() | 1 << random.below(32);
        let mut values = random.row();
        if round % 2 == 0 {
            values = values.map(|x| x & 0x8000_000f);
        }
        let taken: Vec<u32> =
            (0..32).filter(|lane| members >> lane & 1 == 1).map(|lane| values[lane]).collect();
        let signed = || taken.iter().map(|&x| x as i32);
        let bits = |test: fn(u32, u32) -> bool| {
            let count = |bit: u32| taken.iter().map(|x| x >> bit & 1).sum::<u32>();
            (0..32).map(|bit| u32::from(test(count(bit), taken.len() as u32)) << bit).sum::<u32>()
        };
        for (op, wanted) in [
            (ReduxOp::Add, taken.iter().map(|&x| u64::from(x)).sum::<u64>() as u32),
            (ReduxOp::MinU, *taken.iter().min().unwrap()),
            (ReduxOp::MaxU, *taken.iter().max().unwrap()),
            (ReduxOp::MinS, signed().min().unwrap() as u32),
            (ReduxOp::MaxS, signed().max().unwrap() as u32),
            (ReduxOp::And, bits(|ones, all| ones == all)),
            (ReduxOp::Or, bits(|ones, _| ones > 0)),
            (ReduxOp::Xor, bits(|ones, _| ones % 2 == 1)),
        ] {
            assert_eq!(redux(op, &values, members), wanted, "{op:?}");
        }
    }
}
