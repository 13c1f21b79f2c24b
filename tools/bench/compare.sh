#!/usr/bin/env bash
# Compares training steps and generation with PyTorch's, in alternating runs on this machine.
#
#   python tools/golden/smollm2.py export SmolLM2-135M-Instruct.Q4_1.gguf .fixtures/smollm2-f32
#   cargo build --release
#   tools/bench/compare.sh [train|qlora|generate|quantized] [rounds]
#
# Each command prints its figures as one JSON object on its last line of output; those that are numbers are compared. Settings: MODEL,
# THREADS, STEPS, PYTHON, WARPTUNE, all from the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."

what=${1:-train}
rounds=${2:-3}
MODEL=${MODEL:-.fixtures/smollm2-f32}
THREADS=${THREADS:-2}
STEPS=${STEPS:-5}
PYTHON=${PYTHON:-python3}
WARPTUNE=${WARPTUNE:-target/release/warptune}

case $what in
quantized)
    ours=("$WARPTUNE" bench-quantized --threads "$THREADS")
    theirs=("$PYTHON" tools/bench/quantized.py --threads "$THREADS")
    ;;
qlora)
    ours=("$WARPTUNE" bench-step --model "$MODEL" --quantize nf4 --threads "$THREADS" --batch 4 --length 256 --steps "$STEPS" --lora-r 16 --lora-alpha 32)
    theirs=("$PYTHON" tools/bench/train_step.py --model "$MODEL" --quantize --threads "$THREADS" --batch 4 --length 256 --steps "$STEPS")
    ;;
train)
    ours=("$WARPTUNE" bench-step --model "$MODEL" --threads "$THREADS" --batch 4 --length 256 --steps "$STEPS" --lora-r 16 --lora-alpha 32)
    theirs=("$PYTHON" tools/bench/train_step.py --model "$MODEL" --threads "$THREADS" --batch 4 --length 256 --steps "$STEPS")
    ;;
generate)
    ours=("$WARPTUNE" bench-generate --model "$MODEL" --threads "$THREADS" --prompt 16 --new 64 --runs "$STEPS")
    theirs=("$PYTHON" tools/bench/generate.py --model "$MODEL" --threads "$THREADS" --prompt 16 --new 64 --runs "$STEPS")
    ;;
*)
    echo "usage: $0 [train|qlora|generate|quantized] [rounds]" >&2
    exit 2
    ;;
esac
[[ $rounds =~ ^[1-9][0-9]*$ ]] || { echo "rounds: a positive number, not '$rounds'" >&2; exit 2; }

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# Runs a command; keeps and shows its last line. A failing command shows its messages.
measure() {
    local name=$1 line
    shift
    if ! "$@" >"$results/out" 2>"$results/err"; then
        cat "$results/err" >&2
        echo "$name failed: $*" >&2
        exit 1
    fi
    line=$(tail -n 1 "$results/out")
    echo "$line" >>"$results/$name"
    echo "$name $line"
}

for ((round = 1; round <= rounds; round++)); do
    measure ours "${ours[@]}"
    measure pytorch "${theirs[@]}"
done

"$PYTHON" - "$results" <<'PYTHON'
import json, pathlib, statistics, sys

folder = pathlib.Path(sys.argv[1])
rows = {name: [json.loads(line) for line in (folder / name).read_text().splitlines()] for name in ("ours", "pytorch")}
shared = [key for key, value in rows["ours"][0].items() if isinstance(value, (int, float)) and key in rows["pytorch"][0]]
print(f"{'':26}{'ours':>12}{'pytorch':>12}{'ratio':>9}")
for key in shared:
    ours, theirs = (statistics.median(row[key] for row in rows[name]) for name in ("ours", "pytorch"))
    print(f"{key:26}{ours:12.2f}{theirs:12.2f}{ours / theirs:9.3f}")
PYTHON
