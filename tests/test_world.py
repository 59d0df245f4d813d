"Drawn people go through the whole package like any pictures; a row at scale `mini` starts from nothing."

from dataclasses import replace

import numpy as np
import pytest

import smpr
from smpr.cli import main
from smpr.experiments.rows import make_scale, run_row
from smpr.training import load_run, train
from smpr.world.people import WorldConfig, draw_picture, drawn_set


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
