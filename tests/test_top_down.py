"""The top-down peer: a run end to end, learning, resuming, valid results."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from smpr.evaluation import METRICS, check_results
from smpr.experiments.findings import read_detections
from smpr.experiments.frozen import KeptSource, resized_features, train_kept
from smpr.experiments.rows import RunOptions, make_scale, row_sets, start_state
from smpr.experiments.runner import Job, plan, run_jobs
from smpr.peers.keypoint_rcnn import (
    PEER,
    TopDown,
    find_people,
    peer_config,
    peer_findings,
    peer_losses,
    person_boxes,
    run_peer,
    top_down_config,
)
from smpr.settings import load_settings


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A finished smoke run by papermill, as `smpr reproduce` makes it: its record, detections, log and what
    was printed."""
    folder = tmp_path_factory.mktemp("peer")
    settings, job = (
        replace(load_settings(), figures=folder / "figures", runs=folder / "runs"),
        Job("table3", PEER, PEER),
    )
    assert run_jobs([job], "smoke", 1, 1, {}, settings) == []
    files = job.files("smoke", settings.figures)
    return (
        json.loads(files["record"].read_text()),
        read_detections(files["detections"]),
        job.executed("smoke", settings.runs).with_suffix(".log").read_text(),
    )


@pytest.mark.slow
def test_smoke_run_leaves_a_record(smoke):
    record, _, log = smoke
    assert (record["experiment"], record["row"], record["scale"], record["seed"]) == (
        "table3",
        PEER,
        "smoke",
        0,
    )
    assert set(record["metrics"]) == set(METRICS) and set(record["scoring"]) == {
        "score",
        "person",
        "true-oks",
    }
    assert record["steps"] == peer_config(make_scale("smoke")).train.steps == record["log"][-1]["step"]
    assert (
        record["data"]["kind"] == "rendered"
        and record["start"]["parts"] == ["backbone."]
        and record["train_seconds"] > 0
    )
    assert {"versions", "hardware", "commit", "config", "top_down", "wall_seconds", "detections"} <= set(
        record
    )
    assert f"{PEER} seed 0: " in log


@pytest.mark.slow
def test_results_are_coco_results(smoke):
    _, results, _ = smoke
    val = row_sets(make_scale("smoke"))[1]
    sizes = {r.id: r.size for r in val.records}
    check_results(results, 17, set(sizes))
    assert results and all(sum(r["image_id"] == i for r in results) <= 20 for i in sizes)
    for r in results:
        h, w = sizes[r["image_id"]]
        assert (
            0 < r["score"] <= 1
            and all(-1 <= x <= w + 1 for x in r["keypoints"][::3])
            and all(-1 <= y <= h + 1 for y in r["keypoints"][1::3])
        )


def test_table3_has_the_peer_at_every_scale():
    for scale in ("smoke", "mini", "rendered", "gpu", "coco"):
        jobs = [j for j in plan("table3", scale) if j.row == PEER]
        assert len(jobs) == 1 and f"-p row {PEER}" in jobs[0].command(scale)


def test_boxes_hold_their_keypoints():
    torch.manual_seed(0)
    k = torch.cat(
        [torch.rand(50, 17, 2) * torch.tensor([320.0, 240.0]), torch.randint(0, 3, (50, 17, 1)).float()], -1
    )
    k[:, 0, 2] = 2
    boxes = person_boxes(k, (240, 320))
    seen, x, y = k[..., 2] > 0, k[..., 0], k[..., 1]
    assert (
        (x >= boxes[:, :1]) & (x <= boxes[:, 2:3]) & (y >= boxes[:, 1:2]) & (y <= boxes[:, 3:]) | ~seen
    ).all()
    assert (boxes >= 0).all() and (boxes[:, 2] <= 320).all() and (boxes[:, 3] <= 240).all()


