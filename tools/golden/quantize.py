"""Writes tests/golden/quantize: 4-bit blocks and double quantization as bitsandbytes computes them on the CPU."""

import hashlib
import json
import math
from pathlib import Path

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

import versions

BLOCKS = [64, 128, 256, 512, 1024, 2048, 4096]


def boundaries(kind):
    """The midpoints of neighbouring levels, and the numbers next to them on either side."""
    levels = F.get_4bit_type(kind, device="cpu").sort().values
    middle = (levels[:-1] + levels[1:]) / 2
    below, above = (torch.nextafter(middle, torch.tensor(side)) for side in (-2.0, 2.0))
    values = torch.cat([torch.tensor([1.0, -1.0, 0.0, -0.0]), levels, middle, below, above])
    return torch.nn.functional.pad(values, (0, 128 - len(values)), value=0.5).reshape(2, 64)


def inputs():
    """{name: tensor}, each of which goes through every case."""
    generator = torch.Generator().manual_seed(41)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    zeros_inside = normal(4, 128)
    zeros_inside[1] = 0.0
    zeros_inside[3, 64:] = -0.0
    outliers = normal(5, 192) * 0.02
    outliers[0, 3], outliers[4, 100] = 80.0, -7.0
    return {
        "normal": normal(9, 128) * 0.05,
        "ragged": normal(13, 77),
        "single": torch.tensor([[-0.3]]),
        "short": normal(1, 5),
        "zeros": torch.zeros(3, 50),
        "zero_blocks": zeros_inside,
        "constant": torch.full((3, 100), -0.37),
        "huge": normal(4, 64) * 1e37,
        "largest": torch.full((1, 64), 3.38e38),
        "tiny": normal(4, 65) * 1e-37,
        "denormal": normal(4, 65) * 1e-39,
        "outliers": outliers,
        "nf4_boundaries": boundaries("nf4"),
        "fp4_boundaries": boundaries("fp4"),
        "many_blocks": normal(3, 6403),
    }


def formula(rows, columns):
    """A large matrix that needs no file: the fractional part of a square, drawn to both sides of 0, with rows of very different size."""
    i = torch.arange(rows * columns, dtype=torch.int64)
    uniform = ((i * i * 40503 + i * 9973) % (1 << 24)).double() / (1 << 24) - 0.5
    return (uniform * (1 + i // columns % 97).double()).float().reshape(rows, columns)


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def write_all(folder: Path):
    folder.mkdir(parents=True, exist_ok=True)
    cases, tensors = [], {}
    tensors["map.dynamic"] = F.create_dynamic_map()
    for kind in ("nf4", "fp4"):
        tensors[f"map.{kind}"] = F.get_4bit_type(kind, device="cpu")
    for name, value in inputs().items():
        for dtype in (torch.float32, torch.bfloat16):
            source = value.to(dtype)
            tensors[f"input.{name}.{str(dtype)[6:]}"] = source
            for kind in ("nf4", "fp4"):
                for block in BLOCKS:
                    # Of larger blocks than the input has elements one is enough.
                    if block > 64 and block // 2 >= value.numel() or dtype == torch.bfloat16 and block > 64:
                        continue
                    for nested in (False, True):
                        packed, state = F.quantize_4bit(source, blocksize=block, compress_statistics=nested, quant_type=kind)
                        index = len(cases)
                        case = {"input": name, "dtype": str(dtype)[6:], "kind": kind, "block": block, "nested": nested}
                        assert packed.shape == (math.ceil(value.numel() / 2), 1)
                        if nested:
                            case["offset"] = state.offset.item()
                            tensors[f"{index}.absmax_codes"] = state.absmax
                            tensors[f"{index}.nested_absmax"] = state.state2.absmax
                            assert state.state2.blocksize == 256 and torch.equal(state.state2.code, tensors["map.dynamic"])
                        else:
                            tensors[f"{index}.packed"] = packed.reshape(-1)
                            tensors[f"{index}.absmax"] = state.absmax
                        back = F.dequantize_4bit(packed, state)
                        case["dequantized"] = digest(back.float())
                        cases.append(case)
    large = formula(2050, 256)
    packed, state = F.quantize_4bit(large, blocksize=64, compress_statistics=True, quant_type="nf4")
    fields = {
        "made_with": versions.table("torch", "bitsandbytes"),
        "cases": cases,
        "large": {
            "rows": 2050, "columns": 256, "packed": digest(packed), "absmax_codes": digest(state.absmax),
            "nested_absmax": digest(state.state2.absmax), "offset": state.offset.item(),
        },
    }
    (folder / "blocks.json").write_text(json.dumps(fields, indent=1) + "\n")
    save_file({key: t.contiguous() for key, t in tensors.items()}, folder / "blocks.safetensors")
    print(f"quantize: {len(cases)} cases")
