//! The kernels that are timed, through the ops that launch them.

use warptune::Result;
use warptune::autograd::{Gradients, Param, Tape, Var};
use warptune::device::Device;
use warptune::device::philox::Philox;
use warptune::generate::Sampling;
use warptune::ops::add::add;
use warptune::ops::attention::{AttentionSpec, attention};
use warptune::ops::columns::columns;
use warptune::ops::dropout::dropout;
use warptune::ops::embedding::embedding;
use warptune::ops::epilogue::Epilogue;
use warptune::ops::gelu::{GeluKind, gelu};
use warptune::ops::layer_norm::layer_norm;
use warptune::ops::linear_cross_entropy::linear_cross_entropy;
use warptune::ops::lora_matmul::{Lora, lora_matmul, quantized_lora_matmul};
use warptune::ops::matmul::matmul;
use warptune::ops::quantize::{Quantization, quantize};
use warptune::ops::quantized_matmul::quantized_matmul;
use warptune::ops::rms_norm::rms_norm;
use warptune::ops::rope::{RopePairing, RopeScaling, RopeTable, rope};
use warptune::ops::sample::sample;
use warptune::ops::swiglu::swiglu;
use warptune::optim::{AdamW, AdamWSettings, clip_grad_norm};
use warptune::tensor::{DType, QuantKind, Tensor};

use crate::Sizes;
use crate::clock::seconds;
use crate::report::Measured;

/// Some work on the device.
pub struct Case {
    /// Op, pass, type and shape.
    pub name: String,
    work: Box<dyn FnMut() -> Result<()>>,
    operations: f64,
    bytes: f64,
}

impl Case {
    /// Times it.
    pub fn measure(mut self, device: Device) -> Result<Measured> {
        let seconds = seconds(device, &mut self.work)?;
        let Case { name, operations, bytes, .. } = self;
        Ok(Measured { name, seconds, operations, bytes, cublas: None, cublaslt: None })
    }
}

/// An op on `inputs`: its forward, and with gradients of some inputs its backward too, from a gradient that the first call makes.
fn op_work(
    inputs: Vec<Tensor>,
    wanted: Vec<bool>,
    op: impl Fn(&Tape, &[Var]) -> Result<Var> + 'static,
) -> Box<dyn FnMut() -> Result<()>> {
    let mut seed = None;
    Box::new(move || {
        let tape = Tape::training(1, 1);
        let var = |(x, wanted): (&Tensor, &bool)| match wanted {
            true => tape.input(x.clone()),
            false => Var::constant(x.clone()),
        };
        let vars: Vec<Var> = inputs.iter().zip(&wanted).map(var).collect();
        let output = op(&tape, &vars)?;
        let wanted: Vec<&Var> = vars.iter().filter(|v| v.requires_grad()).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let seed = match &seed {
            Some(seed) => seed,
            None => {
                let value = output.value();
                seed.insert(Tensor::full_on(value.device(), output.shape(), output.dtype(), 0.5)?)
            }
        };
        tape.backward_inputs(&output, seed.clone(), &wanted, &mut Gradients::new()).map(drop)
    })
}

/// Rows, columns and inner dimension of the product behind a case's name, if it is a plain forward product in bf16.
pub fn product(name: &str) -> Option<[usize; 3]> {
    let shape = name.strip_prefix("matmul fwd bf16 ")?;
    let dims: Vec<usize> = shape.split('x').filter_map(|d| d.trim().parse().ok()).collect();
    <[usize; 3]>::try_from(dims).ok()
}

struct Maker {
    device: Device,
    cases: Vec<Case>,
    seed: u64,
}

impl Maker {
    fn random(&mut self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        self.seed += 1;
        let count: usize = shape.iter().product();
        // Large tensors repeat a random piece: what the values are changes no time, only that they are not zero.
        let piece = Philox { seed: self.seed, stream: 0 }.normal(count.min(1 << 16), 0.1);
        let data = piece.iter().copied().cycle().take(count).collect();
        Tensor::from_f32(data, shape).to_dtype(dtype)?.to_device(self.device)
    }

