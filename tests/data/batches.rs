//! Split, packing, batches, loader.

use proptest::prelude::*;
use warptune::data::{Batch, Cursor, IGNORE_LABEL, Loader, LoaderOptions, Sample, pack, shuffled, split};

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let sample = prop::collection::vec((0u32..50, any::<bool>()), 1..12);
    prop::collection::vec(sample, 1..20).prop_map(|all| {
        let sample = |(i, tokens): (usize, Vec<(u32, bool)>)| {
            let (ids, trained) = tokens.into_iter().unzip();
            Sample { ids, trained, line: i + 1 }
        };
        all.into_iter().enumerate().map(sample).collect()
    })
}

fn lines(batch: &Batch, samples: &[Sample]) -> Vec<Vec<u32>> {
    assert_eq!(batch.cu_seqlens.len() - 1, batch.sequences());
    let sequences = batch.cu_seqlens.windows(2).map(|w| batch.ids[w[0]..w[1]].to_vec()).collect::<Vec<_>>();
    assert!(sequences.iter().all(|s| samples.iter().any(|sample| sample.ids == *s)));
    sequences
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_split_is_a_partition(n in 2usize..200, fraction in 0.0f64..0.5, seed: u64) {
        let (train, validation) = split((0..n).collect::<Vec<_>>(), fraction, seed).unwrap();
        prop_assert!(train.is_sorted() && validation.is_sorted());
        let expected = if fraction == 0.0 { 0 } else { ((n as f64 * fraction).round() as usize).max(1) };
        prop_assert_eq!(validation.len(), expected);
        let mut all = [train.clone(), validation.clone()].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
        prop_assert_eq!(split((0..n).collect::<Vec<_>>(), fraction, seed).unwrap(), (train, validation));
    }

    #[test]
    fn an_order_is_a_permutation(n in 0usize..300, seed: u64, stream: u64) {
        let mut order = shuffled(n, seed, stream);
        prop_assert_eq!(&order, &shuffled(n, seed, stream));
        order.sort_unstable();
        prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn packing_keeps_every_sequence_once_within_the_capacity(lengths in prop::collection::vec(0usize..40, 0..60), more in 0usize..40) {
        let capacity = lengths.iter().max().copied().unwrap_or(0) + more;
        let bins = pack(&lengths, capacity).unwrap();
        prop_assert!(bins.iter().all(|bin| bin.is_sorted() && bin.iter().map(|&i| lengths[i]).sum::<usize>() <= capacity));
        let mut all = bins.concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        // No two bins would fit into one: best fit never leaves that.
        let loads: Vec<usize> = bins.iter().map(|bin| bin.iter().map(|&i| lengths[i]).sum()).collect();
        prop_assert!(loads.iter().enumerate().all(|(i, a)| loads[..i].iter().all(|b| a + b > capacity)));
    }

    #[test]
    fn a_batch_is_its_sequences_one_after_another(samples in samples()) {
        let batch = Batch::new(&samples);
        prop_assert_eq!(batch.len(), samples.iter().map(|s| s.ids.len()).sum::<usize>());
        let mut loss_tokens = 0;
        for (s, sample) in samples.iter().enumerate() {
            let range = batch.cu_seqlens[s]..batch.cu_seqlens[s + 1];
            prop_assert_eq!(&batch.ids[range.clone()], &sample.ids);
            prop_assert_eq!(batch.positions[range.clone()].to_vec(), (0..sample.ids.len() as u32).collect::<Vec<_>>());
            for (t, &label) in batch.labels[range].iter().enumerate() {
                let next = sample.ids.get(t + 1).filter(|_| sample.trained[t + 1]);
                prop_assert_eq!(label, next.copied().unwrap_or(IGNORE_LABEL));
                loss_tokens += usize::from(next.is_some());
            }
        }
        prop_assert_eq!(batch.loss_tokens, loss_tokens);
        prop_assert_eq!(batch.loss_tokens, samples.iter().map(Sample::loss_tokens).sum::<usize>());
    }

    #[test]
    fn an_epoch_has_every_sample_once_and_can_be_taken_up_anywhere(
        samples in samples(), micro_batch in 1usize..5, packed in any::<bool>(), shuffle in any::<bool>(), seed: u64,
    ) {
        let options = LoaderOptions { micro_batch, pack_to: packed.then_some(16), shuffle, seed };
        let mut loader = Loader::new(samples.clone(), options.clone()).unwrap();
        let mut sorted: Vec<Vec<u32>> = samples.iter().map(|s| s.ids.clone()).collect();
        sorted.sort();
        let (mut batches, mut cursors) = (Vec::new(), Vec::new());
        for epoch in 0..3 {
            let mut seen = Vec::new();
            for index in 0..loader.batches_per_epoch() {
                prop_assert_eq!(loader.cursor(), Cursor { epoch, index });
                cursors.push(loader.cursor());
                batches.push(loader.next_batch());
                seen.extend(lines(batches.last().unwrap(), &samples));
            }
            seen.sort();
            prop_assert_eq!(&seen, &sorted);
        }
        let mut pass: Vec<Vec<u32>> = loader.pass().flat_map(|batch| lines(&batch, &samples)).collect();
        pass.sort();
        prop_assert_eq!(pass, sorted);
        let mut resumed = Loader::new(samples, options).unwrap();
        for (cursor, batch) in cursors.into_iter().zip(&batches).rev() {
            resumed.seek(cursor).unwrap();
            prop_assert_eq!(&resumed.next_batch(), batch);
        }
    }
}

#[test]
fn epochs_and_seeds_give_different_orders() {
    assert_ne!(shuffled(50, 1, 1), shuffled(50, 1, 2));
    assert_ne!(shuffled(50, 1, 1), shuffled(50, 2, 1));
    // Every place is reached from every place about equally often: 5 sigma of a binomial with n 4000, p 1/8.
    let mut counts = [[0i32; 8]; 8];
    for seed in 0..4000 {
        shuffled(8, seed, 0).into_iter().enumerate().for_each(|(to, from)| counts[from][to] += 1);
    }
    let worst = counts.iter().flatten().map(|c| (c - 500).abs()).max().unwrap();
    assert!(worst < 105, "{worst} away from 500");
}

#[test]
fn impossible_requests_are_refused() {
    assert!(split(vec![1, 2], 1.0, 0).is_err() && split(vec![1, 2], f64::NAN, 0).is_err());
    assert!(split(vec![1], 0.1, 0).unwrap_err().to_string().contains("none to train on"));
    assert!(pack(&[3, 5], 4).unwrap_err().to_string().contains("a sequence of 5"));
    let sample = Sample { ids: vec![1, 2], trained: vec![false, true], line: 1 };
    let options = LoaderOptions { micro_batch: 2, pack_to: None, shuffle: true, seed: 0 };
    assert!(Loader::new(Vec::new(), options.clone()).is_err());
    assert!(Loader::new(vec![sample.clone()], LoaderOptions { micro_batch: 0, ..options.clone() }).is_err());
    assert!(Loader::new(vec![sample], options).unwrap().seek(Cursor { epoch: 0, index: 1 }).is_err());
    assert!(Batch::new([]).is_empty());
}
