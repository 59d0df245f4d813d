#!/usr/bin/env bash
# Every check of the project, in order, each with its seconds. Stops at the first failure. With the word `quick`: export, lint,
# types, and the tests that are not marked slow; no notebook is run.
set -euo pipefail
cd "$(dirname "$0")/.."
# glibc keeps freed memory: on virtual machines handing out pages takes up to half of the time otherwise.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592
export PATH="$PWD/.venv/bin:$PATH" MPLBACKEND=Agg PYDEVD_DISABLE_FILE_VALIDATION=1 TQDM_MININTERVAL=30
scratch=$(mktemp -d) types=""
trap '[ -z "$types" ] || kill "$types" 2>/dev/null || true; rm -rf "$scratch"' EXIT

speed=${1:-all} name="" began=0
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

# One core is enough for it, and the steps below leave one idle now and then: it runs beside them, and is asked at the end.
mypy >"$scratch/mypy.log" 2>&1 &
types=$!
ask_types() {
  step "mypy, which ran beside the rest"
  local said=0
  wait "$types" || said=$?
  types=""
  cat "$scratch/mypy.log"
  return "$said"
}

step "README.md is what nbs/index.ipynb says"
python .ci/readme.py --check

step "ruff: format and lint"
ruff format --check -q
ruff check -q

# Records and runs of the checks go to a folder of their own: the tree stays as it is.
export SMPR_FIGURES="$scratch/figures" SMPR_RUNS="$scratch/runs" TMPDIR="$scratch/tmp"
mkdir "$TMPDIR"

# Two processes, a file at a time, the longest first (tests/conftest.py): xdist would begin with the files of most tests instead.
two=(-n 2 --dist loadfile --no-loadscope-reorder)
if [ "$speed" = quick ]; then
  step "tests, without the slow ones"
  OMP_NUM_THREADS=1 python -m pytest tests -m 'not slow' "${two[@]}" | tee "$scratch/pytest.log"
  ask_types
  finish
  printf '\nquick checks passed in %ss; the tests: %s\n' "$SECONDS" "$(tail -n 1 "$scratch/pytest.log")"
  exit 0
fi

step "every notebook runs"
# Those of nbs/ablations are run below.
OMP_NUM_THREADS=1 nbdev-test --n-workers 2 --do-print --skip-folder-re '^([_.]|ablations$)'

step "ablation runs, smoke scale, through papermill"
# Two rows of Table I and one run of each other experiment; tests/test_top_down.py makes the run of the top-down peer.
OMP_NUM_THREADS=1 python - <<'PYTHON'
from smpr.experiments.rows import make_scale, prepare_features
from smpr.experiments.runner import plan, run_jobs
wanted = ("refine-star", "psm", "oks-0.3", "assign-shrink", "stand-in-hrfpn")
prepare_features(make_scale("smoke"))
failed = run_jobs([j for j in plan("all", "smoke") if j.name in wanted], "smoke", 2, 1)
raise SystemExit(f"failed: {failed}" if failed else 0)
PYTHON

step "ablation notebooks, smoke scale"
# Copies with another scale, all in two processes; what has no record must read "not run". `smpr reproduce` builds through papermill,
# as tests/test_ablations.py does.
mkdir -p "$scratch/smoke/nbs"
cp pyproject.toml "$scratch/smoke"
for notebook in nbs/ablations/*.ipynb; do
  case $notebook in */run.ipynb) continue ;; esac
  sed 's/"scale = \\"mini\\"/"scale = \\"smoke\\"/' "$notebook" >"$scratch/smoke/nbs/$(basename "$notebook")"
  grep -q '"scale = \\"smoke\\"' "$scratch/smoke/nbs/$(basename "$notebook")"
done
OMP_NUM_THREADS=1 nbdev-test --n-workers 2 --do-print "$scratch/smoke/nbs"

step "tests"
OMP_NUM_THREADS=1 python -m pytest tests "${two[@]}" --durations 8 | tee "$scratch/pytest.log"
ask_types
finish
printf '\nall checks passed in %ss; the tests: %s\n' "$SECONDS" "$(tail -n 1 "$scratch/pytest.log")"
