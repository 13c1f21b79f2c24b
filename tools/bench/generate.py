"""Times greedy generation of transformers on the CPU: batch 1, float32, with a KV cache.

    python tools/bench/generate.py --model FOLDER [--threads 2] [--prompt 16] [--new 64] [--runs 5]

Prints one line of JSON: {"tokens_per_s": [...], "median_tokens_per_s": ..., "peak_rss_mib": ...}; the time includes the prompt.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

from train_step import peak_rss_mib


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=16, help="tokens in the prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens to write")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, args.prompt))
    mask = torch.ones_like(ids)
    rates = []
    with torch.inference_mode():
        for run in range(args.runs + 1):
            start = time.perf_counter()
            out = model.generate(ids, attention_mask=mask, do_sample=False, min_new_tokens=args.new, max_new_tokens=args.new)
            seconds = time.perf_counter() - start
            assert out.shape[1] == args.prompt + args.new
            # The first run warms up.
            if run > 0:
                rates.append(args.new / seconds)
    print(json.dumps({
        "tokens_per_s": rates,
        "median_tokens_per_s": statistics.median(rates),
        "peak_rss_mib": peak_rss_mib(),
    }))


if __name__ == "__main__":
    main()
