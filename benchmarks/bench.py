"""How fast smpr is: every row pairs ours with the naive version of its chapter, with torchvision or with the
machine's limit.

    python benchmarks/bench.py [--device auto] [--rounds 7] [--only
    deform,targets,nms,inference,export,throughput,limit,step,widgets,growth]

Pairs run in turns (A B A B), the median counts. Writes figures/results/bench_<cpu or gpu>.json after every
section, and figures/bench/:
the table in Markdown, a chart of every ratio, inference time against persons, and how time and memory grow.
With --only, the other
sections' rows stay as they were measured. Rows that need a GPU read 'not run' with the command that fills
them. Leave the machine alone meanwhile."""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from bench_growth import chart_growth, measure_growth
from bench_rows import SECTIONS, Line
from matplotlib.figure import Figure
from timing import machine

from smpr.experiments.records import environment
from smpr.settings import SmprError, atomic_write, load_settings, resolve_device


def number(value: float | None, unit: str) -> str:
    "A measured value for people."
    if value is None:
        return "not run"
    return (
        f"{value:.0f} {unit}" if unit != "s" else f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"
    )


def whole_table(figures: Path) -> list[Line]:
    "The row of all of Table I, from the record of benchmarks/table1_time.py; none where there is no record."
    path = figures / "results" / "table1_time.json"
    if not path.exists():
        return []
    r = json.loads(path.read_text())
    now, same = r["now"], r["same_pictures"]
    return [
        Line(
            "the seven rows of Table I at scale rendered, core-seconds",
            "the version before the work on speed",
            now["seconds"],
            r["before"]["seconds"],
            r["ratio"],
            2.0,
            note=f"measured apart by `smpr reproduce`; last row AP {now['AP']['pafpn']:.1f}, "
            f"with the older recipe on the same pictures {same['AP']['pafpn']:.1f} "
            f"in {same['seconds']:.0f} s",
        )
    ]


def table(record: dict) -> str:
    "The rows as Markdown."
    m, lines = record["machine"], []
    for part in record["sections"].values():
        cpu, torch_version = part["hardware"]["cpu"], part["versions"]["torch"]
        other = cpu != m["cpu"] or torch_version != m["torch"].partition("+")[0]
        where = f"; on {cpu}, torch {torch_version}" if other else ""
        lines += [replace(l, note=l.note + where) for l in (Line(**l) for l in part["lines"])]
    lines += whole_table(load_settings().figures)
    head = [
        f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, torch {m['torch']}"
        + (f", {m['gpu']}" if m["gpu"] else "")
        + f"; medians of {record['rounds']}.",
        "",
        "| what | ours | against | theirs | ratio | aim | |",
        "|---|---|---|---|---|---|---|",
    ]

    def shown(l):
        return (
            ("not run" if l.ratio is None else f"{l.ratio:.2f}", f"{l.aim:g}", l.verdict)
            if l.aim
            else ("" if l.ratio is None else f"{l.ratio:.2f}", "", "")
        )

    rows = []
    for l in lines:
        ratio, aim, verdict = shown(l)
        theirs = number(l.theirs, l.unit) if l.theirs or not l.ours else ""
        remark = "; ".join(t for t in (verdict, l.note) if t)
        cells = (l.what, number(l.ours, l.unit), l.against, theirs, ratio, aim, remark)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(head + rows) + "\n"


def chart_ratios(lines: list[Line]) -> Figure:
    "Ratio over aim of every row that has an aim; right of the line is met."
    lines = [l for l in lines if l.ratio is not None and l.aim]
    fig = Figure(figsize=(9, 0.3 * len(lines) + 1.2), layout="constrained")
    ax = fig.add_subplot()
    values = [l.ratio / l.aim for l in lines]
    bars = ax.barh(
        [
            l.what.replace("deformable convolution, forward and backward", "deformable convolution")
            + ", bfloat16" * l.note.startswith("bfloat16")
            for l in lines
        ],
        values,
        color=["C0" if v >= 1 else "C3" for v in values],
    )
    ax.bar_label(bars, [f"{l.ratio:.3g} of {l.aim:g}" for l in lines], padding=3, fontsize=7)
    ax.axvline(1, color="k", lw=0.8)
    ax.set(xscale="log", xlabel="ratio reached / ratio aimed at (blue: met)")
    ax.tick_params(axis="y", labelsize=7)
    ax.margins(x=0.15)
    ax.invert_yaxis()
    return fig


