"""What Table I at scale rendered costs, now and in an earlier version, from the records of both.

    python benchmarks/table1_time.py [--before e2d2593 --same-pictures 3e764a2]

Reads figures/results/table1 as it is and as it was in two earlier commits: the last before the work on speed,
and the last with the older
recipe on the pictures of today. Every row ran in one thread, two rows at a time on two cores, so seconds add
up to core-seconds. Writes
figures/results/table1_time.json; `make bench` shows it as a row of its table. Needs a clone with its
history."""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

from smpr.experiments.records import environment, load_records
from smpr.experiments.rows import Row
from smpr.settings import SmprError, atomic_write, load_settings

ROOT = Path(__file__).resolve().parent.parent


def old_records(commit: str) -> list[dict]:
    "The records of seed 0 in an earlier commit. Raises SmprError."
    out = []
    for row in Row:
        shown = subprocess.run(
            ["git", "show", f"{commit}:figures/results/table1/{row}-mini-s0.json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if shown.returncode:
            raise SmprError(f"commit {commit}: {shown.stderr.strip()}; this needs a clone with its history")
        out.append(json.loads(shown.stdout))
    return out


def cost(records: list[dict]) -> dict:
    """Core-seconds of the seven rows with the first seed, and all rows' APs, of one version; with several
    seeds means, and the spread of AP."""
    by_row = {row.value: [r for r in records if r["row"] == row] for row in Row}
    if not all(by_row.values()):
        raise SmprError("rows are missing: run `smpr reproduce table1 --scale rendered`")

    def seconds(r):
        return r["wall_seconds"] - r.get("more", {}).get(
            "seconds", 0
        )  # further pictures are measured only since then

    ap = {row: [100 * r["metrics"]["AP"] for r in rs] for row, rs in by_row.items()}
    first = records[0]
    return {
        "seconds": round(sum(seconds(rs[0]) for rs in by_row.values()), 1),
        "AP": {row: round(statistics.mean(v), 2) for row, v in ap.items()},
        "spread": {row: round(statistics.stdev(v), 2) for row, v in ap.items() if len(v) > 1},
        "seeds": len(next(iter(by_row.values()))),
        "commit": first["commit"],
        "pictures": first["data"]["val"],
        "threads": first["hardware"]["threads"],
        "steps": first["steps"],
        "batch": first["config"]["train"]["batch"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--before", default="e2d2593", help="commit whose records are from before the work on speed"
    )
    parser.add_argument(
        "--same-pictures",
        default="3e764a2",
        help="commit whose records have the older recipe and today's pictures",
    )
    a = parser.parse_args()
    figures = load_settings().figures
    now, before, same = (
        cost(load_records("table1", "rendered", figures)),
        cost(old_records(a.before)),
        cost(old_records(a.same_pictures)),
    )
    if now["pictures"] != same["pictures"]:
        raise SmprError(f"{a.same_pictures}: its rows were measured on other pictures; name another commit")
    record = {
        "experiment": "table1_time",
        "now": now,
        "before": before,
        "same_pictures": same,
        "ratio": round(before["seconds"] / now["seconds"], 3),
        "ratio_same_pictures": round(same["seconds"] / now["seconds"], 3),
        **environment(),
    }
    path = atomic_write(figures / "results" / "table1_time.json", json.dumps(record, indent=1) + "\n")
    print(
        f"now {now['seconds']:.0f} core-seconds, before {before['seconds']:.0f} "
        f"(ratio {record['ratio']:.2f}), older recipe on the same pictures {same['seconds']:.0f} -> {path}"
    )


if __name__ == "__main__":
    try:
        main()
    except SmprError as e:
        raise SystemExit(f"smpr: error: {e}") from None
