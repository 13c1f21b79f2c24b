"""Writes tests/golden/optim: bitsandbytes' 8-bit AdamW on the CPU."""

import json
from pathlib import Path

import bitsandbytes as bnb
import torch
from bitsandbytes.backends.cpu import ops as cpu
from safetensors.torch import save_file

import versions

# 16 blocks of 256 and a short one.
ELEMENTS = 4133
STEPS = 3
SETTINGS = {"lr": 3e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}


def numbers(step):
    """Between -0.5 and 0.5, the same formula as in tests/ops/adamw8.rs."""
    i = torch.arange(ELEMENTS, dtype=torch.int64)
    return ((i * i * 40503 + i * 9973 + step * 7046029) % (1 << 24)).double() / (1 << 24) - 0.5


def gradient(step):
    """Of sizes from 1 to 2^-23 within a block; some are zero, and so is a whole block at first."""
    i = torch.arange(ELEMENTS)
    g = numbers(step) * 2.0 ** -(i * 7 % 24).double()
    g[i % 50 == 7] = 0.0
    if step <= 2:
        g[512:768] = 0.0
    return g.float()


def nearest(values, code, absmax_out, out, blocksize):
    """bitsandbytes' own nearest code. Its compiled path for f32 first rounds to one of 65536 steps; what is not f32 takes the path that
    looks at every code, in f32 too."""
    codes, absmax = torch.ops.bitsandbytes.quantize_blockwise(values.double(), code, blocksize)
    out.copy_(codes)
    absmax_out.copy_(absmax)


def write_all(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    cpu._quant_blockwise_fp32_direct = nearest
    tensors = {}
    param = torch.nn.Parameter(numbers(0).float())
    optimizer = bnb.optim.AdamW8bit([param], **{**SETTINGS, "betas": tuple(SETTINGS["betas"])})
    for step in range(1, STEPS + 1):
        param.grad = gradient(step)
        optimizer.step()
        tensors[f"param.{step}"] = param.detach().clone()
        for name in ("state1", "state2", "absmax1", "absmax2"):
            tensors[f"{name}.{step}"] = optimizer.state[param][name].clone()
    made_with = versions.table("torch", "bitsandbytes", "safetensors")
    facts = {"made_with": made_with, "elements": ELEMENTS, "steps": STEPS, **SETTINGS}
    (folder / "adamw8.json").write_text(json.dumps(facts, indent=1) + "\n")
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "adamw8.safetensors")
    print("optim/adamw8")
