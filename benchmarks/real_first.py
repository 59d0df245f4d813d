"""A small network trained on real pictures for a while, measured on the 300 validation pictures.

    torchrun --nproc-per-node 2 benchmarks/real_first.py [--coco ../shared/coco] [--minutes 30] [--steps 1200] [--weights rendered]

Starts from shipped weights (rendered people) or, with an empty --weights, from the ImageNet backbone. Writes figures/results/real_first.json; the ten COCO numbers are of REAL pictures."""
import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from smpr.ablations import environment
from smpr.checkpoints import config_to_dict, load_lite0_imagenet
from smpr.data import load_set, set_hash
from smpr.evaluation import detect_set, evaluate
from smpr.inference import load
from smpr.model import SMPR
from smpr.settings import atomic_write, load_settings
from smpr.training import load_run, small_config, train


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--coco", type=Path, default=Path("../shared/coco"))
    arguments.add_argument("--minutes", type=float, default=30)
    arguments.add_argument("--steps", type=int, default=1200)
    arguments.add_argument("--weights", default="rendered", help="shipped weights or a .safetensors file; empty: ImageNet")
    arguments.add_argument("--workers", type=int, default=1)
    a = arguments.parse_args()
    base = small_config()
    config = replace(base, data=replace(base.data, short=256, long=341), test=replace(base.test, short=320, long=512),
                     train=replace(base.train, steps=a.steps))
    train_set, val_set = (load_set(a.coco / s / "images", a.coco / s / "person_keypoints.json") for s in ("train", "val"))
    torch.manual_seed(config.train.seed)
    net = SMPR(config.model)
    load_lite0_imagenet(net.backbone)
    if a.weights: net.load_state_dict(load(a.weights, device="cpu").state_dict())
    settings, began, world = load_settings(), time.time(), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1: torch.set_num_threads(1)
    run = settings.runs / "real_first"
    summary = train(config, train_set, run, start=net.state_dict(), minutes=a.minutes, workers=a.workers, preload=True, device="cpu")
    if int(os.environ.get("RANK", 0)): return
    trained = time.time() - began
    net = load_run(run)
    metrics = evaluate(val_set.annotations, detect_set(net, val_set, config.test), val_set.skeleton)
    record = {"experiment": "real_first", "metrics": metrics, "steps": summary["steps"], "seed": config.train.seed,
              "data": {"kind": "real", "train": set_hash(train_set), "val": set_hash(val_set), "train_pictures": len(train_set), "val_pictures": len(val_set)},
              "start": a.weights or "ImageNet EfficientNet-Lite0", "processes": world, "config": config_to_dict(config), **environment(),
              "train_seconds": round(trained, 1), "wall_seconds": round(time.time() - began, 1)}
    path = settings.figures / "results" / "real_first.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(record, indent=1) + "\n")
    print({k: round(v, 4) for k, v in metrics.items()}, path)


if __name__ == "__main__": main()
