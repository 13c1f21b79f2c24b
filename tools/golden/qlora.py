"""Writes tests/golden/quantized/<name>: small models that transformers quantized through bitsandbytes, LoRA adapters on them, and what they compute."""

import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import lora
import models
import reference
import versions
import zoo
from exact import exact


@dataclass
class Quantized:
    """A model of zoo.py, and how it is quantized."""

    name: str
    base: str
    kind: str
    double: bool


ENTRIES = [Quantized("llama_nf4", "llama", "nf4", True), Quantized("qwen3_fp4", "qwen3", "fp4", False), Quantized("gpt2_nf4", "gpt2", "nf4", True)]


def decode(codes, absmax, blocksize, quant_type, shape, dtype):
    """dequantize_4bit by the definition: bitsandbytes' own CPU kernel takes no block for a part of two rows, and decodes wrong numbers
    where rows are no multiple of a block (0.50.2), as in these small models."""
    from bitsandbytes.functional import get_4bit_type

    count = math.prod(shape)
    codes = codes.view(torch.uint8).reshape(-1).long()
    levels = get_4bit_type(quant_type, device="cpu")[torch.stack([codes >> 4, codes & 15], 1).reshape(-1)[:count]]
    return (levels * absmax.repeat_interleave(blocksize)[:count]).reshape(tuple(shape)).to(dtype)


def load(folder, config=None):
    """The model, quantized as it is loaded where config says how."""
    how = {"quantization_config": config} if config else {}
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", device_map="cpu", **how
    ).eval()
    for module in model.modules():
        # Else it would compute in bfloat16 where the processor can, and not at all with rows of less than a block.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def dequantized(model, base, folder):
    """Writes the model with each 4-bit weight as the numbers it stands for, so that it can be run in float64."""
    import bitsandbytes as bnb

    plain = models.load(base, torch.float32)
    count = 0
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, bnb.nn.Linear4bit):
                weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
                target = plain.get_submodule(name).weight
                target.copy_(weight if weight.shape == target.shape and type(plain.get_submodule(name)).__name__ != "Conv1D" else weight.T)
                count += 1
    assert count > 0
    plain.save_pretrained(folder)


def measure(model, ids, labels, with_lora):
    tensors = {}
    with torch.no_grad():
        for i, row in enumerate(ids):
            tensors[f"logits.{i}"] = reference.logits(model, row)
    if not with_lora:
        with torch.no_grad():
            loss, count = reference.loss(model, ids, labels)
        return {"loss": loss.item(), "loss_tokens": count}, tensors
    loss, count, grads, norm = reference.one_step(model, ids, labels)
    tensors.update({f"grad.{lora.key(name)}": grad for name, grad in grads.items()})
    losses, final_loss = reference.adamw(model, ids, labels)
    tensors.update({f"final.{lora.key(name)}": param.detach().clone() for name, param in reference.trainable(model)})
    return {"loss": loss, "loss_tokens": count, "grad_norm": norm, "adamw_losses": losses, "adamw_final_loss": final_loss}, tensors


def save(folder, name, fields, tensors, precise_fields, precise):
    numbers = [key for key in precise_fields if key != "loss_tokens"]
    fields = {**fields, "f64": {key: precise_fields[key] for key in numbers}, "f32_error": reference.max_error(tensors, precise)}
    (folder / f"{name}.json").write_text(json.dumps(fields, indent=1) + "\n")
    save_file({key: t.contiguous() for key, t in tensors.items()}, folder / f"{name}.safetensors")


def write(root, entry):
    folder, base = root / "quantized" / entry.name, root / "models" / entry.base
    if folder.exists():
        shutil.rmtree(folder)
    spec = next(e for e in zoo.entries() if e.name == entry.base)
    ids, labels = zoo.sequences(spec)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=entry.kind, bnb_4bit_use_double_quant=entry.double, bnb_4bit_compute_dtype=torch.float32
    )
    model = load(base, config)
    model.save_pretrained(folder)
    # The same adapter as on the unquantized model: it names the modules that it is for, no weights.
    shutil.copytree(base / "adapter", folder / "adapter")
    with tempfile.TemporaryDirectory() as plain:
        dequantized(model, base, plain)
        fields, tensors = measure(load(folder), ids, labels, False)
        with exact():
            precise_fields, precise = measure(models.load(plain, torch.float64), ids, labels, False)
        fields = {
            "name": entry.name, "made_with": versions.table("torch", "transformers", "peft", "bitsandbytes"), "kind": entry.kind,
            "double": entry.double, "base": entry.base, "sequences": [row.tolist() for row in ids],
            "labels": [row.tolist() for row in labels], **fields,
        }
        save(folder, "golden", fields, tensors, precise_fields, precise)

        def adapted(model, dtype):
            model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True, autocast_adapter_dtype=False)
            for _, param in reference.trainable(model):
                param.data = param.data.to(dtype)
            return model.eval()

        fields, tensors = measure(adapted(load(folder), torch.float32), ids, labels, True)
        with exact():
            precise_fields, precise = measure(adapted(models.load(plain, torch.float64), torch.float64), ids, labels, True)
        reference.assert_well_conditioned(entry.name, fields, precise_fields)
        save(folder, "lora", {"name": entry.name, "adamw": reference.ADAMW, **fields}, tensors, precise_fields, precise)
    for file in folder.glob("generation_config.json"):
        file.unlink()
    print(f"{entry.name}: loss {fields['loss']:.6f} -> {fields['adamw_final_loss']:.6f}, worst logit error "
          f"{max(e for k, e in reference.max_error(tensors, precise).items() if 'logits' in k):.2e}")


def write_all(root: Path):
    import bitsandbytes  # noqa: F401, registers what is overridden

    library = torch.library.Library("bitsandbytes", "IMPL")
    library.impl("dequantize_4bit", decode, "CPU", allow_override=True)
    for entry in ENTRIES:
        write(root, entry)
