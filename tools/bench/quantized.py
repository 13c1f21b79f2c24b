"""Times bitsandbytes on the CPU: quantizing (NF4, blocks of 64, plain scales), dequantizing, and the linear layer.

    python tools/bench/quantized.py [--threads 2] [--size 4096] [--rows 1,16,256,1024] [--runs 9] [--dtype f32]

Prints one line of JSON in the form of `warptune bench-quantized`.
"""

import argparse
import json
import resource
import statistics
import time

import bitsandbytes as bnb
import bitsandbytes.functional as F
import torch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rows", default="1,16,256,1024")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]

    def uniform(rows):
        return (2 * torch.rand(rows, args.size) - 1).to(dtype)

    weight = uniform(args.size)
    packed, state = F.quantize_4bit(weight, blocksize=64, compress_statistics=False, quant_type="nf4")
    times = {}

    def measure(name, run):
        run()
        all_ms = []
        for _ in range(args.runs):
            start = time.perf_counter()
            run()
            all_ms.append(1000 * (time.perf_counter() - start))
        times[name] = statistics.median(all_ms)

    measure("quantize_ms", lambda: F.quantize_4bit(weight, blocksize=64, compress_statistics=False, quant_type="nf4"))
    measure("dequantize_ms", lambda: F.dequantize_4bit(packed, state))
    for rows in map(int, args.rows.split(",")):
        x, dy = uniform(rows), uniform(rows)
        leaf = x.clone().requires_grad_()

        def forward():
            with torch.no_grad():
                bnb.matmul_4bit(x, packed.t(), state)

        def both():
            leaf.grad = None
            bnb.matmul_4bit(leaf, packed.t(), state).backward(dy)

        measure(f"forward_{rows}_ms", forward)
        measure(f"forward_backward_{rows}_ms", both)
    times["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(times))


if __name__ == "__main__":
    main()
