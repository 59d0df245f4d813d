"""Clocks, peak memory, naive versions and machine facts for the benchmarks."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

CHAPTERS = Path(__file__).resolve().parent.parent / "nbs"
CPU = torch.device("cpu")


def wait(device: torch.device) -> None:
    "Until the device has done all it was given."
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(work: Callable, device: torch.device = CPU) -> float:
    "Seconds of one call."
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def race(
    ours: Callable, theirs: Callable, device: torch.device = CPU, rounds: int = 7, warm: int = 1
) -> tuple[float, float]:
    "Median seconds of two pieces of work run in turns, A B A B, after `warm` turns that do not count."
    for _ in range(warm):
        ours(), theirs()
    pairs = [(once(ours, device), once(theirs, device)) for _ in range(rounds)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def median_time(work: Callable, device: torch.device = CPU, rounds: int = 7, warm: int = 1) -> float:
    "Median seconds of one piece of work."
    for _ in range(warm):
        work()
    return statistics.median(once(work, device) for _ in range(rounds))


def status_mib(field: str) -> float:
    "A line of /proc/self/status in MiB: VmRSS is the memory in use, VmHWM the most so far (Linux only)."
    return (
        next(
            int(l.split()[1])
            for l in Path("/proc/self/status").read_text().splitlines()
            if l.startswith(field)
        )
        / 1024
    )


def peak_mib(work: Callable, device: torch.device = CPU) -> float:
    """How far memory rises above what was in use before, while `work` runs. On a CPU call it in a fresh
    process: freed memory is used again."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = status_mib("VmRSS")
    work()
    return status_mib("VmHWM") - before


def in_fresh_process(script: str, *arguments: str) -> dict:
    "What a script beside this file prints last, as JSON, run in a process of its own."
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{script} {' '.join(arguments)}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def chapter_functions(chapter: str, *names: str, given: dict | None = None) -> list[Callable]:
    "The naive versions of a chapter, by name: functions that its notebook defines and does not export."
    notebook = json.loads((CHAPTERS / f"{chapter}.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    space = dict(given or {})
    for name in names:
        cell = next(c for c in cells if f"def {name}(" in c and "#| export" not in c)
        exec(cell[cell.index(f"def {name}(") :].split("\n\n\n")[0], space)
    return [space[n] for n in names]


def machine(device: torch.device) -> dict:
    "What the numbers were measured on."
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((l.split(":")[1].strip() for l in lines if l.startswith("model name")), platform.processor())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def matmul_peak(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...] = (1024, 2048, 4096)
) -> float:
    "Floating-point operations a second of the best large matrix product in `dtype`."
    best = 0.0
    for n in sizes:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * n**3 / median_time(lambda: a @ b, device, 5))
    return best