    /// Adds the forward, and with gradients of the inputs `wanted` forward and backward. `work`: operations and bytes of each.
    fn add(
        &mut self,
        name: &str,
        inputs: Vec<Tensor>,
        wanted: &[usize],
        work: [(f64, f64); 2],
        op: impl Fn(&Tape, &[Var]) -> Result<Var> + Clone + 'static,
    ) {
        let (first, rest) = name.split_once(' ').unwrap_or((name, ""));
        let none = vec![false; inputs.len()];
        let some = (0..inputs.len()).map(|i| wanted.contains(&i)).collect();
        for (pass, wanted, (operations, bytes)) in [("fwd", none, work[0]), ("fwd+bwd", some, work[1])] {
            if pass == "fwd" || wanted.contains(&true) {
                let name = format!("{first} {pass} {rest}");
                let work = op_work(inputs.clone(), wanted, op.clone());
                self.cases.push(Case { name, work, operations, bytes });
            }
        }
    }
}

/// Every case. Operations and bytes are those that must be: a product's, each tensor read and written once.
pub fn all(device: Device, sizes: Sizes) -> Result<Vec<Case>> {
    let mut make = Maker { device, cases: Vec::new(), seed: 0 };
    products(&mut make, sizes)?;
    quantized_products(&mut make, sizes)?;
    attentions(&mut make, sizes)?;
    rows(&mut make, sizes)?;
    optimizer(&mut make, sizes)?;
    choices(&mut make, sizes)?;
    Ok(make.cases)
}

/// What reads and writes all parameters once a step: of one matrix, whose updates and clips say what those of many cost.
fn optimizer(make: &mut Maker, s: Sizes) -> Result<()> {
    let shape = [s.tokens, s.dim];
    let n = (s.tokens * s.dim) as f64;
    for (dtype, bytes) in [(DType::F32, 28.0), (DType::BF16, 30.0)] {
        let (param, grad) = (Param::new("w", make.random(&shape, dtype)?), make.random(&shape, DType::F32)?);
        let mut adam = AdamW::new(AdamWSettings::default(), vec![(param.clone(), true)])?;
        let mut gradients = Gradients::new();
        gradients.add(param.id(), grad)?;
        let work = Box::new(move || adam.step(1e-4, &gradients));
        make.cases.push(Case {
            name: format!("adamw {dtype} {n} weights"),
            work,
            operations: 0.0,
            bytes: bytes * n,
        });
    }
    let (param, grad) = (Param::new("w", make.random(&shape, DType::F32)?), make.random(&shape, DType::F32)?);
    let mut gradients = Gradients::new();
    gradients.add(param.id(), grad)?;
    let params = [param];
    // Nothing is scaled; the norm is read, which waits for the device.
    let work = Box::new(move || clip_grad_norm(&mut gradients, &params, f64::INFINITY).map(drop));
    make.cases.push(Case {
        name: format!("gradient norm {n} weights, with its read"),
        work,
        operations: 0.0,
        bytes: 4.0 * n,
    });
    let x = make.random(&shape, DType::F32)?;
    let work = Box::new(move || x.to_dtype(DType::BF16).map(drop));
    make.cases.push(Case {
        name: format!("cast f32 to bf16 {}x{}", s.tokens, s.dim),
        work,
        operations: 0.0,
        bytes: 6.0 * n,
    });
    let x = make.random(&[s.tokens, 3 * s.dim], DType::BF16)?;
    let dim = s.dim;
    make.add(
        &format!("columns bf16 {}x{dim} of {}", s.tokens, 3 * dim),
        vec![x],
        &[],
        [(0.0, 4.0 * n), (0.0, 0.0)],
        move |tape, v| columns(tape, &v[0], dim, dim),
    );
    Ok(())
}

