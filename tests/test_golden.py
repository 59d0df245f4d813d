"""Our network against numbers that the published code computed, item by item and seed by seed.

One seed ships in tests/data/golden; the folder of environment variable SMPR_GOLDEN (default
../shared/golden), where it is
there, holds more, at all locations. `rule.py` makes the weights and inputs. Compared as the README there
says:
|a - b| <= 1e-3 |b| + 1e-4 max|b|, sets exactly, the order of detections exactly unless their scores lie
within 1e-4.
"""

import json
import lzma
import os
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import module

from smpr.assignment import AssignConfig, Region, assign_regions, oks_positives
from smpr.deploy.published import convert_state_dict, our_name, published_config
from smpr.inference import DecodeConfig, decode, soft_nms
from smpr.losses import compute_losses, heatmap_classes, make_targets
from smpr.model import SMPR, Head
from smpr.representation import decode_pose, level_locations, oks, pseudo_boxes
from smpr.skeleton import COCO17
from smpr.structures import People

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "tests/data/golden"
FULL = Path(os.environ.get("SMPR_GOLDEN") or ROOT / "../shared/golden")
FOLDER = FULL if FULL.is_dir() else SHIPPED
KINDS = ("resnet50_pafpn", "resnet50_fpn", "hrnet_w32")
SEEDS = sorted({int(m[1]) for p in FOLDER.glob("*.npz") if (m := re.search(r"_(\d+)\.npz$", p.name))})
STRIDES = (8, 16, 32, 64, 128)
LEVELS = range(3, 8)
SIGMAS = torch.tensor(COCO17.sigmas)

# One by one: its network is computed once. The first seed will do for a quick look.
SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in SEEDS[1:]]
seeds = pytest.mark.parametrize("seed", [*SEEDS[:1], *SLOW], scope="module")


def kinds(test):
    "For each of the three networks; seconds each."
    return pytest.mark.slow(pytest.mark.parametrize("kind", KINDS, scope="module")(test))


# ------------------------------------------------------------------------------------------------ tools


def test_there_are_seeds():
    assert SEEDS, f"{FOLDER} holds no *_SEED.npz"


def rule():
    "The module that makes weights and inputs."
    return module(FOLDER / "rule.py")


@pytest.mark.skipif(FOLDER == SHIPPED, reason=f"no full set of golden numbers at {FULL}; set SMPR_GOLDEN")
def test_what_ships_is_what_was_computed():
    """The shipped seed is the full folder's, row by row and bit by bit; so is the rule, and the list of
    shapes."""
    for name, arrays in module(SHIPPED / "ship.py").shipped(FULL).items():
        with np.load(SHIPPED / name) as file:
            assert set(file) == set(arrays) and all(np.array_equal(file[k], arrays[k]) for k in arrays), name
    ours, theirs = module(SHIPPED / "rule.py"), rule()
    some = list(shapes("resnet50_pafpn").items())[::5]
    assert all(np.array_equal(ours.value(n, s, 0), theirs.value(n, s, 0)) for n, s in some)
    assert np.array_equal(ours.network_image(0), theirs.network_image(0))
    assert all(map(np.array_equal, ours.head_features(0, batch=1), theirs.head_features(0, batch=1)))
    packed = lzma.decompress((SHIPPED / "state_dict_shapes.json.xz").read_bytes())
    assert packed == (FULL / "state_dict_shapes.json").read_bytes()


def golden(name, seed):
    "One file of vectors."
    path = FOLDER / f"{name}_{seed}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with np.load(path) as file:
        return {key: file[key] for key in file}


def close(ours, theirs, what):
    "The README's tolerance."
    a = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours, np.float64)
    b = np.asarray(theirs, np.float64)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, published {b.shape}"
    if b.size == 0:
        return
    slack = 1e-3 * np.abs(b) + 1e-4 * np.abs(b).max()
    gap = np.abs(a - b)
    assert np.isfinite(a).all() and (gap <= slack).all(), (
        f"{what}: off by {gap.max():.3g}, largest value {np.abs(b).max():.3g}"
    )


@lru_cache
def shapes(kind):
    "Names and shapes of the published weights."
    return json.loads(lzma.decompress((SHIPPED / "state_dict_shapes.json.xz").read_bytes()))[kind]


