"""The same one-line error for a wrong option, whichever way it comes in."""

import pytest

from smpr.cli import main
from smpr.config import change, flat, to_dict
from smpr.experiments.rows import Row, apply_parameters, parameter_names, row_config
from smpr.settings import SmprError
from smpr.update import Config

WRONG = [  # option, value, what the line says beside class, field and value
    ("train.lr", "-1", "above 0"),
    ("train.lr", "1x2", "a number above 0"),
    ("train.lr", "high", "a number above 0"),
    ("train.lr", "nan", "a number above 0"),
    ("train.steps", "0", "at least 1"),
    ("train.steps", "2.5", "a whole number"),
    ("train.batch", "none", "a whole number"),
    ("train.ema", "1", "below 1"),
    ("train.drops", "0.9,0.1", "smallest first"),
    ("train.optimizer", "adam", "one of sgd, adamw"),
    ("data.flip", "7", "from 0 to 1"),
    ("data.zoom", "2,0.5", "smallest first"),
    ("data.zoom", "0.8", "2 values"),
    ("data.short_range", "800", "2 values"),
    ("data.replace_empty", "maybe", "true or false"),
    ("model.width", "100000", "from 1 to 4096"),
    ("model.strides", "none", "1 to 16 of them"),
    ("model.neck", "giraffe", "fpn, pafpn, pafpn-cut, hrfpn"),
    ("test.scales", "400x667x3", "2 values"),
    ("test.decode.vote", "0", "above 0"),
]


def said(call, *args) -> str:
    "The one line of an error."
    with pytest.raises(SmprError) as e:
        call(*args)
    assert "\n" not in str(e.value)
    return str(e.value)


def construct(name: str, value):
    "The class that holds the option, called with it."
    *owners, field = name.split(".")
    owner = Config()
    for part in owners:
        owner = getattr(owner, part)
    return type(owner)(**{field: value})


@pytest.mark.parametrize("name, value, words", WRONG, ids=lambda x: str(x))
def test_wrong_values_are_named_alike_everywhere(name, value, words):
    line = said(construct, name, value)
    assert f"Config.{name.split('.')[-1]} is {value!r}; give " in line and words in line
    assert said(change, Config(), name, value) == line
    parameter = "_".join(name.split(".")[-2:])
    assert said(apply_parameters, Config(), {parameter: value}) == line


@pytest.mark.parametrize("name, value, words", WRONG, ids=lambda x: str(x))
def test_the_command_says_the_same(name, value, words, capsys):
    "A flag is named as a flag; value, range and remedy are those of Python."
    assert main(["train", f"--{name}", value]) == 2
    line = capsys.readouterr().err.strip()
    assert line.endswith(f"--{name}" + said(construct, name, value).partition(name.split(".")[-1])[2])


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("model.refine", "false", False),
        ("train.lr", "1e-3", 1e-3),
        ("train.steps", "7", 7),
        ("model.neck", "pafpn", "pafpn"),
        ("model.strides", "8,16", (8, 16)),
        ("data.zoom", "0.8,2", (0.8, 2.0)),
        ("data.zoom", "none", None),
        ("test.scales", "400x667,800x1333", ((400, 667), (800, 1333))),
        ("test.decode.snap", "1", 1.0),
    ],
)
def test_text_becomes_what_the_field_holds(name, text, value):
    changed = change(Config(), name, text)
    assert flat(changed)[name] == value and type(flat(changed)[name]) in (
        type(value),
        type(flat(Config())[name]),
    )
    assert apply_parameters(Config(), {"_".join(name.split(".")[-2:]): text}) == changed
    assert changed == change(Config(), name, value)


def test_unknown_names_are_refused():
    assert "no option 'speed'; known are steps" in said(change, Config(), "train.speed", 1)
    assert "'train_speed' is unknown" in said(apply_parameters, Config(), {"train_speed": 1})
    assert "row is 'best'; give one of baseline" in said(row_config, "best", Config())
    assert row_config("psm", Config()) == row_config(Row.PSM, Config())


def test_parameters_are_all_options():
    assert sorted(parameter_names().values()) == sorted(flat(Config()))
    assert apply_parameters(Config(), dict.fromkeys(parameter_names())) == Config()
    assert set(to_dict(Config())) == {name.split(".")[0] for name in flat(Config())}