@pytest.mark.slow
def test_two_pictures_are_learnt(tmp_path):
    "From the shipped parts, on two pictures: the loss falls to less than half, and their people are found."
    scale = make_scale("rendered")
    config = peer_config(scale)
    config = replace(config, train=replace(config.train, batch=2, steps=80, warmup=8, ema=0.9))
    val = row_sets(scale)[1]
    two = val.subset(
        [
            i
            for i, r in enumerate(val.records)
            if ((r.keypoints[..., 2] > 0).sum(1) > 13).sum() == 1 == len(r.areas)
        ][:2]
    )
    torch.manual_seed(0)
    net = TopDown(config, top_down_config(scale)).to(memory_format=torch.channels_last).eval()
    net.load_state_dict(start_state(net, scale.start, scale.start_parts), strict=False)
    kept = resized_features(net, two, config, tmp_path)
    source = KeptSource(two, net, losses=peer_losses, frozen=kept)
    log = train_kept(source, config, tmp_path / "run")
    total = [sum(v for k, v in row.items() if k != "step") for row in log]
    assert total[-1] < 0.5 * (8.06 + 0.69 + 0.69)  # at the start: log(56 * 56) and twice log(2)
    assert (
        peer_findings(find_people(net, two, config.test, kept), two, net.sigmas).scoring["score"]["AP50"]
        > 0.9
    )


@pytest.mark.slow
def test_killed_peer_goes_on_bit_for_bit(tmp_path):
    """Killed by SIGKILL after its first saved state and started again: record and detections of an unbroken
    run."""
    program = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from smpr.experiments import rows as ablations; from smpr.experiments.records import write_record\n"
        "from smpr.peers.keypoint_rcnn import *\n"
        "from smpr.experiments import frozen; train_kept = frozen.train_kept\n"
        "frozen.train_kept = lambda *a: train_kept(*a[:4], save_every=2)\n"
        "s = ablations.make_scale('smoke'); c = peer_config(s)\n"
        "c = replace(c, train=replace(c.train, steps=10))\n"
        "r = run_peer('t', s, 0, c); write_record(r.record, Path(sys.argv[1]), r.findings)\n"
    )

    def start(runs: str, out: str):
        env = os.environ | {"SMPR_RUNS": str(tmp_path / runs), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / out)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start("whole", "a").wait(300) == 0
    shutil.copytree(tmp_path / "whole" / "cache", tmp_path / "cut" / "cache")
    first, folder = start("cut", "b"), tmp_path / "cut" / "t" / f"{PEER}-smoke-s0"
    while not list(folder.glob("kept-*/last/state.json")) and first.poll() is None:
        time.sleep(0.005)
    first.kill()
    first.wait()
    assert not list(tmp_path.glob("b/**/*.json")), "the run ended before it could be killed"
    assert start("cut", "b").wait(300) == 0
    name = f"results/t/{PEER}-smoke-s0"
    a, b = (json.loads((tmp_path / x / f"{name}.json").read_text()) for x in "ab")
    for r in (a, b):
        for field in ("wall_seconds", "train_seconds"):
            del r[field]
    assert (
        a == b
        and (tmp_path / "a" / f"{name}.detections.json.gz").read_bytes()
        == (tmp_path / "b" / f"{name}.detections.json.gz").read_bytes()
    )
    runs = (next((tmp_path / x / "t" / f"{PEER}-smoke-s0").glob("kept-*")) for x in ("whole", "cut"))
    weights = [load_file(run / "last" / "ema.safetensors") for run in runs]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


@pytest.mark.slow
def test_large_network_runs_on_a_processor(tmp_path, monkeypatch):
    "Two steps of one small picture through torchvision's sizes, backbone included; both scales have them."
    monkeypatch.setenv("SMPR_RUNS", str(tmp_path))
    gpu, coco = make_scale("gpu"), make_scale("coco")
    assert peer_config(gpu).model == peer_config(coco).model and top_down_config(gpu) == top_down_config(coco)
    scale, two = replace(coco, start=None), row_sets(make_scale("smoke"))[1].subset(range(2))
    config = peer_config(scale)  # of random weights nothing is frozen
    config = replace(
        config,
        model=replace(config.model, frozen_stages=0, frozen_norm_affine=False),
        train=replace(config.train, steps=2, batch=1),
        data=replace(config.data, short=96, long=128, crop=0),
        test=replace(config.test, short=96, long=128),
    )
    run = run_peer("t", scale, 0, config, RunOptions(train_set=two, val_set=two))
    assert (
        run.record["steps"] == 2
        and run.record["log"][-1]["step"] == 2
        and set(run.record["metrics"]) == set(METRICS)
    )
    assert (
        run.net.config.strides == (4, 8, 16, 32, 64)
        and run.net.config.backbone == "resnet50"
        and run.record["start"]["tensors"] == 0
    )
    check_results(run.findings.results, 17, {r.id for r in two.records})
