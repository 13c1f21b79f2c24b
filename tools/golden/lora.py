"""Writes, beside a golden model, a LoRA adapter as PEFT saves it, and lora.json and lora.safetensors with what it computes."""

import json
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

import models
import reference
import versions
import zoo
from exact import exact

RANK, ALPHA = 4, 8


def key(name):
    """The name of an adapter parameter in the saved file."""
    return name.replace(".default.", ".")


def write_adapter(folder, entry):
    """save_pretrained of an adapter whose A and B are both random, so that every gradient flows."""
    adapter = folder / "adapter"
    if adapter.exists():
        shutil.rmtree(adapter)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=entry.lora_targets,
        use_rslora=entry.rslora, fan_in_fan_out=entry.config.model_type == "gpt2",
    )
    base = models.load(folder, torch.float32)
    base.name_or_path = entry.name
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(entry.lora_seed)
    with torch.no_grad():
        for name, param in sorted(reference.trainable(model)):
            param.normal_(0.0, 0.2 if "lora_A" in name else 0.1, generator=generator)
    model.save_pretrained(adapter, save_embedding_layers=False)
    (adapter / "README.md").unlink()
    # PEFT writes the target modules in the order of a set, another one in every run.
    path = adapter / "adapter_config.json"
    written = json.loads(path.read_text())
    written["target_modules"].sort()
    path.write_text(json.dumps(written, indent=2, sort_keys=True))


def measure(folder, entry, dtype):
    """Every figure of the adapted model in one dtype: (JSON fields, tensors)."""

    def adapted():
        base = models.load(folder, dtype)
        model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True, autocast_adapter_dtype=False)
        return model.to(dtype).eval()

    ids, labels = zoo.sequences(entry)
    model = adapted()
    tensors = {}
    with torch.no_grad():
        for i, row in enumerate(ids):
            tensors[f"logits.{i}"] = reference.logits(model, row)
    loss, count, grads, norm = reference.one_step(model, ids, labels)
    tensors.update({f"grad.{key(name)}": grad for name, grad in grads.items()})
    losses, final_loss = reference.adamw(model, ids, labels)
    tensors.update({f"final.{key(name)}": param.detach().clone() for name, param in reference.trainable(model)})

    merged = adapted().merge_and_unload()
    with torch.no_grad():
        for i, row in enumerate(ids):
            tensors[f"merged_logits.{i}"] = reference.logits(merged, row)
    fields = {"loss": loss, "loss_tokens": count, "grad_norm": norm, "adamw_losses": losses, "adamw_final_loss": final_loss}
    return fields, tensors


def write(root, entry):
    """The adapter of one entry, whose model is already there."""
    folder = root / entry.name
    write_adapter(folder, entry)
    fields, tensors = measure(folder, entry, torch.float32)
    with exact():
        precise_fields, precise = measure(folder, entry, torch.float64)
    reference.assert_well_conditioned(entry.name, fields, precise_fields)
    golden = {
        "name": entry.name,
        "made_with": versions.table(),
        "r": RANK,
        "alpha": ALPHA,
        "use_rslora": entry.rslora,
        "target_modules": entry.lora_targets,
        "adamw": reference.ADAMW,
        **fields,
        "f64": {name: precise_fields[name] for name in ["loss", "grad_norm", "adamw_losses", "adamw_final_loss"]},
        "f32_error": reference.max_error(tensors, precise),
    }
    (folder / "lora.json").write_text(json.dumps(golden, indent=1) + "\n")
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "lora.safetensors")
    worst = max(error for name, error in golden["f32_error"].items() if "logits" in name)
    print(f"{entry.name} LoRA: loss {fields['loss']:.6f}, grad norm {fields['grad_norm']:.4f}, "
          f"AdamW {fields['adamw_losses'][0]:.4f} -> {fields['adamw_final_loss']:.4f} "
          f"(f64 {precise_fields['adamw_final_loss']:.4f}), worst logit error {worst:.2e}")
