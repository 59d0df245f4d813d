#!/usr/bin/env bash
# Every check of the project, in order, each with its seconds. Stops at the first failure.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" MPLBACKEND=Agg PYDEVD_DISABLE_FILE_VALIDATION=1 TQDM_MININTERVAL=30
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

name="" began=0
finish() { if [ -n "$name" ]; then printf -- '-- %s: %ss\n' "$name" "$((SECONDS - began))"; fi; }
step() { finish; name=$1 began=$SECONDS; printf '\n== %s\n' "$name"; }
# What git sees, with the content of every changed file: a developer's unfinished work is no fault, a change made by the tools is.
state() { { git status --porcelain; git diff HEAD; git ls-files -z --others --exclude-standard | xargs -0 -r git hash-object; } | git hash-object --stdin; }

step "nbdev-clean and nbdev-export change nothing"
before=$(state)
nbdev-clean
nbdev-export
if [ "$(state)" != "$before" ]; then
  git status --short
  echo "A notebook was not clean, or smpr/ is older than nbs/: the tools have just mended it; look at the change and commit it."
  exit 1
fi

step "README.md is what nbs/index.ipynb says"
python .ci/readme.py --check

# Records and runs of the checks go to a folder of their own: the tree stays as it is.
export SMPR_FIGURES="$scratch/figures" SMPR_RUNS="$scratch/runs"

step "every notebook runs"
OMP_NUM_THREADS=1 nbdev-test --n-workers 2 --do-print

step "ablation notebooks, smoke scale, through papermill"
for notebook in nbs/ablations/*.ipynb; do
  OMP_NUM_THREADS=2 python -m papermill --no-progress-bar -k python3 "$notebook" "$scratch/$(basename "$notebook")" >"$scratch/papermill.log" 2>&1 \
    || { tail -n 60 "$scratch/papermill.log"; echo "$notebook failed"; exit 1; }
  echo "ok $notebook"
done

step "tests"
OMP_NUM_THREADS=2 python -m pytest tests --durations 8 | tee "$scratch/pytest.log"
finish
printf '\nall checks passed in %ss; the tests: %s\n' "$SECONDS" "$(tail -n 1 "$scratch/pytest.log")"
