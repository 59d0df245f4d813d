"""Train the shipped weights `drawn`: the small world's network, from random weights, on one core.

    python benchmarks/ship_drawn.py [--steps 4000]

The last row of Table I at scale `mini` with twice its steps and a seed of its own (seeds below 100 belong to
the table; resumes a cut run). Measures the 500 drawn validation pictures and writes
smpr/assets/drawn.safetensors (16-bit, card inside), its card drawn.md beside it and
figures/results/drawn.json."""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch

import smpr
from smpr.checkpoints import save_weights
from smpr.config import to_dict
from smpr.data import set_hash
from smpr.evaluation import METRICS, detect_set, evaluate
from smpr.experiments.records import environment
from smpr.experiments.rows import RunOptions, make_scale, row_config, row_sets, run_row, world_config
from smpr.inference import load
from smpr.settings import atomic_write, load_settings

SEED = 100
CARD = """# drawn: the small world's weights that ship

A very small SMPR (backbone `tiny`, PAFPN, width {width}; {parameters:.2f} M parameters, {size:.1f} MB in 16 bits) that knows **drawn people only**
(`smpr.world.people`: thirteen joints, pictures of {side} px). Chapter 00 takes it apart. On anything else it finds nothing.

| | |
|---|---|
| data | {train_pictures:,} drawn training pictures, seed 0, set {train_hash} |
| start | random weights |
| schedule | {steps:,} steps of {batch} pictures, AdamW, cosine, EMA; {side}x{side} px; seed {seed} |
| what it has seen | boxes, keypoints and the heatmap targets of those pictures |
| time | {minutes:.1f} minutes on one CPU core, beside other programs |
| measured | {val_pictures} drawn validation pictures, seed 1, one look, no mirror, set {val_hash} |

| {names} |
|{rule}|
| {values} |

Percent, by pycocotools; nobody in these pictures is large. The initial poses alone, before refinement, have AP {initial:.1f}.
The pictures are drawn for this network, so these numbers say nothing about photographs and must not stand beside others.
"""  # noqa: E501  (rows of Markdown)


def pack(net, config, sets, card: dict) -> dict:
    "Write weights, card and record of a trained network, measured as it ships; returns the metrics."
    assets = Path(smpr.__file__).parent / "assets"
    weights, settings = assets / "drawn.safetensors", load_settings()
    save_weights(net, weights, {"test": to_dict(config.test), "card": card}, half=True)
    shipped = load(str(weights), device="cpu")  # rounding included
    metrics = evaluate(sets[1], detect_set(shipped, sets[1], config.test))
    card = card | {"metrics": metrics}
    save_weights(net, weights, {"test": to_dict(config.test), "card": card}, half=True)
    record = {"experiment": "drawn", **card, "config": to_dict(config), **environment()}
    atomic_write(settings.figures / "results" / "drawn.json", json.dumps(record, indent=1) + "\n")
    text = CARD.format(
        width=config.model.width,
        parameters=sum(p.numel() for p in net.parameters()) / 1e6,
        size=weights.stat().st_size / 1e6,
        side=config.test.short,
        train_pictures=len(sets[0]),
        val_pictures=len(sets[1]),
        train_hash=card["data"]["train"],
        val_hash=card["data"]["val"],
        steps=card["steps"],
        batch=config.train.batch,
        seed=card["seed"],
        minutes=card["train_seconds"] / 60,
        names=" | ".join(METRICS),
        rule="---|" * (len(METRICS) - 1) + "---",
        values=" | ".join(f"{100 * metrics[m]:.1f}" if metrics[m] >= 0 else "" for m in METRICS),
        initial=100 * card["initial"]["AP"],
    )
    (assets / "drawn.md").write_text(text)
    return metrics


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--steps", type=int, default=4000)
    steps = arguments.parse_args().steps
    scale = make_scale("mini")
    config, sets = row_config("pafpn", world_config(steps)), row_sets(scale)
    run = run_row("drawn", "pafpn", scale, SEED, config, RunOptions(dense=False))
    hashes = {"train": set_hash(sets[0]), "val": set_hash(sets[1])}
    card = {
        "steps": steps,
        "train_seconds": run.record["train_seconds"],
        "wall_seconds": run.record["wall_seconds"],
        "cores": 1,
        "seed": SEED,
        "start": "random weights",
        "data": {"kind": "drawn", **hashes, "train_pictures": len(sets[0]), "world": asdict(scale.drawn)},
        "initial": run.record["initial"],
    }
    print(pack(run.net, config, sets, card))


if __name__ == "__main__":
    os.environ.setdefault("SMPR_RUNS", "runs/drawn")
    torch.set_num_threads(1)
    main()
