"""Random quantized blocks of every GGUF type that we read, and what the `gguf` package decodes them to.

    python tools/golden/gguf_blocks.py            # writes tests/golden/gguf/blocks.safetensors

Made with gguf 0.19.0, numpy 2.4.6, safetensors 0.8.0. For each type: `TYPE.bytes` U8 [rows, bytes a row] and
`TYPE.values` F32 [rows, elements a row].
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parents[2] / "tests/golden/gguf/blocks.safetensors"
ROWS, ROW = 3, 512
# Byte offsets of the f16 scales in a block: random bits there could be infinite.
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}

rng = np.random.default_rng(20240601)
tensors = {}
for name, offsets in SCALES.items():
    kind = GGMLQuantizationType[name]
    elems, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * ROW // elems, size), dtype=np.uint8)
    for offset in offsets:
        scales = rng.normal(0, 0.05, len(blocks)).astype(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    blocks = blocks.reshape(ROWS, -1)
    values = quants.dequantize(blocks, kind).astype(np.float32)
    assert values.shape == (ROWS, ROW) and np.isfinite(values).all()
    tensors[f"{name}.bytes"], tensors[f"{name}.values"] = blocks, values
OUT.parent.mkdir(parents=True, exist_ok=True)
save_file(tensors, OUT)
print(OUT, OUT.stat().st_size)