def chart_persons(lines: list[Line]) -> Figure:
    "Seconds a picture against people in it: one network that sees all at once beside one that looks at each."
    fig = Figure(figsize=(5, 3.2), layout="constrained")
    ax = fig.add_subplot()
    for dtype, style in (("float32", "-"), ("bfloat16", ":")):
        rows = [l for l in lines if l.note.startswith(dtype)]
        count = [int(l.what.split()[-2]) for l in rows]
        ax.plot(
            count,
            [l.theirs for l in rows],
            "s" + style,
            color="C1",
            label=f"Keypoint R-CNN (torchvision), {dtype}",
        )
        ax.plot(count, [l.ours for l in rows], "o" + style, color="C0", label=f"SMPR (ours), {dtype}")
    ax.set(
        xlabel="persons found in the picture",
        ylabel="s per picture, 800x1088 px",
        ylim=(0, None),
        title="ResNet-50 + FPN, random weights",
    )
    ax.legend(frameon=False, fontsize=7)
    return fig


def write(record: dict, kind: str, figures: Path) -> None:
    "Record, table and charts."
    lines = {name: [Line(**l) for l in part["lines"]] for name, part in record["sections"].items()}
    folder = figures / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(figures / "results" / f"bench_{kind}.json", json.dumps(record, indent=1) + "\n")
    atomic_write(folder / f"bench_{kind}.md", table(record))
    chart_ratios(sum(lines.values(), whole_table(figures))).savefig(folder / f"bench_{kind}.png", dpi=130)
    persons = [l for l in lines.get("inference", []) if l.ratio is not None]
    if persons:
        chart_persons(persons).savefig(folder / f"persons_{kind}.png", dpi=130)
    if record.get("growth"):
        chart_growth(record["growth"]["series"]).savefig(folder / f"growth_{kind}.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default=",".join([*SECTIONS, "growth"]))
    a = parser.parse_args()
    device, figures, began = resolve_device(a.device), load_settings().figures, time.time()
    kind, names = "gpu" if device.type == "cuda" else "cpu", a.only.split(",")
    for name in names:
        if name not in [*SECTIONS, "growth"]:
            raise SmprError(f"--only: '{name}' is unknown; choose from {', '.join([*SECTIONS, 'growth'])}")
    path = figures / "results" / f"bench_{kind}.json"
    old = json.loads(path.read_text()) if path.exists() and len(names) <= len(SECTIONS) else {}
    record = {
        "experiment": "bench",
        "rounds": a.rounds,
        "machine": machine(device),
        "sections": old.get("sections", {}),
        "growth": old.get("growth"),
    }
    for name in names:
        start = time.time()

        def here():
            return environment() | {"wall_seconds": round(time.time() - start, 1)}

        if name == "growth":
            record["growth"] = {"series": measure_growth(device)} | here()
        else:
            lines = []
            for line in SECTIONS[name](device, a.rounds):
                lines.append(asdict(line))
                times = f"{number(line.ours, line.unit)}, {number(line.theirs, line.unit)}"
                ratio = None if line.ratio is None else round(line.ratio, 3)
                print(f"{line.what}: {times}, ratio {ratio} (aim {line.aim:g}) {line.note}", flush=True)
            record["sections"][name] = {"lines": lines} | here()
        record["sections"] = {n: record["sections"][n] for n in SECTIONS if n in record["sections"]}
        write(record, kind, figures)
    print(table(record), f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except SmprError as e:
        raise SystemExit(str(e)) from None