def kept(z, level, values):
    "The rows (..., P, C) of a level that a file holds: all, or those that ship."
    return values[..., z[f"rows_p{level}"], :] if f"rows_p{level}" in z else values


def published_weights(kind, seed):
    "The published state dict, drawn by the rule."
    return {
        name: torch.from_numpy(np.asarray(rule().value(name, tuple(shape), seed), np.float32))
        for name, shape in shapes(kind).items()
    }


@lru_cache(1)
def network(kind, seed):
    "The whole network on the rule's picture: backbone maps, neck maps, predictions."
    torch.set_num_threads(1)
    net = SMPR(published_config(kind), COCO17).eval()
    net.load_state_dict(convert_state_dict(published_weights(kind, seed), kind))
    with torch.inference_mode():
        bodies = net.backbone(torch.from_numpy(rule().network_image(seed)))
        necks = net.neck(bodies[net.used])
        return bodies, necks, net.head(necks)


@lru_cache(1)
def head(seed):
    "The head alone with the rule's weights; they depend on names only, so any kind's will do."
    torch.set_num_threads(1)
    state = convert_state_dict(published_weights("resnet50_fpn", seed), "resnet50_fpn")
    net = Head(published_config("resnet50_fpn"), COCO17.K)
    net.load_state_dict({n.removeprefix("head."): t for n, t in state.items() if n.startswith("head.")})
    return net


def features(seed, **more):
    return [torch.from_numpy(f) for f in rule().head_features(seed, **more)]


def people(z, n):
    "The persons of picture `n` of head_SEED.npz."
    return People(*(torch.from_numpy(z[f"gt_{part}_{n}"]) for part in ("keypoints", "box", "area")))


@lru_cache(1)
def head_training(seed):
    "Train-mode predictions, the five losses and every gradient."
    z, net = golden("head", seed), head(seed).train()
    net.zero_grad()
    pred = net(features(seed))
    losses = compute_losses(pred, [people(z, n) for n in range(3)], SIGMAS)
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters()}
    return pred, {name: loss.item() for name, loss in losses.items()}, gradients


@lru_cache(1)
def head_inference(seed):
    net = head(seed).eval()
    with torch.inference_mode():
        return net(features(seed))


def by_level(pred, values):
    "Rows of (N, P, ...) split into P3 ... P7."
    return {level: values[:, pred.strides == s] for level, s in zip(LEVELS, STRIDES)}


def same_detections(found, keypoints, scores, limit, what):
    "Same poses in the same order; poses whose published scores lie within 1e-4 may have changed places."
    assert len(found.scores) == len(scores), f"{what}: {len(found.scores)} poses, published {len(scores)}"
    ours, theirs = found.keypoints.double().numpy(), keypoints.astype(np.float64)
    values = found.scores.double().numpy()
    slack = 1e-3 * np.abs(theirs) + 1e-4 * np.abs(theirs).max()
    free = set(range(len(scores)))
    for i in range(len(scores)):
        tied = sorted((j for j in free if abs(scores[i] - scores[j]) <= 1e-4), key=lambda j: abs(i - j))
        same = [
            j
            for j in tied
            if (np.abs(ours[j] - theirs[i]) <= slack[i]).all()
            and abs(values[j] - scores[i]) <= 1e-3 * scores[i] + 1e-4 * scores.max()
        ]
        if not same and len(scores) == limit and scores[i] - scores[-1] <= 1e-4:
            continue  # tied with the first one that was cut off
        assert same, f"{what}: pose {i} (score {scores[i]:.6f}) is not ours (score {values[i]:.6f})"
        free.discard(same[0])


# ------------------------------------------------------------------------------------------------ the three
# networks


@kinds
@seeds
def test_every_entry_is_converted(kind, seed):
    "One of ours for each of theirs: same values, nothing left over."
    published = published_weights(kind, seed)
    ours = convert_state_dict(published, kind)
    assert sum(t.numel() for t in ours.values()) == sum(t.numel() for t in published.values())
    assert np.isclose(
        sum(t.double().sum() for t in ours.values()).item(),
        sum(t.double().sum() for t in published.values()).item(),
    )


