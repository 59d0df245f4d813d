"""The recipe for photographs: its commands, and the split that keeps choosing apart from measuring."""

import json
import re
from pathlib import Path

import pytest
from scripts import module

from smpr.beyond.real_people import join_sets, split_dev
from smpr.cli import main
from smpr.data import load_set, read_json
from smpr.evaluation import coco_truth, evaluate

ROOT = Path(__file__).parent.parent
PEOPLE = ROOT / "data" / "people" / "val"
COCO = ROOT.parent / "shared" / "coco"
SMALL = ["--train.batch", "2", "--data.short", "64", "--data.long", "96", "--data.frame", "64"]
FLAGS = [
    "train",
    "--preset",
    "real-cpu",
    "--images",
    str(PEOPLE / "images"),
    "--annotations",
    str(PEOPLE / "person_keypoints.json"),
    "--device",
    "cpu",
]


def state(run: Path) -> dict:
    return json.loads((run / "last" / "state.json").read_text())


@pytest.mark.slow
def test_training_stops_and_goes_on(tmp_path):
    asked = [*FLAGS, *SMALL, "--run", str(tmp_path), "--train.steps", "3", "--rendered", "0.1"]
    assert main([*asked, "--steps", "2"]) == 0 and state(tmp_path)["step"] == 2
    assert main(asked) == 0 and state(tmp_path)["step"] == 3 and state(tmp_path)["pictures"] == 550


@pytest.mark.slow
def test_a_clock_sets_the_schedule_once(tmp_path, capsys):
    asked = [*FLAGS, *SMALL, "--run", str(tmp_path), "--minutes", "0.04"]
    assert main(asked) == 0
    first = state(tmp_path)
    assert "fit into 0.04 minutes" in capsys.readouterr().out and first["config"]["train"]["steps"] >= 1
    assert main(asked) == 0  # goes on, on the schedule of the first call
    assert (
        state(tmp_path)["config"]["train"]["steps"] == first["config"]["train"]["steps"]
        and "fit into" not in capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset", [[], ["--preset", "real-cpu", "--train.warmup", "0"]], ids=["small", "real-cpu"]
)
def test_another_network_takes_what_fits_and_says_what_does_not(preset, tmp_path, capsys):
    wide = ["--weights", "rendered", "--model.width", "32"]
    asked = ["--run", str(tmp_path / "run"), "--train.steps", "1"]
    assert main(["train", *FLAGS[3:], *SMALL, *asked, *wide, *preset]) == 0
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("start: "))
    fit, own = map(int, re.match(r"start: (\d+) of (\d+) tensors of rendered; at random: ", said).groups())
    assert 0 < fit < own and "head.person" in said and "neck" in said and "backbone" not in said


@pytest.mark.slow
@pytest.mark.skipif(not COCO.exists(), reason="the real pictures (../shared/coco) are not here")
def test_choosing_never_sees_what_measures():
    train, val = (
        load_set(COCO / part / "images", COCO / part / "person_keypoints.json") for part in ("train", "val")
    )
    rest, dev = split_dev(train)

    def names(poses):
        return {r.file for r in poses.records}

    assert len(dev) == 200 and len(rest) == len(train) - 200
    assert not names(dev) & names(rest) and not (names(dev) | names(rest)) & names(val)
    assert len(join_sets([rest, val.subset(range(3))], [1, 0.001])) == len(rest) + 2


def benchmark():
    "benchmarks/real_model.py as a module."
    return module(ROOT / "benchmarks" / "real_model.py")


@pytest.mark.slow
def test_the_truth_finds_every_group_and_half_of_it_halves_them():
    people, model = load_set(PEOPLE / "images", PEOPLE / "person_keypoints.json"), benchmark()
    truth = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0}
        for a in read_json(people.annotations)["annotations"]
        if a["num_keypoints"]
    ]
    perfect, halved = (model.group_metrics(people, found) for found in (truth, truth[::2]))
    assert list(perfect) == list(model.GROUPS) == ["size", "keypoints", "crowding"]
    assert all(m["AP"] > 0.99 for groups in perfect.values() for m in groups.values())
    assert all(
        0.2 < m["AR"] < 0.8 for groups in halved.values() for m in groups.values() if m["persons"] > 50
    )
    whole, again = evaluate(people, truth[::2]), model.counted(coco_truth(people), truth[::2], people)
    assert all(abs(again[k] - whole[k]) < 1e-9 for k in ("AP", "AP50", "AR"))  # as chapter 12 counts


def test_the_group_of_a_person():
    def box(x):
        return {"bbox": [x, 0, 100, 100], "num_keypoints": 12, "area": 100.0**2}

    groups = benchmark().person_groups
    alone = {"size": "96-192 px", "keypoints": "11-14", "crowding": "alone"}
    assert groups(box(0), [box(300)]) == groups(box(0), []) == alone
    assert groups(box(0), [box(90)])["crowding"] == "touching"
    assert groups(box(0), [box(10)])["crowding"] == "overlapping"


@pytest.mark.slow
@pytest.mark.skipif(not COCO.exists(), reason="the real pictures (../shared/coco) are not here")
def test_groups_on_real_people():
    model = benchmark()
    val = load_set(COCO / "val" / "images", COCO / "val" / "person_keypoints.json")
    peer = json.loads((COCO / "peers" / "movenet_multipose_512.json").read_text())
    groups = model.group_metrics(val, peer)
    persons = {g: [m["persons"] for m in kinds.values()] for g, kinds in groups.items()}
    assert (
        set(groups) == set(model.GROUPS) and len({sum(n) for n in persons.values()}) == 1
    )  # every grouping counts everybody once
    ar = [m["AR"] for m in groups["keypoints"].values()]
    assert (
        ar == sorted(ar) and groups["crowding"]["alone"]["AP"] > groups["crowding"]["overlapping"]["AP"]
    )  # hidden and crowded people are harder
