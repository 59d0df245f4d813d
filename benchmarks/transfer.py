"""Do rendered people teach anything about photographs? A ladder of training sets, one network, one budget.

    python benchmarks/transfer.py [--steps 350] [--seed 0] [--jobs 2] [--only chapter prototype ...]

The same small network (ImageNet backbone, everything else new) sees the same number of pictures of each
training set; measured on a fixed
dev split of real pictures: 400 of the val2017 part of ../shared/coco/train. Writes
figures/results/transfer/<set>-<steps>-s<seed>.json.
Needs ../shared (or --coco, --prototype) and the set that data/make_people.py renders into
runs/rendered/train."""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from smpr.config import to_dict
from smpr.data import PoseSet, load_set, read_json, set_hash
from smpr.evaluation import detect_set, evaluate
from smpr.experiments.records import environment
from smpr.model import SMPR
from smpr.representation import oks
from smpr.run_folder import load_run
from smpr.settings import atomic_write, load_settings
from smpr.start import load_lite0_imagenet
from smpr.training import train
from smpr.update import Config, small_config

LADDER = {
    "prototype": ("prototype",),
    "chapter": ("chapter",),
    "real": ("real",),
    "prototype + real": ("prototype", "real"),
    "chapter + real": ("chapter", "real"),
}


def split_real(coco: Path) -> tuple[PoseSet, PoseSet]:
    "(training, dev) of the real pictures: 400 of val2017's, drawn once with seed 0, are the dev split."
    poses = load_set(coco / "images", coco / "person_keypoints.json")
    part = {i["id"]: i.get("coco_split") for i in read_json(coco / "person_keypoints.json")["images"]}
    whole = [k for k, r in enumerate(poses.records) if part[r.id] == "val2017"]
    dev = set(np.random.default_rng(0).permutation(whole)[:400].tolist())
    return poses.subset([k for k in range(len(poses)) if k not in dev]), poses.subset(sorted(dev))


def mixed(sets: list[PoseSet]) -> PoseSet:
    "Several sets as one: pictures by their absolute paths, each set as often as the others."
    most = max(len(s) for s in sets)
    records = [
        replace(s.records[k % len(s)], file=str((s.images / s.records[k % len(s)].file).resolve()))
        for s in sets
        for k in range(most)
    ]
    return PoseSet(
        Path("/"),
        sets[0].annotations,
        tuple(replace(r, id=n) for n, r in enumerate(records)),
        sets[0].skeleton,
    )


def best_oks(poses: PoseSet, results: list[dict]) -> float:
    """Mean over the labelled people of the largest OKS that any of the picture's detections reaches; says
    more than an AP near zero."""
    found, best, sigmas = {}, [], torch.tensor(poses.skeleton.sigmas)
    for d in results:
        found.setdefault(d["image_id"], []).append(np.reshape(d["keypoints"], (-1, 3))[:, :2])

    def tensor(a):
        return torch.as_tensor(np.asarray(a), dtype=torch.float32)

    for r in poses.records:
        labelled = (r.keypoints[..., 2] > 0).any(1) & ~r.crowd
        mine = found.get(r.id, [])
        best += (
            oks(tensor(mine), tensor(r.keypoints[labelled]), tensor(r.areas[labelled]), sigmas)
            .amax(0)
            .tolist()
            if mine and labelled.any()
            else [0.0] * int(labelled.sum())
        )
    return float(np.mean(best))


def recipe(steps: int, seed: int) -> Config:
    """The small network at 192x256 px with most of its backbone frozen, so that minutes on one core are
    enough to compare."""
    base = small_config(steps)
    return replace(
        base,
        model=replace(base.model, frozen_stages=4),
        data=replace(base.data, short=192, long=256),
        test=replace(base.test, short=256, long=341),
        train=replace(base.train, steps=steps, seed=seed, ema=0.99, warmup=40, lr=2e-3),
    )


def run_one(name: str, a: argparse.Namespace) -> None:
    "Train on one rung, measure, write its record."
    began, config = time.time(), recipe(a.steps, a.seed)
    train_real, dev = split_real(a.coco)

    def rendered(folder):
        return load_set(folder / "images", folder / "person_keypoints.json")

    read = {
        "real": lambda: train_real,
        "prototype": lambda: rendered(a.prototype),
        "chapter": lambda: rendered(a.chapter),
    }
    if a.extra:
        read[a.extra[0]] = lambda: rendered(Path(a.extra[1]))
    names = LADDER.get(name, (name,))
    parts = [read[part]() for part in names]
    torch.manual_seed(config.train.seed)
    net = SMPR(config.model)
    load_lite0_imagenet(net.backbone)
    folder = load_settings().runs / "transfer" / f"{name.replace(' ', '')}-s{a.seed}-{a.steps}"
    summary = train(
        config,
        mixed(parts) if len(parts) > 1 else parts[0],
        folder,
        start=net.state_dict(),
        workers=0,
        device="cpu",
    )
    results = detect_set(load_run(folder), dev, config.test)
    record = {
        "experiment": "transfer",
        "row": name,
        "seed": a.seed,
        "steps": summary["steps"],
        "metrics": evaluate(dev, results),
        "best_oks": best_oks(dev, results),
        "data": {
            "kind": "real",
            "dev_pictures": len(dev),
            "train": {
                part: {"pictures": len(s), "hash": set_hash(s)} for part, s in zip(names, parts, strict=True)
            },
        },
        "config": to_dict(config),
        **environment(),
        "wall_seconds": round(time.time() - began, 1),
    }
    atomic_write(
        load_settings().figures
        / "results"
        / "transfer"
        / f"{name.replace(' ', '')}-{a.steps}-s{a.seed}.json",
        json.dumps(record, indent=1) + "\n",
    )
    print(
        name,
        {k: round(v, 4) for k, v in record["metrics"].items() if k in ("AP", "AP50", "AR")},
        "best OKS",
        round(record["best_oks"], 4),
        flush=True,
    )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--coco", type=Path, default=Path("../shared/coco/train"))
    arguments.add_argument("--prototype", type=Path, default=Path("../shared/synth/train"))
    arguments.add_argument("--chapter", type=Path, default=Path("runs/rendered/train"))
    arguments.add_argument("--steps", type=int, default=350)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--only", nargs="*", choices=LADDER, default=list(LADDER))
    arguments.add_argument(
        "--extra",
        nargs=2,
        metavar=("NAME", "DIR"),
        help="only this rung: a set of one's own, for instance rendered with other settings",
    )
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    a = arguments.parse_args()
    if a.extra:
        a.only = [a.extra[0]]
    if a.one:
        torch.set_num_threads(1)
        return run_one(a.one, a)
    waiting, running = list(a.only), []
    while waiting or running:
        running = [p for p in running if p.poll() is None]
        while waiting and len(running) < a.jobs:
            running.append(
                subprocess.Popen(
                    [sys.executable, *sys.argv, "--one", waiting.pop(0)],
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                )
            )
        time.sleep(1)


if __name__ == "__main__":
    main()
