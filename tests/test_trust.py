"""Kill it, feed it garbage, load a hostile file: the fast part of `make trust`. Every test here fails when
its guard is taken away (trust/guards.py)."""

import ast
import json
import os
import pkgutil
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trust import agreement, hostile, inputs, kinds
from trust.guards import GUARDS, Put
from trust.kills import Kill, kill_and_resume, mini, people
from trust.load import predict_many

from smpr.command.replay import replay_step
from smpr.data import load_set
from smpr.experiments import runner as reproduction
from smpr.experiments.records import mark_made
from smpr.experiments.runner import Job, run_jobs
from smpr.run_folder import read_log
from smpr.settings import SmprError, load_settings
from smpr.training import train
from smpr.update import BadNumbers

QUIET = dict(workers=0, device="cpu", progress=False)
TRAIN = [
    "train",
    "--train.steps",
    "40",
    "--train.batch",
    "2",
    "--data.short",
    "72",
    "--data.long",
    "96",
    "--model.width",
    "16",
    "--model.tower_depth",
    "1",
    "--model.norm_groups",
    "4",
    "--model.heatmap_width",
    "8",
    "--device",
    "cpu",
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    "No test writes into the checkout."
    for name, value in (("RUNS", tmp_path / "runs"), ("FIGURES", tmp_path / "figures"), ("WORKERS", "1")):
        monkeypatch.setenv(f"SMPR_{name}", str(value))


@pytest.fixture
def few_people(tmp_path):
    "Ten pictures for the command to train on."
    folder = load_settings().data / "train"
    content = json.loads((folder / "person_keypoints.json").read_text())
    content["images"] = content["images"][:10]
    ids = {i["id"] for i in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "person_keypoints.json").write_text(json.dumps(content))
    (tmp_path / "data" / "train" / "images").symlink_to(folder / "images")
    return tmp_path / "data"


# 1. exact resume


@pytest.mark.slow
def test_killed_and_resumed(tmp_path):
    """During a step, while a checkpoint is written, during the first measurement: the end is that of an
    undisturbed run."""
    found = kill_and_resume(
        tmp_path, [Kill("step", 6, 0.01), Kill("save", 5, 0.001), Kill("evaluation", 2, 0.0)], steps=10
    )
    assert (found["attempted"], found["survived"], found["differences"]) == (3, 3, []), found


@pytest.mark.slow
def test_damaged_checkpoint_is_named_and_skipped(tmp_path, capsys):
    "One changed byte in a tensor of the newest checkpoint; then also its state.json cut in half."

    def go(steps: int) -> int:
        return train(
            mini(6), people("train", 10), tmp_path / "run", steps=steps, save_every=1, log_every=1, **QUIET
        )["steps"]

    go(3)
    file = tmp_path / "run" / "last" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert (
        go(4) == 2 and "optimizer.safetensors: missing or damaged" in capsys.readouterr().err
    )  # from step 2, kept beside it
    state = tmp_path / "run" / "last" / "state.json"
    state.write_text(state.read_text()[:300])
    assert (
        go(4) == 1
        and str(state) in capsys.readouterr().err
        and [r["step"] for r in read_log(tmp_path / "run")] == [1, 2, 3, 4]
    )
    state.write_text(state.read_text().replace('"step": 4', '"step": 5'))
    assert go(4) == 1 and "state.json: missing or damaged" in capsys.readouterr().err
    whole = tmp_path / "whole"
    train(mini(6), people("train", 10), whole, steps=4, save_every=1, log_every=1, **QUIET)
    a, b = (load_file(run / "last" / "optimizer.safetensors") for run in (whole, tmp_path / "run"))
    assert all(torch.equal(t, b[k]) for k, t in a.items())


# 2. full disk, signals, lost worker


def start(
    data: Path, log: Path, *more: str, limit: int | None = None, words: list | None = None
) -> subprocess.Popen:
    "The command in a process of its own, with a handler for Ctrl-C even where tests run in the background."
    program = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from trust.guards import remove_guard; remove_guard()\n"
        "from smpr.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    env = os.environ | {
        "SMPR_DATA": str(data),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    keep = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    with log.open("w") as f:
        return subprocess.Popen(
            [sys.executable, "-c", program, str(Path(__file__).parent), *(words or TRAIN), *more],
            env=env,
            stdout=f,
            stderr=f,
            preexec_fn=keep,
        )


def wait_for(what, seconds: float = 300):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def ended(process: subprocess.Popen, seconds: float = 300) -> int:
    "The exit code; a process that does not end is killed."
    try:
        return process.wait(seconds)
    finally:
        process.kill()


def errors(log: Path) -> list[str]:
    return [
        l
        for l in log.read_text().splitlines()
        if l.startswith("smpr: ") or "Traceback" in l or l.startswith("  File ")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_stopped_by_a_signal(few_people, tmp_path, number):
    """It saves where it is, exits 143 or 130 and says which command goes on; the whole group gets the signal,
    as from a terminal."""
    log = tmp_path / "log"
    process = start(few_people, log, "--run", str(tmp_path / "run"), "--train.steps", "100000")
    wait_for((tmp_path / "run" / "log.jsonl").exists)  # some steps are done
    for pid in (process.pid, *children(process.pid)):
        os.kill(pid, number)
    assert ended(process) == 128 + number, log.read_text()
    step = json.loads((tmp_path / "run" / "last" / "state.json").read_text())["step"]
    run = tmp_path / "run"
    go_on = f"smpr {' '.join(TRAIN)} --run {run} --train.steps 100000"
    assert step > 0
    assert errors(log) == [f"smpr: interrupted; {run}: step {step} is saved; go on with: {go_on}"]


def children(pid: int) -> list[int]:
    "Processes that a process has started."
    return [
        int(c)
        for task in Path(f"/proc/{pid}/task").glob("*")
        for c in (task / "children").read_text().split()
    ]


@pytest.mark.slow
def test_lost_worker(few_people, tmp_path):
    "One line and exit 2 instead of PyTorch's stack."
    log = tmp_path / "log"
    process = start(few_people, log, "--run", str(tmp_path / "run"), "--train.steps", "100000")
    wait_for((tmp_path / "run" / "log.jsonl").exists)
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)
    assert ended(process) == 2, log.read_text()
    said = errors(log)
    assert (
        len(said) == 1
        and "a process that loads pictures was lost" in said[0]
        and "run again to resume" in said[0]
    )


@pytest.mark.slow
def test_temporary_folder_is_emptied(tmp_path):
    """Somebody tidies up the temporary folder through which pictures are handed over: an error that says so,
    and an end, though the loading processes are well."""
    run, log = tmp_path / "run", tmp_path / "log"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from trust.kills import mini, people\n"
        "from smpr.training import train\n"
        "train(mini(100000), people('train', 10), Path(sys.argv[2]), workers=2,\n"
        "      device='cpu', progress=False, log_every=1)"
    )
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place,
        log.open("w") as f,
    ):  # not below tmp_path: that would be too long a path
        env = os.environ | {
            "TMPDIR": place,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(Path(__file__).parent), str(run)], env=env, stdout=f, stderr=f
        )
        wait_for(lambda: (run / "log.jsonl").exists() or process.poll() is not None)
        for folder in Path(place).glob("pymp-*"):
            shutil.rmtree(folder)
        assert ended(process, 60) == 1, log.read_text()
    assert "a process that loads pictures was lost" in log.read_text()


