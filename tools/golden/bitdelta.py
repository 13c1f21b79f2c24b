"""Writes tests/golden/bitdelta: a small Llama, a fine-tuned one, their 1-bit delta, and its scales before and after distillation.

The method by its paper (arXiv 2402.10193): D = W_fine - W_base of every linear projection becomes coeff * sign(D) with sign(0) = +1 and coeff =
mean|D|; then the coefficients alone are trained, AdamW with a cosine, on the mean squared error between the logits of the fine-tuned and the
compressed model. Masks are packed as the published code packs them.
"""

import copy
import json
import math
import shutil

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

import models
import reference
import versions
import zoo
from exact import exact

ENTRY = zoo.Entry(
    name="bitdelta",
    what="Llama with grouped-query attention 2:1, whose rows are whole words of 32 bits",
    config=LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, rms_norm_eps=1e-5, rope_parameters=zoo.default_rope(10000.0), tie_word_embeddings=False,
        **zoo.COMMON,
    ),
    seed=21, lengths=(19, 8, 23), lora_targets=zoo.ALL_LINEAR, lora_seed=0,
)
NOISE = 0.01
FINE_TUNING = {"lr": 1e-3, "steps": 6}
# As large steps as the scales bear: the losses should move.
DISTILLATION = {"lr": 5e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "steps": 15, "batch": 4}
# Tensors that fine-tuning left as they were.
UNTOUCHED = ["model.norm.weight", "model.layers.0.input_layernorm.weight"]


class Compressed(torch.nn.Module):
    """A linear layer W_base + coeff * sign(W_fine - W_base); one coefficient, or one for each row."""

    def __init__(self, base, fine, per_row):
        super().__init__()
        difference = fine - base
        sign = torch.where(difference < 0, -1.0, 1.0).to(base.dtype)
        size = difference.abs().double()
        coeff = size.mean(dim=1) if per_row else size.mean()
        self.register_buffer("base", base)
        self.register_buffer("sign", sign)
        self.coeff = torch.nn.Parameter(coeff.to(base.dtype))

    def forward(self, x):
        return x @ self.base.T + self.coeff * (x @ self.sign.T)


