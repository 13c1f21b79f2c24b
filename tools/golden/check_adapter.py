"""Loads an adapter folder with PEFT and compares the logits with those that another program computed with it.

    python tools/golden/check_adapter.py ADAPTER_DIR MODEL_DIR EXPECTED.json [--tolerance 1e-4]

EXPECTED.json: {"sequences": [[ids], ...], "logits": [[[one row of vocab-size numbers per position], ...], ...]}.
Exits with 1 when a logit differs by more than the tolerance times the largest logit's magnitude.
"""

import argparse
import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import reference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter")
    parser.add_argument("model")
    parser.add_argument("expected")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    torch.set_num_threads(1)
    with open(args.expected, encoding="utf-8") as file:
        expected = json.load(file)
    if not expected["sequences"] or len(expected["sequences"]) != len(expected["logits"]):
        sys.exit("EXPECTED.json needs as many entries in logits as in sequences, and at least one")
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        without = [reference.logits(base, torch.tensor(ids)) for ids in expected["sequences"]]
    model = PeftModel.from_pretrained(base, args.adapter).eval()

    good = True
    for i, (ids, other) in enumerate(zip(expected["sequences"], expected["logits"])):
        with torch.no_grad():
            ours = reference.logits(model, torch.tensor(ids))
        theirs = torch.tensor(other)
        if theirs.shape != ours.shape:
            sys.exit(f"sequence {i}: logits of shape {list(theirs.shape)}, PEFT's have {list(ours.shape)}")
        scale = ours.abs().max().item()
        gap = (ours - theirs).abs().max().item()
        change = (ours - without[i]).abs().max().item()
        good = good and gap <= args.tolerance * scale
        print(f"sequence {i}: largest gap {gap:.3e}, largest logit {scale:.3f}, largest change by the adapter {change:.3e}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
