"""What a choice of the scale `mini` is worth: its last row with other options, a line in world_trials.jsonl.

    python benchmarks/world_trials.py note="half the rate" train_lr=2e-3 drawn_people=1,2 seed=101

Options of the configuration are called as in run.ipynb, those of the world `drawn_` and its field. Seeds
below 100 belong to the table: they are refused. A run takes minutes; runs/trials may be deleted at any time.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from smpr.config import change, flat
from smpr.data import read_picture
from smpr.evaluation import evaluate
from smpr.experiments.records import environment
from smpr.experiments.rows import RunOptions, apply_parameters, make_scale, row_config, row_sets, run_row
from smpr.settings import SmprError
from smpr.world.people import WorldConfig, seen_from

LINES = Path(__file__).parent / "world_trials.jsonl"


def fields(net, poses) -> dict[int, float]:
    "Within how many px of a cell half of what moves its initial pose lies, by stride."
    images = np.stack([read_picture(poses, r) for r in poses.records[:16]])
    shown = torch.from_numpy(images).permute(0, 3, 1, 2)
    return {s: round(seen_from(net, shown, s)[2], 1) for s in net.config.strides}


def at_sigmas(run, poses, sigmas=(0.06, 0.07, 0.08, 0.09, 0.1, 0.12)) -> dict[float, float]:
    "AP in percent of the same poses, counted with other sigmas."
    others = {s: replace(poses, skeleton=WorldConfig(sigma=s).skeleton) for s in sigmas}
    return {s: round(100 * evaluate(p, run.findings.results)["AP"], 1) for s, p in others.items()}


def trial(words: list[str]) -> dict:
    "One run; what it was and what came out, in percent."
    given = dict(word.split("=", 1) for word in words)
    row, note, seed = given.pop("row", "pafpn"), given.pop("note", ""), int(given.pop("seed", 100))
    if seed < 100:
        raise SmprError(f"seed {seed}: seeds below 100 belong to the table; give one from 100 on")
    scale = make_scale("mini")
    count, drawn = int(given.pop("train_pictures", scale.train_pictures)), scale.drawn
    said = dict(given)
    for name in [n for n in given if n.startswith("drawn_")]:
        drawn = change(drawn, name.removeprefix("drawn_"), given.pop(name))
    scale = replace(scale, drawn=drawn, train_pictures=count)
    config = apply_parameters(row_config(row, scale.config), given)
    poses = row_sets(scale)[1]  # drawn before the clock starts
    cpu, wall = time.process_time(), time.perf_counter()
    run = run_row("trials", row, scale, seed, config, RunOptions(dense=False))
    seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    scoring = dict(run.record["scoring"])
    if run.findings.initial:
        scoring["initial"] = run.findings.initial
    columns = ("AP", "AP50", "AP75", "AR")
    numbers = {by: {k: round(100 * m[k], 1) for k in columns} for by, m in scoring.items()}
    where = environment()
    return {
        "note": note,
        "row": row,
        "seed": seed,
        "changed": said,
        "train_pictures": count,
        **numbers.pop("score"),
        "by": {k: v["AP"] for k, v in numbers.items()},
        "seconds": {k: round(v) for k, v in seconds.items()} | {"train": round(run.record["train_seconds"])},
        "at_sigma": at_sigmas(run, poses),
        "field_px": fields(run.net, poses),
        "parameters": sum(p.numel() for p in run.net.parameters()),
        "config": {k: str(v) for k, v in flat(config).items() if v != flat(type(config)())[k]},
        "drawn": flat(drawn),
        "commit": where["commit"],
        "dirty": where["dirty"],
        "cpu": where["hardware"]["cpu"],
    }


if __name__ == "__main__":
    os.environ.setdefault("SMPR_RUNS", "runs/trials")
    torch.set_num_threads(1)
    line = trial(sys.argv[1:])
    with LINES.open("a") as file:
        file.write(json.dumps(line, default=str) + "\n")
    print({k: v for k, v in line.items() if k not in ("config", "drawn")})
