"A run folder knows what it learned from and keeps what can be read of its log."

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smpr.cli import main
from smpr.data import load_set
from smpr.settings import SmprError, atomic_write, hold_folder, load_settings
from smpr.training import data_digest, read_log, train
from smpr.update import small_config

QUIET = dict(workers=0, device="cpu", progress=False, sheets=False)


def people(count: int = 6):
    folder = load_settings().data / "train"
    return load_set(folder / "images", folder / "person_keypoints.json").subset(range(count))


def tiny():
    base = small_config(steps=3, batch=2)
    model = replace(base.model, width=16, norm_groups=4, heatmap_width=16, tower_depth=1, frozen_stages=2)
    return replace(base, model=model, data=replace(base.data, short=72, long=96))


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    "A run after its first step."
    run = tmp_path_factory.mktemp("run") / "run"
    train(tiny(), people(), run, steps=1, log_every=1, **QUIET)
    return run


def every(poses, **change):
    "The set with fields of every record changed by functions of the record."
    records = (replace(r, **{name: make(r) for name, make in change.items()}) for r in poses.records)
    return replace(poses, records=tuple(records))


OTHERS = {
    "fewer pictures": (lambda p: p.subset(range(5)), "6 pictures"),
    "as many others": (lambda p: replace(p, records=people(12).records[6:]), "other labels"),
    "another order": (lambda p: replace(p, records=p.records[::-1]), "other labels"),
    "moved keypoints": (lambda p: every(p, keypoints=lambda r: r.keypoints + 1), "other labels"),
    "other areas": (lambda p: every(p, areas=lambda r: r.areas * 2), "other labels"),
    "crowds": (lambda p: every(p, crowd=lambda r: np.ones_like(r.crowd)), "other labels"),
    "another size": (lambda p: every(p, width=lambda r: r.width + 1), "other labels"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_data_is_refused(case, begun):
    change, said = OTHERS[case]
    with pytest.raises(SmprError) as e:
        train(tiny(), change(people()), begun, **QUIET)
    assert said in str(e.value) and "--new-data" in str(e.value) and "\n" not in str(e.value)


def test_the_same_data_elsewhere_and_new_data(begun, tmp_path):
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    elsewhere = replace(people(), annotations=Path("moved.json"))
    assert data_digest(elsewhere) == data_digest(people())
    assert train(tiny(), elsewhere, run, steps=2, **QUIET)["step"] == 2
    assert train(tiny(), people(5), run, new_data=True, **QUIET)["step"] == 3
    saved = json.loads((run / "last" / "state.json").read_text())
    assert saved["pictures"] == 5 and saved["data"] == data_digest(people(5))


def test_the_command_has_the_flag(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--new-data" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage, kept",
    (
        (lambda b: b.replace(b"}", b"", 1), [2, 3]),  # a missing byte
        (lambda b: b.replace(b'"total"', b'"t\xfftal"', 1), [1, 2, 3]),  # no UTF-8
        (lambda b: b.replace(b"\n", b"", 1), [3]),  # two lines in one
        (lambda b: b"[1]\n" + b, [1, 2, 3]),
        (lambda b: b"[" * 10**5 + b"\n" + b, [1, 2, 3]),
        (lambda b: b[:-9], [1, 2]),  # the last row half written
    ),
)
def test_a_damaged_log_keeps_its_other_rows(damage, kept, tmp_path, capsys):
    rows = [{"step": n, "total": 1.0} for n in (1, 2, 3)]
    path = tmp_path / "log.jsonl"
    path.write_bytes(damage("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert [row["step"] for row in read_log(tmp_path)] == kept
    said = capsys.readouterr().err
    assert ("log.jsonl: 1 damaged lines" in said) == (kept != [1, 2] and b"\xff" not in path.read_bytes())


def test_a_run_with_a_damaged_log_goes_on(begun, tmp_path, capsys):
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    with (run / "log.jsonl").open("ab") as f:
        f.write(b'{"step": 1, "tot\n')
    train(tiny(), people(), run, log_every=1, **QUIET)
    assert "1 damaged lines" in capsys.readouterr().err
    assert [row["step"] for row in read_log(run)] == [1, 2, 3] and not capsys.readouterr().err


def test_two_trainings_in_one_folder(begun, tmp_path):
    "The second says who holds it; processes that a fork made do not keep it, and it ends with the first."
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    with hold_folder(run):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        with pytest.raises(SmprError, match="another call writes there"):
            train(tiny(), people(), run, **QUIET)
    try:
        assert train(tiny(), people(), run, **QUIET)["step"] == 3
    finally:
        child.kill()
        child.join()


def test_a_stream_is_written_as_one(tmp_path):
    "/dev/stdout, /dev/null and pipes are never replaced by a file."
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    atomic_write(pipe, "through")
    reader.join()
    assert got == [b"through"] and pipe.is_fifo()
    done = subprocess.run(
        [sys.executable, "-c", "from smpr.settings import atomic_write; atomic_write('/dev/stdout', 'out')"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "out" and not done.stderr and Path("/dev/null").is_char_device()
