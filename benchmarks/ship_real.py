"""Pack a rung of the ladder as the shipped weights `real`, measure them, write their card.

    python benchmarks/ship_real.py NAME [--test.short 448 --test.long 717 --test.decode.snap 1] [--coco
    ../shared/coco]

NAME is a rung that benchmarks/real_people.py trained; its record says how, its run has the weights. The test
settings are chosen on the dev split
before. Writes smpr/assets/real.safetensors (16-bit, the card inside), measures everything by
benchmarks/real_model.py on the 300 validation
pictures, and writes smpr/assets/real.md from both records; with --card only that."""

import argparse
from pathlib import Path

from real_model import measure

import smpr
from smpr.beyond.real_people import ladder_rows, split_dev
from smpr.checkpoints import save_weights
from smpr.cli import change_many
from smpr.config import from_dict, to_dict
from smpr.data import PoseSet, load_set, read_json
from smpr.evaluation import METRICS
from smpr.run_folder import load_run
from smpr.settings import SmprError, load_settings
from smpr.update import Config

CARD = """# real: the weights that ship

A small SMPR ({network}; {parameters:.2f} M parameters, {size:.1f} MB in 16 bits) trained on **photographs**.

| | |
|---|---|
| pictures | {train_pictures:,} training pictures of COCO 2017 whose licences allow changes (set {train_hash}), by their Flickr authors under the licences named in COCO's files; none of them is part of this project |
| annotations | keypoints, boxes and areas of COCO 2017 (COCO Consortium, CC BY 4.0) |
| start | {start} |
| schedule | {steps:,} steps of {batch} pictures, AdamW, cosine, EMA; frames of {frame} px, zoom {zoom}, turns, colour{more}, loss on OKS; seed {seed} |
| time | {minutes:.0f} minutes on {cores} CPU cores, after the training of the start |
| measured | {val_pictures} pictures of COCO val2017 (set {val_hash}), official annotations, pycocotools; none of them was seen in training or used for choosing |

Test settings: shorter side {short} px, longer at most {long} px, one look{vote}{snap}. Percent:

| input | {names} | ms |
|---|{rule}|---|
{rows}

"ms" is a picture on {hardware}. {from_val:,} of the training pictures come from val2017, so these numbers must not stand beside published ones. What can: MoveNet MultiPose Lightning,
a published single-stage network, measured on the same pictures by the same code:

| peer | {names} |
|---|{rule}|
{peers}

Scored by the true OKS instead of its own scores, the same poses have AP {oracle:.1f} (ranked by themselves {own:.1f}).

## Known failures

- Few data: {persons:,} persons with labelled keypoints. Poses that are rare among them are likely to fail; this was not measured pose by pose.
- Places are more often roughly right than exact: AP50 {ap50:.1f}, AP75 {ap75:.1f}.
- {failures}
- It was never tried on other animals, drawings or medical pictures, and it must not be used to decide anything about a person.

What each part of the recipe gave: the ladder in [nbs/beyond/real_people.ipynb](../../nbs/beyond/real_people.ipynb).
"""  # noqa: E501  (rows of Markdown)


def row(name: str, m: dict, *more: str) -> str:
    "A line of a table of the ten numbers."
    return "| " + " | ".join([name, *(f"{100 * m[k]:.1f}" for k in METRICS), *more]) + " |"


def failures(record: dict) -> str:
    "The worst group of each grouping, in words."
    worst = {g: min(kinds, key=lambda k: kinds[k]["AP"]) for g, kinds in record["groups"].items()}
    what = {
        "size": "persons of {}",
        "keypoints": "persons with {} labelled keypoints",
        "crowding": "people {} with others",
    }
    return (
        "Weakest: "
        + "; ".join(
            f"{what[g].format(k)} (AP {100 * record['groups'][g][k]['AP']:.1f})" for g, k in worst.items()
        )
        + "."
    )


def first_start(rung: dict) -> str:
    "Where a training began, in words; `real` means the weights that this name had before."
    return f"the weights `{rung['start']}`" + (
        f" as they were before (the ladder's `{rung['against']}`)" if rung["start"] == "real" else ""
    )


