//! The memory plan against what is really held.

use std::path::Path;
use std::process::Command;

use warptune::autograd::Param;
use warptune::device::Device;
use warptune::formats::peft::{LoraConfig, Targets};
use warptune::formats::{Checkpoint, DecoderConfig, read_json};
use warptune::models::Decoder;
use warptune::ops::quantize::Quantization;
use warptune::optim::{AdamW, AdamWSettings, States};
use warptune::peft::lora;
use warptune::tensor::{DType, QuantKind};
use warptune::train::memory_plan::{MemoryPlan, Sizes, StepShape};
use warptune::train::step::decay_matrices;

use crate::cli::drivers::with_driver;
use crate::support::golden::{Golden, MODELS};
use crate::support::tiny::Tiny;

fn bytes<'a>(params: impl IntoIterator<Item = &'a Param>) -> usize {
    params.into_iter().map(|p| p.value().numel() * p.value().dtype().size()).sum()
}

fn step(tokens: usize, dtype: DType, checkpointing: bool, device: Device) -> StepShape {
    StepShape { tokens, dtype, checkpointing, accumulating: false, logits: None, device }
}

fn plan(model: &Decoder, checkpointing: bool) -> MemoryPlan {
    MemoryPlan::new(model.config(), &Sizes::of(model), &step(64, DType::F32, checkpointing, Device::Cpu))
}

/// The order of the parameters does not matter.
fn sorted(mut sizes: Sizes) -> Sizes {
    sizes.trained.sort_unstable();
    sizes
}

#[test]
fn weights_gradients_and_optimizer_are_exact() {
    let mut model = Golden::open("qwen3").model();
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
    let plan = plan(&model, false);
    for states in [States::F32, States::Blockwise8] {
        let settings = AdamWSettings { states, ..AdamWSettings::default() };
        let optimizer = AdamW::new(settings, decay_matrices(model.parameters())).unwrap();
        let held: usize =
            optimizer.state_tensors().unwrap().iter().map(|(_, t)| t.numel() * t.dtype().size()).sum();
        let planned = plan.clone().with_optimizer(&Sizes::of(&model), states, None);
        assert_eq!((planned.optimizer, planned.paged), (held, 0), "{states}");
        // Its tables are large enough for codes.
        assert_eq!(planned.optimizer < plan.optimizer, states == States::Blockwise8);
    }
}

#[test]
fn states_without_room_are_planned_in_host_memory() {
    let model = Golden::open("qwen3").model();
    model.set_trainable(true);
    let plan = plan(&model, false);
    let with = |room| plan.clone().with_optimizer(&Sizes::of(&model), States::F32, room);
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
    let plan = plan(&model, false);
    // Two codes a byte, a scale of a byte for 64; for 256 scales 4 bytes, and the map.
    let held = |n: usize| n.div_ceil(2) + n.div_ceil(64) + n.div_ceil(64 * 256) * 4 + 1024;
    let expected: usize = model.quantized_weights().map(|w| held(w.value().numel())).sum();
    assert_eq!(plan.quantized, expected);
    assert_eq!(plan.weights, expected + bytes(&model.parameters()));
    assert!(plan.to_string().contains("in 4 bits"), "{plan}");
}

/// What is said of a model that is on paper is what is found of one in memory.
#[test]
fn models_on_paper_have_the_sizes_of_models_in_memory() {
    let adapters = LoraConfig::new(4, 8.0, Targets::AllLinear);
    let some = LoraConfig::new(3, 8.0, Targets::Regex(".*(up_proj|c_fc|o_proj)".into()));
    for name in MODELS {
        let checkpoint = Checkpoint::open(Golden::open(name).folder()).unwrap();
        let config = checkpoint.config().unwrap();
        let full = Decoder::load(&checkpoint, &config, DType::F32).unwrap();
        full.set_trainable(true);
        assert_eq!(
            sorted(Sizes::on_paper(&config, DType::F32, None, None).unwrap()),
            sorted(Sizes::of(&full)),
            "{name}"
        );
        for (kind, block, double) in [(QuantKind::Nf4, 64, true), (QuantKind::Fp4, 256, false)] {
            let how = Quantization { kind, block, double };
            for lora in [&adapters, &some] {
                for (dtype, how) in [(DType::F32, Some(&how)), (DType::BF16, Some(&how)), (DType::BF16, None)]
                {
                    let mut model = match how {
                        Some(how) => Decoder::load_quantized(&checkpoint, &config, dtype, how).unwrap(),
                        None => Decoder::load(&checkpoint, &config, dtype).unwrap(),
                    };
                    lora::attach(&mut model, lora, 0).unwrap();
                    let paper = Sizes::on_paper(&config, dtype, how, Some(lora)).unwrap();
                    assert_eq!(paper, Sizes::of(&model), "{name}, {dtype}, {how:?}");
                }
            }
        }
    }
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
        let plan = MemoryPlan::new(
            model.config(),
            &Sizes::of(&model),
            &step(1024, DType::F32, checkpointing, Device::Cpu),
        );
        let planned = plan.total() as f64 / f64::from(1 << 20);
        // The program itself takes some 20 MiB.
        let ratio = (peak - 20.0) / planned;
        assert!((0.6..1.5).contains(&ratio), "checkpointing {checkpointing}: {peak} MiB, planned {plan}");
    }
}

