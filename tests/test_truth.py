"""Truth that cannot be measured is found before anything is computed, in every place that measures, with
the number of people it is about; what can be measured is measured as pycocotools does."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import smpr.evaluation
from smpr.batches import TrainStream
from smpr.cli import main
from smpr.command.check import check_set
from smpr.data import load_set, skipped_people
from smpr.evaluation import evaluate
from smpr.pycoco import check_truth, truth_errors
from smpr.settings import SmprError, load_settings
from smpr.training import train
from smpr.update import small_config

PEOPLE = load_settings().data / "val"
ROW = [10, 5, 2] * 17


def sound() -> dict:
    "40 pictures of rendered people, some of them not labelled."
    data = json.loads((PEOPLE / "person_keypoints.json").read_text())
    images = data["images"][:40]
    ids = {i["id"] for i in images}
    return data | {"images": images, "annotations": [a for a in data["annotations"] if a["image_id"] in ids]}


def everybody(**values):
    def change(annotations):
        for a in annotations:
            a |= values

    return change


def without(*fields):
    def change(annotations):
        for a in annotations:
            for f in fields:
                a.pop(f, None)

    return change


def unlabelled(make):
    "A change of the annotations without labelled keypoints."

    def change(annotations):
        for a in annotations:
            if not a["num_keypoints"]:
                make(a)

    return change


def labelled(make):
    def change(annotations):
        for a in annotations:
            if a["num_keypoints"]:
                make(a)

    return change


def every_second_without_area(annotations):
    for a in annotations[::2]:
        a["area"] = 0


def one_count_0(annotations):
    max(annotations, key=lambda a: a["num_keypoints"])["num_keypoints"] = 0


def in_shares(annotations):
    "Coordinates from 0 to 1, as some tools write them."
    for a in annotations:
        k = np.reshape(a["keypoints"], (-1, 3)) / (320, 240, 1)
        a |= {"keypoints": k.ravel().tolist(), "area": a["area"] / (320 * 240)}


def shifted(a):
    k = np.reshape(a["keypoints"], (-1, 3)) + (5000, 0, 0)
    a["keypoints"] = k.ravel().tolist()


def corners(a):
    x, y, w, h = a["bbox"]
    a["bbox"] = [x + 200, y + 150, x + 200 + w, y + 150 + h]


# 4. truth that cannot be measured

FLAWED = {
    "no area": (without("area"), "no area"),
    "area 0": (everybody(area=0), "no area"),
    "half without": (every_second_without_area, "no area"),
    "area below 1 px^2": (everybody(area=1e-9), "no area"),
    "area of nobody": (everybody(area=9e11), "no area"),
    "shares of the picture": (in_shares, "no area"),
    "area 0 of the ignored": (unlabelled(lambda a: a.update(area=0)), "no area"),
    "count 0": (everybody(num_keypoints=0), "num_keypoints that contradicts"),
    "count 17": (everybody(num_keypoints=17), "num_keypoints that contradicts"),
    "count 0 of one": (one_count_0, "num_keypoints"),
    "no box": (without("bbox"), "are ignored"),
    "boxes 0": (everybody(bbox=[0, 0, 0, 0]), "are ignored"),
    "crowds without": (labelled(lambda a: a.update(iscrowd=1, bbox=[0, 0, 0, 0])), "are ignored"),
    "negative sides": (labelled(lambda a: a.update(bbox=[9, 9, -5, -5])), "negative side"),
    "corners": (unlabelled(corners), "not corners"),
    "outside": (labelled(shifted), "none of them inside"),
}


@pytest.fixture(params=FLAWED)
def flawed(request, tmp_path) -> tuple[Path, str]:
    data, (change, said) = sound(), FLAWED[request.param]
    change(data["annotations"])
    path = tmp_path / "flawed.json"
    path.write_text(json.dumps(data))
    return path, said


def test_every_way_to_measure_says_it(flawed, tmp_path, monkeypatch, capsys):
    "Python, the command, a validation set and `data check`: with counts, before a picture is read."
    path, said = flawed

    def never(*args, **options):
        raise AssertionError("a network ran")

    monkeypatch.setattr(smpr.evaluation, "find_batch", never)
    poses, config = load_set(PEOPLE / "images", path), small_config(1, batch=1)
    for call in (
        lambda: evaluate(poses, []),
        lambda: evaluate(path, []),
        lambda: check_truth(poses),
        lambda: train(config, poses, tmp_path / "run", poses, workers=0, progress=False),
    ):
        with pytest.raises(SmprError) as e:
            call()
        assert "flawed.json" in str(e.value) and said in str(e.value) and "\n" not in str(e.value)
        assert " people (the first in " in str(e.value)
    assert not (tmp_path / "run").exists()
    files = ["--images", str(PEOPLE / "images"), "--annotations", str(path)]
    assert main(["eval", *files, "--weights", "rendered"]) == 2
    assert said in capsys.readouterr().err
    report = check_set(PEOPLE / "images", path, poses.skeleton, progress=False)
    assert said in " ".join(report.problems + report.notes)
    trainable = any(r.trainable.any() for r in poses.records)  # then it may be a set for training only
    assert report.notes and (report.problems == []) == trainable
    assert main(["data", "check", *files]) == (0 if trainable else 2)
    out, err = capsys.readouterr()
    assert said in err and json.loads(out)["notes"] == report.notes


def test_counts_are_of_people(tmp_path):
    data = sound()
    every_second_without_area(data["annotations"])
    (wrong,) = truth_errors(load_set(Path(), data))
    half = sum(a["num_keypoints"] > 0 or a["bbox"][2] * a["bbox"][3] > 1 for a in data["annotations"][::2])
    everyone = len(data["annotations"])
    assert wrong.startswith(f"{half} of {everyone} people") and data["images"][0]["file_name"] in wrong


def test_sound_truth_has_no_errors_and_optional_fields_stay_optional():
    for change in (lambda _: None, without("num_keypoints"), without("iscrowd")):
        data = sound()
        change(data["annotations"])
        assert list(truth_errors(load_set(PEOPLE / "images", data))) == []
    data = sound()
    data["annotations"] = [a for a in data["annotations"] if a["num_keypoints"]]
    without("bbox")(data["annotations"])  # whoever is labelled is measured without one
    assert list(truth_errors(load_set(PEOPLE / "images", data))) == []
    line = next(a for a in sound()["annotations"] if not a["num_keypoints"])
    data = sound()
    data["annotations"].append(line | {"id": 10**6, "area": 0, "bbox": [5, 5, 1.03, 0]})  # COCO has such
    assert list(truth_errors(load_set(PEOPLE / "images", data))) == []


def test_a_set_that_is_only_measured(tmp_path, capsys):
    "Nobody to train on is a note: pictures without people, and people in one row, are measured."
    for change in (
        lambda people: people.clear(),
        labelled(lambda a: a["keypoints"].__setitem__(slice(None), ROW)),
    ):
        data = sound()
        change(data["annotations"])
        (tmp_path / "only.json").write_text(json.dumps(data))
        files = ["--images", str(PEOPLE / "images"), "--annotations", str(tmp_path / "only.json")]
        assert main(["data", "check", *files]) == 0
        out, err = capsys.readouterr()
        assert "smpr: note: " in err and "not to be trained on" in err and json.loads(out)["hash"]


def test_nobody_to_measure_ends_a_training_before_it_begins(tmp_path):
    poses = load_set(PEOPLE / "images", sound())
    nobody = replace(poses, records=tuple(replace(r, keypoints=0 * r.keypoints) for r in poses.records))
    absent = replace(poses, images=tmp_path)
    for val, said in ((nobody, "no labelled keypoints"), (absent, "no such picture")):
        with pytest.raises(SmprError, match=said):
            train(small_config(1), poses, tmp_path / "run", val, workers=0, progress=False)
    assert not (tmp_path / "run").exists()


def test_training_says_whom_it_skips(tmp_path, capsys):
    "Also the call from Python; impossible areas and people who are nowhere are not trained on."
    data = sound()
    kept = [a for a in data["annotations"] if a["num_keypoints"] > 5]
    kept[0]["area"], kept[1]["area"], kept[2]["area"] = 0, 1e-9, 9e11
    shifted(kept[3])
    skipped = skipped_people(load_set(PEOPLE / "images", data))
    assert len(skipped["area not above 0"]) == 1 and len(skipped["outside the picture"]) == 1
    assert len(skipped["area below 1 px^2 or above four pictures"]) == 2
    for a in data["annotations"]:
        a["area"] = 0
    poses = load_set(PEOPLE / "images", data)
    with pytest.raises(SmprError, match=r"usable keypoints \(.*area not above 0: \d+"):
        train(small_config(1), poses, tmp_path / "run", start="none", workers=0)
    assert "area not above 0" in capsys.readouterr().err
    with suppress(SmprError):
        train(small_config(1), poses, tmp_path / "run", start="none", workers=0, progress=False)
    assert "training skips" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "px, short, fits", ((4, 240, False), (4, 300, False), (30, 24, False), (30, 240, True))
)
def test_people_smaller_than_a_cell(px, short, fits, tmp_path, capsys):
    "A network with cells of 8 px learns nothing from them: refused where all are so small, else counted."
    data = sound()
    for a in data["annotations"]:
        k = np.reshape(a["keypoints"], (-1, 3)) * (px / 320, px / 240, 1) + (100, 100, 0)
        a |= {"keypoints": k.ravel().tolist(), "area": max(1.0, px**2 / 9)}
    poses, config = load_set(PEOPLE / "images", data), small_config(1, batch=1)
    config = replace(config, data=replace(config.data, short=short, long=2 * short))
    many = sum(int(r.trainable.sum()) for r in poses.records)
    if fits:
        whole = load_set(PEOPLE / "images", sound())
        both = replace(poses, records=whole.records[:20] + poses.records)
        quiet = {"steps": 1, "workers": 0, "device": "cpu", "sheets": False}
        train(config, both, tmp_path / "run", start="rendered", **quiet)
        assert " people are smaller than 8 px" in capsys.readouterr().err
        return
    with pytest.raises(SmprError, match=f"{many} of {many} people are smaller than 8 px"):
        train(config, poses, tmp_path / "run", workers=0, progress=False)
    assert not (tmp_path / "run").exists()


def test_people_too_small_for_the_size_of_training():
    "A few px are some, until the picture shrinks; one person who stays large is enough to begin."
    data = sound()
    for a in data["annotations"]:
        k = np.reshape(a["keypoints"], (-1, 3)) * (6 / 320, 6 / 240, 1) + (100, 100, 0)
        a |= {"keypoints": k.ravel().tolist(), "area": 4.0}
    config = small_config(1).data
    poses = load_set(PEOPLE / "images", data)
    assert any(r.trainable.any() for r in poses.records)
    with pytest.raises(SmprError, match="smaller than 1 px in pictures of data.short 24 px"):
        TrainStream(poses, replace(config, short=24, long=32))
    some = replace(poses, records=(*poses.records, *load_set(PEOPLE / "images", sound()).records))
    assert len(TrainStream(some, replace(config, short=24, long=32)).order) > 1
