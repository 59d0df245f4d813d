"Drawn people go through the whole package like any pictures; a row at scale `mini` starts from nothing."

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import smpr
from smpr.checkpoints import read_notes
from smpr.cli import main
from smpr.experiments.rows import make_scale, run_row
from smpr.inference import shipped_weights
from smpr.run_folder import load_run
from smpr.training import train
from smpr.world.people import FIGURE, WorldConfig, draw_picture, drawn_scene, drawn_set


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return drawn_set(tmp_path_factory.mktemp("world"), 6, seed=5)


def small(steps: int = 2, batch: int = 2):
    "The recipe of the scale, cut short."
    return replace(
        make_scale("mini").config, train=replace(make_scale("mini").config.train, steps=steps, batch=batch)
    )


def test_the_command_reads_them(people, capsys):
    place = ["--images", str(people.images), "--annotations", str(people.annotations)]
    assert main(["data", "check", *place]) == 0
    assert "6" in capsys.readouterr().out


def test_train_predict_evaluate(people, tmp_path):
    options = {"workers": 0, "device": "cpu", "sheets": False, "progress": False}
    done = train(small(), people, tmp_path / "run", people, **options)
    found = smpr.predict(load_run(tmp_path / "run"), people.images, threshold=0.0)
    assert done["step"] == 2 and len(found) == 6 and found[0].keypoints.shape[1:] == (13, 3)
    assert 0 <= smpr.evaluate(people, found)["AP"] <= 1


def test_a_row_starts_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SMPR_RUNS", str(tmp_path))
    scale = replace(make_scale("mini"), config=small(), train_pictures=4, val_pictures=3, more_pictures=2)
    record = run_row("table1", "pafpn", scale, seed=7).record
    assert record["start"] == {"weights": None, "parts": [], "tensors": 0}
    assert record["data"]["kind"] == "drawn" and record["data"]["train_pictures"] == 4
    assert record["more"]["pictures"] == 2 and record["log"][-1]["step"] == 2
    again = run_row("test", "pafpn", scale, seed=7).record
    assert again["metrics"] == record["metrics"]


def test_sets_of_other_splits_share_no_picture():
    first, second = (draw_picture(WorldConfig(), seed, 0).image for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.fixture(scope="module")
def net():
    return smpr.load("drawn", "cpu")


def test_the_weights_of_chapter_00_find_drawn_people(net, tmp_path):
    "In one call, skeleton and test settings inside; the record says 65 AP on 500 pictures."
    people = drawn_set(tmp_path, 40, seed=77)
    assert net.skeleton == FIGURE and net.test.short == net.test.long == 96
    assert smpr.evaluate(people, smpr.predict(net, people.images))["AP"] > 0.55
    scene = drawn_scene()
    found = smpr.predict(net, scene.image, threshold=0.2)
    apart = np.abs(found.keypoints[:, None, :, :2] - scene.keypoints[:, :, :2]).mean((2, 3))
    assert sorted(apart.argmin(1)) == [0, 1, 2] and apart.min(1).max() < 4  # px


def test_they_are_small_and_say_what_their_record_says(net):
    path = shipped_weights()["drawn"]
    card, record = (
        read_notes(path)["meta"]["card"],
        json.loads((Path(__file__).parent.parent / "figures" / "results" / "drawn.json").read_text()),
    )
    assert path.stat().st_size < 3e6 and net.card == card
    assert (
        {k: record[k] for k in card} == card and record["data"]["kind"] == "drawn" and record["seed"] >= 100
    )
    text = path.with_suffix(".md").read_text()
    assert f"| {100 * card['metrics']['AP']:.1f} |" in text and f"{card['steps']:,} steps" in text


def test_they_travel(net):
    "Pickled and unpickled, or saved by torch, the network says the same."
    image, buffer = drawn_scene().image, io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for other in (pickle.loads(pickle.dumps(net)), torch.load(buffer, weights_only=False)):
        assert other.skeleton == FIGURE
        assert np.array_equal(smpr.predict(other, image).keypoints, smpr.predict(net, image).keypoints)


def test_the_command_knows_them(tmp_path, capsys):
    file = tmp_path / "a.png"
    Image.fromarray(drawn_scene().image).save(file)
    assert main(["predict", str(file), "--weights", "drawn", "--out", str(tmp_path / "out")]) == 0
    assert main(["info"]) == 0 and "weights 'drawn'" in capsys.readouterr().out
    assert [p for p in Path(tmp_path / "out").iterdir() if p.stem.startswith("a")]
