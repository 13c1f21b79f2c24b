//! Rows of tokens that pretraining never saw.

use warptune::models::Decoder;
use warptune::tensor::DType;

use crate::support::golden::Golden;

/// The embedding, and the output projection where it is a matrix of its own.
fn tables(model: &Decoder) -> Vec<(String, Vec<Vec<f32>>)> {
    let wanted = |name: &str| {
        ["embed_tokens.weight", "wte.weight", "lm_head.weight"].iter().any(|end| name.ends_with(end))
    };
    let tables = model.parameters().into_iter().filter(|p| wanted(p.name())).map(|p| {
        let value = p.value();
        let width = value.shape()[1];
        let rows = value.fetch_f32().unwrap().chunks_exact(width).map(<[f32]>::to_vec).collect();
        (p.name().to_owned(), rows)
    });
    tables.collect()
}

#[test]
fn rows_of_unseen_tokens_become_the_mean_of_the_seen_ones() {
    let mut kinds = Vec::new();
    for (name, dtype) in
        [("llama", DType::F32), ("smollm2", DType::F32), ("gpt2", DType::F32), ("llama", DType::BF16)]
    {
        let model = Golden::open(name).model_as(dtype);
        let before = tables(&model);
        kinds.push(before.len());
        let vocab = before[0].1.len();
        let unseen = [1, 4, vocab as u32 - 1];
        // Token 2 was not seen either, but nobody asks for it.
        let seen: Vec<bool> = (0..vocab as u32).map(|id| id != 2 && !unseen.contains(&id)).collect();
        model.average_rows(&unseen, &seen).unwrap();
        let others = |model: &Decoder| -> Vec<Vec<f32>> {
            let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
            let rest = model.parameters().into_iter().filter(|p| !names.contains(&p.name()));
            rest.map(|p| p.value().fetch_f32().unwrap()).collect()
        };
        assert!(
            others(&model) == others(&Golden::open(name).model_as(dtype)),
            "{name}: only these tables change"
        );
        for ((table, old), (_, new)) in before.iter().zip(tables(&model)) {
            for (id, row) in new.iter().enumerate() {
                if !unseen.contains(&(id as u32)) {
                    assert!(row == &old[id], "{name} {table}: row {id} was seen and must stay");
                    continue;
                }
                for (j, &x) in row.iter().enumerate() {
                    let of_seen =
                        || old.iter().zip(&seen).filter(|(_, seen)| **seen).map(|(row, _)| f64::from(row[j]));
                    let mean = of_seen().sum::<f64>() / of_seen().count() as f64;
                    let step = dtype.unit_roundoff();
                    let error = (f64::from(x) - mean).abs();
                    assert!(
                        error <= step * mean.abs() * 1.01,
                        "{name} {table}: row {id}, column {j}: {x} for {mean}"
                    );
                }
            }
        }
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, [1, 2], "tied and untied models");
}
