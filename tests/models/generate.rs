//! Generation: transformers' greedy tokens, batches, streams and stops.

use std::ops::ControlFlow;

use warptune::generate::{Completion, Finish, GenerateOptions, Sampling, StopStrings, generate};
use warptune::models::Decoder;

use crate::support::devices::on_each;
use crate::support::golden::{Golden, MODELS};

fn run(model: &Decoder, prompts: &[Vec<u32>], options: &GenerateOptions<'_>) -> Vec<Completion> {
    generate(model, prompts, options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn greedy(max_new_tokens: usize) -> GenerateOptions<'static> {
    GenerateOptions { max_new_tokens, ..GenerateOptions::default() }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    on_each(|device| {
        for name in MODELS {
            let golden = Golden::open(name);
            let (model, prompts, expected) = (golden.model_at(device), golden.sequences(), golden.greedy());
            let together = run(&model, &prompts, &greedy(expected[0].len()));
            for (i, (answer, expected)) in together.iter().zip(&expected).enumerate() {
                assert_eq!(&answer.ids, expected, "{name}: prompt {i} in a batch on {device}");
                assert_eq!(answer.finish, Finish::Length);
                let alone = run(&model, &prompts[i..=i], &greedy(expected.len()));
                assert_eq!(&alone[0].ids, expected, "{name}: prompt {i} alone on {device}");
            }
        }
    });
}

#[test]
fn sampling_is_a_function_of_seed_index_and_position() {
    let golden = Golden::open("llama");
    let (model, prompts) = (golden.model(), golden.sequences());
    let sampling = Sampling { temperature: 1.5, top_k: 50, ..Sampling::default() };
    let options = |seed| GenerateOptions { seed, sampling: sampling.clone(), ..greedy(10) };
    let first = run(&model, &prompts, &options(1));
    assert_eq!(first, run(&model, &prompts, &options(1)));
    assert_ne!(first, run(&model, &prompts, &options(2)));
    // Of equal prompts each gets an answer of its own, and the first does not depend on the others.
    let twins = run(&model, &vec![prompts[0].clone(); 2], &options(1));
    assert_ne!(twins[0], twins[1]);
    assert_eq!(twins[0], first[0]);
}

#[test]
fn stops_at_ids_strings_and_the_end_of_the_context() {
    let golden = Golden::open("qwen2");
    let (model, prompts, expected) = (golden.model(), golden.sequences(), golden.greedy());
    let prompt = &prompts[..1];
    let expected = &expected[0];
    let stop = expected[4];
    let until = expected.iter().position(|&id| id == stop).unwrap();
    let options = GenerateOptions { stop_ids: vec![stop], ..greedy(12) };
    let [answer] = &run(&model, prompt, &options)[..] else { panic!() };
    assert_eq!((&answer.ids[..], &answer.finish), (&expected[..until], &Finish::StopId(stop)));

    let decode = |ids: &[u32]| Ok(ids.iter().map(|id| format!("<{id}>")).collect::<String>());
    let text = format!("{}><{}", expected[1], expected[2]);
    let strings = StopStrings::new(vec!["never".into(), text.clone()], &decode).unwrap();
    let options = GenerateOptions { stop_strings: Some(strings), ..greedy(12) };
    let [answer] = &run(&model, prompt, &options)[..] else { panic!() };
    assert_eq!((&answer.ids[..], &answer.finish), (&expected[..3], &Finish::StopString(text)));
    assert!(StopStrings::new(vec![String::new()], &decode).is_err());

    let limit = model.config().max_positions;
    let [answer] = &run(&model, prompt, &greedy(10 * limit))[..] else { panic!() };
    assert_eq!((answer.ids.len() + prompt[0].len(), &answer.finish), (limit, &Finish::Length));
    let [answer] = &run(&model, prompt, &greedy(0))[..] else { panic!() };
    assert_eq!((answer.ids.len(), &answer.finish), (0, &Finish::Length));
}

#[test]
fn streams_in_order_and_stops_when_told() {
    let golden = Golden::open("gpt2");
    let (model, prompts, expected) = (golden.model(), golden.sequences(), golden.greedy());
    let mut heard: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let answers = generate(&model, &prompts, &greedy(5), &mut |i, id| {
        heard[i].push(id);
        ControlFlow::Continue(())
    });
    for ((heard, answer), expected) in heard.iter().zip(answers.unwrap()).zip(&expected) {
        assert_eq!((heard, &answer.ids[..]), (&answer.ids, &expected[..5]));
    }
    let mut count = 0;
    let answers = generate(&model, &prompts, &greedy(5), &mut |_, _| {
        count += 1;
        if count == prompts.len() + 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let answers = answers.unwrap();
    assert!(answers.iter().all(|a| a.finish == Finish::Interrupted));
    assert_eq!(answers.iter().map(|a| a.ids.len()).sum::<usize>(), prompts.len() + 1);
}

#[test]
fn empty_and_too_long_prompts_are_errors() {
    let model = Golden::open("llama").model();
    let limit = model.config().max_positions;
    for prompt in [vec![], vec![1; limit]] {
        let refused =
            generate(&model, &[vec![1, 2], prompt], &greedy(1), &mut |_, _| ControlFlow::Continue(()));
        assert!(refused.unwrap_err().to_string().contains("prompt 1"));
    }
    assert!(run(&model, &[], &greedy(3)).is_empty());
}
