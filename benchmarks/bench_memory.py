"""Deformable convolutions to compare, and the peak memory of one of them in a process of its own.

python benchmarks/bench_memory.py ours|torchvision N C H W"""

import json
import sys

import torch
from timing import CPU, peak_mib
from torchvision.ops import deform_conv2d

from smpr.aggregation import deform_conv

GROUPS = 4  # deformable groups of the published code
DEFORM_CASES = {
    "cpu": [
        ((4, 64, 24, 24), 6.0),
        ((4, 64, 48, 48), 6.0),
        ((1, 256, 100, 100), 3.0),
    ],  # (N, C, H, W) and the ratio aimed at
    "gpu": [((1, 256, -(-800 // s), 1344 // s), 1.0) for s in (8, 16, 32, 64, 128)],
}


def deform_inputs(
    shape: tuple[int, int, int, int], device: torch.device = CPU, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    "Feature map, offsets of about two cells and a 3x3 kernel, all with gradients. Seed 0."
    n, c, h, w = shape
    g = torch.Generator().manual_seed(0)
    shapes = (((n, c, h, w), 1), ((n, 18 * GROUPS, h, w), 2), ((c, c, 3, 3), 0.05))
    return [(s * torch.randn(d, generator=g)).to(device, dtype).requires_grad_() for d, s in shapes]


def torchvision_deform(x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return deform_conv2d(x, offset, weight, padding=1)


def differentiate(convolve, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    "Forward and backward pass; the gradients."
    return torch.autograd.grad(convolve(*tensors).square().sum(), tensors)


if __name__ == "__main__":
    convolve, shape = (
        {"ours": deform_conv, "torchvision": torchvision_deform}[sys.argv[1]],
        tuple(map(int, sys.argv[2:6])),
    )
    differentiate(convolve, deform_inputs((1, 64, 8, 8)))  # libraries are loaded now
    tensors = deform_inputs(shape)
    print(json.dumps({"mib": peak_mib(lambda: differentiate(convolve, tensors))}))
