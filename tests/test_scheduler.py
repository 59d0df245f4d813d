"""Rows on a dask scheduler and workers of this machine: a worker is killed, a call is interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from smpr.experiments import runner as reproduction
from smpr.experiments.records import made_here
from smpr.experiments.runner import Job, connect, run_on_scheduler
from smpr.settings import SmprError, load_settings

pytest.importorskip("distributed", reason="needs smpr[dask]")
pytestmark = pytest.mark.slow
ROOT, LONG = Path(__file__).parent.parent, 300  # seconds until we give up
PSM = Job("table1", "psm", "psm", (("train_steps", 150),))  # enough steps to kill it in between
BASELINE, TYPO = (
    Job("table1", "baseline", "baseline", (("train_steps", 2),)),
    Job("table1", "typo", "psm", (("train_speed", 1),)),
)


def wait_for(what, why: str, seconds: float = LONG):
    "The first true value of `what()`."
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"waited in vain for {why}"
        time.sleep(0.1)
    return value


class Cluster:
    "A scheduler and workers as processes of their own, without a nanny: a killed worker stays dead."

    def __init__(self, folder: Path):
        self.folder, self.workers = folder, {}
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0")
        self.address = json.loads(
            wait_for(lambda: (f := folder / "scheduler.json").exists() and f.read_text(), "the scheduler")
        )["address"]

    def _start(self, kind: str, *flags: str, **env: str) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.dask_{kind}",
            "--scheduler-file",
            str(self.folder / "scheduler.json"),
            "--no-dashboard",
            *flags,
        ]
        with (self.folder / f"{kind}.log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env,
            )

    def add_worker(self, name: str) -> None:
        "A worker with a folder for runs of its own."
        self.workers[name] = self._start(
            "worker",
            "--nthreads",
            "1",
            "--no-nanny",
            "--host",
            "127.0.0.1",
            "--local-directory",
            str(self.folder / name),
            SMPR_RUNS=str(self.runs(name)),
        )

    def runs(self, name: str) -> Path:
        return self.folder / f"runs-{name}"

    def folder_of(self, name: str, job: Job) -> Path | None:
        "Where a worker made a row."
        row = f"smpr-{job.experiment}-{job.name}-smoke-s{job.seed}-*"
        return next(self.runs(name).glob(f"rows/*/{row}"), None)

    def training(self, name: str, job: Job) -> bool:
        "Whether a worker has trained some steps of a row."
        folder = self.folder_of(name, job)
        return bool(folder) and any(job.below(folder / "runs", "smoke").glob("*"))

    def close(self) -> None:
        for process in (*self.workers.values(), self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


def free_again(folder: Path) -> bool:
    "Whether no process runs the row of a folder."
    try:
        with FileLock(PSM.below(folder / "runs" / "locks", "smoke"), timeout=0):
            return True
    except Timeout:
        return False


def test_what_is_missing_is_said(cluster, monkeypatch):
    with pytest.raises(SmprError, match=f"dask worker {cluster.address}"):
        run_on_scheduler([PSM], "smoke", cluster.address)
    with pytest.raises(SmprError, match="dask scheduler"):
        connect("tcp://127.0.0.1:9", timeout=1)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SmprError, match=r"pip install 'smpr\[dask\]'"):
        connect(cluster.address)


def test_killed_worker(cluster, tmp_path, capsys):
    "Another worker runs its row; a row that fails is reported; every other one leaves its record and files."
    for name in ("left", "right"):
        cluster.add_worker(name)
    with connect(cluster.address) as client:
        wait_for(lambda: len(client.nthreads()) == 2, "two workers")
    settings, killed = replace(load_settings(), figures=tmp_path / "figures", runs=tmp_path / "runs"), []

    def kill() -> None:
        name = wait_for(
            lambda: next((n for n in cluster.workers if cluster.training(n, PSM)), None), "the row to train"
        )
        cluster.workers[name].kill()
        killed.append(name)

    killer = threading.Thread(target=kill)
    killer.start()
    failed = run_on_scheduler([PSM, TYPO, BASELINE], "smoke", cluster.address, None, settings)
    killer.join()
    dead, alive = killed[0], next(n for n in cluster.workers if n not in killed)
    cluster.workers.pop(dead).wait()

    assert (
        failed == [TYPO]
        and "train_speed" in TYPO.executed("smoke", settings.runs).with_suffix(".log").read_text()
    )
    assert sorted(p.name for p in (settings.figures / "results").rglob("*.json")) == [
        "baseline-smoke-s0.json",
        "psm-smoke-s0.json",
    ]
    for job in (PSM, BASELINE):
        record = job.record("smoke", settings.figures)
        assert (
            made_here(record, settings.runs)
            and json.loads(record.read_text())["steps"] == dict(job.parameters)["train_steps"]
        )
    wait_for(lambda: free_again(cluster.folder_of(dead, PSM)), "the dead worker's run to end", 30)
    for name, kinds in (
        (dead, set()),
        (alive, {"record", "detections", "dense"}),
    ):  # the run died with its worker
        files = PSM.files("smoke", cluster.folder_of(name, PSM) / "figures")
        assert {kind for kind, path in files.items() if path.exists()} == kinds
    for kind in kinds:
        assert files[kind].read_bytes() == PSM.files("smoke", settings.figures)[kind].read_bytes()
    said = capsys.readouterr().out
    (lost, now) = re.search(rf"{PSM.label} +again: lost on (.+), now on (.+)\n", said).groups()
    assert lost != now and said.count("again: lost on") == 1
    assert said.count("done  (") == 2 and said.count("failed: see") == 1


def test_other_code_is_refused(cluster, monkeypatch):
    monkeypatch.setattr(reproduction, "code_fingerprint", lambda *a: "mine")
    with pytest.raises(SmprError, match="code is .* there, mine here"):
        run_on_scheduler([PSM], "smoke", cluster.address)


def test_interrupted_call(cluster, tmp_path, request):
    "Ctrl-C ends the call and, a moment later, the run on the worker."
    name = next(iter(cluster.workers))
    env = os.environ | {
        "SMPR_RUNS": str(tmp_path / "runs"),
        "SMPR_FIGURES": str(tmp_path / "figures"),
        "PYTHONPATH": str(ROOT),
    }
    earlier = set(cluster.runs(name).glob("rows/*/smpr-table1-psm-*"))
    program = (  # tests may run in the background, where SIGINT is ignored
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from smpr.cli import main; sys.exit(main())"
    )
    call = subprocess.Popen(
        [
            sys.executable,
            "-c",
            program,
            "reproduce",
            "table2",
            "--scale",
            "smoke",
            "--steps",
            "5000",
            "--scheduler",
            cluster.address,
        ],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    request.addfinalizer(call.kill)
    folder = wait_for(
        lambda: next(
            (f for f in cluster.runs(name).glob("rows/*/smpr-table1-psm-*") if f not in earlier), None
        ),
        "the row to begin",
    )
    log = PSM.executed("smoke", folder / "runs").with_suffix(".log")
    wait_for(lambda: log.exists() and "it" in log.read_text(), "the row to work")
    assert not free_again(folder)
    call.send_signal(signal.SIGINT)
    out, err = call.communicate(timeout=60)
    assert (
        call.returncode == 130
        and err.strip().splitlines()[-1].startswith("smpr: interrupted")
        and "1 runs to do" in out
    )
    wait_for(lambda: free_again(folder), "the run to end", 30)
    assert not list(tmp_path.rglob("*-s0.json"))


def test_lost_scheduler(cluster, tmp_path):
    "One line instead of a traceback; the run on the worker ends."
    settings = replace(load_settings(), figures=tmp_path / "figures", runs=tmp_path / "runs")
    seeds, name = [replace(PSM, seed=n) for n in (7, 8)], next(iter(cluster.workers))

    def kill() -> None:
        wait_for(lambda: any(cluster.folder_of(name, job) for job in seeds), "a row to begin")
        cluster.scheduler.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(SmprError, match="is gone"):
        run_on_scheduler(seeds, "smoke", cluster.address, None, settings)
    killer.join()
    assert cluster.workers[name].wait(60) == 0 and not (settings.figures / "results").exists()