def test_temporary_folder_with_a_long_path(tmp_path, monkeypatch):
    "No batch would ever come through it, and nobody would say why."
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    with pytest.raises(SmprError, match="long: the temporary folder's path is too long"):
        train(mini(4), people("train", 10), tmp_path / "run", workers=1, device="cpu", progress=False)
    assert train(mini(1), people("train", 10), tmp_path / "run", **QUIET)["step"] == 1


@pytest.mark.slow
def test_full_disk_while_training(few_people, tmp_path):
    """No file may grow beyond 20 kB: the checkpoint cannot be written, one line says so, and the one before
    is intact."""
    run, log = tmp_path / "run", tmp_path / "log"
    train(mini(4), people("train", 10), run, steps=1, **QUIET)
    before = {f.name: f.read_bytes() for f in (run / "last").iterdir()}
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from trust.guards import remove_guard; remove_guard()\n"
        "from pathlib import Path\n"
        "from trust.kills import mini, people\n"
        "from smpr.training import train\n"
        "from smpr.settings import SmprError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "more = dict(workers=0, device='cpu', progress=False)\n"
        "try: train(mini(4), people('train', 10), Path(sys.argv[2]), **more)\n"
        "except SmprError as e: sys.exit(f'smpr: error: {e}')"
    )
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    with log.open("w") as f:
        assert (
            subprocess.run(
                [sys.executable, "-c", code, str(Path(__file__).parent), str(run)],
                env=env,
                stdout=f,
                stderr=f,
            ).returncode
            == 1
        )
    said = errors(log)
    assert len(said) == 1 and "cannot be saved" in said[0] and "what was saved before is kept" in said[0], (
        log.read_text()
    )
    assert {f.name: f.read_bytes() for f in (run / "last").iterdir()} == before and not (
        run / "last.part"
    ).exists()
    assert train(mini(4), people("train", 10), run, **QUIET)["steps"] == 3


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="needs root to become a user who may not write"
)
def test_read_only_folder(tmp_path):
    "A user who may not write there is told which folder it is."
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o755)
    for p in (tmp_path, *tmp_path.parents):
        if not p.stat().st_mode & 0o001 and p != Path("/"):
            p.chmod(p.stat().st_mode | 0o111)
    os.seteuid(65534)
    try:
        with pytest.raises(SmprError, match="closed/run: cannot be made"):
            train(mini(4), people("train", 10), closed / "run", **QUIET)
    finally:
        os.seteuid(0)