@kinds
@seeds
def test_backbone(kind, seed):
    z = golden(f"network_{kind}", seed)
    for level, m in zip(range(2, 6), network(kind, seed)[0], strict=True):
        close(torch.stack([m.mean(), m.std()]), z[f"c{level}_mean_std"], f"C{level} mean and std")
        close(m[0, :8, :4, :4], z[f"c{level}_head"], f"C{level}")


@kinds
@seeds
def test_neck(kind, seed):
    z = golden(f"network_{kind}", seed)
    for level, m in zip(LEVELS, network(kind, seed)[1], strict=True):
        close(torch.stack([m.mean(), m.std()]), z[f"p{level}_mean_std"], f"P{level} mean and std")
        close(m[0, : 4 if level < 5 else 16], z[f"p{level}_head"], f"P{level}")


@kinds
@seeds
def test_head(kind, seed):
    z, pred = golden(f"network_{kind}", seed), network(kind, seed)[2]
    px = pred.strides[:, None]
    assert pred.heatmap_logits is None  # it only trains
    for name, values in (
        ("cls", pred.person_logits[..., None]),
        ("score", pred.score_logits[..., None]),
        ("initial_px", pred.initial * px),
        ("refined_px", pred.refined * px),
    ):
        for level, rows in by_level(pred, values).items():
            close(kept(z, level, rows[0]), z[f"{name}_p{level}"], f"{name} of P{level}")


@kinds
@seeds
def test_network_detections(kind, seed):
    z = golden(f"network_{kind}", seed)
    size = tuple(int(v) for v in z["image_size"])
    found = decode(network(kind, seed)[2], 0, size, 1.0, DecodeConfig())
    same_detections(found, z["det_keypoints"], z["det_score"], 20, kind)


# ------------------------------------------------------------------------------------------------ the head
# alone


@seeds
@pytest.mark.parametrize("output", ("cls", "score", "initial", "refined", "heatmap"))
def test_train_mode_output(seed, output):
    z, pred = golden("head", seed), head_training(seed)[0]
    if output == "heatmap":
        rows = pred.heatmap_logits.flatten(2).transpose(1, 2)
        return close(rows[:, z["p3_sample"]], z["heatmap_p3"], "heatmap")
    values = {
        "cls": pred.person_logits[..., None],
        "score": pred.score_logits[..., None],
        "initial": pred.initial,
        "refined": pred.refined,
    }
    for level, rows in by_level(pred, values[output]).items():
        rows = rows[:, z["p3_sample"]] if level == 3 else kept(z, level, rows)
        close(rows, z[f"{output}_p{level}"], f"{output} of P{level}")


@seeds
@pytest.mark.parametrize("n", range(3))
def test_region_positives(seed, n):
    z, pred = golden("head", seed), head_training(seed)[0]
    who = people(z, n)
    assert torch.equal(pseudo_boxes(who.keypoints, "paper"), who.boxes)
    region = assign_regions(pred.locations, pred.strides, who.boxes, STRIDES)
    assert (region >= 0).nonzero().flatten().tolist() == sorted(z[f"region_positive_{n}"].tolist())


@seeds
@pytest.mark.parametrize("n", range(3))
def test_oks_and_its_positives(seed, n):
    z, pred = golden("head", seed), head_training(seed)[0]
    who = people(z, n)
    with torch.no_grad():
        similarity = oks(
            decode_pose(pred.initial[n], pred.locations, pred.strides), who.keypoints, who.areas, SIGMAS
        )
        targets = make_targets(pred, n, who, SIGMAS)
    close(targets.weight, z[f"max_oks_{n}"], "best OKS")
    assert oks_positives(similarity).nonzero().flatten().tolist() == sorted(z[f"oks_positive_{n}"].tolist())
    both = set(z[f"region_positive_{n}"].tolist()) & set(z[f"oks_positive_{n}"].tolist())
    assert set((targets.refined >= 0).nonzero().flatten().tolist()) == both


@seeds
@pytest.mark.parametrize("n", range(3))
def test_heatmap_targets(seed, n):
    z, pred = golden("head", seed), head_training(seed)[0]
    classes = heatmap_classes(people(z, n).keypoints, tuple(pred.heatmap_logits.shape[-2:]), 8).flatten()
    cells = (classes >= 0).nonzero().flatten()
    assert torch.stack([cells, classes[cells]]).tolist() == z[f"heatmap_target_{n}"].tolist()


