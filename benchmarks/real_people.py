"""One rung of the ladder of real people: train a recipe on photographs (or take a trained one), measure it on
the dev split, write a record.

    python benchmarks/real_people.py NAME --rung 3 --change "people at half to twice their size" --against
    start --steps 600 --data.zoom 0.5,2.0
    python benchmarks/real_people.py NAME --rung 9 --change "mirrored, too" --against long --of runs/real/long
    --flip

The first kind trains `real_config` with the changes given as --section.field VALUE (as in `smpr train`),
resumes a cut run, and stops, saved,
after --minutes (run it again to go on). Under torchrun several processes share the work. Pictures:
--coco/train without the dev split of
`smpr.beyond.real_people.split_dev`; --rendered adds rendered people. The record is
figures/results/real/<rung>-<name>.json."""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from ship_rendered import trained_seconds

from smpr.beyond.real_people import join_sets, real_config, split_dev
from smpr.cli import Passing, change_many
from smpr.config import to_dict
from smpr.data import load_set, set_hash
from smpr.evaluation import detect_set, evaluate
from smpr.experiments.records import environment
from smpr.run_folder import find_checkpoint, load_run
from smpr.settings import atomic_write, load_settings
from smpr.training import train


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("--rung", type=int, required=True, help="its place in the table")
    parser.add_argument("--change", required=True, help="what is different from the rung it stands against")
    parser.add_argument("--against", help="name of that rung")
    parser.add_argument("--coco", type=Path, default=Path("../shared/coco"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--minutes", type=float)
    parser.add_argument(
        "--weights", default="rendered", help="imagenet, shipped weights or a .safetensors file"
    )
    parser.add_argument("--rendered", type=float, default=0.0, help="rendered pictures for each real one")
    parser.add_argument("--of", type=Path, help="measure this finished run instead of training one")
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--scales")
    parser.add_argument("--snap", type=float, help="0: keypoints stay; default: as the recipe says")
    return parser


def main() -> None:
    a, changes = flags().parse_known_args()
    settings, world = load_settings(), int(os.environ.get("WORLD_SIZE", 1))
    config = change_many(real_config(a.steps), changes)
    real, dev = split_dev(load_set(a.coco / "train" / "images", a.coco / "train" / "person_keypoints.json"))
    run = a.of or settings.runs / "real" / a.name
    if world > 1:
        torch.set_num_threads(1)
    if a.of:
        config = replace(
            config,
            **{
                "train": replace(
                    config.train,
                    **{"steps": json.loads((run / "config.json").read_text())["config"]["train"]["steps"]},
                )
            },
        )
    else:
        people = load_set(
            settings.data / "train" / "images", settings.data / "train" / "person_keypoints.json"
        )
        train_set = join_sets([real, people], [1, a.rendered]) if a.rendered else real
        train(
            config, train_set, run, start=a.weights, minutes=a.minutes, workers=1, preload=True, device="cpu"
        )
    if int(os.environ.get("RANK", 0)):
        return
    tested = Passing(flip=a.flip, scales=a.scales or (), snap=a.snap)
    began, net, test = time.time(), load_run(run), tested.test(config.test)
    metrics = evaluate(dev, detect_set(net, dev, test))
    state = json.loads((find_checkpoint(run / "last") / "state.json").read_text())
    record = {
        "experiment": "real",
        "rung": a.rung,
        "name": a.name,
        "change": a.change,
        "against": a.against,
        "metrics": metrics,
        "steps": state["step"],
        "of_steps": state["config"]["train"]["steps"],
        "pictures_seen": state["step"] * state["config"]["train"]["batch"],
        "seed": config.train.seed,
        "minutes": round(trained_seconds(run, state["config"]["train"]["batch"]) / 60, 1),
        "processes": world,
        "start": a.weights,
        "rendered": a.rendered,
        "data": {
            "kind": "real",
            "train": set_hash(real),
            "dev": set_hash(dev),
            "train_pictures": len(real),
            "dev_pictures": len(dev),
        },
        "test": to_dict(test),
        "config": state["config"],
        **environment(),
        "eval_seconds": round(time.time() - began, 1),
    }
    path = settings.figures / "results" / "real" / f"{a.rung:02d}-{a.name.replace(' ', '-')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(record, indent=1) + "\n")
    print({k: round(v, 4) for k, v in metrics.items()}, path)


if __name__ == "__main__":
    main()
