"""How much of twice the speed two training processes reach.

    python benchmarks/scaling.py [--steps 20] [--rounds 2] [--batch 8] [--threads 1] [--device cpu]

The training step of the small network (forward, losses, backward, averaging of gradients, update) on batches
that lie in memory,
by one process and by two that torchrun starts, each with the same number of pictures a step: gloo between CPU
processes, NCCL between
two GPUs. One and two take turns, so that a machine that slows down slows both. Efficiency is the rate of two
over twice the rate of one. Writes figures/results/scaling_cpu.json or scaling_gpu.json."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from smpr.batches import TrainStream, collate
from smpr.data import load_set, set_hash
from smpr.experiments.records import environment
from smpr.processes import processes, rank_world, wrap
from smpr.settings import SmprError, atomic_write, load_settings, resolve_device
from smpr.update import make_state, small_config, train_step

WARM = 3  # steps before the clock starts: memory is allocated, kernels are chosen


def measure(a: argparse.Namespace) -> None:
    """What each process does: the same number of steps as all others; the first one writes seconds of each
    step."""
    torch.set_num_threads(a.threads)
    folder = load_settings().data / "train"
    people = load_set(folder / "images", folder / "person_keypoints.json")
    with processes(a.device) as place:
        rank, world = rank_world()
        config = small_config(batch=a.batch * world)
        stream = TrainStream(people, config.data, 0)
        batches = [
            collate(
                [stream[(k * world + rank) * a.batch + i] for i in range(a.batch)], config.data.pseudo_box
            )
            for k in range(4)
        ]
        state = make_state(config, people.skeleton, place)
        model, seconds = wrap(state.net), []
        for step in range(WARM + a.steps):
            if world > 1:
                dist.barrier()
            if place.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            train_step(
                model, state, batches[step % len(batches)], config
            )  # ends with numbers on the CPU: nothing is left to wait for
            if place.type == "cuda":
                torch.cuda.synchronize()
            if world > 1:
                dist.barrier()  # a step is over when the last process is
            seconds.append(time.perf_counter() - began)
        if rank == 0:
            atomic_write(
                Path(a.out),
                json.dumps(
                    {
                        "seconds": seconds[WARM:],
                        "parameters": sum(p.numel() for p in state.net.parameters() if p.requires_grad),
                        "pictures": set_hash(people),
                    }
                ),
            )


def start(a: argparse.Namespace, count: int) -> dict:
    "Run `measure` in so many processes on this machine; what the first one wrote. Raises SmprError."
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(count),
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "127.0.0.1:0",
            "--local-addr",
            "127.0.0.1",
            __file__,
            "--out",
            f"{folder}/out.json",
            *(f"--{n}={getattr(a, n)}" for n in ("steps", "batch", "threads", "device")),
        ]
        done = subprocess.run(
            command,
            env={"GLOO_SOCKET_IFNAME": "lo"} | os.environ | {"OMP_NUM_THREADS": str(a.threads)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SmprError(f"{count} processes failed: {done.stderr[-2000:]}")
        return json.loads((Path(folder) / "out.json").read_text())


def summarize(a: argparse.Namespace, count: int, rounds: list[dict]) -> dict:
    "Rate and seconds a step over all rounds of so many processes."
    seconds = [s for r in rounds for s in r["seconds"]]
    return {
        "processes": count,
        "pictures_per_second": round(count * a.batch / statistics.median(seconds), 3),
        "median_step_seconds_by_round": [round(statistics.median(r["seconds"]), 4) for r in rounds],
        "fastest_step_seconds": round(min(seconds), 4),
        "slowest_step_seconds": round(max(seconds), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag, old, text in (
        ("--steps", 20, "steps that count"),
        ("--rounds", 2, "how often one and two are measured"),
        ("--batch", 8, "pictures a step of each process"),
        ("--threads", 1, "threads of each process"),
    ):
        parser.add_argument(flag, type=int, default=old, help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; two GPUs are needed for cuda")
    parser.add_argument("--out", help=argparse.SUPPRESS)  # set for the processes that measure
    a = parser.parse_args()
    if a.out:
        return measure(a)
    gpus, began = torch.cuda.device_count(), time.time()
    a.device = "cpu" if a.device == "auto" and gpus < 2 else resolve_device(a.device).type
    if a.device == "cuda" and gpus < 2:
        raise SystemExit(
            "smpr: error: --device cuda: NCCL needs a GPU for each of two processes; this machine has one"
        )
    rounds = [{n: start(a, n) for n in (1, 2)} for _ in range(a.rounds)]
    one, two = (summarize(a, n, [r[n] for r in rounds]) for n in (1, 2))
    facts = environment()
    facts["hardware"]["threads"] = a.threads
    record = {
        "efficiency": round(two["pictures_per_second"] / 2 / one["pictures_per_second"], 4),
        "backend": "nccl" if a.device == "cuda" else "gloo",
        "batch_per_process": a.batch,
        "steps": a.steps,
        "network": "small_config",
        "bf16": small_config().train.bf16,
        "gradient_mb": round(4e-6 * rounds[0][1]["parameters"], 2),
        "data": rounds[0][1]["pictures"],
        "one": one,
        "two": two,
        **facts,
        "wall_seconds": round(time.time() - began, 1),
    }
    path = atomic_write(
        load_settings().figures / "results" / f"scaling_{'gpu' if a.device == 'cuda' else 'cpu'}.json",
        json.dumps(record, indent=1) + "\n",
    )
    print(
        f"one {one['pictures_per_second']} pictures/s, two {two['pictures_per_second']} pictures/s, "
        f"efficiency {record['efficiency']:.2f} -> {path}"
    )


if __name__ == "__main__":
    main()
