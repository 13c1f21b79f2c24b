"""Writes tests/golden/ops: single operations of PyTorch and transformers, for cross-checks of ours."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

import versions


def save(folder, name, fields, tensors=None):
    """<name>.json and, with tensors, <name>.safetensors."""
    fields = {"made_with": versions.table("torch", "transformers"), **fields}
    (folder / f"{name}.json").write_text(json.dumps(fields, indent=1) + "\n")
    if tensors:
        save_file({key: t.contiguous() for key, t in tensors.items()}, folder / f"{name}.safetensors")


def adamw(folder):
    """Five steps of torch.optim.AdamW on one vector, in float32 and in float64, with and without weight decay."""
    runs, tensors = [], {}
    for index, decay in enumerate([0.1, 0.0]):
        settings = {"lr": 3e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": decay, "steps": 5}
        runs.append(settings)
        for suffix, dtype in (("", torch.float32), (".f64", torch.float64)):
            generator = torch.Generator().manual_seed(31)
            param = torch.nn.Parameter(torch.randn(37, generator=generator).to(dtype))
            optimizer = torch.optim.AdamW(
                [param], lr=settings["lr"], betas=tuple(settings["betas"]), eps=settings["eps"], weight_decay=decay, foreach=False
            )
            tensors[f"{index}.param.0{suffix}"] = param.detach().clone()
            for step in range(1, settings["steps"] + 1):
                # Gradients of very different sizes, and one that is exactly zero.
                grad = torch.randn(37, generator=generator) * torch.logspace(-6, 2, 37)
                grad[5] = 0.0
                param.grad = grad.to(dtype)
                optimizer.step()
                if not suffix:
                    tensors[f"{index}.grad.{step}"] = grad
                tensors[f"{index}.param.{step}{suffix}"] = param.detach().clone()
            state = optimizer.state[param]
            tensors[f"{index}.exp_avg{suffix}"] = state["exp_avg"].clone()
            tensors[f"{index}.exp_avg_sq{suffix}"] = state["exp_avg_sq"].clone()
    save(folder, "adamw", {"runs": runs}, tensors)


def clip(folder):
    """clip_grad_norm_ over three tensors, with norms above and below the limit."""
    generator = torch.Generator().manual_seed(32)
    grads = [torch.randn(shape, generator=generator) * 2 for shape in ((5, 7), (11,), (1, 3, 2))]
    cases, tensors = [], {f"grad.{i}": grad for i, grad in enumerate(grads)}
    for index, max_norm in enumerate([1.0, 0.05, 100.0]):
        params = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
        for param, grad in zip(params, grads):
            param.grad = grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(params, max_norm, foreach=False)
        cases.append({"max_norm": max_norm, "norm": norm.item()})
        tensors.update({f"{index}.clipped.{i}": param.grad for i, param in enumerate(params)})
    save(folder, "clip_grad_norm", {"cases": cases}, tensors)


def schedules(folder):
    """Factors on the learning rate before each optimizer step, and after the last."""
    makers = {
        "constant": lambda optimizer, warmup, total: get_constant_schedule_with_warmup(optimizer, warmup),
        "linear": get_linear_schedule_with_warmup,
        "cosine": get_cosine_schedule_with_warmup,
    }
    cases = []
    for name, make in makers.items():
        for warmup, total in ((0, 10), (3, 10), (5, 24), (1, 1)):
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            schedule = make(optimizer, warmup, total)
            factors = []
            for _ in range(total + 1):
                factors.append(schedule.get_last_lr()[0])
                optimizer.step()
                schedule.step()
            cases.append({"schedule": name, "warmup_steps": warmup, "total_steps": total, "factors": factors})
    save(folder, "schedules", {"cases": cases})


def sampling(folder):
    """What is left of the logits after transformers' processors; a removed token has -inf."""
    generator = torch.Generator().manual_seed(33)
    logits = torch.randn(3, 61, generator=generator) * 3
    seen = torch.randint(0, 61, (3, 9), generator=generator)
    build = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    settings = [
        {"temperature": 0.7}, {"temperature": 1.9}, {"top_k": 5}, {"top_k": 1}, {"top_k": 1000}, {"top_p": 0.9}, {"top_p": 0.3},
        {"top_p": 0.01}, {"min_p": 0.1}, {"min_p": 0.9}, {"repetition_penalty": 1.3}, {"repetition_penalty": 0.8},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.95},
        {"repetition_penalty": 1.2, "temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
    ]
    tensors = {"logits": logits}
    for index, setting in enumerate(settings):
        scores = logits.clone()
        # The order in which transformers' generate applies them.
        for name in build:
            if name in setting:
                scores = build[name](setting[name])(seen, scores)
        tensors[f"{index}.scores"] = scores
    save(folder, "sampling", {"order": list(build), "seen": seen.tolist(), "cases": settings}, tensors)


def activations(folder):
    """Values and derivatives of the activations, in float32 and float64, with their tails."""
    x = torch.cat([torch.linspace(-12, 12, 97), torch.tensor([0.0, 1e-20, -1e-4, 50.0, -50.0, -88.0, 100.0, -104.0])])
    functions = {
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda t: F.gelu(t, approximate="tanh"),
    }
    tensors = {"x": x}
    for name, function in functions.items():
        for suffix, dtype in (("", torch.float32), (".f64", torch.float64)):
            point = x.to(dtype, copy=True).requires_grad_()
            value = function(point)
            value.sum().backward()
            tensors[f"{name}.y{suffix}"] = value.detach()
            tensors[f"{name}.dy{suffix}"] = point.grad
    save(folder, "activations", {"functions": list(functions)}, tensors)


def write_all(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    for make in (adamw, clip, schedules, sampling, activations):
        make(folder)
        print(f"ops/{make.__name__}")
