"""Properties of the losses and of the deformable convolution, for any people; hypothesis looks for a
counterexample."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from smpr.aggregation import Aggregation, deform_conv
from smpr.assignment import AssignConfig
from smpr.losses import LossConfig, compute_losses, heatmap_classes, loss_counts, stack_targets
from smpr.representation import level_locations, level_sizes, pseudo_boxes
from smpr.structures import People, Predictions

few = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
STRIDES = (8, 16, 32)
SIZE = (96, 128)
PRESETS = st.sampled_from(("paper", "code"))


def crowd(g: torch.Generator, G: int, K: int) -> People:
    "G random persons, at least two labelled keypoints each."
    xy = torch.rand(G, K, 2, generator=g) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
    v = torch.randint(0, 3, (G, K, 1), generator=g).float()
    v[:, :2] = 2
    keypoints = torch.cat([xy, v], -1) * (v > 0)
    return People(keypoints, pseudo_boxes(keypoints), 50 + 5000 * torch.rand(G, generator=g))


def outputs(g: torch.Generator, N: int, K: int) -> Predictions:
    "Random outputs of a network that has everything; leaves, so that gradients can be read."
    sizes = level_sizes(*SIZE, STRIDES)
    locations, strides = level_locations(sizes, STRIDES)

    def leaf(*shape):
        return torch.randn(*shape, generator=g).requires_grad_()

    P = len(locations)
    return Predictions(
        leaf(N, P),
        leaf(N, P, 2 * K),
        leaf(N, P, 2 * K),
        leaf(N, P),
        leaf(N, K, *sizes[0]),
        locations,
        strides,
        STRIDES,
    )


def leaves(pred: Predictions) -> list[torch.Tensor]:
    return [pred.person_logits, pred.initial, pred.refined, pred.score_logits, pred.heatmap_logits]


def picture(pred: Predictions, n: int) -> Predictions:
    "Picture n by itself."
    return Predictions(
        *(t[n : n + 1] for t in leaves(pred)), pred.locations, pred.strides, pred.level_strides
    )


def configs(preset: str) -> tuple[AssignConfig, LossConfig]:
    return AssignConfig.preset(preset), LossConfig(oks_weighted=preset)


@few
@given(seeds, st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(2, 6), PRESETS)
def test_losses_are_finite_and_not_negative(seed, counts, K, preset):
    g = torch.Generator().manual_seed(seed)
    pred, people, sigmas = (
        outputs(g, len(counts), K),
        [crowd(g, G, K) for G in counts],
        torch.full((K,), 0.08),
    )
    losses = compute_losses(pred, people, sigmas, *configs(preset))
    assert list(losses) == ["person", "initial", "refined", "score", "heatmap"]
    assert all(torch.isfinite(v) and v >= 0 for v in losses.values())
    gradients = torch.autograd.grad(
        sum(losses.values()), leaves(pred)
    )  # every output is connected, even with nobody there
    assert all(torch.isfinite(t).all() for t in gradients)
    if not any(counts):
        assert losses["initial"] == losses["refined"] == losses["score"] == 0


@few
@given(seeds, st.tuples(st.integers(0, 3), st.integers(0, 3)), PRESETS)
def test_a_batch_is_the_sum_of_its_pictures(seed, counts, preset):
    """Each loss times its normaliser is a sum over pictures. The pose score changes who is asked, so it is
    left out."""
    g, K, (assign, config) = torch.Generator().manual_seed(seed), 4, configs(preset)
    pred, people, sigmas = outputs(g, 2, K), [crowd(g, G, K) for G in counts], torch.full((K,), 0.08)

    def sums(pred, people):
        losses, t = (
            compute_losses(pred, people, sigmas, assign, config),
            stack_targets(pred, people, sigmas, assign),
        )
        if preset == "paper":
            t.weight = torch.ones_like(t.weight)
        marks = (
            torch.stack([heatmap_classes(p.keypoints, pred.heatmap_logits.shape[-2:], 8) for p in people])
            >= 0
        )
        (_, n1, w0, w1, images, cells), _ = loss_counts(t, marks, config)
        by = {
            "person": n1 + images,
            "initial": w0.clamp(min=1e-6),
            "refined": w1.clamp(min=1e-6),
            "heatmap": cells + images,
        }
        return {name: (losses[name] * by[name]).item() for name in by}

    both, single = sums(pred, people), [sums(picture(pred, n), people[n : n + 1]) for n in range(2)]
    for name in both:
        assert both[name] == pytest.approx(single[0][name] + single[1][name], rel=1e-3, abs=1e-5), name


@few
@given(seeds, PRESETS)
def test_the_order_of_pictures_does_not_matter(seed, preset):
    g = torch.Generator().manual_seed(seed)
    pred, people, sigmas = outputs(g, 2, 4), [crowd(g, G, 4) for G in (1, 3)], torch.full((4,), 0.08)
    back = Predictions(*(t.flip(0) for t in leaves(pred)), pred.locations, pred.strides, pred.level_strides)
    one, two = (
        compute_losses(p, who, sigmas, *configs(preset)) for p, who in ((pred, people), (back, people[::-1]))
    )
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=1e-4), name


@few
@given(seeds, st.integers(0, 5), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
def test_heatmap_cells_one_by_one(seed, G, K, h, w):
    g = torch.Generator().manual_seed(seed)
    xy = (
        torch.rand(G, K, 2, generator=g) * 8 * torch.tensor([w + 1.0, h + 1.0])
    ).round()  # whole px: halves to round; some outside
    keypoints = torch.cat([xy, torch.randint(0, 3, (G, K, 1), generator=g)], -1)
    cells = [[-1] * w for _ in range(h)]
    for person in keypoints.tolist():
        for k, (x, y, v) in enumerate(person):
            if v > 0:
                cells[min(max(round((y - 4) / 8), 0), h - 1)][min(max(round((x - 4) / 8), 0), w - 1)] = k
    assert heatmap_classes(keypoints, (h, w), 8).tolist() == cells


def test_no_gradient_from_unlabelled_keypoints():
    "Where v = 0 the stored position must not matter, to no loss and to no gradient."
    g = torch.Generator().manual_seed(0)
    pred, people, sigmas = outputs(g, 1, 4), crowd(g, 3, 4), torch.full((4,), 0.08)
    hidden = people.keypoints.clone()
    hidden[..., 2] = torch.tensor([2.0, 2, 0, 0])
    elsewhere = torch.where(hidden[..., 2:] > 0, hidden, hidden + torch.tensor([37.0, 21.0, 0.0]))
    first, second = (
        compute_losses(pred, [People(k, people.boxes, people.areas)], sigmas) for k in (hidden, elsewhere)
    )
    for name in first:
        assert torch.equal(first[name], second[name]), name
    gradient = torch.autograd.grad(first["initial"], pred.initial)[0].view(-1, 4, 2)
    assert gradient[:, 2:].abs().max() == 0 and gradient[:, :2].abs().max() > 0


def test_tiny_areas_do_not_divide_by_zero():
    "OKS underflows to 0 at every location: the sum of weights is 0."
    g = torch.Generator().manual_seed(0)
    pred, people = outputs(g, 1, 4), crowd(g, 2, 4)
    losses = compute_losses(
        pred, [People(people.keypoints, people.boxes, torch.full((2,), 1e-8))], torch.full((4,), 0.08)
    )
    assert all(torch.isfinite(v) for v in losses.values()) and losses["initial"] == 0


@few
@given(
    seeds,
    st.integers(1, 3),
    st.sampled_from((1, 2, 4)),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from((1, 3, 5)),
)
def test_deform_conv_equals_torchvision(seed, N, groups, h, w, k):
    "Odd sizes, single-cell maps, taps far outside."
    g = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(N, 4, h, w, generator=g), torch.randn(3, 4, k, k, generator=g)
    offset = 3 * torch.randn(N, groups * k * k * 2, h, w, generator=g)
    assert torch.allclose(
        deform_conv(x, offset, weight), deform_conv2d(x, offset, weight, padding=k // 2), atol=1e-3
    )
    assert torch.allclose(
        deform_conv(x, torch.zeros_like(offset), weight), F.conv2d(x, weight, padding=k // 2), atol=1e-3
    )


@pytest.mark.parametrize("h, w", [(1, 1), (1, 5), (3, 4)])
def test_deform_conv_gradients(h, w):
    torch.manual_seed(0)
    inputs = [
        t.double().requires_grad_()
        for t in (torch.randn(1, 2, h, w), torch.randn(1, 36, h, w), torch.randn(2, 2, 3, 3))
    ]
    assert deform_conv(*inputs).dtype == torch.float64
    assert torch.autograd.gradcheck(deform_conv, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_places_are_not_rounded_to_half_precision(dtype):
    "At column 97 bfloat16 knows halves only; the quarter must survive."
    x = torch.arange(128.0).view(1, 1, 1, 128)
    offset = torch.tensor([0.0, 0.25]).view(1, 2, 1, 1).expand(1, 2, 1, 128)
    out = deform_conv(x.to(dtype), offset.to(dtype), torch.ones(1, 1, 1, 1))
    assert out[0, 0, 0, 97].item() == pytest.approx(97.25)


def test_aggregation_sends_no_gradient_to_the_initial_pose():
    torch.manual_seed(0)
    block, initial = Aggregation(5, 4), torch.randn(1, 10, 3, 3, requires_grad=True)
    sum(t.sum() for t in block(torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3), initial)).backward()
    assert initial.grad is None and block.offset.weight.grad.abs().sum() > 0
