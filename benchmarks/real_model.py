"""Everything that is said about a network on real pictures, measured once: the validation pictures are not
for choosing.

    python benchmarks/real_model.py [WEIGHTS] [--coco ../shared/coco]

WEIGHTS is a shipped name or a .safetensors file (default: real). Measures the ten COCO numbers at several
input sizes, mirrored, and with several
sizes together; what perfect scoring of the same poses would give; AP by kind of person, for the peer's
published detections too. Writes
figures/results/real/model.json, the detections and a sample of dense predictions beside it."""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from smpr.beyond.real_people import group_metrics
from smpr.config import to_dict
from smpr.data import PoseSet, load_set, read_json, set_hash
from smpr.evaluation import detect_set, evaluate
from smpr.experiments.findings import collect, write_detections
from smpr.experiments.frozen import picture_outputs
from smpr.experiments.records import environment
from smpr.inference import load
from smpr.model import SMPR
from smpr.settings import atomic_write, load_settings

SHORT_SIDES = (256, 320, 384, 448, 512, 576)  # px; the longer side may be 1.6 times as long


def at_sizes(net: SMPR, poses: PoseSet) -> dict[str, dict]:
    "The ten numbers at each input size, then mirrored and with several sizes at the shipped one."

    def numbers(config):
        return evaluate(poses, detect_set(net, poses, config))

    out = {}
    for short in SHORT_SIDES:
        began = time.time()
        metrics = numbers(replace(net.test, short=short, long=round(1.6 * short)))
        out[f"{short} px"] = metrics | {"ms_per_picture": round(1000 * (time.time() - began) / len(poses), 1)}
    several = tuple((round(f * net.test.short), round(f * net.test.long)) for f in (0.7, 1.0, 1.4))
    return out | {
        "mirrored": numbers(replace(net.test, flip=True)),
        "several sizes": numbers(replace(net.test, scales=several)),
        "several sizes, mirrored": numbers(replace(net.test, scales=several, flip=True)),
    }


def measure(weights: str, coco: Path) -> dict:
    "The record about a network, written below the figures folder."
    val = load_set(coco / "val" / "images", coco / "val" / "person_keypoints.json")
    net, began, home = load(weights), time.time(), load_settings().figures / "results" / "real"
    home.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        found = collect(picture_outputs(net, val, net.test), val, net.sigmas, net.test.decode, 8)
    peers = {size: read_json(coco / "peers" / f"movenet_multipose_{size}.json") for size in (256, 512)}
    record = {
        "experiment": "real_model",
        "weights": weights,
        "metrics": found.scoring["score"],
        "scoring": found.scoring,
        "sizes": at_sizes(net, val),
        "groups": group_metrics(val, found.results),
        "test": to_dict(net.test),
        "card": net.card,
        "parameters": sum(p.numel() for p in net.parameters()),
        "data": {"kind": "real", "val": set_hash(val), "val_pictures": len(val)},
        "peers": {
            f"MoveNet MultiPose Lightning, {size} px": evaluate(val.annotations, results, val.skeleton)
            | {"groups": group_metrics(val, results)}
            for size, results in peers.items()
        },
        **environment(),
    }
    record["detections"] = write_detections(home / "model.detections.json.gz", found.results)
    if found.dense:
        found.dense.write(home / "model.dense.npz")
    record["wall_seconds"] = round(time.time() - began, 1)
    atomic_write(home / "model.json", json.dumps(record, indent=1) + "\n")
    return record


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("weights", nargs="?", default="real")
    arguments.add_argument("--coco", type=Path, default=Path("../shared/coco"))
    a = arguments.parse_args()
    record = measure(a.weights, a.coco)
    print({k: round(v, 4) for k, v in record["metrics"].items()})
    for name, m in record["sizes"].items():
        print(f"{name:24} AP {m['AP']:.4f} AP50 {m['AP50']:.4f} APM {m['APM']:.4f} APL {m['APL']:.4f}")


if __name__ == "__main__":
    main()
