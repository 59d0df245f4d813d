#!/usr/bin/env bash
# The tests with another torch:  .ci/torch.sh 2.11.*   (the oldest)   or   .ci/torch.sh ''   (the newest there is). Further words go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1-}; shift || true
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install -q --disable-pip-version-check "torch${version:+==$version}" -e '.[test]'
"$place/venv/bin/python" -c 'import torch, torchvision; print("torch", torch.__version__, "torchvision", torchvision.__version__)'
"$place/venv/bin/python" -m pytest tests "$@"
