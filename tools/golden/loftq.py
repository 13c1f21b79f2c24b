"""Writes tests/golden/quantize/loftq.{json,safetensors}: what PEFT's loftq_init makes of small weights."""

import inspect
import json
from pathlib import Path

import torch
from peft.utils import loftq_utils
from safetensors.torch import save_file

import versions

CASES = [([48, 64], 4, 1), ([40, 128], 8, 3), ([128, 64], 1, 5)]


def on_cpu():
    """peft's function, which asks for a GPU although nothing in it needs one."""
    source = inspect.getsource(loftq_utils.loftq_init).replace('"cuda"', '"cpu"').replace("@torch.no_grad()", "")
    scope = dict(vars(loftq_utils))
    exec(source, scope)
    return scope["loftq_init"]


def write_all(folder: Path):
    loftq_init = on_cpu()
    generator = torch.Generator().manual_seed(43)
    cases, tensors = [], {}
    for index, (shape, r, iterations) in enumerate(CASES):
        weight = torch.randn(*shape, generator=generator) * 0.05
        with torch.no_grad():
            base, a, b = loftq_init(weight, num_bits=4, reduced_rank=r, num_iter=iterations)
        cases.append({"r": r, "iterations": iterations})
        tensors |= {f"{index}.weight": weight, f"{index}.base": base, f"{index}.a": a, f"{index}.b": b}
    fields = {"made_with": versions.table("torch", "peft", "bitsandbytes"), "cases": cases}
    (folder / "loftq.json").write_text(json.dumps(fields, indent=1) + "\n")
    save_file({key: t.contiguous() for key, t in tensors.items()}, folder / "loftq.safetensors")
    print(f"loftq: {len(cases)} cases")
