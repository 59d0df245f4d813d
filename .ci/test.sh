#!/usr/bin/env bash
# Every check of the project, in order, each with its seconds. Stops at the first failure.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" MPLBACKEND=Agg PYDEVD_DISABLE_FILE_VALIDATION=1 TQDM_MININTERVAL=30
began=$SECONDS
step() { printf '\n== %s (at %ss)\n' "$1" "$((SECONDS - began))"; }
state() { { git status --porcelain; git diff; } | git hash-object --stdin; }

step "nbdev-clean and nbdev-export change nothing"
before=$(state)
nbdev-clean
nbdev-export
if [ "$(state)" != "$before" ]; then
  git status --short
  echo "Notebooks were not clean or smpr/ is older than nbs/: run nbdev-clean and nbdev-export, then commit."
  exit 1
fi

step "README.md is what nbs/index.ipynb says"
python .ci/readme.py --check

step "every notebook runs"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
OMP_NUM_THREADS=1 SMPR_FIGURES="$scratch/figures" SMPR_RUNS="$scratch/runs" nbdev-test --n-workers 2 --do-print

step "ablation notebooks, smoke scale, through papermill"
for notebook in nbs/ablations/*.ipynb; do
  OMP_NUM_THREADS=2 SMPR_FIGURES="$scratch/figures" SMPR_RUNS="$scratch/runs" \
    python -m papermill --no-progress-bar -k python3 "$notebook" "$scratch/$(basename "$notebook")" >"$scratch/papermill.log" 2>&1 \
    || { tail -n 60 "$scratch/papermill.log"; exit 1; }
  echo "ok $notebook"
done

step "tests"
OMP_NUM_THREADS=2 python -m pytest tests
printf '\nall checks passed in %ss\n' "$((SECONDS - began))"
