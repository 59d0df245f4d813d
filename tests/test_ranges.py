"""Values out of range from Python are the same one-line error as from the command (test_cli.RANGES), before a
picture is read."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from smpr.beyond.real_people import fit_steps, join_sets, split_dev
from smpr.cli import main
from smpr.data import load_set
from smpr.evaluation import detect_set
from smpr.inference import TestConfig, load, predict, usual_batch
from smpr.model import SMPR
from smpr.settings import SmprError, load_settings
from smpr.structures import Result
from smpr.training import RunConfig, train
from smpr.update import small_config

# 8. values out of range

GRAY = np.full((48, 64, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def net():
    return load("rendered", "cpu")


@pytest.fixture(scope="module")
def people():
    place = load_settings().data / "val"
    return load_set(place / "images", place / "person_keypoints.json").subset(range(3))


@pytest.mark.parametrize(
    "options, said",
    (
        ({"threshold": 50}, "threshold is 50; give a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "high"}, "threshold is 'high'"),
        ({"batch_size": 0}, "batch_size is 0; give a whole number of at least 1"),
        ({"batch_size": -2}, "batch_size is -2"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"scales": (0,)}, "scales is (0,)"),
        ({"scales": (240, -1)}, "scales is (240, -1)"),
        ({"scales": 240}, "scales is 240; give values"),
        ({"scales": (10**6,)}, "from 1 to 8192"),
        ({"scales": (240,) * 17}, "0 to 16 of them"),
        ({"flip": "perhaps"}, "flip is 'perhaps'"),
        ({"device": "gpu"}, "device 'gpu' is unknown"),
    ),
)
def test_predict(net, options, said):
    with pytest.raises(SmprError) as e:
        predict(net, GRAY, **options)
    assert said in str(e.value) and "\n" not in str(e.value)


def test_other_calls(net, people):
    drawn = Result(GRAY, np.zeros((0, 17, 3)), np.zeros(0), net.skeleton)
    for call, said in (
        (lambda: TestConfig().asked(snap=float("nan")), "snap is nan"),
        (lambda: TestConfig().asked(snap=-1), "snap is -1"),
        (lambda: usual_batch(net, True), "batch_size is True"),
        (lambda: detect_set(net, people, batch_size=0), "batch_size is 0"),
        (lambda: detect_set(net, people, workers=-1), "workers is -1; give a whole number of at least 0"),
        (lambda: drawn.draw(threshold=2), "threshold is 2"),
        (lambda: split_dev(people, -1), "count is -1"),
        (lambda: join_sets([people, people], [1, float("inf")]), "shares is inf"),
        (lambda: join_sets([people, people], [1, 1e9]), "from 0 to 100"),
        (lambda: fit_steps(small_config(), people, -5), "minutes is -5"),
        (lambda: RunConfig(steps=0), "RunConfig.steps is 0"),
        (lambda: train(small_config(), people, "run", eval_every=5), "nothing to measure on"),
        (lambda: RunConfig(minutes=10**400), "RunConfig.minutes is 1000"),
    ):
        with pytest.raises(SmprError) as e:
            call()
        assert said in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("side, far", ((30, True), (59, True), (60, False), (96, False), (240, False)))
def test_sizes_far_from_the_usual_are_said(net, side, far, tmp_path, capsys):
    "Poses of a picture of 30 px are nothing to go by; from Python and from the command."
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    predict(net, GRAY, scales=(side,))
    said = capsys.readouterr().err
    words = ["predict", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--scales", str(side)]
    assert main([*words, "--weights", "rendered", "--device", "cpu"]) == 0
    for err in (said, capsys.readouterr().err):
        assert (f"{side} px are far from the 240 px" in err) == far


@pytest.mark.parametrize("name, value", (("width", 50), ("heatmap_width", 40)))
def test_groups_that_do_not_divide(name, value, people, tmp_path, capsys):
    "A width without that many groups is one line, in Python and from the command."
    config = small_config()
    with pytest.raises(SmprError, match=f"model.norm_groups .* does not divide {value} channels"):
        SMPR(replace(config.model, **{name: value, "norm_groups": 32}))
    flags = [
        f"--model.{name}",
        str(value),
        "--model.norm-groups",
        "32",
        "--train.steps",
        "1",
        "--weights",
        "none",
    ]
    assert main(["train", *flags, "--run", str(tmp_path / "run")]) == 2
    assert f"model.norm_groups 32 does not divide {value} channels" in capsys.readouterr().err
