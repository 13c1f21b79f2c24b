"""Writes tests/golden/models/<name>: the model, and golden.json and golden.safetensors beside it."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import reference
import versions
import zoo
from exact import exact

# A choice closer than this could fall the other way in another summation order.
MIN_MARGIN = 5e-3


def load(folder, dtype):
    """The saved model, eager attention, evaluation mode."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model.eval()


def kept_after_training(config):
    """A few parameters whose values after the AdamW steps are kept: one of each kind."""
    last = config.num_hidden_layers - 1
    if config.model_type == "gpt2":
        return ["transformer.wpe.weight", "transformer.ln_f.bias", "transformer.h.0.attn.c_attn.weight",
                f"transformer.h.{last}.mlp.c_proj.weight"]
    return ["model.norm.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight",
            f"model.layers.{last}.mlp.down_proj.weight"]


def measure(folder, entry, dtype):
    """Every figure of one model in one dtype: (JSON fields, tensors)."""
    ids, labels = zoo.sequences(entry)
    model = load(folder, dtype)
    tensors = {}
    with torch.no_grad():
        for i, row in enumerate(ids):
            tensors[f"logits.{i}"] = reference.logits(model, row)
    loss, count, grads, norm = reference.one_step(model, ids, labels)
    tensors.update({f"grad.{name}": grad for name, grad in grads.items()})
    continuations = [reference.greedy(model, row) for row in ids]
    losses, final_loss = reference.adamw(model, ids, labels)
    params = {name: param.detach() for name, param in model.named_parameters()}
    tensors.update({f"final.{name}": params[name].clone() for name in kept_after_training(entry.config)})
    fields = {
        "loss": loss,
        "loss_tokens": count,
        "grad_norm": norm,
        "adamw_losses": losses,
        "adamw_final_loss": final_loss,
        "final_sum": sum(p.double().sum().item() for p in params.values()),
        "final_sum_of_squares": sum((p.double() ** 2).sum().item() for p in params.values()),
        "greedy": [tokens for tokens, _ in continuations],
        "greedy_margin": min(margin for _, margin in continuations),
    }
    return fields, tensors


def write_model(folder, entry):
    """save_pretrained of a freshly drawn model."""
    if folder.exists():
        shutil.rmtree(folder)
    torch.manual_seed(entry.seed)
    model = AutoModelForCausalLM.from_config(entry.config, attn_implementation="eager")
    zoo.randomize(model, entry.seed)
    model.save_pretrained(folder)


def write_legacy_config(folder):
    """config.v4.json: the same model as transformers 4 described it."""
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.45.0"
    (folder / "config.v4.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_legacy_config(folder, entry):
    """transformers itself reads config.v4.json to the same logits."""
    ids, _ = zoo.sequences(entry)
    other = folder.parent / f".{entry.name}-v4"
    other.mkdir()
    try:
        shutil.copy(folder / "config.v4.json", other / "config.json")
        shutil.copy(folder / "model.safetensors", other)
        with torch.no_grad():
            same = torch.equal(reference.logits(load(other, torch.float32), ids[0]),
                               reference.logits(load(folder, torch.float32), ids[0]))
    finally:
        shutil.rmtree(other)
    assert same, f"{entry.name}: config.v4.json describes another model"


def write(root: Path, entry):
    """Everything of one entry."""
    folder = root / entry.name
    write_model(folder, entry)
    if entry.legacy_config:
        write_legacy_config(folder)
        check_legacy_config(folder, entry)
    fields, tensors = measure(folder, entry, torch.float32)
    with exact():
        precise_fields, precise = measure(folder, entry, torch.float64)
    assert fields["greedy_margin"] > MIN_MARGIN, f"{entry.name}: greedy margin {fields['greedy_margin']}: take another seed"
    reference.assert_well_conditioned(entry.name, fields, precise_fields)
    assert fields["greedy"] == precise_fields["greedy"]

    ids, labels = zoo.sequences(entry)
    golden = {
        "name": entry.name,
        "what": entry.what,
        "made_with": versions.table(),
        "sequences": [row.tolist() for row in ids],
        "labels": [row.tolist() for row in labels],
        "adamw": reference.ADAMW,
        **fields,
        "f64": {key: precise_fields[key] for key in
                ["loss", "grad_norm", "adamw_losses", "adamw_final_loss", "final_sum", "final_sum_of_squares"]},
        "f32_error": reference.max_error(tensors, precise),
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "golden.safetensors")
    print(f"{entry.name}: loss {fields['loss']:.6f}, grad norm {fields['grad_norm']:.4f}, "
          f"AdamW {fields['adamw_losses'][0]:.4f} -> {fields['adamw_final_loss']:.4f} "
          f"(f64 {precise_fields['adamw_final_loss']:.4f}), margin {fields['greedy_margin']:.4f}, "
          f"worst logit error {max(v for k, v in golden['f32_error'].items() if k.startswith('logits')):.2e}, "
          f"worst grad error {max(v for k, v in golden['f32_error'].items() if k.startswith('grad')):.2e}")