/// The choice of tokens.
fn choices(make: &mut Maker, s: Sizes) -> Result<()> {
    let rows = 16;
    let logits = make.random(&[rows, s.vocab], DType::F32)?;
    let uniforms = make.random(&[rows], DType::F32)?;
    let uniforms = Tensor::from_f32(uniforms.fetch_f32()?.iter().map(|x| x.abs().fract()).collect(), &[rows]);
    let uniforms = uniforms.to_device(make.device)?;
    let settings = [
        ("greedy", Sampling::default()),
        ("temperature", Sampling { temperature: 0.8, ..Sampling::default() }),
        (
            "top-k 40, top-p 0.95",
            Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, ..Sampling::default() },
        ),
    ];
    for (name, sampling) in settings {
        let (logits, uniforms) = (logits.clone(), uniforms.clone());
        let work = Box::new(move || sample(&logits, None, &uniforms, &sampling).map(drop));
        let name = format!("sample {name} {rows}x{}", s.vocab);
        make.cases.push(Case { name, work, operations: 0.0, bytes: 4.0 * (rows * s.vocab) as f64 });
    }
    Ok(())
}

/// Rows, columns and inner dimension of linear layers: in training, those of keys and values, whose tiles fill a GPU badly, with few tokens,
/// and in decoding a few sequences.
fn shapes(s: Sizes) -> [(usize, usize, usize); 6] {
    let (t, d) = (s.tokens, s.dim);
    [(t, d, d), (t, s.hidden, d), (t, d / 4, d), ((t / 32).max(17), d, d), (1, d, d), (16, d, d)]
}

/// Products with a weight in 4 bits, alone and with an adapter.
fn quantized_products(make: &mut Maker, s: Sizes) -> Result<()> {
    for dtype in [DType::BF16, DType::F16] {
        for (m, n, k) in shapes(s) {
            let dense = make.random(&[n, k], dtype)?;
            let w = quantize(&dense, &Quantization::new(QuantKind::Nf4))?;
            let x = make.random(&[m, k], dtype)?;
            let ops = 2.0 * (m * n * k) as f64;
            // A byte for two weights, and one for the scale of 64.
            let bytes = (2 * (m * k + m * n) + n * k / 2 + n * k / 64) as f64;
            let shape = format!("nf4 {dtype} {m}x{n}x{k}");
            let wanted: &[usize] = if m > 16 && n == s.dim { &[0] } else { &[] };
            let weight = w.clone();
            make.add(
                &format!("quantized_matmul {shape}"),
                vec![x.clone()],
                wanted,
                [(ops, bytes), (2.0 * ops, 2.0 * bytes)],
                move |tape, v| quantized_matmul(tape, &v[0], &weight, None, Epilogue::None),
            );
            let r = 16;
            let (a, b) = (make.random(&[r, k], DType::F32)?, make.random(&[n, r], DType::F32)?);
            let adapter = 2.0 * (m * r * (k + n)) as f64;
            let wanted: &[usize] = if wanted.is_empty() { &[] } else { &[0, 1, 2] };
            make.add(
                &format!("quantized_lora_matmul {shape} r={r}"),
                vec![x, a, b],
                wanted,
                [(ops + adapter, bytes), (2.0 * ops + 3.0 * adapter, 3.0 * bytes)],
                move |tape, v| {
                    let lora = Lora { a: &v[1], b: &v[2], scale: 2.0, dropout: 0.0 };
                    quantized_lora_matmul(tape, &v[0], &w, None, &lora, Epilogue::None)
                },
            );
        }
    }
    Ok(())
}

