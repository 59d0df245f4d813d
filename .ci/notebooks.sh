#!/usr/bin/env bash
# Run every chapter in place so that readers see its pictures, then clean and export.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" MPLBACKEND=module://matplotlib_inline.backend_inline PYDEVD_DISABLE_FILE_VALIDATION=1
for notebook in nbs/ablations/[c-qs-z]*.ipynb nbs/ablations/rivals.ipynb nbs/index.ipynb nbs/[0-9]*.ipynb nbs/tutorials/*.ipynb nbs/appendix/*.ipynb; do
  echo "$notebook"
  OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=600 --log-level ERROR "$notebook"
done
nbdev-clean
nbdev-export
