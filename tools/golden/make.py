"""Makes the files under tests/golden. Run from the repository root:

    python tools/golden/make.py models              # models/<name>: full models and LoRA
    python tools/golden/make.py models --only gpt2
    python tools/golden/make.py ops                 # ops/
    python tools/golden/make.py quantize            # quantize/, and quantized/: models of models/ in 4 bits, with LoRA
    python tools/golden/make.py bitdelta            # bitdelta/: a pair of models, their 1-bit delta and its distillation
    python tools/golden/make.py optim               # optim/
    python tools/golden/make.py templates DIR       # templates/: DIR holds the archives that template_sources.py names
"""

import argparse
import os
from pathlib import Path

import torch

# The models' names are ours, not names on the Hub.
os.environ["HF_HUB_OFFLINE"] = "1"

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"


def make_models(args):
    import lora
    import models
    import zoo

    for entry in zoo.entries():
        if not args.only or entry.name in args.only:
            models.write(GOLDEN / "models", entry)
            lora.write(GOLDEN / "models", entry)


def make_templates(args):
    import templates

    templates.write_all(GOLDEN / "templates", args.archives)


def make_ops(_args):
    import ops

    ops.write_all(GOLDEN / "ops")


def make_quantize(_args):
    import loftq
    import qlora
    import quantize

    quantize.write_all(GOLDEN / "quantize")
    loftq.write_all(GOLDEN / "quantize")
    qlora.write_all(GOLDEN)


def make_bitdelta(_args):
    import bitdelta

    bitdelta.write_all(GOLDEN / "bitdelta")


def make_optim(_args):
    import optim

    optim.write_all(GOLDEN / "optim")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("models", help="tests/golden/models")
    command.add_argument("--only", nargs="*", help="names of the models to make")
    command.set_defaults(run=make_models)
    command = commands.add_parser("ops", help="tests/golden/ops")
    command.set_defaults(run=make_ops)
    command = commands.add_parser("quantize", help="tests/golden/quantize")
    command.set_defaults(run=make_quantize)
    command = commands.add_parser("bitdelta", help="tests/golden/bitdelta")
    command.set_defaults(run=make_bitdelta)
    command = commands.add_parser("optim", help="tests/golden/optim")
    command.set_defaults(run=make_optim)
    command = commands.add_parser("templates", help="tests/golden/templates")
    command.add_argument("archives", type=Path, help="folder with the packages' archives")
    command.set_defaults(run=make_templates)
    args = parser.parse_args()

    # One thread: the order of every sum is then the same in every run.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    args.run(args)


if __name__ == "__main__":
    main()
