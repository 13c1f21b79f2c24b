"""Running a transformers model in float64 throughout.

`model.double()` is not enough: transformers casts to float32 inside norms, softmax and RoPE. Within `exact()`, the modelling
modules see a `torch` whose `float32` is float64, so that the difference to the plain float32 run is the rounding error of that run.
"""

import contextlib
import sys

import torch


class _Torch64:
    """Stands for the torch module; float32 and float are float64."""

    float32 = torch.float64
    float = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def exact():
    """Inside, transformers models that are built and run compute in float64."""
    names = [
        name for name, module in sys.modules.items()
        if name.startswith("transformers.model") and getattr(module, "torch", None) is torch
    ]
    plain_float = torch.Tensor.float
    try:
        for name in names:
            sys.modules[name].torch = _Torch64()
        torch.Tensor.float = torch.Tensor.double
        yield
    finally:
        torch.Tensor.float = plain_float
        for name in names:
            sys.modules[name].torch = torch
