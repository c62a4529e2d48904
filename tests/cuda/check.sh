#!/usr/bin/env bash
# Checks on a card: `make check-gpu`, or bash tests/cuda/check.sh [a|b]. Each part takes about six minutes on an H100.
#   a  parity, syncs, skipped steps, kills and resumes, out of memory, the main job
#   b  speed beside a bare loop, chunk sizes, optimizers, pruning, memory beside the plan
# DRY=1 goes through it all on a CPU, at toy sizes. PY is the Python to use, OUT the folder for results,
# DATA_DIR and DATA_FLAGS the prepared data (data, --dataset shakespeare). Wheels in .wheels/ serve a machine without a network.
set -u
cd "$(dirname "$0")/../.."
export PYTHONUNBUFFERED=1 OUT=${OUT:-gpu-out}
parts=${1:-a b}
py=${PY:-python3}
failed=0
for part in $parts; do
  case $part in
    a | b) ;;
    *) echo "check-gpu: error: PART=$part is unknown (there are a and b)" >&2; exit 2 ;;
  esac
done
mkdir -p "$OUT"
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
if [ -d .wheels ]; then
  $py -m pip install -q --no-index --no-deps --target .wheels/site .wheels/*.whl && export PYTHONPATH=$PWD/.wheels/site
fi

device="--device cuda"; model="--model gpt2"; context=1024; compile=--compile; turns=5
short="--model gpt2-mini --batch-size 16 --max-steps 30"
if [ -n "${DRY:-}" ]; then
  tiny="--model custom --n-layer 1 --n-head 2 --n-embd 32"
  device="--device cpu --num-threads 1"; model=$tiny; context=32; compile=; turns=1
  short="$tiny --block-size 32 --batch-size 2 --max-steps 30"
elif ! $py -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "check-gpu: error: torch finds no CUDA or ROCm GPU here; DRY=1 goes through the checks on a CPU" >&2
  exit 2
fi

say() { echo "=== $(date +%T) $*"; }
fail() { echo "FAILED $*"; failed=1; }
train() { $py gpt2/train.py ${DATA_FLAGS:---dataset shakespeare} --data-dir "${DATA_DIR:-data}" $device "$@"; }
bench() { timeout 200 $py scripts/bench.py "$@" > "$runs/log" 2>&1 || fail "bench.py $*"; tail -25 "$runs/log"; }
results() {
  $py - "$1" <<'PYTHON' || fail "the results of $1"
import json, sys
run = json.load(open(sys.argv[1] + "/run.json"))
summary = json.load(open(sys.argv[1] + "/summary.json"))
of_run = ("device_name", "precision", "compiled", "compile_failure", "attention", "determinism", "lowered")
of_summary = ("val_loss", "tokens_per_second", "seconds", "skipped_steps", "peak_device_bytes", "peak_host_bytes")
print({key: run.get(key) for key in of_run}, {key: summary[key] for key in of_summary})
PYTHON
}

part_a() {
  say "versions"
  [ -n "${DRY:-}" ] || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  $py scripts/doctor.py || fail "doctor"
  say "checks in one process"
  timeout 200 $py tests/cuda/checks.py ${DRY:+cpu} > "$runs/log" 2>&1 || fail "tests/cuda/checks.py"
  cut -c1-1500 "$runs/log" | tail -60
  if [ -z "${DRY:-}" ]; then
    say "tests marked cuda"
    if $py -c "import pytest, xdist" 2> "$runs/log"; then
      timeout 100 $py -m pytest -n 0 -m cuda tests || fail "tests marked cuda"
    else
      echo "left out: $(tail -1 "$runs/log")"
    fi
  fi
  # Dropout is on, so the generator of the card counts.
  for way in "" $compile; do
    say "killed and resumed: the same bits as undisturbed, --deterministic $way"
    flags="$short --dropout 0.1 --checkpoint-interval 10 --eval-interval 0 --sample-tokens 0 --deterministic $way"
    train $flags --run-dir "$runs/whole$way" > "$runs/log" 2>&1 || { tail -3 "$runs/log"; fail "training"; }
    GPT2_FAULT=checkpoint.rename:kill:2 train $flags --run-dir "$runs/killed$way" > "$runs/log" 2>&1
    train $flags --run-dir "$runs/killed$way" > "$runs/log" 2>&1 || { tail -3 "$runs/log"; fail "resuming"; }
    for file in model optim; do
      last=checkpoints/step-00000030/$file.safetensors
      cmp "$runs/whole$way/$last" "$runs/killed$way/$last" && echo "$file: the same bits" || fail "$file differs"
    done
    results "$runs/killed$way"
  done
  [ -z "${DRY:-}" ] || return 0
  say "a micro-batch that is too large is halved"
  timeout 90 $py - <<PYTHON 2>&1 | tail -12
import sys, torch
sys.path.insert(0, ".")
torch.cuda.set_per_process_memory_fraction(0.06)
from gpt2.train import main
flags = "--dataset shakespeare --data-dir ${DATA_DIR:-data} --device cuda --batch-size 256 --max-steps 6 --ignore-plan --sample-tokens 0"
sys.exit(main([*flags.split(), "--run-dir", "$runs/memory"]))
PYTHON
  results "$runs/memory"
  say "the main job, all of it, as the defconfig for a GPU has it"
  begin=$SECONDS
  train --batch-size 64 --num-epochs 15 --eval-interval 25 --checkpoint-interval 100 --compile \
    --run-dir "$runs/main" 2>&1 | grep -v "^step.*loss.*tokens/s" | tail -25
  results "$runs/main"
  echo "wall time $((SECONDS - begin)) s; the run directory takes $(du -sh "$runs/main" | cut -f1)"
}

part_b() {
  flags="--dataset text --tokenizer gpt2 $device $model --block-size $context --dropout 0"
  say "beside a bare loop, compiled"
  if [ -z "${DRY:-}" ]; then peer=plain-compiled; else peer=plain; fi
  bench --against $peer --steps $turns --repeats 5 --json "$OUT/peer.json" -- $flags --batch-size 32 $compile
  say "where the time goes"
  bench --steps 3 --repeats 1 --profile "$runs/trace.json" -- $flags --batch-size 64 $compile
  for mib in 64 1024; do
    say "loss in chunks of $mib MiB, not 512"
    bench --steps $turns --repeats 3 --json "$OUT/chunk$mib.json" -- $flags --batch-size 64 $compile --loss-chunk-mib $mib
  done
  if [ -z "${DRY:-}" ]; then
    say "loss with its softmax in one compiled pass"
    bench --steps $turns --repeats 3 --json "$OUT/fused.json" -- $flags --batch-size 64 $compile --loss fused
  fi
  for option in "--optimizer muon" "--optimizer-state-precision bf16"; do
    say "$option"
    bench --steps $turns --repeats 3 -- $flags --batch-size 64 $compile $option
  done
  say "pruning, not compiled"
  bench --pruning magnitude,movement,state --steps 5 --repeats 3 -- $flags --batch-size 16
  say "memory beside the plan, not compiled"
  bench --memory -- $flags --batch-size 32
}

for part in $parts; do "part_$part"; done
say "done"
exit $failed
