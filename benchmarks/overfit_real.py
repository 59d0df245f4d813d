"""Can the network learn real pictures by heart?

    python benchmarks/overfit_real.py [--coco ../shared/coco/train] [--steps 1200]

Sixteen real pictures with two or more people each (persons of at least 32x32 px, no crowds, landscape), a
frozen ImageNet backbone,
neck and head trained on these sixteen without augmentation, AP on the same sixteen. The L1 losses are not
weighted by OKS: the weight
starves people whose first poses are poor, and with it eight of the 63 people were never learnt (AP 0.86
instead of 0.96). A loss, target or decoding that is subtly wrong
cannot pass: AP averages thresholds up to OKS 0.95. Writes figures/results/overfit_real.json."""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from smpr.config import to_dict
from smpr.data import PoseSet, load_set, set_hash, trainable
from smpr.evaluation import detect_set, evaluate
from smpr.experiments.frozen import KeptSource, resized_features, train_kept
from smpr.experiments.records import environment
from smpr.model import SMPR, NeckName
from smpr.representation import Variant
from smpr.settings import atomic_write, load_settings
from smpr.start import load_lite0_imagenet
from smpr.update import Config, small_config


def choose(poses: PoseSet, count: int) -> PoseSet:
    """The first `count` landscape pictures with two or more people, all of at least 32x32 px and fit for
    training, and no crowds."""

    def fits(r) -> bool:
        labelled = (r.keypoints[..., 2] > 0).any(1)
        good = trainable(r.keypoints, r.areas, r.crowd) & (r.areas >= 32**2)
        return (
            r.width > r.height
            and labelled.sum() >= 2
            and not r.crowd.any()
            and bool((good == labelled).all())
        )

    return poses.subset([i for i, r in enumerate(poses.records) if fits(r)][:count])


def overfit_config(steps: int) -> Config:
    "The small network without anything that keeps it from memorising."
    base = small_config()
    return replace(
        base,
        loss=replace(base.loss, oks_weighted=Variant.PAPER),
        model=replace(base.model, frozen_stages=4, neck=NeckName.FPN, heatmap=False),
        test=replace(base.test, short=288, long=384, decode=replace(base.test.decode, nms_iou=0.5)),
        train=replace(base.train, steps=steps, batch=4, lr=2e-3, weight_decay=0.0, warmup=50, ema=0.98),
    )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--coco", type=Path, default=Path("../shared/coco/train"))
    arguments.add_argument("--steps", type=int, default=1200)
    a = arguments.parse_args()
    began = time.time()
    poses = choose(load_set(a.coco / "images", a.coco / "person_keypoints.json"), 16)
    config = overfit_config(a.steps)
    torch.manual_seed(config.train.seed)
    net = SMPR(config.model).to(memory_format=torch.channels_last)
    load_lite0_imagenet(net.backbone)
    net.eval()
    with tempfile.TemporaryDirectory() as folder:
        frozen = resized_features(net, poses, config, Path(folder))
        source = KeptSource(poses, net, frozen=frozen)
        log = train_kept(source, config, Path(folder) / "run", "overfitting", config.train.steps)
        results = detect_set(net, poses, config.test)
    metrics = evaluate(poses, results)
    record = {
        "experiment": "overfit_real",
        "metrics": metrics,
        "pictures": len(poses),
        "image_ids": [r.id for r in poses.records],
        "persons": int(sum((r.keypoints[..., 2] > 0).any(1).sum() for r in poses.records)),
        "data": {"kind": "real", "set": set_hash(poses)},
        "steps": config.train.steps,
        "seed": config.train.seed,
        "config": to_dict(config),
        **environment(),
        "wall_seconds": round(time.time() - began, 1),
        "log": log,
    }
    path = load_settings().figures / "results" / "overfit_real.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(record, indent=1) + "\n")
    print({k: round(v, 4) for k, v in metrics.items()}, f"{record['wall_seconds']} s", path)


if __name__ == "__main__":
    main()
