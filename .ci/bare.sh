#!/usr/bin/env bash
# make test as a stranger would run it: a fresh clone without ../shared, another user's home, nothing writable but the clone and the
# temporary folder. With arguments, only those tests:  .ci/bare.sh tests/test_cli.py -x
# Environments are made from scratch, which needs a package index; VENV=FOLDER takes one that is there.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
git clone -q "$root" "$place/smpr"
mkdir "$place/home" "$place/tmp"
as=()
if [ "$(id -u)" = 0 ]; then                                   # root may write everywhere: make all but this place read-only, for this script alone (and go there again: the old way in is read-only, too)
  as=(unshare --mount bash -c 'mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,bind,ro / && cd "$0/smpr" && exec "$@"' "$place")
fi
if [ -n "${VENV:-}" ]; then ln -s "$VENV" "$place/smpr/.venv"; touch -d @0 "$place/smpr/pyproject.toml"; fi      # older than the environment: make installs nothing
cd "$place/smpr"
run=("${as[@]}" env -i HOME="$place/home" TMPDIR="$place/tmp" PATH="/usr/local/bin:/usr/bin:/bin" LANG=C.UTF-8 OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR="$place/tmp" PYTHONPATH="$place/smpr")
if [ $# = 0 ]; then "${run[@]}" make test
else "${run[@]}" env HYPOTHESIS_STORAGE_DIRECTORY="$place/tmp/hypothesis" .venv/bin/python -m pytest -p no:cacheprovider "$@"
fi
