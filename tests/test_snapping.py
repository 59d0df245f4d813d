"""Snapping to the heatmap: what must hold for any map and any pose, and on the way through the decoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smpr.inference import DecodeConfig, find_poses, load, predict_candidates, snap, unmirror
from smpr.settings import SmprError
from smpr.skeleton import COCO17, load_scene

SIGMAS = torch.tensor(COCO17.sigmas)
SEEDS = st.integers(0, 2**31)


def scene_of(seed: int, h: int, w: int, poses: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    "Random poses over a random map, with stride 8."
    g = torch.Generator().manual_seed(seed)
    return torch.rand(poses, COCO17.K, 2, generator=g) * torch.tensor([8.0 * w, 8.0 * h]), torch.randn(
        COCO17.K, h, w, generator=g
    ) * 2 - 3


@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from((0.1, 1.0, 5.0)),
    st.sampled_from((1.0, 4.0, 9.0)),
)
def test_keypoints_end_between_the_middles_of_cells(seed, h, w, width, power):
    poses, heatmap = scene_of(seed, h, w)
    moved = snap(poses, heatmap, 8, SIGMAS, width, power)
    assert torch.isfinite(moved).all() and moved.min() >= 4 - 1e-3
    assert moved[..., 0].max() <= 8 * w - 4 + 1e-2 and moved[..., 1].max() <= 8 * h - 4 + 1e-2


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 20), st.integers(2, 20))
def test_a_mirrored_map_mirrors_the_result(seed, h, w):
    poses, heatmap = scene_of(seed, h, w)

    def mirror(k):
        return torch.stack([8 * w - k[..., 0], k[..., 1]], -1)

    assert torch.allclose(
        snap(mirror(poses), heatmap.flip(2), 8, SIGMAS), mirror(snap(poses, heatmap, 8, SIGMAS)), atol=1e-2
    )


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 3))
def test_each_pose_moves_by_itself(seed, left_out):
    poses, heatmap = scene_of(seed, 12, 9, 4)
    only = torch.arange(4) != left_out
    some, whole = snap(poses, heatmap, 8, SIGMAS, only=only), snap(poses, heatmap, 8, SIGMAS)
    assert torch.equal(some[left_out], poses[left_out]) and torch.allclose(some[only], whole[only], atol=1e-3)
    assert torch.allclose(snap(poses[:1], heatmap, 8, SIGMAS), whole[:1], atol=1e-3)


def test_a_brighter_cell_pulls_more():
    pose = torch.full((1, COCO17.K, 2), 84.0) + torch.linspace(0, 40, COCO17.K)[None, :, None]
    heatmap = torch.full((COCO17.K, 20, 20), -6.0)
    at = []
    for logit in (-6.0, -4.0, -2.0, 0.0):
        heatmap[:, 12, 12] = logit
        at.append((snap(pose, heatmap, 8, SIGMAS, power=1.0) - 100).norm(dim=-1).mean().item())
    assert at == sorted(at, reverse=True) and at[-1] < at[0] / 1.2


def test_the_decoder_asks_for_the_heatmap_and_only_then():
    net, scene = load("rendered", "cpu"), load_scene()
    plain = find_poses(net, scene.image, net.test)
    snapped = find_poses(net, scene.image, replace(net.test, decode=replace(net.test.decode, snap=1.0)))
    gentle = find_poses(
        net, scene.image, replace(net.test, decode=replace(net.test.decode, snap=1e-3, snap_power=1e-3))
    )
    assert len(snapped.scores) and not torch.allclose(snapped.keypoints[0], plain.keypoints[0], atol=0.5)
    assert torch.allclose(
        gentle.keypoints[0], plain.keypoints[0], atol=8
    )  # a bell of half a cell: at most to the next cells
    net.head.heatmap = None
    with pytest.raises(SmprError, match="heatmap"):
        find_poses(net, scene.image, replace(net.test, decode=DecodeConfig(snap=1.0)))


def test_a_mirrored_look_snaps_in_the_mirror():
    net, scene, config = load("rendered", "cpu"), load_scene(), DecodeConfig(snap=1.0)
    here = predict_candidates(net, scene.image, net.test.short, net.test.long, config=config)
    there = predict_candidates(
        net,
        np.ascontiguousarray(scene.image[:, ::-1]),
        net.test.short,
        net.test.long,
        mirrored=True,
        config=config,
    )
    assert torch.allclose(
        unmirror(there.keypoints, scene.image.shape[1], COCO17), here.keypoints, atol=1e-3
    ) and torch.equal(there.person, here.person)
