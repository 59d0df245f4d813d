"""How long one deformable convolution takes here, forward and backward: ours (chapter 03) beside torchvision's operator.

    python benchmarks/deform.py [--device cpu] [--seconds 2]"""
import argparse
import statistics
import time

import torch
import torchvision
from torchvision.ops import deform_conv2d

from smpr.aggregation import deform_conv
from smpr.settings import resolve_device

CASES = [(1, 64, 32, 32, 4), (1, 64, 64, 64, 4), (2, 256, 50, 50, 4), (2, 256, 100, 100, 4)]     # N, C, H, W, deformable groups D; the last on GPUs only


def inputs(n: int, c: int, h: int, w: int, groups: int, device: torch.device) -> list[torch.Tensor]:
    "Feature map, offsets of about two cells, 3x3 kernel: all with gradients. Seed 0."
    g = torch.Generator().manual_seed(0)
    shapes = ((n, c, h, w), (n, groups * 18, h, w), (c, c, 3, 3))
    return [(scale * torch.randn(s, generator=g)).to(device).requires_grad_() for s, scale in zip(shapes, (1, 2, .05))]


def milliseconds(convolve, tensors: list[torch.Tensor], seconds: float) -> float:
    "Median time of one forward and backward pass; the first pass does not count."
    wait = torch.cuda.synchronize if tensors[0].is_cuda else (lambda: None)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 4 or time.perf_counter() < end:
        wait()
        began = time.perf_counter()
        torch.autograd.grad(convolve(*tensors).sum(), tensors)
        wait()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=2, help="time spent on each number")
    a = parser.parse_args()
    device = resolve_device(a.device)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {device}, {torch.get_num_threads()} threads, float32, forward and backward")
    print(f"{'N, C, H, W, D':24}{'ours ms':>10}{'torchvision ms':>17}{'largest difference':>21}")
    for case in CASES if device.type == "cuda" else CASES[:-1]:
        tensors = inputs(*case, device)
        reference = lambda x, offset, weight: deform_conv2d(x, offset, weight, padding=1)
        with torch.no_grad(): gap = (deform_conv(*tensors) - reference(*tensors)).abs().max().item()
        ours, theirs = (milliseconds(f, tensors, a.seconds) for f in (deform_conv, reference))
        print(f"{', '.join(map(str, case)):24}{ours:10.1f}{theirs:17.1f}{gap:21.1e}")


if __name__ == "__main__": main()
