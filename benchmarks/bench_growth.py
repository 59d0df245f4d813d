"""How time and memory grow with picture size, persons, batch and keypoints: does anything grow faster than
linearly?

python benchmarks/bench_growth.py STEP VALUE      (one point, in a process of its own; prints JSON)"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.figure import Figure
from timing import CPU, in_fresh_process, median_time, peak_mib

from smpr.fuse import fold_norms
from smpr.model import SMPR
from smpr.representation import pseudo_boxes
from smpr.settings import resolve_device
from smpr.skeleton import COCO17, Skeleton
from smpr.structures import Batch, People
from smpr.update import make_state, small_config, train_step


@dataclass(frozen=True)
class Growth:
    "One quantity that grows while the others stand still."

    what: str
    axis: str
    values: tuple[int, ...]
    linear_in: Callable[[int], float]  # what linear growth means: pixels for a side, else the value itself


GROWTHS = {
    "inference": Growth(
        "inference, one picture", "million pixels", (192, 256, 384, 512, 768), lambda v: v * v / 1e6
    ),
    "persons": Growth("training step, 4 pictures", "persons a picture", (1, 4, 16, 64), float),
    "batch": Growth("training step", "pictures a step", (1, 2, 4, 8, 16), float),
    "keypoints": Growth("training step, 4 pictures", "keypoints K", (4, 17, 34, 68), float),
}


def random_people(count: int, K: int) -> People:
    "People anywhere in a picture of 320x240 px. Seed 0."
    rng = np.random.default_rng(0)
    k = rng.uniform((20, 20), (300, 220), (count, 1, 2)) + rng.normal(0, 15, (count, K, 2))
    keypoints = torch.tensor(np.concatenate([k, np.full((count, K, 1), 2)], -1), dtype=torch.float32)
    return People(keypoints, pseudo_boxes(keypoints), torch.full((count,), 3000.0))


def skeleton_of(K: int) -> Skeleton:
    "A skeleton with K keypoints, one after the other along a line."
    if K == COCO17.K:
        return COCO17
    return Skeleton(
        names=tuple(f"point{i}" for i in range(K)),
        sigmas=(0.08,) * K,
        flip_pairs=(),
        edges=tuple((i, i + 1) for i in range(K - 1)),
    )


def work_of(which: str, value: int, device: torch.device) -> Callable:
    "What is timed for one value."
    config = small_config()
    if which == "inference":
        net = fold_norms(SMPR(config.model)).to(device, memory_format=torch.channels_last).eval()
        x = torch.randn(1, 3, value, value, device=device).contiguous(memory_format=torch.channels_last)
        return torch.inference_mode()(lambda: net(x))
    persons, pictures, K = (
        value if which == n else fixed for n, fixed in (("persons", 2), ("batch", 4), ("keypoints", COCO17.K))
    )
    config = replace(config, train=replace(config.train, batch=pictures))
    state = make_state(config, skeleton_of(K), device)
    batch = Batch(
        torch.randint(0, 255, (pictures, 3, 240, 320), dtype=torch.uint8),
        torch.tensor([[240, 320]] * pictures),
        [random_people(persons, K)] * pictures,
    )
    return lambda: train_step(state.net, state, batch, config)


def point(which: str, value: int, device: torch.device) -> dict:
    "Median seconds and peak memory of one value."
    work = work_of(which, value, device)
    memory = peak_mib(work, device)
    return {"value": value, "seconds": median_time(work, device, 5), "mib": memory}


def measure_growth(device: torch.device) -> dict:
    "All series, every point in a process of its own."
    series = {}
    for name, g in GROWTHS.items():
        points = [in_fresh_process("bench_growth.py", name, str(v), str(device)) for v in g.values]
        series[name] = {
            "points": points,
            "slopes": {
                q: slope([g.linear_in(p["value"]) for p in points[-3:]], [p[q] for p in points[-3:]])
                for q in ("seconds", "mib")
            },
        }
        exponents = ", ".join(f"{q} {s:.2f}" for q, s in series[name]["slopes"].items())
        print(f"{g.what} against {g.axis}: exponents {exponents}", flush=True)
    return series


def slope(x: list[float], y: list[float]) -> float:
    "Exponent of growth: 1 is linear, 0 is flat."
    return float(np.polyfit([math.log(v) for v in x], [math.log(max(v, 1e-9)) for v in y], 1)[0])


def chart_growth(series: dict) -> Figure:
    "Time and memory against each quantity."
    fig = Figure(figsize=(3 * len(series), 4.6), layout="constrained")
    axes = fig.subplots(2, len(series), squeeze=False)
    for column, (name, s) in zip(axes.T, series.items()):
        g, values = GROWTHS[name], [p["value"] for p in s["points"]]
        for ax, quantity, unit in zip(column, ("seconds", "mib"), ("s", "MiB")):
            ax.plot([g.linear_in(v) for v in values], [p[quantity] for p in s["points"]], "o-")
            ax.set(
                ylabel=f"{'time' if unit == 's' else 'peak memory'}, {unit}",
                ylim=(0, 1.1 * max(p[quantity] for p in s["points"])),
                xlim=(0, None),
                xlabel=g.axis,
            )
            ax.set_title(f"{g.what}\nexponent {s['slopes'][quantity]:.2f} over the last three", fontsize=8)
            ax.tick_params(labelsize=7)
    return fig


if __name__ == "__main__":
    print(
        json.dumps(
            point(sys.argv[1], int(sys.argv[2]), resolve_device(sys.argv[3]) if len(sys.argv) > 3 else CPU)
        )
    )