@seeds
@pytest.mark.parametrize(
    "ours, theirs",
    [
        ("person", "cls"),
        ("heatmap", "heatmap"),
        ("initial", "initial"),
        ("refined", "refined"),
        ("score", "score"),
    ],
)
def test_loss(seed, ours, theirs):
    close(head_training(seed)[1][ours], golden("head", seed)[f"loss_{theirs}"], f"loss {ours}")


@seeds
def test_gradient_norms(seed):
    """Every parameter of the published head, one norm each; their ten level scales are entries of two vectors
    here."""
    norms, gradients = json.loads(str(golden("head", seed)["grad_norms"])), head_training(seed)[2]
    used, ours = set(), {}
    for name in norms:
        level = re.fullmatch(r"bbox_head\.scales_([12])\.(\d+)\.scale", name)
        mine = f"head.{'initial' if level[1] == '1' else 'delta'}.scales" if level else our_name(name)
        gradient = gradients[mine.removeprefix("head.")]
        used.add(mine.removeprefix("head."))
        ours[name] = (gradient[int(level[2])] if level else gradient).norm().item()
    assert used == set(gradients), f"no published norm for {sorted(set(gradients) - used)}"
    for name in norms:  # each by itself: a norm of 0.01 next to one of 300 must be right, too
        assert abs(ours[name] - norms[name]) <= 1e-3 * abs(norms[name]) + 1e-6, (
            f"{name}: {ours[name]:.6g}, published {norms[name]:.6g}"
        )


@seeds
@pytest.mark.parametrize("n", range(3))
@pytest.mark.parametrize(
    "name, config",
    [("det", DecodeConfig()), ("wide", DecodeConfig(score_threshold=0.3, level_top=150, keep=100))],
)
def test_head_detections(seed, n, name, config):
    z = golden("head", seed)
    found = decode(head_inference(seed), n, (500, 633), 1.25, config)
    same_detections(
        found, z[f"{name}_keypoints_{n}"], z[f"{name}_score_{n}"], config.keep, f"{name}, picture {n}"
    )


# ------------------------------------------------------------------------------------------------ corners


@seeds
@pytest.mark.parametrize("case", ("none", "unrefined"))
def test_edge_losses(seed, case):
    "A person too thin to own a location; a person whom no location may refine."
    z = golden("edge", seed)
    pred = head(seed).train()(features(seed, batch=1))
    keypoints = torch.from_numpy(z[f"{case}_gt_keypoints"])
    who = People(keypoints, pseudo_boxes(keypoints, "paper"), torch.from_numpy(z[f"{case}_gt_area"]))
    targets = make_targets(pred, 0, who, SIGMAS)
    assert (targets.region >= 0).any().item() == (case == "unrefined") and not (targets.refined >= 0).any()
    for ours, loss in compute_losses(pred, [who], SIGMAS).items():
        close(loss, z[f"{case}_loss_{'cls' if ours == 'person' else ours}"], f"{case}: {ours}")
        assert torch.isfinite(loss)


@seeds
@pytest.mark.parametrize("region, name", [(Region.SHRUNK, "shrunk"), (Region.WHOLE, "full")])
@pytest.mark.parametrize("scene", range(40))
def test_assignment(seed, region, name, scene):
    z = golden("assignment", seed)
    h, w = z["image_size"].tolist()
    locations, strides = level_locations([(-(-h // s), -(-w // s)) for s in STRIDES], STRIDES)
    boxes = pseudo_boxes(torch.from_numpy(z[f"gt_keypoints_{scene}"]), "paper")
    person = assign_regions(locations, strides, boxes, STRIDES, AssignConfig(region=region))
    positive = (person >= 0).nonzero().flatten()
    ours = dict(zip(positive.tolist(), person[positive].tolist()))
    assert ours == dict(zip(z[f"{name}_location_{scene}"].tolist(), z[f"{name}_person_{scene}"].tolist()))


@seeds
@pytest.mark.parametrize("case", range(30))
def test_soft_nms(seed, case):
    z = golden("soft_nms", seed)
    order, scores = soft_nms(torch.from_numpy(z[f"boxes_{case}"]), torch.from_numpy(z[f"scores_{case}"]))
    assert order.tolist() == z[f"keep_{case}"].tolist()
    close(scores, z[f"decayed_{case}"], "decayed scores")
