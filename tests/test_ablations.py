"""The experiment machinery: parameters, records, tables, and the notebook whose form must match the
configuration."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripts import module
from test_full_training import wide, write_coco

from smpr.experiments.findings import read_detections, write_detections
from smpr.experiments.jobs import CHOSEN_RATES, RATES, rate_jobs
from smpr.experiments.records import fingerprint, load_records, mark_made, write_record
from smpr.experiments.rows import Row, apply_parameters, make_scale, parameter_names, row_config
from smpr.experiments.runner import Trial, plan, reproduce
from smpr.experiments.tables import (
    COLUMNS,
    Matches,
    paired_step,
    table1_rows,
    table_csv,
    table_latex,
    table_markdown,
    weighted_ap,
)
from smpr.settings import SmprError, atomic_write, load_settings
from smpr.update import Config

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "nbs" / "ablations"


def record(row: str, seed: int, ap: float) -> dict:
    return {
        "experiment": "table1",
        "row": row,
        "scale": "mini",
        "seed": seed,
        "metrics": dict.fromkeys(COLUMNS, ap),
    }


def test_run_notebook_offers_every_field():
    "Each configuration field is a papermill parameter of run.ipynb, and nothing else claims to be one."
    cells = json.loads((NOTEBOOKS / "run.ipynb").read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
    offered = {
        line.split(" = ")[0]
        for line in source.splitlines()
        if " = None" in line
        and line.split("_")[0] in ("model", "assign", "loss", "data", "test", "decode", "train")
    }
    assert offered == set(parameter_names())


@pytest.mark.parametrize("row", list(Row))
def test_rows_share_everything_but_their_switches(row):
    base = make_scale("mini").config
    config = row_config(row, base)
    assert (config.train, config.data, config.test, config.loss) == (
        base.train,
        base.data,
        base.test,
        base.loss,
    )
    assert (config.model.width, config.model.strides, config.model.backbone) == (
        base.model.width,
        base.model.strides,
        base.model.backbone,
    )


def test_parameters_keep_their_types():
    config = apply_parameters(
        Config(), {"model_strides": [8, 16], "model_neck": "pafpn", "data_short_range": [640, 800]}
    )
    assert (
        config.model.strides == (8, 16)
        and config.model.neck.value == "pafpn"
        and config.data.short_range == (640, 800)
    )


@pytest.mark.parametrize(
    "values", [{"train_speed": 1}, {"assign_shrink": "mine"}, {"assign_oks_threshold": 7}]
)
def test_bad_parameters_are_named(values):
    with pytest.raises(SmprError) as e:
        apply_parameters(Config(), values)
    assert next(iter(values)).split("_", 1)[1] in str(e.value) and "\n" not in str(e.value)


def test_table_is_made_of_records_alone(tmp_path):
    for seed, ap in ((0, 0.10), (1, 0.20)):
        write_record(record("psm", seed, ap), tmp_path)
    rows = table1_rows(load_records("table1", "mini", tmp_path), "mini")
    psm = next(r for r in rows if r.label == "+ PSM")
    assert psm.seeds == 2 and abs(psm.ours["AP"][0] - 15) < 1e-9 and abs(psm.ours["AP"][1] - 7.0711) < 1e-3
    assert [r.seeds for r in rows].count(0) == 6
    text = table_markdown(rows, "test")
    assert (
        "15.0 ± 7.1" in text
        and "+ PSM,2,15.00" in table_csv(rows)
        and text.count("papermill") == 6
        and table_latex(rows, "x").count("not run") == 6
    )


def test_broken_record_is_named(tmp_path):
    path = write_record(record("psm", 0, 0.1), tmp_path)
    path.write_text("{")
    with pytest.raises(SmprError, match="psm-mini-s0.json"):
        load_records("table1", "mini", tmp_path)


def test_unknown_names():
    with pytest.raises(SmprError, match="huge"):
        make_scale("huge")
    with pytest.raises(SmprError, match="table7"):
        reproduce("table7")


@pytest.mark.slow
def test_a_large_scale_runs_on_a_processor(tmp_path, monkeypatch):
    """Two steps of one picture at the scale `gpu`, through the same command, notebooks and records; the scale
    `coco` runs in test_start."""
    monkeypatch.setenv("SMPR_RUNS", str(tmp_path))
    coco, scale = write_coco(tmp_path / "coco", {"train": 2}, wide), "gpu"
    given = (str(coco / "train2017"), str(coco / "annotations" / "person_keypoints_train2017.json"))
    trial = Trial(2, 1, *given, *given, start="none")  # without the network
    figures = trial.settings(load_settings()).figures
    assert reproduce("table2", scale, 1, 1, trial) == 0 and tmp_path / "trial" in figures.parents
    made = json.loads((figures / "results" / "table1" / f"psm-{scale}-s0.json").read_text())
    assert made["steps"] == 2 and made["data"]["train_pictures"] == 2 and np.isfinite(made["metrics"]["AP"])
    assert "psm" in (figures / "table2" / f"table2-{scale}.md").read_text().lower()


def test_detections_survive_their_file(tmp_path):
    results = [
        {
            "image_id": i,
            "category_id": 1,
            "keypoints": [float(v) for k in range(17) for v in (10 * i + k, 3.3 * k, 1)],
            "score": 0.9 - i / 100,
        }
        for i in range(20)
    ]
    note = write_detections(tmp_path / "a.json.gz", results)
    write_detections(tmp_path / "b.json.gz", results)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes() and note[
        "poses"
    ] == note["of"] == 20
    back = read_detections(tmp_path / "a.json.gz")
    assert all(
        abs(x - y) <= 0.051 for a, b in zip(results, back) for x, y in zip(a["keypoints"], b["keypoints"])
    )
    few = write_detections(tmp_path / "c.json.gz", results, limit=240)
    assert (tmp_path / "c.json.gz").stat().st_size <= 240 and 0 < few["poses"] < 20
    assert [r["score"] for r in read_detections(tmp_path / "c.json.gz")] == pytest.approx(
        [r["score"] for r in results[: few["poses"]]]
    )  # the best stay


def test_bootstrap_needs_the_same_draw():
    "A row against itself differs by nothing in every replicate, whatever its seeds."
    step = paired_step("same", np.zeros((50, 3)), [0.0] * 3)
    assert (step.difference, step.low, step.high, step.verdict) == (0, 0, 0, "not beyond chance")
    up = paired_step("up", np.full((50, 3), 0.1), [0.1] * 3)
    assert up.verdict == "beyond chance" and abs(up.low - 10) < 1e-9 and abs(up.high - 10) < 1e-9


def test_interval_of_few_seeds_is_students():
    "Three seeds that scatter have Student's margin, not that of redrawn seeds; one seed has no verdict."
    step = paired_step("few", np.full((50, 3), 0.02), [0.01, 0.02, 0.03])
    half = 4.303 / 3**0.5  # percent: the deviation is 1
    assert step.verdict == "not beyond chance" and abs(step.high - step.difference - half) < 1e-6
    assert paired_step("one", np.full((50, 1), 0.1), [0.1]).verdict == "one seed"


@pytest.mark.parametrize("seed", range(5))
def test_weighted_ap_equals_written_out_copies(seed):
    "Weights count pictures as often as copies of them would, random matches, ties between copies included."
    rng = np.random.default_rng(seed)
    n, d = 6, 40
    hit = rng.random((3, d)) < 0.4
    m = Matches(
        rng.integers(0, n, d),
        hit,
        ~hit & (rng.random((3, d)) < 0.8),
        rng.integers(3, 9, n),
        np.linspace(1, 0, d),
    )
    draw = rng.integers(0, n, n)
    copies = np.concatenate([np.full((draw == p).sum(), i) for i, p in enumerate(m.picture)]).astype(int)
    written = Matches(
        np.zeros(len(copies), int),
        m.hit[:, copies],
        m.miss[:, copies],
        np.array([m.people[draw].sum()]),
        m.score[copies],
    )
    assert abs(weighted_ap(m, np.bincount(draw, minlength=n)) - weighted_ap(written, np.ones(1))) < 1e-12


def test_reference_page_is_cleaned(tmp_path):
    "What belongs to one machine and one hour goes; without a record of our own there is no page."
    keep = module(ROOT / "benchmarks" / "keep_reference.py")
    own = replace(load_settings(), figures=tmp_path / "figures", runs=tmp_path / "runs")
    outputs = [
        {"name": "stderr", "text": "50%"},
        {"name": "stdout", "text": f"{ROOT.resolve()}/figures/a.json"},
    ]
    about = {"cell_type": "code", "source": "", "metadata": {"papermill": {}}, "outputs": outputs}
    text = {"cell_type": "markdown", "metadata": {}, "source": "hello"}
    book = {"metadata": {"papermill": {"duration": 3.1}}, "cells": [text, about]}
    atomic_write(keep.REFERENCE.executed("smoke", own.runs), json.dumps(book))
    assert keep.keep_reference("smoke", own) is None
    mark_made(atomic_write(keep.REFERENCE.record("smoke", own.figures), "{}"), own.runs)
    kept = json.loads(keep.keep_reference("smoke", own).read_text())
    assert "papermill" not in str(kept)
    assert kept["cells"][1]["outputs"] == [{"name": "stdout", "text": "figures/a.json"}]


def test_plans_name_every_run_once():
    for scale in ("smoke", "mini", "rendered", "gpu", "coco"):
        jobs = plan("all", scale, 3)
        files = [j.record(scale, Path("f")) for j in jobs]
        assert len(files) == len(set(files)) and sum(j.experiment == "table1" for j in jobs) == 21
        assert set(plan("figure6", scale)) | set(plan("deviations", scale)) | set(
            plan("table3", scale)
        ) <= set(jobs)


@pytest.mark.slow
def test_killed_run_goes_on_bit_for_bit(tmp_path):
    """A run killed by SIGKILL after its first saved state and started again leaves the record and detections
    of an unbroken one."""
    program = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from smpr.experiments.records import write_record\n"
        "from smpr.experiments.rows import *; from smpr.experiments import rows as ablations\n"
        "from functools import partial; ablations.train_kept = partial(ablations.train_kept, save_every=2)\n"
        "s = make_scale('smoke'); c = row_config('psm', s.config)\n"
        "c = replace(c, train=replace(c.train, steps=int(sys.argv[1])))\n"
        "r = run_row('t', 'psm', s, 0, c, RunOptions(dense=True))\n"
        "print(write_record(r.record, Path(sys.argv[2]), r.findings))\n"
    )

    def start(runs: str, out: str):
        env = os.environ | {"SMPR_RUNS": str(tmp_path / runs), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", program, "12", str(tmp_path / out)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start("whole", "a").wait(300) == 0
    shutil.copytree(tmp_path / "whole" / "cache", tmp_path / "cut" / "cache")
    first, folder = start("cut", "b"), tmp_path / "cut" / "t" / "psm-smoke-s0"
    while not list(folder.glob("kept-*/last/state.json")) and first.poll() is None:
        time.sleep(0.005)
    first.kill()
    first.wait()
    assert not list(tmp_path.glob("b/**/*.json")), "the run ended before it could be killed"
    assert start("cut", "b").wait(300) == 0
    a, b = (json.loads((tmp_path / x / "results" / "t" / "psm-smoke-s0.json").read_text()) for x in "ab")
    for r in (a, b):
        for name in ("wall_seconds", "train_seconds"):
            del r[name]
    assert a == b
    for name in ("psm-smoke-s0.detections.json.gz", "psm-smoke-s0.dense.npz"):
        assert (tmp_path / "a/results/t" / name).read_bytes() == (
            tmp_path / "b/results/t" / name
        ).read_bytes()


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_shown_tables_are_those_of_the_records(path):
    "An ablation notebook shows what the records say that lie beside it: executed, and none of them newer."
    book = json.loads(path.read_text())
    if path.stem == "run":
        return
    shown = "".join("".join(o.get("text", "")) for c in book["cells"] for o in c.get("outputs", []))
    lines = re.findall(r"read: (.+) at (\w+), .+", shown)
    assert len(lines) == 1, f"{path.name}: not executed; run `make notebooks`"
    experiments, scale = lines[0]
    now = fingerprint(tuple(experiments.split(", ")), scale, ROOT / "figures")
    assert now in shown, f"{path.name} is older than its records ({now}); run `make notebooks`"


def test_chosen_rates_follow_from_their_records():
    "Each rival's learning rate is the one with the highest AP of the three that were tried."
    records = {r["row"]: r["metrics"]["AP"] for r in load_records("rates", "mini", ROOT / "figures")}
    if not records:
        pytest.skip("no learning rates were tried: smpr reproduce rates --scale mini")
    for name in {job.row for job in rate_jobs("mini")}:
        tried = {share: records.get(f"{name}-lr{share:g}", -1) for share in RATES}
        assert max(tried, key=lambda share: tried[share]) == CHOSEN_RATES.get(name, 1.0), (name, tried)