def write_card(path: Path, rung: dict, record: dict, real: PoseSet) -> None:
    "The model card, from the records of the training and of the measuring."
    model, data, train, test, scores = (
        rung["config"]["model"],
        rung["config"]["data"],
        rung["config"]["train"],
        record["test"],
        record["scoring"],
    )
    splits, hardware = (
        {i["id"]: i.get("coco_split") for i in read_json(real.annotations)["images"]},
        record["hardware"],
    )
    path.write_text(
        CARD.format(
            network=f"{model['backbone']}, {model['neck']}, width {model['width']}",
            parameters=record["parameters"] / 1e6,
            size=path.with_suffix(".safetensors").stat().st_size / 1e6,
            train_pictures=len(real),
            train_hash=rung["data"]["train"],
            start=first_start(rung),
            steps=rung["steps"],
            batch=train["batch"],
            seed=train["seed"],
            frame=data["frame"],
            zoom=" to ".join(map(str, data["zoom"])),
            more=", hidden rectangles" * bool(data["occlude"]) + ", mosaic" * bool(data["mosaic"]),
            minutes=rung["minutes"],
            cores=rung["processes"] * rung["hardware"]["threads"],
            val_pictures=record["data"]["val_pictures"],
            val_hash=record["data"]["val"],
            short=test["short"],
            long=test["long"],
            snap=f", keypoints snapped to the heatmap (width {test['decode']['snap']:g}, "
            f"power {test['decode']['snap_power']:g})"
            if test["decode"].get("snap")
            else "",
            vote=f", candidates vote from an OKS of {test['decode']['vote']}"
            if test["decode"].get("vote")
            else "",
            names=" | ".join(METRICS),
            rule="|".join(["---"] * len(METRICS)),
            rows="\n".join(
                row(k, m, f"{m['ms_per_picture']:.0f}" if "ms_per_picture" in m else "")
                for k, m in record["sizes"].items()
            ),
            hardware=f"{hardware['threads']} thread(s) of {hardware['cpu']}",
            from_val=sum(splits[r.id] == "val2017" for r in real.records),
            peers="\n".join(row(k, m) for k, m in record["peers"].items()),
            oracle=100 * scores["true-oks"]["AP"],
            own=100 * record["metrics"]["AP"],
            ap50=100 * record["metrics"]["AP50"],
            ap75=100 * record["metrics"]["AP75"],
            persons=sum(int((r.keypoints[..., 2] > 0).any(1).sum()) for r in real.records),
            failures=failures(record),
        )
    )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("name", help="the rung")
    arguments.add_argument("--coco", type=Path, default=Path("../shared/coco"))
    arguments.add_argument("--card", action="store_true", help="only write the card anew, from the records")
    a, changes = arguments.parse_known_args()
    settings, weights = load_settings(), Path(smpr.__file__).parent / "assets" / "real.safetensors"
    rung = next((r for r in ladder_rows(settings.figures) if r["name"] == a.name), None)
    if rung is None:
        raise SmprError(
            f"{a.name}: no such rung below {settings.figures}; train it with benchmarks/real_people.py"
        )
    if not a.card:
        net, config = (
            load_run(settings.runs / "real" / a.name),
            change_many(from_dict(Config, rung["config"], a.name), changes),
        )
        card = {k: rung[k] for k in ("steps", "minutes", "seed", "start", "data", "commit")}
        notes = {"test": to_dict(config.test), "card": card}
        save_weights(net, weights, notes, half=True)
        card["metrics"] = measure("real", a.coco)["metrics"]  # of what is shipped, rounding included
        save_weights(net, weights, notes, half=True)
    real, _ = split_dev(load_set(a.coco / "train" / "images", a.coco / "train" / "person_keypoints.json"))
    write_card(
        weights.with_suffix(".md"),
        rung,
        read_json(settings.figures / "results" / "real" / "model.json"),
        real,
    )


if __name__ == "__main__":
    main()
