"""A small run killed by SIGKILL again and again, resumed each time, compared bit for bit with a run that
nobody disturbed."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.utils.tensorboard  # here, before processes are forked, it is loaded once
from safetensors.torch import load_file

import smpr.training as training
from smpr.data import load_set
from smpr.run_folder import find_checkpoint, read_log
from smpr.settings import load_settings
from smpr.training import train
from smpr.update import Config, small_config
from trust.guards import remove_guard

TESTS = Path(__file__).resolve().parent.parent
STEPS, KINDS = 40, ("step", "save", "evaluation")
CLOCKS = ("pictures_per_second", "memory_gib")  # rows of the log that a clock or another process decides
STATE = ("step", "best", "ema_updates", "config", "metrics", "pending", "log_rows", "checked", "pictures")


@dataclass(frozen=True)
class Kill:
    "When a process ends itself: `delay` seconds after the `count`-th event of a kind."

    kind: str
    count: int
    delay: float


def mini(steps: int = STEPS) -> Config:
    "A network and pictures so small that a step takes a moment; all parts of the recipe are there."
    base = small_config(steps=steps, batch=4)
    return replace(
        base,
        model=replace(base.model, width=16, norm_groups=4, heatmap_width=16, tower_depth=1, frozen_stages=0),
        data=replace(base.data, short=72, long=96),
        test=replace(base.test, short=72, long=96),
    )


def people(split: str, count: int):
    folder = load_settings().data / split
    return load_set(folder / "images", folder / "person_keypoints.json").subset(range(count))


def arm(kill: Kill | None) -> None:
    """Let this process end itself as `kill` says. Events: an update; a file operation of a checkpoint; a
    picture of an evaluation."""
    import smpr.checkpoints
    import smpr.evaluation
    import smpr.settings

    seen = [0]

    def fire() -> None:
        time.sleep(kill.delay)
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(kind: str, real):
        def call(*a, **k):
            if kill and kind == kill.kind:
                seen[0] += 1
                if seen[0] == kill.count:
                    threading.Thread(target=fire).start()
            return real(*a, **k)

        return call

    training.train_step = counted("step", training.train_step)
    smpr.evaluation.find_batch = counted("evaluation", smpr.evaluation.find_batch)
    for module, name in (
        (smpr.run_folder, "sync_path"),
        (smpr.settings, "sync_path"),
        (smpr.checkpoints, "save"),
        (smpr.run_folder, "write_tensors"),
    ):
        setattr(module, name, counted("save", getattr(module, name)))


def life(run: Path, kill: Kill | None, workers: int, steps: int) -> None:
    """One process's part of the run, as long as it lives; batches are noted so that their order can be
    compared."""
    remove_guard()
    torch.set_num_threads(1)
    multiprocessing.set_start_method(
        "fork", force=True
    )  # for the processes that load pictures, as in any other process
    arm(kill)
    real = training.train_step

    def noted(model, state, batch, config, losses_of):
        digest = hashlib.sha256(batch.images.numpy().tobytes()).hexdigest()[:16]
        with run.with_suffix(".batches").open("a") as f:
            f.write(f"{state.step} {digest}\n")
        return real(model, state, batch, config, losses_of)

    training.train_step = noted
    train(
        mini(steps),
        people("train", 10),
        run,
        people("val", 4),
        workers=workers,
        device="cpu",
        progress=False,
        eval_every=8,
        save_every=5,
        log_every=3,
        sheets=False,  # they take longer than all the rest
    )


def live(run: Path, kill: Kill | None = None, workers: int = 0, steps: int = STEPS) -> int:
    "Run `life` in a new process; its exit code (-9: killed)."
    context = multiprocessing.get_context(
        "forkserver"
    )  # forks from a process that has imported everything once
    context.set_forkserver_preload(["trust.kills"])
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
    process = context.Process(target=life, args=(run, kill, workers, steps))
    process.start()
    process.join()
    return process.exitcode


def moments(count: int, seed: int = 0) -> list[Kill]:
    "Random moments, the three kinds in turn."
    rng = np.random.default_rng(seed)
    reach = {"step": (6, 0.05), "save": (14, 0.004), "evaluation": (4, 0.02)}
    return [
        Kill(kind, int(rng.integers(1, reach[kind][0] + 1)), float(rng.uniform(0, reach[kind][1])))
        for kind in (KINDS[i % 3] for i in range(count))
    ]


def ending(run: Path) -> dict:
    "What a run has come to: tensors, state, log, the order of batches."
    folder = find_checkpoint(run / "last")
    saved, best = json.loads((folder / "state.json").read_text()), find_checkpoint(run / "best")
    order = dict(line.split() for line in run.with_suffix(".batches").read_text().splitlines())
    return {
        "tensors": {
            f"{f.parent.name}/{f.name}/{k}": t
            for place in (folder, best)
            for f in sorted(place.glob("*.safetensors"))
            for k, t in load_file(f).items()
        },
        "state": {k: saved.get(k) for k in STATE},
        "log": [{k: v for k, v in r.items() if k not in CLOCKS} for r in read_log(run)],
        "order": order,
    }


def differences(a: dict, b: dict) -> list[str]:
    "Which parts of two endings are not equal to the last bit."
    out = [n for n in ("state", "log", "order") if a[n] != b[n]]
    same = a["tensors"].keys() == b["tensors"].keys() and all(
        torch.equal(t, b["tensors"][k]) for k, t in a["tensors"].items()
    )
    return out + ([] if same else ["tensors"])


def one_order(run: Path) -> bool:
    "Whether a step that was run twice, before and after a kill, saw the same batch."
    lines = run.with_suffix(".batches").read_text().splitlines()
    return len(set(lines)) == len({line.split()[0] for line in lines})


def one_chain(
    whole: Path, cut: Path, kills: list[Kill], workers: int, steps: int, line
) -> tuple[list[dict], list[str]]:
    """A run with all the kills: each kill and where the next process went on, and what differs at the end
    from the run `whole`."""
    rows = []
    for kill in kills:
        code = live(cut, kill, workers, steps)
        found = find_checkpoint(cut / "last", cut / "best")
        rows.append(
            {
                "kind": kill.kind,
                "count": kill.count,
                "delay": round(kill.delay, 4),
                "killed": code == -signal.SIGKILL,
                "step": json.loads((found / "state.json").read_text())["step"] if found else 0,
            }
        )
        line(cut.name, rows[-1])
    code = live(cut, None, workers, steps)
    wrong = differences(ending(whole), ending(cut)) if code == 0 else [f"exit code {code}"]
    if not one_order(cut):
        wrong.append("order")
    if any(b["step"] < a["step"] for a, b in zip(rows, rows[1:])):
        wrong.append("a checkpoint was lost")
    return rows, wrong


def kill_and_resume(
    folder: Path, kills: list[Kill], workers: int = 0, steps: int = STEPS, chains: int = 1, line=print
) -> dict:
    """The kills, shared out among `chains` runs side by side, and one run that nobody disturbs; what came of
    it."""
    assert live(folder / "whole", None, workers, steps) == 0, "the undisturbed run failed"
    shares = [kills[i::chains] for i in range(chains)]
    with ThreadPoolExecutor(chains) as pool:
        ends = list(
            pool.map(
                lambda i: one_chain(folder / "whole", folder / f"cut{i}", shares[i], workers, steps, line),
                range(chains),
            )
        )

    def happened(rows):
        return sum(r["killed"] for r in rows)

    return {
        "attempted": sum(happened(rows) for rows, _ in ends),
        "survived": sum(happened(rows) for rows, wrong in ends if not wrong),
        "differences": sorted({w for _, wrong in ends for w in wrong}),
        "steps": steps,
        "workers": workers,
        "runs": chains,
        "moments": [r | {"run": i} for i, (rows, _) in enumerate(ends) for r in rows],
    }
