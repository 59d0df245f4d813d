"""Pack a finished run on photographs as the shipped weights `real`, measure them, write their card.

    python benchmarks/ship_real.py --of runs/real/long [--test.short 384 --test.long 614] [--coco ../shared/coco] [--note TEXT]

The test settings are chosen on the dev split before (benchmarks/real_people.py --of ...). Writes smpr/assets/real.safetensors (16-bit, the card
inside), measures everything by benchmarks/real_model.py on the 300 validation pictures, and writes smpr/assets/real.md from that record."""
import argparse
import json
from pathlib import Path

from real_model import measure
from ship_rendered import trained_seconds

import smpr
from smpr.checkpoints import config_to_dict, save_weights
from smpr.cli import change_many
from smpr.data import load_set, read_json, set_hash
from smpr.evaluation import METRICS
from smpr.real_people import split_dev
from smpr.settings import load_settings
from smpr.training import Config, find_checkpoint, load_run

CARD = """# real: the weights that ship

A small SMPR (EfficientNet-Lite0, PAFPN, width 64; {parameters:.2f} M parameters, {size:.1f} MB in 16 bits) trained on **photographs**.

| | |
|---|---|
| pictures | {train_pictures:,} training pictures of COCO 2017 whose licences allow changes (set {train_hash}), by their Flickr authors under the licences named in COCO's files; none of them is part of this project |
| annotations | keypoints, boxes and areas of COCO 2017 (COCO Consortium, CC BY 4.0) |
| start | `rendered`: {start} |
| schedule | {steps:,} steps of {batch} pictures, AdamW, cosine, EMA; frames of {frame} px, zoom {zoom}, turns, colour, hidden rectangles, mosaic, loss on OKS; seed {seed} |
| time | {minutes:.0f} minutes on {cores} CPU cores, after the training of `rendered` |
| measured | 300 pictures of COCO val2017, 1,233 persons (set {val_hash}), official annotations, pycocotools; none of them was seen in training or used for choosing |

Test settings: shorter side {short} px, longer at most {long} px, one look. Percent:

| input | {names} | ms |
|---|{rule}|
{rows}

"ms" is a picture on {hardware}. About half of the training pictures come from val2017, so these numbers must not stand beside published ones. What can: MoveNet MultiPose Lightning,
a published single-stage network, measured on the same pictures by the same code:

| peer | {names} |
|---|{peer_rule}|
{peers}

Scored by the true OKS instead of its own scores, the same poses have AP {oracle:.1f} (ranked by themselves {own:.1f}).

## Known failures

- Few data: {persons:,} persons with labelled keypoints. Poses that are rare among them are likely to fail; this was not measured pose by pose.
- Large people in the open, the peer's strength, are its weakness beside the peer (APL in both tables). Places are often roughly right and seldom exact: compare AP50 with AP75.
- {failures}
- It was never tried on other animals, drawings or medical pictures, and it must not be used to decide anything about a person.

What each part of the recipe gave: the ladder in [nbs/beyond/real_people.ipynb](../../nbs/beyond/real_people.ipynb).
"""


def row(name: str, m: dict) -> str:
    "A line of a table of the ten numbers."
    return f"| {name} | " + " | ".join(f"{100 * m[k]:.1f}" for k in METRICS) + (f" | {m['ms_per_picture']:.0f} |" if "ms_per_picture" in m else " |")


def failures(record: dict) -> str:
    "The worst group of each grouping, in words."
    worst = {g: min(kinds, key=lambda k: kinds[k]["AP"]) for g, kinds in record["groups"].items()}
    what = {"size": "persons of {}", "keypoints": "persons with {} labelled keypoints", "crowding": "people {} with others"}
    return "Weakest: " + "; ".join(f"{what[g].format(k)} (AP {100 * record['groups'][g][k]['AP']:.1f})" for g, k in worst.items()) + "."


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--of", type=Path, required=True, help="the run")
    arguments.add_argument("--coco", type=Path, default=Path("../shared/coco"))
    arguments.add_argument("--cores", type=int, default=2, help="cores that the run was trained on")
    arguments.add_argument("--card", action="store_true", help="only write the card anew, from the record")
    arguments.add_argument("--note", default="", help="more about where the run started")
    a, changes = arguments.parse_known_args()
    state = json.loads((find_checkpoint(a.of / "last") / "state.json").read_text())
    config = change_many(Config.from_dict(state["config"], str(a.of)), changes)
    net, assets = load_run(a.of), Path(smpr.__file__).parent / "assets"
    real, _ = split_dev(load_set(a.coco / "train" / "images", a.coco / "train" / "person_keypoints.json"))
    minutes = trained_seconds(a.of, config.train.batch) / 60
    card = {"steps": state["step"], "train_seconds": round(60 * minutes, 1), "cores": a.cores, "seed": config.train.seed,
            "start": "rendered" + (f"; {a.note}" if a.note else ""), "data": {"kind": "real", "train": set_hash(real), "train_pictures": len(real)}}
    notes = {"test": config_to_dict(config.test), "card": card}
    if not a.card: save_weights(net, assets / "real.safetensors", notes, half=True)
    record = read_json(load_settings().figures / "results" / "real" / "model.json") if a.card else measure("real", a.coco)      # what is shipped, rounding included
    card["metrics"], card["data"]["val"] = record["metrics"], record["data"]["val"]
    if not a.card: save_weights(net, assets / "real.safetensors", notes, half=True)
    names, data = " | ".join(METRICS), config.data
    (assets / "real.md").write_text(CARD.format(
        parameters=record["parameters"] / 1e6, size=(assets / "real.safetensors").stat().st_size / 1e6, train_pictures=len(real), train_hash=card["data"]["train"],
        start="the weights of rendered people" + (f"; {a.note}" if a.note else ""), steps=card["steps"], batch=config.train.batch, frame=data.frame,
        zoom=" to ".join(map(str, data.zoom)), seed=card["seed"], minutes=minutes, cores=a.cores, val_hash=card["data"]["val"], short=config.test.short, long=config.test.long,
        names=names, rule="---|" * len(METRICS) + "---", peer_rule="---|" * (len(METRICS) - 1) + "---", rows="\n".join(row(k, m) if "ms_per_picture" in m else row(k, m) + " |" for k, m in record["sizes"].items()),
        hardware=f"{record['hardware']['threads']} thread(s) of {record['hardware']['cpu']}", peers="\n".join(row(k, m) for k, m in record["peers"].items()),
        oracle=100 * record["scoring"]["true-oks"]["AP"], own=100 * record["metrics"]["AP"], persons=sum(int((r.keypoints[..., 2] > 0).any(1).sum()) for r in real.records), failures=failures(record)))
    print({k: round(v, 4) for k, v in record["metrics"].items()})


if __name__ == "__main__": main()
