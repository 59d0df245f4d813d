"A run folder knows what it learned from, keeps what can be read of its log, and is weights."

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

import smpr.deploy.export
from smpr.cli import main, open_network
from smpr.data import load_set
from smpr.inference import load, predict
from smpr.run_folder import data_digest, fitting_weights, load_run, read_log, run_weights, weights_file
from smpr.settings import SmprError, atomic_write, file_digest, hold_folder, load_settings
from smpr.training import train
from smpr.update import small_config

# 10. unlucky surroundings: run folders

QUIET = dict(workers=0, device="cpu", progress=False, sheets=False)


def people(count: int = 6):
    folder = load_settings().data / "train"
    return load_set(folder / "images", folder / "person_keypoints.json").subset(range(count))


def tiny():
    base = small_config(steps=3, batch=2)
    model = replace(base.model, width=16, norm_groups=4, heatmap_width=16, tower_depth=1, frozen_stages=0)
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


def test_a_run_folder_is_weights_everywhere(begun, tmp_path, monkeypatch, capsys):
    "For predict, eval, export, start weights; a shipped name stays what it is beside a folder of its name."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMPR_DEVICE", "cpu")
    (tmp_path / "rendered").mkdir()
    place = load_settings().data / "val"
    few = json.loads((place / "person_keypoints.json").read_text())
    busy = max(few["annotations"], key=lambda a: a["num_keypoints"])["image_id"]
    few["images"] = [image for image in few["images"] if image["id"] == busy]
    few["annotations"] = [a for a in few["annotations"] if a["image_id"] == busy]
    picture = place / "images" / few["images"][0]["file_name"]
    (tmp_path / "few.json").write_text(json.dumps(few))
    net, exported = load_run(begun), []
    monkeypatch.setattr(smpr.deploy.export, "export_network", lambda net, out: exported.append(net) or 1 / 0)
    assert main(["predict", str(picture), "--weights", str(begun), "--out", "drawn"]) == 0
    found, journal = (Path(f"drawn/results.{kind}").read_text() for kind in ("json", "jsonl"))
    scores = [e["score"] for e in json.loads(found)]
    assert scores == [e["score"] for e in predict(net, picture).to_coco(0)]
    assert json.loads(journal.splitlines()[0])["weights"] == file_digest(run_weights(begun))
    files = ["--images", str(place / "images"), "--annotations", "few.json"]
    assert main(["eval", *files, "--weights", str(begun)]) == 0
    with pytest.raises(ZeroDivisionError):
        main(["export", str(begun), "net.onnx"])
    assert exported[0].test == net.test and exported[0].config == net.config
    own = fitting_weights(begun, tiny(), people().skeleton)
    assert own.keys() == net.state_dict().keys() and "at random" not in capsys.readouterr().err
    assert weights_file("rendered") == "rendered" and open_network("rendered", "cpu").card
    for call, said in (
        (lambda: load(begun), "smpr.load_run"),
        (lambda: open_network(str(tmp_path), "cpu"), "holds no checkpoint"),
        (lambda: fitting_weights(tmp_path, tiny(), people().skeleton), "holds no checkpoint"),
    ):
        with pytest.raises(SmprError, match=said):
            call()


def test_start_weights_of_a_run_that_goes_on(begun, tmp_path, capsys):
    run = Path(shutil.copytree(begun, tmp_path / "run"))
    train(tiny(), people(), run, None, "rendered", **QUIET | {"progress": True})
    assert "goes on from its own step 1; start weights do not count" in capsys.readouterr().err


def test_a_folder_with_files_of_others_is_no_run_folder(tmp_path):
    run = tmp_path / "run"
    for name in ("config.json", "log.jsonl", "skipped.json"):
        (tmp_path / name).write_text('{"name": "my site"}')
        with pytest.raises(SmprError, match=f"{name}: is there, and no training wrote it"):
            train(tiny(), people(), tmp_path, steps=1, **QUIET)
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, '{"name": "my site"}')]
        (tmp_path / name).unlink()
    train(tiny(), people(), run, steps=1, **QUIET)
    shutil.rmtree(run / "last")  # cut before its first checkpoint: a run of ours, begun again
    assert train(tiny(), people(), run, steps=1, **QUIET)["steps"] == 1