/// On a device the peak is known to the byte: that of a LoRA step, with the weights in 4 bits and without, is as planned within a tenth.
#[test]
fn the_peak_on_the_device_is_planned_within_a_tenth() {
    let cases = [
        (DType::BF16, true, true),
        (DType::F32, false, false),
        (DType::BF16, false, false),
        (DType::BF16, true, false),
        (DType::F32, true, true),
    ];
    for (hidden, layers, batch, length, cases) in
        [(128, 4, 2, 128, &cases[..]), (64, 6, 4, 64, &cases[..1]), (192, 2, 1, 256, &cases[..2])]
    {
        let tiny = Tiny::sized(hidden, layers);
        for &(dtype, quantized, checkpointing) in cases {
            let (dtype_name, batch_text, length_text) =
                (dtype.to_string(), batch.to_string(), length.to_string());
            let mut args =
                vec!["bench-step", "--model", "model", "--device", "cuda", "--steps", "1", "--warmup", "1"];
            args.extend(["--dtype", &dtype_name, "--batch", &batch_text, "--length", &length_text]);
            if quantized {
                args.extend(["--quantize", "nf4"]);
            }
            if checkpointing {
                args.push("--gradient-checkpointing");
            }
            let output = with_driver(&tiny, true, &args).output().unwrap();
            let report: serde_json::Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
            let peak = report["device_peak_bytes"].as_f64().unwrap();

            let checkpoint = Checkpoint::open(&tiny.model()).unwrap();
            let how = Quantization::new(QuantKind::Nf4);
            let lora = LoraConfig::new(16, 32.0, Targets::AllLinear);
            let config = checkpoint.config().unwrap();
            let sizes = Sizes::on_paper(&config, dtype, quantized.then_some(&how), Some(&lora)).unwrap();
            let plan = MemoryPlan::new(
                &config,
                &sizes,
                &step(batch * length, dtype, checkpointing, Device::Cuda(0)),
            );
            let ratio = plan.total() as f64 / peak;
            assert!(
                (0.9..=1.1).contains(&ratio),
                "{hidden} x {layers}, {dtype}, quantized {quantized}, checkpointing {checkpointing}: peak {peak}, ratio {ratio}: {plan}"
            );
        }
    }
}

/// QLoRA of large models in sequences of 2048 tokens, as docs/memory.md has it.
#[test]
fn large_models_on_paper() {
    let plan = |name: &str, r: usize| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/memory/{name}.json"));
        let config = DecoderConfig::from_json(&path, &read_json(&path).unwrap()).unwrap();
        let (how, lora) = (Quantization::new(QuantKind::Nf4), LoraConfig::new(r, 16.0, Targets::AllLinear));
        let sizes = Sizes::on_paper(&config, DType::BF16, Some(&how), Some(&lora)).unwrap();
        MemoryPlan::new(&config, &sizes, &step(2048, DType::BF16, true, Device::Cuda(0)))
    };
    for (name, parameters, gib) in [
        ("llama-2-7b", 6.74e9, 4.9),
        ("llama-2-13b", 13.0e9, 8.6),
        ("llama-65b", 65.3e9, 37.5),
        ("llama-2-70b", 69.0e9, 39.4),
    ] {
        let plan = plan(name, 16);
        // Of what is quantized 4.127 bits an element; that is nearly everything.
        let share = plan.quantized as f64 * 8.0 / 4.127 / parameters;
        assert!((0.95..1.0).contains(&share), "{name}: {share}");
        let total = plan.total() as f64 / f64::from(1 << 30);
        assert!((gib - 0.1..=gib + 0.1).contains(&total), "{name}: {total} GiB, {plan}");
    }
    // What the QLoRA paper is known for: 65 billion parameters in 48 GB.
    assert!(plan("llama-65b", 16).total() < 48_000_000_000);
}