# 3. bad data


@pytest.mark.slow
def test_bad_inputs():
    "Some hundred of the cases of `make trust`: nothing is wrong in silence, nothing crashes, nothing hangs."
    found = inputs.try_all(documents=150, results=60, cuts=3, flips=4)
    assert found["attempted"] > 350 and found["refused_clearly"] + found["handled"] == found["attempted"], (
        found["wrong"]
    )


@pytest.mark.parametrize(
    "case",
    (
        "500 persons in one picture",
        "boxes outside",
        "keypoints outside",
        "tiny area",
        "negative area",
        "the same picture twice",
        "num_keypoints wrong",
    ),
)
def test_strange_sets_train_or_are_refused(tmp_path, case):
    "The loss of what is accepted is finite."
    for i in (1, 2):
        inputs.noise(seed=i).save(tmp_path / f"{i}.png")
    (tmp_path / "set.json").write_text(json.dumps(inputs.handmade()[case]))
    poses = load_set(tmp_path, tmp_path / "set.json")
    try:
        summary = train(
            replace(mini(2), train=replace(mini(2).train, batch=2)), poses, tmp_path / "run", steps=1, **QUIET
        )
    except SmprError as e:
        assert "set.json" in str(e)
    else:
        assert 0 < summary["losses"]["total"] < float("inf")


def test_bad_step_names_pictures_and_replays(tmp_path):
    config = replace(mini(4), train=replace(mini(4).train, lr=1e30, warmup=0, clip=0.0))
    with pytest.raises(BadNumbers) as e:
        train(config, people("train", 10), tmp_path, save_every=1, **QUIET)
    again = replay_step(tmp_path / "bad_step_0.safetensors")
    assert (
        f"pictures {', '.join(map(str, again['pictures']))}" in str(e.value)
        and "smpr train --replay" in str(e.value)
        and "\n" not in str(e.value)
    )
    assert (
        again["step"] == 2
        and len(again["pictures"]) == 4
        and set(again["pictures"]) <= {r.id for r in people("train", 10).records}
    )
    assert not all(torch.isfinite(torch.tensor(v)) for k, v in again.items() if k not in ("step", "pictures"))


def test_who_is_skipped_is_listed(tmp_path):
    data = inputs.good()
    data["annotations"][1]["iscrowd"] = 1
    for i in (1, 2):
        inputs.noise(seed=i).save(tmp_path / f"{i}.png")
    (tmp_path / "set.json").write_text(json.dumps(data))
    train(
        replace(mini(2), train=replace(mini(2).train, batch=2)),
        load_set(tmp_path, tmp_path / "set.json"),
        tmp_path / "run",
        steps=1,
        **QUIET,
    )
    assert json.loads((tmp_path / "run" / "skipped.json").read_text()) == {"crowd": [2]}


# 4. numbers that agree


@pytest.mark.slow
def test_ap_is_everybodys_ap():
    pytest.importorskip("faster_coco_eval", reason="needs the dev extra")
    figures = Path(__file__).parent.parent / "figures"
    found = agreement.compare_ap(sorted((figures / "results").glob("*/*-rendered-*.detections.json.gz"))[:1])
    assert found["files"] == 1 and found["pycocotools"] == 0 and found["faster_coco_eval"] < 1e-9