def pack(positive):
    """bool [in, out] to int32 [in / 32, out], the lowest bit first along the first axis."""
    rows, columns = positive.shape
    bits = positive.long().reshape(rows // 32, 32, columns)
    words = (bits << torch.arange(32).reshape(1, 32, 1)).sum(dim=1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def write_pair(root):
    """base/ and fine_tuned/: noise on every tensor but a few, and some optimizer steps on top."""
    base, fine = root / "base", root / "fine_tuned"
    models.write_model(base, ENTRY)
    model = models.load(base, torch.float32)
    generator = torch.Generator().manual_seed(2121)
    trained = []
    with torch.no_grad():
        for name, param in sorted(model.named_parameters()):
            if name not in UNTOUCHED:
                param.add_(torch.randn(param.shape, generator=generator), alpha=NOISE)
                trained.append(param)
    ids, labels = zoo.sequences(ENTRY)
    optimizer = torch.optim.AdamW(trained, lr=FINE_TUNING["lr"], foreach=False)
    for _ in range(FINE_TUNING["steps"]):
        optimizer.zero_grad(set_to_none=True)
        value, _ = reference.loss(model, ids, labels)
        value.backward()
        optimizer.step()
    # Differences of exactly zero count as +.
    weights = models.load(base, torch.float32)
    with torch.no_grad():
        target = model.get_submodule("model.layers.1.mlp.up_proj").weight
        target[3, :7] = weights.get_submodule("model.layers.1.mlp.up_proj").weight[3, :7]
    if fine.exists():
        shutil.rmtree(fine)
    model.save_pretrained(fine)


def projections(model):
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"]


def compress(root, dtype, per_row):
    """The fine-tuned model, and the compressed one: the fine-tuned model's other tensors, its projections in one bit."""
    base, fine = models.load(root / "base", dtype), models.load(root / "fine_tuned", dtype)
    student = copy.deepcopy(fine)
    student.requires_grad_(False)
    for name in projections(base):
        path, _, leaf = name.rpartition(".")
        layer = Compressed(base.get_submodule(name).weight.detach(), fine.get_submodule(name).weight.detach(), per_row)
        setattr(student.get_submodule(path), leaf, layer)
    return fine, student


def batches():
    """What each step sees."""
    generator = torch.Generator().manual_seed(2122)
    lengths = torch.randint(3, 24, (DISTILLATION["steps"], DISTILLATION["batch"]), generator=generator).tolist()
    draw = lambda n: torch.randint(3, ENTRY.config.vocab_size, (n,), generator=generator)
    return [[draw(n) for n in row] for row in lengths]


def distill(root, dtype, per_row):
    """The loss before each step, and the coefficients before and after."""
    teacher, student = compress(root, dtype, per_row)
    coeffs = {name: layer.coeff for name, layer in student.named_modules() if isinstance(layer, Compressed)}
    initial = {name: coeff.detach().clone() for name, coeff in coeffs.items()}
    optimizer = torch.optim.AdamW(
        list(coeffs.values()), lr=DISTILLATION["lr"], betas=tuple(DISTILLATION["betas"]), eps=DISTILLATION["eps"],
        weight_decay=DISTILLATION["weight_decay"], foreach=False,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, DISTILLATION["steps"])
    losses, norm = [], None
    for batch in batches():
        total, count = 0.0, 0
        for row in batch:
            with torch.no_grad():
                wanted = reference.logits(teacher, row)
            total = total + ((reference.logits(student, row) - wanted) ** 2).sum()
            count += wanted.numel()
        loss = total / count
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = norm or math.sqrt(sum((c.grad.double() ** 2).sum().item() for c in coeffs.values()))
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    final = {name: coeff.detach().clone() for name, coeff in coeffs.items()}
    return {"losses": losses, "grad_norm": norm}, initial, final


def write_reference(root):
    """diff.safetensors: masks, coefficients, and the other tensors that differ."""
    base, fine = models.load(root / "base", torch.float32), models.load(root / "fine_tuned", torch.float32)
    _, student = compress(root, torch.float32, False)
    tensors = {}
    for name, layer in student.named_modules():
        if isinstance(layer, Compressed):
            tensors[f"{name}.mask"] = pack((layer.sign > 0).T)
            tensors[f"{name}.coeff"] = layer.coeff.detach()
    of_base = dict(base.named_parameters())
    packed = {f"{name}.weight" for name in projections(base)}
    for name, param in fine.named_parameters():
        if name not in packed and not torch.equal(param, of_base[name]):
            tensors[name] = param.detach()
    assert not any(name in tensors for name in UNTOUCHED)
    save_file({name: t.contiguous() for name, t in tensors.items()}, root / "diff.safetensors")
    ids, _ = zoo.sequences(ENTRY)
    with torch.no_grad():
        return {f"logits.{i}": reference.logits(student, row) for i, row in enumerate(ids)}


def write_all(root):
    """Everything."""
    root.mkdir(exist_ok=True)
    write_pair(root)
    logits = write_reference(root)
    with exact():
        _, student = compress(root, torch.float64, False)
        with torch.no_grad():
            ids, _ = zoo.sequences(ENTRY)
            precise = {f"logits.{i}": reference.logits(student, row) for i, row in enumerate(ids)}
    tensors, errors = dict(logits), reference.max_error(logits, precise)
    golden = {
        "what": ENTRY.what,
        "made_with": versions.table("torch", "transformers", "safetensors"),
        "sequences": [row.tolist() for row in ids],
        "batches": [[row.tolist() for row in batch] for batch in batches()],
        "adamw": DISTILLATION,
    }
    for kind, per_row in [("matrix", False), ("row", True)]:
        fields, initial, final = distill(root, torch.float32, per_row)
        with exact():
            precise_fields, precise_initial, precise_final = distill(root, torch.float64, per_row)
        for part, plain, precise in [("initial", initial, precise_initial), ("final", final, precise_final)]:
            named = {f"{kind}.{part}.{name}": value.reshape(-1) for name, value in plain.items()}
            tensors.update(named)
            errors.update(reference.max_error(named, {f"{kind}.{part}.{name}": value.reshape(-1) for name, value in precise.items()}))
        gap = max(abs(a - b) for a, b in zip(fields["losses"], precise_fields["losses"]))
        moved = max((final[name] - initial[name]).abs().max().item() for name in final)
        golden[kind] = {**fields, "f64": precise_fields}
        print(f"bitdelta, a scale a {kind}: loss {fields['losses'][0]:.6f} -> {fields['losses'][-1]:.6f}, {gap:.1e} from float64's; "
              f"scales moved by up to {moved:.4f}")
        assert gap < reference.MAX_LOSS_ERROR, "take another seed"
    golden["f32_error"] = errors
    (root / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    save_file({name: t.contiguous() for name, t in tensors.items()}, root / "golden.safetensors")
