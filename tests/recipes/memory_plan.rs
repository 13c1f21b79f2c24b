//! The memory plan against what is really held.

use std::process::Command;

use warptune::autograd::Param;
use warptune::device::Device;
use warptune::formats::Checkpoint;
use warptune::formats::peft::{LoraConfig, Targets};
use warptune::models::Decoder;
use warptune::optim::{AdamW, AdamWSettings, States};
use warptune::peft::lora;
use warptune::tensor::DType;
use warptune::train::memory_plan::MemoryPlan;
use warptune::train::step::decay_matrices;

use crate::support::golden::Golden;
use crate::support::tiny::Tiny;

fn params(model: &Decoder) -> Vec<Param> {
    model.parameters().into_iter().chain(lora::adapter_parameters(model)).collect()
}

fn bytes<'a>(params: impl IntoIterator<Item = &'a Param>) -> usize {
    params.into_iter().map(|p| p.value().numel() * p.value().dtype().size()).sum()
}

#[test]
fn weights_gradients_and_optimizer_are_exact() {
    let mut model = Golden::open("qwen3").model();
    let plan = |model: &Decoder, checkpointing| {
        MemoryPlan::new(model.config(), &params(model), DType::F32, 64, checkpointing, Device::Cpu)
    };
    model.set_trainable(true);
    let full = plan(&model, false);
    assert_eq!(full.weights, bytes(&model.parameters()));
    assert_eq!(full.gradients, full.weights);
    lora::attach(&mut model, &LoraConfig::new(4, 8.0, Targets::AllLinear), 0).unwrap();
    let adapted = plan(&model, false);
    assert_eq!(adapted.gradients, bytes(&lora::adapter_parameters(&model)));
    assert_eq!(adapted.weights, full.weights + adapted.gradients);
    assert!(plan(&model, true).activations < adapted.activations);
}

#[test]
fn states_of_either_kind_are_exact() {
    let tiny = Tiny::new();
    let checkpoint = Checkpoint::open(&tiny.model()).unwrap();
    let model = Decoder::load(&checkpoint, &checkpoint.config().unwrap(), DType::F32).unwrap();
    model.set_trainable(true);
    let plan = MemoryPlan::new(model.config(), &params(&model), DType::F32, 64, false, Device::Cpu);
    for states in [States::F32, States::Blockwise8] {
        let settings = AdamWSettings { states, ..AdamWSettings::default() };
        let optimizer = AdamW::new(settings, decay_matrices(model.parameters())).unwrap();
        let held: usize =
            optimizer.state_tensors().unwrap().iter().map(|(_, t)| t.numel() * t.dtype().size()).sum();
        let planned = plan.clone().with_optimizer(&model.parameters(), states, None);
        assert_eq!((planned.optimizer, planned.paged), (held, 0), "{states}");
        // Its tables are large enough for codes.
        assert_eq!(planned.optimizer < plan.optimizer, states == States::Blockwise8);
    }
}

#[test]
fn states_without_room_are_planned_in_host_memory() {
    let model = Golden::open("qwen3").model();
    model.set_trainable(true);
    let plan = MemoryPlan::new(model.config(), &params(&model), DType::F32, 64, false, Device::Cpu);
    let with = |room| plan.clone().with_optimizer(&params(&model), States::F32, room);
    let all = plan.optimizer;
    assert_eq!(with(Some(plan.total())), plan, "it just fits");
    let none = with(Some(0));
    assert_eq!((none.optimizer, none.paged, none.total()), (0, all, plan.total() - all));
    assert!(none.to_string().contains("in host memory"), "{none}");
    let some = with(Some(plan.total() - all / 2));
    assert!(some.paged > 0 && some.optimizer > 0 && some.paged + some.optimizer == all);
    assert!(some.total() <= plan.total() - all / 2);
}

#[test]
fn quantized_weights_are_planned_as_they_are_held() {
    let golden = Golden::open_quantized("llama_nf4", "golden");
    let model = golden.model();
    let plan = MemoryPlan::new(model.config(), &params(&model), DType::F32, 64, false, Device::Cpu)
        .with_quantized(model.quantized_weights());
    // Two codes a byte, a scale of a byte for 64; for 256 scales 4 bytes, and the map.
    let held = |n: usize| n.div_ceil(2) + n.div_ceil(64) + n.div_ceil(64 * 256) * 4 + 1024;
    let expected: usize = model.quantized_weights().map(|w| held(w.value().numel())).sum();
    assert_eq!(plan.quantized, expected);
    assert_eq!(plan.weights, expected + bytes(&model.parameters()));
    assert!(plan.to_string().contains("in 4 bits"), "{plan}");
}

#[test]
fn the_total_is_near_what_a_step_takes() {
    let tiny = Tiny::sized(256, 8);
    for checkpointing in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warptune"));
        command.args([
            "bench-step",
            "--steps",
            "1",
            "--warmup",
            "0",
            "--length",
            "128",
            "--batch",
            "8",
            "--model",
        ]);
        command.arg(tiny.model());
        if checkpointing {
            command.arg("--gradient-checkpointing");
        }
        let output = command.output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // The peak is known on Linux alone.
        let Some(peak) = report["peak_rss_mib"].as_f64() else { return };

        let checkpoint = Checkpoint::open(&tiny.model()).unwrap();
        let mut model = Decoder::load(&checkpoint, &checkpoint.config().unwrap(), DType::F32).unwrap();
        lora::attach(&mut model, &LoraConfig::new(16, 32.0, Targets::AllLinear), 0).unwrap();
        let plan =
            MemoryPlan::new(model.config(), &params(&model), DType::F32, 1024, checkpointing, Device::Cpu);
        let planned = plan.total() as f64 / f64::from(1 << 20);
        // The program itself takes some 20 MiB.
        let ratio = (peak - 20.0) / planned;
        assert!((0.6..1.5).contains(&ratio), "checkpointing {checkpointing}: {peak} MiB, planned {plan}");
    }
}