fn products(make: &mut Maker, s: Sizes) -> Result<()> {
    let (t, d) = (s.tokens, s.dim);
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        for (m, n, k) in shapes(s) {
            let size = dtype.size() as f64;
            let (x, w) = (make.random(&[m, k], dtype)?, make.random(&[n, k], dtype)?);
            let ops = 2.0 * (m * n * k) as f64;
            let bytes = size * (m * k + n * k + m * n) as f64;
            let wanted: &[usize] = if m > 16 && n == d { &[0, 1] } else { &[] };
            make.add(
                &format!("matmul {dtype} {m}x{n}x{k}"),
                vec![x, w],
                wanted,
                [(ops, bytes), (3.0 * ops, 3.0 * bytes)],
                |tape, v| matmul(tape, &v[0], &v[1], None, Epilogue::None),
            );
        }
    }
    // What a model's MLP does: the gate in the product of `up`, the residual in that of `down`.
    for m in [t, 1] {
        let (ops, out) = (2.0 * (m * s.hidden * d) as f64, 2.0 * (m * s.hidden) as f64);
        let weight = 2.0 * (s.hidden * d) as f64;
        let x = make.random(&[m, d], DType::BF16)?;
        let (w, gate) =
            (make.random(&[s.hidden, d], DType::BF16)?, make.random(&[m, s.hidden], DType::BF16)?);
        let moved = weight + 2.0 * (m * d) as f64 + 2.0 * out;
        let shape = format!("bf16 {m}x{}x{d}", s.hidden);
        make.add(
            &format!("matmul with swiglu {shape}"),
            vec![x, w, gate],
            if m > 1 { &[0, 1, 2] } else { &[] },
            [(ops, moved), (3.0 * ops, 3.0 * moved + 3.0 * out)],
            |tape, v| matmul(tape, &v[0], &v[1], None, Epilogue::SwiGlu(&v[2])),
        );
        let (x, w) = (make.random(&[m, s.hidden], DType::BF16)?, make.random(&[d, s.hidden], DType::BF16)?);
        let residual = make.random(&[m, d], DType::BF16)?;
        let moved = weight + out + 4.0 * (m * d) as f64;
        make.add(
            &format!("matmul with a residual bf16 {m}x{d}x{}", s.hidden),
            vec![x, w, residual],
            &[],
            [(ops, moved), (0.0, 0.0)],
            |tape, v| matmul(tape, &v[0], &v[1], None, Epilogue::Residual(&v[2])),
        );
    }
    for r in [16, 64] {
        let (x, w) = (make.random(&[t, d], DType::BF16)?, make.random(&[d, d], DType::BF16)?);
        let (a, b) = (make.random(&[r, d], DType::F32)?, make.random(&[d, r], DType::F32)?);
        let base = 2.0 * (t * d * d) as f64;
        let adapter = 4.0 * (t * d * r) as f64;
        let bytes = 2.0 * (2 * t * d + d * d) as f64;
        // Backward: dx as the forward, dA and dB.
        make.add(
            &format!("lora_matmul bf16 {t}x{d}x{d} r={r}"),
            vec![x, w, a, b],
            &[0, 2, 3],
            [(base + adapter, bytes), (2.0 * base + 3.0 * adapter, 3.0 * bytes)],
            |tape, v| {
                let lora = Lora { a: &v[2], b: &v[3], scale: 2.0, dropout: 0.0 };
                lora_matmul(tape, &v[0], &v[1], None, &lora, Epilogue::None)
            },
        );
    }
    let rows = t / 4;
    let (x, w) = (make.random(&[rows, d], DType::BF16)?, make.random(&[s.vocab, d], DType::BF16)?);
    let labels = Tensor::from_u32((0..rows as u32).map(|i| i % s.vocab as u32).collect(), &[rows]);
    let labels = labels.to_device(make.device)?;
    let ops = 2.0 * (rows * d * s.vocab) as f64;
    let bytes = 2.0 * (rows * d + s.vocab * d) as f64;
    make.add(
        &format!("linear_cross_entropy bf16 {rows}x{d}x{}", s.vocab),
        vec![x, w],
        &[0],
        [(ops, bytes), (2.0 * ops, 2.0 * bytes)],
        move |tape, v| linear_cross_entropy(tape, &v[0], &v[1], &labels, rows as f32),
    );
    Ok(())
}

