"""Many pictures in one go: memory, a broken picture in the middle, a kill and going on; and two calls at once
on one results folder."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from smpr.checkpoints import save_weights
from smpr.cli import main
from smpr.config import to_dict
from smpr.inference import DecodeConfig, TestConfig
from smpr.model import SMPR, BackboneName, ModelConfig, Pixels
from trust.guards import remove_guard
from trust.kills import TESTS

SMALL = ModelConfig(
    backbone=BackboneName.LITE0,
    pixels=Pixels.HALF,
    width=16,
    tower_depth=1,
    norm_groups=4,
    heatmap_width=8,
    strides=(8, 16, 32),
)
TEST = TestConfig(
    72, 96, decode=DecodeConfig(score_threshold=0.0)
)  # random weights believe in nobody: let all pass


def small_weights(path: Path) -> Path:
    "A small network of random weights that finds 20 poses everywhere."
    torch.manual_seed(0)
    return save_weights(SMPR(SMALL), path, {"test": to_dict(TEST)})


def make_pictures(folder: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    "Pictures of noise in different sizes and formats; some of them broken."
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for n in range(count):
        path = folder / f"{n:05d}.{('jpg', 'png', 'webp')[n % 3]}"
        Image.fromarray(
            rng.integers(0, 256, (int(rng.integers(40, 160)), int(rng.integers(40, 160)), 3), dtype=np.uint8)
        ).save(path)
        if n in broken:
            path.write_bytes(path.read_bytes()[:60])
    return folder


def resident() -> float:
    "Memory of this process, MB."
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def watched(words: list[str], log: Path, kill_after: int | None) -> None:
    """In a process of its own: the command, with output and a line of memory for every picture in `log`;
    ended in the middle of a picture if asked."""
    remove_guard()
    torch.set_num_threads(1)
    import smpr.command.media as media

    real, seen = media.each_of_file, [0]
    with (
        log.open("w") as f,
        log.with_suffix(".memory").open("w") as memory,
        contextlib.redirect_stdout(f),
        contextlib.redirect_stderr(f),
    ):

        def each_of_file(*a, **k):
            memory.write(f"{resident():.2f}\n")
            memory.flush()
            seen[0] += 1
            if kill_after is not None and seen[0] > kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*a, **k)

        media.each_of_file = each_of_file
        code = main(words)
    sys.exit(code)


def call(words: list, log: Path, kill_after: int | None = None) -> int:
    "Exit code of the command in a new process (-9: killed)."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trust.kills", "trust.load"])
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
    process = context.Process(target=watched, args=([str(w) for w in words], log, kill_after))
    process.start()
    process.join()
    return process.exitcode


def predict_many(folder: Path, count: int = 2000, kill_at: int | None = None, every: int = 50) -> dict:
    "Predict over `count` pictures, one of them broken; with `kill_at`, killed there and called again."
    pictures, broken = make_pictures(folder / "pictures", count, (count // 2,)), count // 2
    words = [
        "predict",
        pictures,
        "--weights",
        small_weights(folder / "small.safetensors"),
        "--device",
        "cpu",
        "--out",
        folder / "out",
    ]
    codes = [call(words, folder / "first.log", kill_at)]
    before = (folder / "out" / "results.jsonl").read_text().count("\n") - 1 if kill_at is not None else None
    if kill_at is not None:
        codes.append(call(words, folder / "second.log"))
    log = (folder / ("first.log" if kill_at is None else "second.log")).read_text()
    images, results = (json.loads((folder / "out" / f"{n}.json").read_text()) for n in ("images", "results"))
    memory = [
        float(v)
        for v in (folder / ("first.memory" if kill_at is None else "second.memory")).read_text().split()
    ]
    curve, start = memory[::every] + memory[-1:], memory[min(100, len(memory) - 1)]
    wrong = [f"{broken:05d}" not in l for l in log.splitlines() if l.startswith("smpr: error")]
    return {
        "pictures": count,
        "exit_codes": codes,
        "done": len(images),
        "poses": len(results),
        "reported": len(wrong),
        "reported_wrongly": sum(wrong),
        "kept_by_the_kill": before,
        "computed_again": len(memory) if kill_at is not None else None,
        "memory_mb": {
            "every": every,
            "curve": curve,
            "after_100": start,
            "largest_after_100": max(memory[100:], default=start),
            "growth_percent": round(100 * (max(memory[100:], default=start) / start - 1), 2),
        },
    }


def load_and_kill(folder: Path, count: int = 2000, cut: int = 200) -> dict:
    "Many pictures in one call; and fewer, killed in the middle and called again."
    many, killed = predict_many(folder / "many", count), predict_many(folder / "killed", cut, cut // 2)
    return many | {
        "killed": {
            k: killed[k]
            for k in (
                "pictures",
                "exit_codes",
                "done",
                "poses",
                "reported",
                "kept_by_the_kill",
                "computed_again",
            )
        }
    }


def two_calls(folder: Path, line: Callable = print) -> dict:
    "Two `smpr reproduce` at once with the same folders: one record, whole, made once."
    env = os.environ | {
        "SMPR_FIGURES": str(folder / "figures"),
        "SMPR_RUNS": str(folder / "runs"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TESTS.parent),
    }
    words = [sys.executable, "-m", "smpr.cli", "reproduce", "table2", "--scale", "smoke"]
    began = time.monotonic()
    calls = [
        subprocess.Popen(
            words, cwd=TESTS.parent, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    said = [c.communicate()[0] for c in calls]
    records = sorted((folder / "figures" / "results").rglob("*.json"))
    whole = [r for r in records if isinstance(json.loads(r.read_text()).get("metrics", {}).get("AP"), float)]
    line(said[0][-300:], said[1][-300:])
    return {
        "calls": 2,
        "exit_codes": [c.returncode for c in calls],
        "records": len(records),
        "whole": len(whole),
        "tables": len(list((folder / "figures").rglob("*.md"))),
        "seconds": round(time.monotonic() - began, 1),
    }
