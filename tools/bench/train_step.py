"""Times LoRA training steps of PyTorch + PEFT on the CPU.

    python tools/bench/train_step.py --model FOLDER [--threads 2] [--batch 4] [--length 256] [--steps 5] [--quantize]

A step is: forward, loss, backward, AdamW on the adapter (r 16, alpha 32, every linear projection of the blocks), float32, random
tokens. Prints one line of JSON: {"step_ms": [...], "median_ms": ..., "loaded_rss_mib": ..., "peak_rss_mib": ...}.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def peak_rss_mib():
    """Highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--quantize", action="store_true", help="the base in NF4 with double quantization, by bitsandbytes")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    how = {}
    if args.quantize:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32,
        )
        how = {"quantization_config": config, "device_map": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, **how)
    model = get_peft_model(model, LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules=PROJECTIONS,
    ))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    loaded = peak_rss_mib()
    step_ms = []
    for _ in range(args.warmup + args.steps):
        ids = torch.randint(0, model.config.vocab_size, (args.batch, args.length))
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step_ms.append(1000 * (time.perf_counter() - start))
    step_ms = step_ms[args.warmup :]
    print(json.dumps({
        "step_ms": step_ms,
        "median_ms": statistics.median(step_ms),
        "loaded_rss_mib": loaded,
        "peak_rss_mib": peak_rss_mib(),
    }))


if __name__ == "__main__":
    main()