fn attentions(make: &mut Maker, s: Sizes) -> Result<()> {
    let t = s.tokens;
    for (heads, kv_heads, head_dim) in
        if s.full { [(32, 8, 128), (32, 8, 64)] } else { [(2, 1, 32), (2, 2, 16)] }
    {
        let shape = |n: usize| [t, n * head_dim];
        let q = make.random(&shape(heads), DType::BF16)?;
        let (k, v) =
            (make.random(&shape(kv_heads), DType::BF16)?, make.random(&shape(kv_heads), DType::BF16)?);
        // Scores and values of half of all pairs, 2 operations each; the backward has five such products for the forward's two.
        let ops = 4.0 * (t * t / 2 * heads * head_dim) as f64;
        let bytes = 2.0 * (t * (2 * heads + 2 * kv_heads) * head_dim) as f64;
        let spec = AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: true,
            window: None,
            cu_seqlens: vec![0, t].into(),
        };
        make.add(
            &format!("attention bf16 {t} tokens, {heads}/{kv_heads} heads of {head_dim}"),
            vec![q, k, v],
            &[0, 1, 2],
            [(ops, bytes), (3.5 * ops, 3.0 * bytes)],
            move |tape, v| attention(tape, &v[0], &v[1], &v[2], &spec),
        );
    }
    Ok(())
}

fn rows(make: &mut Maker, s: Sizes) -> Result<()> {
    let (t, d, h) = (s.tokens, s.dim, s.hidden);
    let dtype = DType::BF16;
    let each = |n: usize| 2.0 * n as f64;
    let shape = format!("bf16 {t}x{d}");
    let x = make.random(&[t, d], dtype)?;
    let (w, b) = (make.random(&[d], dtype)?, make.random(&[d], dtype)?);
    let td = each(t * d);
    make.add(
        &format!("rms_norm {shape}"),
        vec![x.clone(), w.clone()],
        &[0],
        [(0.0, 2.0 * td), (0.0, 5.0 * td)],
        |tape, v| rms_norm(tape, &v[0], &v[1], 1e-5),
    );
    make.add(
        &format!("layer_norm {shape}"),
        vec![x.clone(), w, b],
        &[0],
        [(0.0, 2.0 * td), (0.0, 5.0 * td)],
        |tape, v| layer_norm(tape, &v[0], &v[1], &v[2], 1e-5),
    );
    let y = make.random(&[t, d], dtype)?;
    make.add(&format!("add {shape}"), vec![x.clone(), y], &[], [(0.0, 3.0 * td), (0.0, 0.0)], |tape, v| {
        add(tape, &v[0], &v[1])
    });
    make.add(
        &format!("dropout {shape}"),
        vec![x.clone()],
        &[0],
        [(0.0, 2.0 * td), (0.0, 4.0 * td)],
        |tape, v| dropout(tape, &v[0], 0.1),
    );
    let head_dim = if s.full { 128 } else { 32 };
    let table = RopeTable::new(head_dim, 1e4, RopeScaling::None, RopePairing::Half)?;
    let positions = Tensor::from_u32((0..t as u32).collect(), &[t]).to_device(make.device)?;
    make.add(&format!("rope {shape}"), vec![x], &[0], [(0.0, 2.0 * td), (0.0, 4.0 * td)], move |tape, v| {
        rope(tape, &v[0], &positions, &table, head_dim)
    });
    let (gate, up) = (make.random(&[t, h], dtype)?, make.random(&[t, h], dtype)?);
    let th = each(t * h);
    let wide = format!("bf16 {t}x{h}");
    make.add(
        &format!("swiglu {wide}"),
        vec![gate.clone(), up],
        &[0, 1],
        [(0.0, 3.0 * th), (0.0, 8.0 * th)],
        |tape, v| swiglu(tape, &v[0], &v[1]),
    );
    make.add(&format!("gelu {wide}"), vec![gate], &[0], [(0.0, 2.0 * th), (0.0, 5.0 * th)], |tape, v| {
        gelu(tape, &v[0], GeluKind::Tanh)
    });
    let table = make.random(&[s.vocab, d], dtype)?;
    let ids = Tensor::from_u32((0..t as u32).map(|i| i * 7919 % s.vocab as u32).collect(), &[t]);
    let ids = ids.to_device(make.device)?;
    let backward = 2.0 * td + td + 4.0 * (s.vocab * d) as f64;
    make.add(
        &format!("embedding {shape}"),
        vec![table],
        &[0],
        [(0.0, 2.0 * td), (0.0, backward)],
        move |tape, v| embedding(tape, &ids, &v[0], DType::BF16),
    );
    Ok(())
}
