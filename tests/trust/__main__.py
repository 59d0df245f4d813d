"""make trust: every section writes its numbers to figures/results/trust.json when it ends; called again,
finished sections of the same code are kept.

python -m trust [--only kills,bad_inputs,...] [--again] [--kills 20] [--pictures 2000] [--documents 1500]
[--results 300] [--jobs 2]"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

import smpr
from smpr.experiments.records import environment
from smpr.experiments.runner import code_fingerprint, notebook
from smpr.settings import SmprError, atomic_write, load_settings
from trust import agreement, guards, hostile, inputs, kills, kinds, load


def all_guards(folder: Path, jobs: int) -> dict:
    """Each guard taken away once: whether its test fails then. Guards whose removal an earlier call saw
    noticed, with this code, are not tried again."""
    kept = load_settings().runs / "trust" / f"guards-{fingerprint()}.json"
    rows = {n: r for n, r in (json.loads(kept.read_text()) if kept.exists() else {}).items() if r["noticed"]}

    def one(name: str) -> None:
        g = guards.GUARDS[name]
        if name not in rows:
            rows[name] = {"does": g.does, "test": g.notices, "noticed": guards.noticed(name, folder)}
        atomic_write(kept, json.dumps(rows))
        print(
            f"  without '{name}': {'noticed' if rows[name]['noticed'] else 'NOT NOTICED'} by {g.notices}",
            flush=True,
        )

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, sorted(guards.GUARDS, key=lambda n: n in SLOW)))
    return {
        "attempted": len(rows),
        "noticed": sum(r["noticed"] for r in rows.values()),
        "rows": {n: rows[n] for n in guards.GUARDS},
    }


SLOW = (
    "checksum",
    "older checkpoint",
    "log in checkpoint",
    "measurement repeated",
    "stop signals",
    "lost worker",
    "journal",
)  # tests that start processes


def fingerprint() -> str:
    "Changes with the package."
    return code_fingerprint(Path(smpr.__file__).resolve().parent, notebook("run"))


def sections(a: argparse.Namespace) -> dict[str, Callable[[Path], dict]]:
    "Name and work of every section; each gets an empty folder."
    return {
        "kills": lambda d: kills.kill_and_resume(d, kills.moments(a.kills), 1, chains=a.chains),
        "bad_inputs": lambda d: inputs.try_all(a.documents, a.results),
        "load": lambda d: load.load_and_kill(d, a.pictures),
        "agreement": lambda d: (
            {"ap": agreement.compare_ap(agreement.committed())}
            | {"poses": agreement.compare_poses(), "bounds": agreement.BOUNDS}
        ),
        "hostile": lambda d: hostile.try_hostile(),
        "kinds": kinds.try_kinds,
        "concurrency": load.two_calls,
        "guards": lambda d: all_guards(d, a.jobs),
    }


def write(path: Path, name: str, found: dict, made: dict, order: list[str]) -> None:
    "Put a section into the record."
    record = json.loads(path.read_text()) if path.exists() else {}
    if "memory_mb" in found:
        record["predict_memory_mb"] = found.pop("memory_mb")
    record[name] = found
    record["made"] = record.get("made", {}) | {name: made}
    head = {
        "experiment": "trust",
        "commit": made["commit"],
        "hardware": made["hardware"],
        "seconds": round(sum(m["seconds"] for m in record["made"].values()), 1),
    }
    atomic_write(
        path,
        json.dumps(
            head | {n: record[n] for n in (*order, "predict_memory_mb", "made") if n in record}, indent=1
        )
        + "\n",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="sections with commas")
    parser.add_argument("--again", action="store_true", help="also those that are done")
    for flag, n in (("--kills", 20), ("--pictures", 2000), ("--documents", 1500), ("--results", 300)):
        parser.add_argument(flag, type=int, default=n)
    parser.add_argument("--chains", type=int, default=2, help="runs, side by side, that share the kills")
    parser.add_argument("--jobs", type=int, default=2, help="guards tried at a time")
    a = parser.parse_args()
    work, path, code = sections(a), load_settings().figures / "results" / "trust.json", fingerprint()
    if unknown := set(filter(None, a.only.split(","))) - set(work):
        raise SmprError(f"--only: '{min(unknown)}' is unknown; choose from {', '.join(work)}")
    record = json.loads(path.read_text()) if path.exists() else {}
    for name in a.only.split(",") if a.only else work:
        about = {
            "code": code,
            "cores": os.cpu_count(),
            "asked": {k: v for k, v in vars(a).items() if k not in ("only", "again", "jobs", "chains")},
        }
        if (
            not a.again
            and record.get("made", {}).get(name, {}).get("code") == code
            and record["made"][name]["asked"] == about["asked"]
        ):
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = work[name](Path(folder))
        seconds = round(time.monotonic() - began, 1)
        made = about | {"seconds": seconds, "load_of_machine": round(os.getloadavg()[1], 1)} | environment()
        with FileLock(load_settings().runs / "locks" / "trust"):
            write(path, name, found, made, list(work))  # another call may have written meanwhile
        print(
            f"{name}: {seconds} s, { ({k: v for k, v in found.items() if not isinstance(v, (dict, list))}) }",
            flush=True,
        )


if __name__ == "__main__":
    try:
        main()
    except SmprError as e:
        sys.exit(str(e))