@pytest.mark.slow
def test_poses_agree():
    found = agreement.compare_poses(3)
    assert found["batch_and_singles"]["largest_output"] <= 1e-4
    for name in agreement.BOUNDS:
        if isinstance(found[name], dict):
            assert found[name]["poses"] >= 3 and agreement.within(name, found[name]), (name, found[name])
    assert (
        found["padding_64_px_more"]["largest_px"] <= 8 and found["bfloat16"]["largest_px"] <= 3
    )  # for these three pictures; more of them are in the record


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")
def test_poses_agree_on_a_gpu():
    assert agreement.within("gpu", agreement.compare_poses(3)["gpu"])


# 5. hostile files


def test_hostile_files():
    found = hostile.try_hostile()
    assert found["wrong"] == [] and found["refused"] == found["attempted"] >= 50


@pytest.mark.slow
def test_no_network():
    "Importing everything and finding people works where every connection fails."
    code = (
        "import socket, pkgutil, importlib\n"
        "def no(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = no\n"
        "import smpr\n"
        "names = [m.name for m in pkgutil.walk_packages(smpr.__path__, 'smpr.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "import numpy as np\n"
        "from smpr.inference import load, predict\n"
        "predict(load('rendered', 'cpu'), np.zeros((48, 64, 3), np.uint8))\n"
        "print(*names)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert {"smpr.viz.panels", "smpr.experiments.rows"} <= set(done.stdout.split())  # rooms are walked, too


def test_every_guard_is_there():
    "What `make trust` takes away exists, under the name that it says, and so does the test that notices."
    for guard in GUARDS.values():
        if isinstance(guard.remove, Put):
            assert pkgutil.resolve_name(f"smpr.{guard.remove.place}") is not None
        assert guard.notices in globals()


def test_every_kind_is_counted():
    "Each of the ten has several tests, and each test of these files belongs to one."
    found = [
        kinds.kind_at(path, node.lineno)
        for path in kinds.FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert set(found) == set(kinds.KINDS) and min(map(found.count, kinds.KINDS)) >= 3


# 6. many pictures


@pytest.mark.slow
def test_predict_goes_on(tmp_path):
    """Killed in the middle of the 7th picture of 12 and called again: nothing is done twice, and the results
    are those of one call."""
    cut = predict_many(tmp_path / "cut", 12, kill_at=6)
    assert (
        cut["exit_codes"] == [-signal.SIGKILL, 2]
        and cut["kept_by_the_kill"] == 6
        and cut["computed_again"] == 6
    ), cut
    whole = predict_many(tmp_path / "whole", 12)
    assert (
        whole["exit_codes"] == [2]
        and whole["done"] == cut["done"] == 11
        and whole["poses"] == cut["poses"] == 220
        and whole["reported"] == 1
        and whole["reported_wrongly"] == 0
    )
    a, b = (json.loads((tmp_path / n / "out" / "results.json").read_text()) for n in ("cut", "whole"))
    assert sorted(a, key=lambda r: (r["image_id"], -r["score"])) == sorted(
        b, key=lambda r: (r["image_id"], -r["score"])
    )


# 7. two calls


def test_two_calls_make_a_row_once(tmp_path, monkeypatch):
    "The second call waits for the first one's row and takes its record."
    settings, made, at_once = (
        replace(load_settings(), figures=tmp_path / "figures", runs=tmp_path / "runs"),
        [],
        [],
    )
    job = Job("table1", "psm", "psm")

    def run(*more):
        at_once.append(1)
        assert len(at_once) == 1, "two at a time"
        time.sleep(0.3)
        record = job.record("smoke", settings.figures)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"made": len(made)}))
        mark_made(record, settings.runs)
        made.append(record)
        at_once.pop()
        return 0

    monkeypatch.setattr(reproduction, "run_notebook", run)
    failed = []
    calls = [
        threading.Thread(target=lambda: failed.append(run_jobs([job], "smoke", 1, 1, None, settings)))
        for _ in range(2)
    ]
    for c in calls:
        c.start()
    for c in calls:
        c.join()
    assert failed == [[], []] and len(made) == 1
