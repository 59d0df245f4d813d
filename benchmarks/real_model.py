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
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coding

from smpr.config import to_dict
from smpr.data import PoseSet, load_set, read_json, set_hash
from smpr.evaluation import coco_eval, coco_truth, detect_set, evaluate
from smpr.experiments.findings import collect, write_detections
from smpr.experiments.frozen import picture_outputs
from smpr.experiments.records import environment
from smpr.inference import load
from smpr.model import SMPR
from smpr.settings import atomic_write, load_settings

SHORT_SIDES = (256, 320, 384, 448, 512, 576)  # px; the longer side may be 1.6 times as long
SIZES = (64, 96, 192)  # px, where groups of size meet
GROUPS = {
    "size": ("32-64 px", "64-96 px", "96-192 px", "over 192 px"),  # side of a square of the person's area, px
    "keypoints": ("1-5", "6-10", "11-14", "15-17"),  # labelled ones
    "crowding": ("alone", "touching", "overlapping"),  # largest IoU with another's box: below 0.05, below 0.3
}


def person_groups(annotation: dict, others: list[dict]) -> dict[str, str]:
    "The group of a COCO person among others by size, labelled keypoints and how much its box meets theirs."
    meets = coding.iou([o["bbox"] for o in others], [annotation["bbox"]], [0])
    values = annotation["area"] ** 0.5, annotation["num_keypoints"], np.max(meets, initial=0)
    bounds = SIZES, (6, 11, 15), (0.05, 0.3)
    places = [sum(value >= b for b in limits) for value, limits in zip(values, bounds)]
    return {grouping: names[i] for (grouping, names), i in zip(GROUPS.items(), places)}


def counted(truth: dict, results: list[dict], poses: PoseSet, sides: tuple = (0, 1e5)) -> dict[str, float]:
    "AP, AP50 and AR of those whose area is that of a square with a side from..to `sides` px (pycocotools)."
    counts = coco_eval(truth, results, poses.skeleton, areas={"these": tuple(s**2 for s in sides)}).eval
    tables = {"AP": counts["precision"], "AP50": counts["precision"][0], "AR": counts["recall"]}
    return {name: float(t[t > -1].mean()) if (t > -1).any() else -1.0 for name, t in tables.items()}


def group_metrics(poses: PoseSet, results: list[dict]) -> dict[str, dict[str, dict[str, float]]]:
    "AP, AP50, AR and number of persons of every group of every grouping; persons below 32 px are left out."
    data, kinds, out = coco_truth(poses), {}, {}
    for _, picture in groupby(data["annotations"], key=lambda a: a["image_id"]):
        people = list(picture)
        for a in people:
            if a["num_keypoints"] > 0 and not a["iscrowd"] and a["area"] >= 32**2:
                kinds[a["id"]] = person_groups(a, [o for o in people if o is not a])
    for grouping, names in GROUPS.items():
        for i, group in enumerate(names):
            mine = {k for k, kind in kinds.items() if kind[grouping] == group}
            asked = [a if a["id"] in mine else a | {"num_keypoints": 0} for a in data["annotations"]]
            sides = (32, *SIZES, 1e5)[i : i + 2] if grouping == "size" else (0, 1e5)
            if mine:
                found = counted(data | {"annotations": asked}, results, poses, sides)
                out.setdefault(grouping, {})[group] = found | {"persons": len(mine)}
    return out


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
