"Weights that no training makes are refused by name, whatever door they come through."

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smpr.checkpoints import check_values, load_weights
from smpr.cli import main
from smpr.deploy.published import CheckpointKind, convert_state_dict
from smpr.inference import load, shipped_weights
from smpr.run_folder import fitting_weights
from smpr.settings import SmprError
from smpr.update import small_config

# 10. unlucky surroundings: weights

SHIPPED = shipped_weights()["rendered"]


def changed(path, pick, change, **notes):
    "The shipped weights with the first tensor whose name ends so changed."
    with safe_open(SHIPPED, "pt") as f:
        meta = f.metadata() | notes
    state = load_file(SHIPPED)
    name = next(n for n in state if n.endswith(pick))
    state[name] = change(state[name])
    save_file(state, path, meta)
    return path


ABSURD = {
    "1e38": ("weight", lambda t: torch.full_like(t.float(), 1e38), "beyond 1e+10"),
    "one 1e20": ("bias", lambda t: t.float().index_fill(0, torch.tensor(0), -1e20), "beyond 1e+10"),
    "NaN": ("weight", lambda t: t * float("nan"), "NaN or infinity"),
    "infinity": ("bias", lambda t: t / 0, "NaN or infinity"),
    "negative variance": ("running_var", lambda t: -t.abs() - 1, "negative variance"),
    "integers": ("weight", lambda t: t.to(torch.int32), "int32"),
    "complex": ("weight", lambda t: t.to(torch.complex64), "complex64"),
    "true and false": ("bias", lambda t: t > 0, "bool"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_weights(case, tmp_path, capsys):
    pick, change, said = ABSURD[case]
    path = changed(tmp_path / "a.safetensors", pick, change)
    skeleton = load_weights(SHIPPED)[1]
    for call in (
        lambda: load_weights(path),
        lambda: load(path, "cpu"),
        lambda: fitting_weights(path, small_config(), skeleton),
    ):
        with pytest.raises(SmprError) as e:
            call()
        assert said in str(e.value) and "a.safetensors" in str(e.value) and "\n" not in str(e.value)
    assert main(["predict", "x.png", "--weights", str(path)]) == 2
    assert not capsys.readouterr().err.count("Traceback")


def test_what_a_training_makes_is_taken():
    for path in shipped_weights().values():
        check_values(load_file(path), "shipped")
    check_values({"bn.num_batches_tracked": torch.tensor(7), "stem.running_var": torch.tensor([9e6])}, "it")


@pytest.mark.parametrize(
    "notes, said",
    (
        ({"meta": "[]"}, "'meta'"),
        ({"meta": json.dumps({"test": None})}, "TestConfig should be a JSON object"),
        ({"meta": json.dumps({"test": {"decode": {"level_top": -1}}})}, "level_top"),
        ({"config": "7"}, "'config'"),
        ({"skeleton": "null"}, "'skeleton'"),
        (
            {"skeleton": json.dumps({"names": ["a"], "sigmas": [10**400], "flip_pairs": [], "edges": []})},
            "sigmas",
        ),
        (
            {
                "skeleton": json.dumps(
                    {"names": ["a"], "sigmas": [0.1], "flip_pairs": [], "edges": [[0, 0.5]]}
                )
            },
            "edges",
        ),
    ),
)
def test_notes_that_are_none(notes, said, tmp_path):
    path = changed(tmp_path / "a.safetensors", "weight", torch.clone, **notes)
    with pytest.raises(SmprError) as e:
        load(path, "cpu")
    assert said in str(e.value) and "\n" not in str(e.value)


PREFIX = "bbox_head.scales_1."


@pytest.mark.parametrize(
    "state, said",
    (
        ({f"{PREFIX}{i}.scale": torch.ones(1) for i in (1, 2, 3, 4, 9)}, "levels 1, 2, 3, 4, 9"),
        ({f"{PREFIX}{i}.scale": torch.ones(2) for i in range(5)}, "one number"),
        ({"x": torch.ones(1), "module.x": torch.ones(1)}, "'x' is there twice"),
        ({1: torch.ones(1)}, "names that are no text"),
    ),
)
def test_published_names_that_cannot_be(state, said):
    with pytest.raises(SmprError, match=said):
        convert_state_dict(state, CheckpointKind.RESNET50_FPN)
