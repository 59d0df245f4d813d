"""The rivals against numbers that their published programs computed.

`SMPR_GOLDEN_PEERS=DIR pytest tests/test_peers.py` takes any folder of seeds; default ../shared/golden/peers
where it is there, else tests/data/golden_peers. `rule.py` in it makes weights and inputs. Compared as the
README there says: |a - b| <= 1e-4 (1 + |b|), sets and orders exactly. Below these: what holds for every
method.
"""

import json
import os
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import module

import smpr.peers.centernet as cn
import smpr.peers.directpose as dp
import smpr.peers.point_set_anchors as psa
import smpr.peers.spm as spm
from smpr.assignment import assign_regions
from smpr.evaluation import METRICS, check_results
from smpr.experiments.jobs import IDEAS
from smpr.experiments.rows import RunOptions, make_scale
from smpr.inference import DecodeConfig, TestConfig
from smpr.losses import focal_loss, stack_targets
from smpr.model import ModelConfig
from smpr.peers.interface import Rival, Smpr, method_losses, run_method, scene_batch
from smpr.peers.six_ways import RIVALS, rivals, run_rival
from smpr.representation import level_locations, level_sizes
from smpr.settings import SmprError
from smpr.skeleton import COCO17, Skeleton
from smpr.structures import People
from smpr.update import small_config
from smpr.world.people import drawn_set

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "tests/data/golden_peers"
FULL = Path(os.environ.get("SMPR_GOLDEN_PEERS") or ROOT / "../shared/golden/peers")
FOLDER = FULL if FULL.is_dir() or "SMPR_GOLDEN_PEERS" in os.environ else SHIPPED
FILES = sorted(FOLDER.glob("*.npz"))
SEEDS = sorted({int(m[1]) for p in FILES if (m := re.search(r"_(\d+)\.npz$", p.name))})
STRIDES = (8, 16, 32, 64, 128)
SIGMAS = torch.tensor(COCO17.sigmas)
seeds = pytest.mark.parametrize("seed", SEEDS, scope="module")


def test_a_folder_that_is_named_holds_seeds():
    assert SEEDS, f"{FOLDER} holds no *_SEED.npz"


# ------------------------------------------------------------ tools


def rule():
    "The module that makes weights and inputs."
    return module(FOLDER / "rule.py")


@pytest.mark.skipif(
    not (FULL / "psa_assign_0.npz").is_file(), reason="the full folder, with seed 0, is absent"
)
def test_what_ships_is_what_was_computed():
    "The shipped seed is the full folder's, array by array and bit by bit; so is what the rule draws."
    for name, arrays in module(SHIPPED / "ship.py").shipped(FULL).items():
        with np.load(SHIPPED / name) as file:
            assert set(file) == set(arrays) and all(np.array_equal(file[k], arrays[k]) for k in arrays), name
    ours, theirs = module(SHIPPED / "rule.py"), module(FULL / "rule.py")
    assert all(map(np.array_equal, ours.people("a", 1, 300, 200), theirs.people("a", 1, 300, 200)))
    for a, b in zip(ours.centernet_maps(3).values(), theirs.centernet_maps(3).values(), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(ours.weight("w", (4, 3, 3, 3), 5), theirs.weight("w", (4, 3, 3, 3), 5))


@lru_cache
def golden(name, seed=None):
    "One file of vectors."
    path = FOLDER / (f"{name}.npz" if seed is None else f"{name}_{seed}.npz")
    if not path.is_file():
        pytest.skip(f"{path.name} is absent")
    with np.load(path) as file:
        return {key: file[key] for key in file}


def close(ours, theirs, what):
    "The README's tolerance."
    a = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours, np.float64)
    b = np.asarray(theirs, np.float64)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, published {b.shape}"
    gap = np.abs(a - b)
    assert np.isfinite(a).all() and (gap <= 1e-4 * (1 + np.abs(b))).all(), f"{what}: off by {gap.max():.3g}"


def sparse(z, index, value, shape):
    "A stored map: the non-zero entries of the flattened array."
    out = np.zeros(int(np.prod(shape)), np.float32)
    out[z[index]] = z[value] if value in z else 1
    return out.reshape(shape)


def drawn(name, shape, seed, scale=1.0, shift=0.0):
    "A named input as a tensor."
    return torch.from_numpy(rule().tensor(name, shape, seed, scale, shift))


# ------------------------------------------------------------ DirectPose


def direct_people(z, n):
    "The people of a picture, boxes as stored."
    keypoints, boxes = (torch.from_numpy(z[f"gt_{name}_{n}"]) for name in ("keypoints", "box"))
    return People(keypoints, boxes, torch.ones(len(boxes)))


def direct_answer(seed, author, decode=False, pictures=3):
    "The predictions that the rule draws for three pictures of 256 x 320 px."
    sizes = level_sizes(256, 320, STRIDES)
    shift, factor = (3.5, 0.6) if decode else (0, 1)

    def rows(name, channels, scale, middle):
        maps = [
            drawn(f"directpose {name} {level}", (3, channels, h, w), seed, scale, middle)
            for level, (h, w) in enumerate(sizes)
        ]
        return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)[:pictures]

    joints = rows("kpt", 51, 2.0, 0.0).unflatten(-1, (17, 3)) * factor
    heat = drawn("directpose heat 0", (3, 17, *sizes[0]), seed, 2.0, -4.0)[:pictures]
    return dp.Aligned(
        rows("logit", 1, 2.0, -3.0)[..., 0] - shift,
        joints[..., :2].flatten(2),
        None,
        rows("ctr", 1, 1.0, 0.0)[..., 0],
        heat,
        *level_locations(sizes, STRIDES),
        STRIDES,
        None if author else joints[..., 2],
    )


HEAD_NAMES = (
    (r"cls_tower\.(\d+)", lambda m: f"person_tower.{int(m[1]) // 3}.{int(m[1]) % 3}"),
    (r"k[pt]+s?_tower\.(\d+)", lambda m: f"pose_tower.{int(m[1]) // 3}.{int(m[1]) % 3}"),
    (r"cls_logits", lambda m: "person"),
    (r"ctrness|centerness", lambda m: "centre"),
    (r"locator|kps_bases", lambda m: "align.locator"),
    (r"(sampler|sample_features_conv)\.(\d)", lambda m: f"align.sampler.{m[2]}"),
    (r"(predictor|kps_offsets)\.(\d)\.(kpt_predictor|kps_offsets)", lambda m: f"align.predictors.{m[2]}"),
)


def direct_name(name):
    "A published name of a weight as ours; None for the heatmap branch, which has other layers here."
    for pattern, ours in HEAD_NAMES:
        if found := re.match(pattern, name):
            return ours(found) + name[found.end() :]
    return None


@seeds
@pytest.mark.parametrize("code", ("gluon", "author"))
def test_directpose_head(seed, code):
    z, gluon = golden("directpose_head", seed), code == "gluon"
    config = ModelConfig(width=32, norm_groups=32, tower_depth=1, strides=STRIDES, heatmap=False)
    published = dp.Published.GLUON if gluon else dp.Published.AUTHORS
    head = dp.DirectHead(config, COCO17, 8 if gluon else 64, 2 if gluon else 1, published)
    prefix, state = "directpose " + "author " * (not gluon), {}
    for name, shape in zip(z[f"{code}_names"].tolist(), z[f"{code}_shapes"].tolist()):
        shape = tuple(int(n) for n in re.findall(r"\d+", str(shape)))
        if ours := direct_name(name):
            state[ours] = torch.from_numpy(rule().weight(prefix + name, shape, seed))
    head.load_state_dict(state)
    sizes = level_sizes(128, 160, STRIDES)
    maps = [drawn(f"directpose feature {i}", (1, 32, h, w), seed) for i, (h, w) in enumerate(sizes)]
    with torch.no_grad():
        pred, done = head(maps), 0
    for i, (h, w) in enumerate(sizes):
        rows = slice(done, done := done + h * w)
        kpt = pred.initial[0, rows].unflatten(-1, (17, 2))
        if gluon:
            kpt = torch.cat([kpt, pred.visible[0, rows, :, None]], -1)
        if f"{code}_kpt_{i}" in z:  # the largest map's do not ship
            close(kpt.flatten(1).T.reshape(1, -1, h, w), z[f"{code}_kpt_{i}"], f"keypoints of level {i}")
        for ours, theirs in (("person_logits", "cls"), ("score_logits", "ctr")):
            if f"{code}_{theirs}_{i}" in z:
                values = getattr(pred, ours)[0, rows].reshape(1, 1, h, w)
                close(values, z[f"{code}_{theirs}_{i}"], f"{theirs} of level {i}")


@seeds
@pytest.mark.parametrize("n", range(3))
def test_directpose_targets(seed, n):
    z, who = golden("directpose_targets", seed), direct_people(golden("directpose_targets", seed), n)
    pred = direct_answer(seed, False)
    one = replace(pred, **{f: getattr(pred, f)[n : n + 1] for f in ("person_logits", "initial")})
    _, at, truth, boxes = dp.positives(one, [who])
    assert at.tolist() == z[f"positive_{n}"].tolist()
    owner = assign_regions(pred.locations, pred.strides, who.boxes, STRIDES)
    assert owner[at].tolist() == z[f"person_{n}"].tolist()
    close(dp.centerness(pred.locations[at], boxes), z[f"centerness_{n}"], "centre-ness")
    pose = (truth[..., :2] - pred.locations[at, None]) / pred.strides[at, None, None]
    seen = truth[..., 2] > 0
    stored = torch.from_numpy(z[f"pose_target_{n}"])
    close(pose[seen], stored[..., :2][seen], "poses")
    marks = dp.joint_marks([who], (32, 40), 8, dp.Published.GLUON)[0]
    assert marks.flatten().nonzero().flatten().tolist() == sorted(z[f"heatmap_index_{n}"].tolist())


@seeds
def test_directpose_losses(seed):
    z = golden("directpose_targets", seed)
    people = [direct_people(z, n) for n in range(3)]
    losses = dp.direct_losses(direct_answer(seed, False), people, code=dp.Published.GLUON)
    names = {"person": "cls", "centre": "ctr", "pose": "kpt_loc", "heatmap": "hm", "visible": "kpt_vis"}
    for ours, theirs in names.items():
        close(losses[ours], z[f"loss_directpose_{theirs}"], f"gluon-cv: {ours}")
    two = dp.direct_losses(direct_answer(seed, True, pictures=2), people[:2])
    for ours, theirs in {"person": "cls", "centre": "ctr", "pose": "kpt", "heatmap": "heat"}.items():
        close(two[ours], z[f"author_loss_{theirs}"], f"authors: {ours}")
    marks = dp.joint_marks(people[:2], (32, 40), 8, dp.Published.AUTHORS)
    label = (marks * torch.arange(1, 18)[:, None, None]).sum(1)
    assert label.tolist() == z["author_heat_label"].tolist()


@seeds
@pytest.mark.parametrize("n", range(3))
def test_directpose_detections(seed, n):
    z, method = golden("directpose_decode", seed), dp.DirectPose(code=dp.Published.GLUON, nms=0.6)
    net, config = Rival(small_config().model, Smpr()), DecodeConfig(keep=100)
    answer = replace(direct_answer(seed, False, decode=True), heatmap_logits=None)
    found = method.candidates(net, answer, n, (257, 321), config)  # its border is at 256, ours at 255
    order, scores = method.select(net, found, config)
    close(scores, z[f"det_score_{n}"], "scores")
    k = found.keypoints[order]
    close(torch.cat([k.amin(1), k.amax(1)], 1), z[f"det_box_{n}"], "boxes")
    theirs = z[f"det_keypoints_{n}"][..., :2].clip(0, None).clip(None, [320, 256])  # ours stay inside
    close(k, theirs, "keypoints")


# ------------------------------------------------------------ CenterNet


def to_map(points, wh, side=64):
    "Points of a picture on CenterNet's square map: centres aligned, longer side as long as the map."
    wh = np.asarray(wh, np.float64)
    return (np.asarray(points, np.float64) - wh / 2) * (side / wh.max()) + side / 2


def centre_people(z, n):
    "Keypoints and boxes of a scene on the map of 64 x 64 cells."
    k, wh = z[f"gt_keypoints_{n}"].astype(np.float64), z[f"image_wh_{n}"]
    xy, sides = z[f"gt_box_xywh_{n}"][:, :2].astype(np.float64), z[f"gt_box_xywh_{n}"][:, 2:]
    k[..., :2] = to_map(k[..., :2], wh)
    boxes = np.concatenate([to_map(xy, wh), to_map(xy + sides, wh)], 1).astype(np.float32)
    return torch.from_numpy(k), torch.from_numpy(boxes)


def centre_scene(seed, n):
    return cn.centre_targets(*centre_people(golden("centernet_targets", seed), n), (64, 64))


@seeds
def test_centernet_gaussians(seed):
    z = golden("centernet_gaussian", seed)
    radii = cn.gaussian_radius(torch.from_numpy(z["size_hw"]))
    close(radii, z["radius"], "radius")
    assert radii.clamp(min=0).long().tolist() == z["radius_int"].tolist()
    draws = torch.from_numpy(z["draws_xyr"]).long()
    close(cn.draw_gaussians(draws[:, :2], draws[:, 2], (20, 24)), z["drawn"], "drawn")
    for r, row in enumerate(z["middle_row"]):
        ours = cn.draw_gaussians(torch.tensor([[7, 7]]), torch.tensor([r]), (15, 15))[7]
        width = 2 * r + 1
        close(ours[7 - r : 8 + r], row[:width] if row[width:].sum() == 0 else row[7 - r : 8 + r], f"r {r}")


@seeds
@pytest.mark.parametrize("n", range(6))
def test_centernet_targets(seed, n):
    z, t = golden("centernet_targets", seed), centre_scene(seed, n)
    close(t.centre[None], sparse(z, f"hm_index_{n}", f"hm_value_{n}", (1, 64, 64)), "middles")
    close(t.joints, sparse(z, f"hm_hp_index_{n}", f"hm_hp_value_{n}", (17, 64, 64)), "joints")
    assert t.cell.tolist() == z[f"ind_{n}"].tolist()
    assert t.labelled.long().tolist() == z[f"reg_mask_{n}"].tolist()
    close(t.size, z[f"wh_{n}"], "size")
    close(t.offset, z[f"reg_{n}"], "offset")
    inside = z[f"hps_mask_{n}"].reshape(-1, 17, 2)[..., 0]
    assert t.inside.long().tolist() == inside.tolist()
    close(t.pose.flatten(1) * t.inside.repeat_interleave(2, 1), z[f"hps_{n}"], "poses")
    mask = z[f"hp_mask_{n}"].astype(bool)
    assert t.inside.flatten().tolist() == mask.tolist()
    assert t.joint_cell.flatten()[mask].tolist() == z[f"hp_ind_{n}"][mask].tolist()
    close(t.joint_offset.flatten(0, 1)[mask], z[f"hp_offset_{n}"][mask], "joint offsets")


@seeds
@pytest.mark.parametrize("tag, scenes", [("batch", (0, 1, 2)), ("empty", (5,))])
def test_centernet_losses(seed, tag, scenes):
    z, B = golden("centernet_losses", seed), len(scenes)
    kinds = {
        "centre": ("hm", 1, 3, -2.19, "hm_loss", 1),
        "size": ("wh", 2, 5, 15, "wh_loss", 0.1),
        "pose": ("hps", 34, 6, 0, "hp_loss", 1),
        "offset": ("reg", 2, 0.5, 0.5, "off_loss", 1),
        "joints": ("hm_hp", 17, 3, -2.19, "hm_hp_loss", 1),
        "joint_offset": ("hp_offset", 2, 0.5, 0.5, "hp_offset_loss", 1),
    }
    raw = {
        ours: drawn(f"centernet loss {tag} {name}", (B, c, 64, 64), seed, scale, shift).requires_grad_()
        for ours, (name, c, scale, shift, *_) in kinds.items()
    }
    losses = cn.centre_losses(cn.CentreMaps(**raw), [centre_scene(seed, n) for n in scenes])
    for ours, (*_, name, weight) in kinds.items():
        close(losses[ours] / weight, z[f"{tag}_{name}"], name)
    total = sum(losses.values())
    close(total, z[f"{tag}_loss"], "sum")
    total.backward()
    for ours, (name, *_) in kinds.items():
        norm = 0 if raw[ours].grad is None else raw[ours].grad.norm()
        close(norm, z[f"{tag}_gradnorm_{name}"], f"gradient of {name}")


def centre_maps(seed):
    "Probabilities and lengths that the rule draws."
    names = {"hm": "centre", "wh": "size", "hps": "pose", "reg": "offset", "hm_hp": "joints"}
    names |= {"hp_offset": "joint_offset"}
    drawn = rule().centernet_maps(seed)
    return cn.CentreMaps(**{names[name]: torch.from_numpy(value) for name, value in drawn.items()})


def centre_rows(maps, n):
    "What is found, as the published decoder lists it."
    boxes, scores, joints = cn.decode_centres(maps, n, 20)
    return torch.cat([boxes, scores[:, None], joints.flatten(1), torch.zeros(len(boxes), 1)], 1)


@seeds
def test_centernet_people(seed):
    z, maps = golden("centernet_decode", seed), centre_maps(seed)
    bare = replace(maps, offset=None, joint_offset=None)
    alone = replace(maps, joints=None, joint_offset=None)
    for name, given in (("full", maps), ("no_offset", bare), ("regression_only", alone)):
        for n in range(2):
            close(centre_rows(given, n), z[name][n], f"{name}, picture {n}")


@seeds
def test_centernet_mirrored(seed):
    "The average with a mirrored pass, here the second picture's maps; offsets are the first's own."
    z, maps, swap = golden("centernet_decode", seed), centre_maps(seed), list(COCO17.flip_order)
    pose = maps.pose[1:].flip(-1).unflatten(1, (-1, 2))[:, swap] * torch.tensor([-1.0, 1]).view(2, 1, 1)
    back = {"centre": maps.centre[1:].flip(-1), "size": maps.size[1:].flip(-1)}
    back |= {"pose": pose.flatten(1, 2), "joints": maps.joints[1:].flip(-1)[:, swap]}
    first = cn.CentreMaps(**{name: t[:1] for name, t in vars(maps).items() if t is not None})
    both = replace(first, **{name: (getattr(first, name) + t) / 2 for name, t in back.items()})
    close(centre_rows(both, 0), z["flip_merged"][0], "mirrored")


# ------------------------------------------------------------ SPM


def spm_cells(z, n, name="gt_keypoints"):
    "Keypoints of a scene in cells of 4 px, and the size of its map."
    k, (w, h) = torch.from_numpy(z[f"{name}_{n}"]).clone(), z[f"image_wh_{n}"].tolist()
    k[..., :2] /= 4
    return k, (h // 4, w // 4)


@seeds
@pytest.mark.parametrize("n", range(2))
def test_spm_formulas(seed, n):
    z, parents = golden("spm_paper", seed), spm.tree_parents(COCO17)
    k, size = spm_cells(z, n)
    k = k[(k[..., 2] > 0).any(1)].double()  # places between two cells are decided by the last digits
    roots = spm.find_roots(k)
    heat = spm.root_map(roots, size, 7.0)
    close(heat[::8], z[f"confidence_every8_{n}"], "root map")
    steps = spm.tree_steps(k, roots, parents)
    values, _ = spm.displacement_maps(steps, size)
    stored = sparse(z, f"displacement_{n}_index", f"displacement_{n}_value", (34, *size))
    close(values.flatten(0, 1), stored, "displacements")
    few, _ = spm.displacement_maps(steps, size, reach=7**0.5)
    assert (few != 0).sum() == z[f"displacement_squared_tau_cells_{n}"]
    values = values.float().double()  # as they are stored
    maps = spm.RootMaps(heat[None, None], values.flatten(0, 1)[None])
    cells, scores, joints = spm.decode_roots(maps, 0, parents)
    close(torch.cat([cells, scores[:, None]], 1), z[f"decoded_root_{n}"], "roots")
    close(joints * 4, z[f"decoded_joints_{n}"], "joints")


def present(k):
    "The two programs by others take a joint with x = 0 or y = 0 for a missing one."
    k[..., 2] = ((k[..., 2] > 0) & (k[..., :2] != 0).all(-1)).float()
    return k


@seeds
@pytest.mark.parametrize("n", range(2))
def test_spm_stored_at_the_root(seed, n):
    z = golden("spm_root_located", seed)
    k, size = spm_cells(z, n, "gt_keypoints12")
    k, (x, y, w, h) = present(k), (torch.from_numpy(z[f"gt_box_xywh_{n}"]) / 4).T
    large = (w >= 1) & (h >= 1)
    roots, parents = torch.stack([x + w / 2, y + h / 2], 1)[large], (-1, 0, 1) * 4
    parents = tuple(-1 if p < 0 else i - 1 for i, p in enumerate(parents))
    steps = spm.tree_steps(k[large], roots, parents, spm.Stored.ROOT, skip=True)
    values, _ = spm.displacement_maps(steps, size, spm.Window.SQUARE)
    stored = sparse(z, f"offset_{n}_index", f"offset_{n}_value", (*size, 24))
    close(values.flatten(0, 1).permute(1, 2, 0), stored, "displacements")


@seeds
@pytest.mark.parametrize("n", range(2))
def test_spm_stored_at_the_parent(seed, n):
    z, parents = golden("spm_parent_located", seed), spm.tree_parents(COCO17)
    k, size = spm_cells(z, n)
    w, h = z[f"image_wh_{n}"].tolist()
    x, y, bw, bh = torch.from_numpy(z[f"gt_box_xywh_{n}"]).T
    right, low = (x + bw).clamp(max=w - 1), (y + bh).clamp(max=h - 1)
    roots = torch.stack([(x.clamp(min=0) + right) / 2, (y.clamp(min=0) + low) / 2], 1) / 4
    start, end, there = spm.tree_steps(present(k), roots, parents, skip=True)
    there &= (start != 0).all(-1)
    steps = (start.trunc(), end, there)
    values, _ = spm.displacement_maps(steps, size, spm.Window.SQUARE, 2 * 9.2104**0.5, 0.5)
    stored = sparse(z, f"offset_{n}_index", f"offset_{n}_value", (*size, 34))
    close(values.flatten(0, 1).permute(1, 2, 0), stored, "displacements")


# ------------------------------------------------------------ Point-Set Anchors


@pytest.mark.parametrize("stride", (8, 16, 32))
def test_psa_anchors(stride):
    z, shape = golden("psa_anchors"), torch.tensor(psa.COCO_POSE)[None]
    close(shape[0], z["template"], "usual pose")
    base, side = psa.cell_anchors(shape, stride)
    assert base.flatten(1).tolist() == z[f"base_pose_{stride}"].tolist()
    close(side, z[f"base_scale_{stride}"].reshape(-1), "sides")
    grid = psa.grid_anchors(base, (3, 4), stride)
    assert grid.flatten(1).tolist() == z[f"grid_pose_{stride}"].reshape(-1, 34).tolist()


def test_psa_27_anchors():
    z = golden("psa_anchors")
    shapes = torch.from_numpy(z["three_templates_unshifted"])
    shapes = shapes - shapes[:, [11, 12]].mean(1, keepdim=True)  # hips on the cell
    turns, scales = tuple(z["rotations_deg"].tolist()), tuple(z["scales27"].tolist())
    base, sides = psa.cell_anchors(shapes, 16, scales, turns)
    stored = z["base_pose27_stride16"].reshape(-1, 34)
    assert base.flatten(1).tolist() == stored.tolist()
    assert sides.tolist() == z["base_scale27_stride16"].reshape(-1).tolist()


PSA_NAMES = {
    "pre_cls_convs.0.conv": "person_tower.0.0",
    "pre_cls_convs.0.gn": "person_tower.0.1",
    "pre_reg_convs.0.conv": "pose_tower.0.0",
    "pre_reg_convs.0.gn": "pose_tower.0.1",
    "norm_list_cls.0.0": "after_person.0",
    "norm_list_reg.0.0": "after_pose.0",
    "conv_cls_list.0.0": "person",
    "conv_reg_list.0.0": "delta",
}
PSA_TAPS = {
    "shape_align_conv_list_cls.0.0.weight": "at_person",
    "shape_align_conv_list_reg.0.0.weight": "at_pose",
}


@seeds
def test_psa_head(seed):
    "The branches of classes and poses; boxes and a set of weights that nobody uses are left out."
    z, state = golden("psa_head", seed), {}
    head = psa.StageHead(ModelConfig(width=32, tower_depth=1, norm_groups=8), COCO17)
    for name, shape in zip(z["names"].tolist(), z["shapes"].tolist()):
        module, _, kind = name.rpartition(".")
        ours = PSA_TAPS.get(name) or (f"{PSA_NAMES[module]}.{kind}" if module in PSA_NAMES else None)
        if ours:
            shape = tuple(int(n) for n in re.findall(r"\d+", str(shape)))
            state[ours] = torch.from_numpy(rule().weight("psa " + name, shape, seed))
    head.load_state_dict(state)
    for level, s in enumerate((8, 16, 32)):
        h, w = z[f"cls_{level}"].shape[-2:]
        base, _ = psa.cell_anchors(torch.tensor(psa.COCO_POSE)[None], s)
        with torch.no_grad():
            x = drawn(f"psa feature {level}", (1, 32, h, w), seed)
            logits, deltas = head(x, psa.grid_anchors(base, (h, w), s)[None], s)
        close(logits.reshape(1, 1, h, w), z[f"cls_{level}"], f"logits of level {level}")
        close(deltas[0].flatten(1).T.reshape(1, 34, h, w), z[f"pose_{level}"], f"poses of level {level}")


def psa_scene(seed, n):
    "Anchors, stage and people of a scene."
    z = golden("psa_assign", seed)
    h, w = z[f"image_hw_{n}"].tolist()
    k, shape, rows, sides = (
        torch.from_numpy(z[f"gt_keypoints_{n}"]),
        torch.tensor(psa.COCO_POSE)[None],
        [],
        [],
    )
    for level, s in enumerate((8, 16, 32)):
        base, side = psa.cell_anchors(shape, s)
        rows.append(psa.grid_anchors(base, (-(-h // s), -(-w // s)), s))
        sides.append(side.repeat(len(rows[-1])))
        if n >= 4:
            flat = rows[-1].flatten(1).numpy()
            moved = rule().psa_stage2_anchors(n, level, seed, flat, z[f"gt_keypoints_{n}"])
            rows[-1] = torch.from_numpy(moved).unflatten(1, (-1, 2))
    anchors, sides = torch.cat(rows), torch.cat(sides)
    A = len(anchors)
    logits = drawn(f"psa logit {n}", (A, 1), seed, 2.0, -3.0)[:, 0]
    deltas = drawn(f"psa pose {n}", (A, 34), seed, 0.3).unflatten(1, (-1, 2))
    stage = psa.Stage(anchors[None], sides, torch.ones(A), logits[None], deltas[None])
    return z, stage, People(k, torch.zeros(len(k), 4), torch.ones(len(k)))


@seeds
@pytest.mark.parametrize("n", range(6))
def test_psa_assignment_and_losses(seed, n):
    z, stage, who = psa_scene(seed, n)
    low, high = (0.4, 0.5) if n < 4 else (0.89, 0.99)
    near = psa.anchor_oks(who.keypoints, stage.anchors[0], SIGMAS)
    close(near.amax(0), z[f"max_oks_{n}"], "best OKS")
    owner = psa.assign_anchors(near, low, high)
    theirs = torch.from_numpy(z[f"assigned_{n}"].astype(np.int64))
    assert torch.where(owner == -2, -1, owner + 1).tolist() == theirs.tolist()
    assert (owner >= 0).nonzero().flatten().tolist() == z[f"positive_{n}"].tolist()
    mine = owner >= 0
    truth = who.keypoints[owner[mine]]
    target = (truth[..., :2] - stage.anchors[0, mine]) / stage.sides[mine, None, None]
    close((target * (truth[..., 2:] > 0)).flatten(1), z[f"pose_target_{n}"], "targets")
    person, pose = psa.stage_losses(stage, [who], psa.stage_owners(stage, [who], SIGMAS, low=low, high=high))
    close(torch.stack([person, pose]), z[f"loss_{n}"][:2], "losses")
    h, w = z[f"image_hw_{n}"].tolist()
    poses = stage.poses[0, ::37].flatten(1)
    theirs = torch.from_numpy(z[f"decoded_pose_{n}"])
    inside = torch.minimum(poses.unflatten(1, (-1, 2)).clamp(min=0), torch.tensor([w - 1.0, h - 1.0]))
    close(inside.flatten(1) if theirs.min() >= 0 and theirs.max() < max(h, w) else poses, theirs, "poses")


@seeds
@pytest.mark.parametrize("n", range(2))
def test_psa_joint_maps(seed, n):
    z = golden("psa_heat", seed)
    k = torch.from_numpy(z[f"gt_keypoints_{n}"])
    heat, offset, known = psa.joint_targets(k, (48, 64), 4)
    close(heat, sparse(z, f"heat_{n}_index", f"heat_{n}_value", (17, 48, 64)), "heat")
    close(offset.flatten(0, 1), sparse(z, f"offset_{n}_index", f"offset_{n}_value", (34, 48, 64)), "offset")
    weight = sparse(z, f"offset_weight_{n}_index", f"offset_weight_{n}_value", (34, 48, 64))
    assert known.repeat_interleave(2, 0).tolist() == (weight > 0).tolist()
    raw = (
        drawn(f"psa heat logit {n}", (1, 17, 48, 64), seed, 1.5, -3.0),
        drawn(f"psa heat offset {n}", (1, 34, 48, 64), seed, 1.0, 0.0),
    )
    maps = psa.JointMaps(raw[0].sigmoid().clamp(1e-4, 1 - 1e-4), raw[1].sigmoid())
    losses = psa.joint_loss(maps, [People(k, torch.zeros(len(k), 4), torch.ones(len(k)))], 4)
    close(torch.stack(losses), z[f"loss_{n}"], "losses")
    poses = drawn("psa absorb poses " + str(n), (25, 34), seed, 60.0, 110.0).unflatten(1, (-1, 2))
    close(psa.fuse_joints(poses, maps, 0, 4).flatten(1), z[f"absorbed_{n}"], "fused")


@seeds
def test_psa_suppression(seed):
    z = golden("psa_heat", seed)
    rows = torch.from_numpy(z["nms_input"])
    kept = psa.oks_nms(rows[:, :34].unflatten(1, (-1, 2)), rows[:, 34], SIGMAS, 0.5, 100, rows[:, 35])
    assert sorted(kept.tolist()) == z["nms_keep"].tolist()


# ------------------------------------------------------------ every method


METHODS = {
    "smpr": Smpr(),
    "directpose": dp.DirectPose(channels=8, pose_depth=1),
    "directpose-gluon": dp.DirectPose(8, 1, dp.Published.GLUON),
    "centernet": cn.CenterNet(width=16),
    "centernet-8": cn.CenterNet(8, 16, snap=False),
    "spm": spm.SPM(width=16),
    "spm-root": spm.SPM(8, 16, stored=spm.Stored.ROOT, window=spm.Window.SQUARE, zeros=True),
    "point-set-anchors": psa.PointSetAnchors(scales=(6.0,)),
    "point-set-anchors-fused": psa.PointSetAnchors(levels=2, scales=(4.0, 8.0), stages=1, fuse=True),
}
IDEAL = {  # with one of SMPR's ideas each
    "directpose-oks-positives": dp.DirectPose(8, 1, oks_positives=True),
    "directpose-pose-score": dp.DirectPose(8, 1, pose_score=True),
    "centernet-pose-score": cn.CenterNet(width=16, pose_score=True),
    "spm-pose-score": spm.SPM(width=16, least=0.0, pose_score=True),
    "point-set-anchors-pose-score": psa.PointSetAnchors(scales=(4.0, 6.0), pose_score=True),
}
METHODS |= IDEAL
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
TINY = ModelConfig(**vars(small_config().model) | {"width": 32, "tower_depth": 1, "norm_groups": 8})
CONFIG = replace(small_config(2, 2), model=TINY, train=replace(small_config(2, 2).train, bf16=False))
BIRD = Skeleton(("nose", "beak", "left_wing", "right_wing"), (0.1,) * 4, ((2, 3),), ())


@methods
def test_nobody_and_everybody(method):
    "Losses are finite with people and without; what is found lies in the form that the core selects from."
    net, batch = Rival(TINY, method).train(), scene_batch()
    with_people = method_losses(net, batch, CONFIG)
    batch.people = [People(torch.zeros(0, 17, 3), torch.zeros(0, 4), torch.zeros(0))]
    without = method_losses(net, batch, CONFIG)
    assert with_people.keys() == without.keys()
    assert all(loss.isfinite() for loss in (*with_people.values(), *without.values()))
    with torch.inference_mode():
        answer = net.eval()(net.normalize(batch.images, batch.sizes))
        found = method.candidates(net, answer, 0, (96, 128), DecodeConfig())
        order, scores = method.select(net, found, DecodeConfig(score_threshold=0))
    assert found.keypoints.shape == (len(found.person), 17, 2) and len(order) <= 20
    assert found.keypoints.isfinite().all() and (scores[:-1] >= scores[1:]).all()


@methods
def test_any_skeleton(method):
    if isinstance(method, psa.PointSetAnchors):
        method = replace(method, shapes=(((0.0, -0.4), (0.1, -0.3), (0.4, 0.3), (-0.4, 0.3)),))
    net, batch = Rival(TINY, method, BIRD).train(), scene_batch()
    k = torch.tensor([[[20.0, 20, 2], [40, 60, 2], [30, 30, 1], [0, 0, 0]]])
    batch.people = [People(k, torch.tensor([[20.0, 20, 40, 60]]), torch.tensor([800.0]))]
    losses = method_losses(net, batch, CONFIG)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_ideas_are_off_unless_asked_for(tmp_path):
    "Every rival of the table is as published; a job switches on one option, which its rival has."
    assert set(IDEAL) == set(IDEAS)
    plain = rivals(make_scale("mini").config, drawn_set(tmp_path, 12))
    for rival, option in IDEAS.values():
        assert not getattr(plain[rival], option) and getattr(replace(plain[rival], **{option: True}), option)


def test_a_person_is_learnt_where_the_pose_is_good():
    "DirectPose with OKS positives: its person loss is that of SMPR's own positives, the rest stays as it is."
    torch.manual_seed(0)
    net, batch = Rival(TINY, dp.DirectPose(8, 1)).train(), scene_batch()
    answer = net(net.normalize(batch.images, batch.sizes))
    config = replace(CONFIG, assign=replace(CONFIG.assign, oks_threshold=0.5))
    usual = net.method.losses(net, answer, batch.people, config)
    ours = IDEAL["directpose-oks-positives"].losses(net, answer, batch.people, config)
    both = stack_targets(replace(answer, refined=answer.initial), batch.people, net.sigmas, config.assign)
    inside, good = both.region >= 0, both.refined >= 0
    assert (
        0 < good.sum() < inside.sum() and (inside | ~good).all()
    )  # nothing is learnt yet: the forced matches
    wanted = focal_loss(answer.person_logits, good) / (good.sum() + len(batch.people))
    assert torch.allclose(ours["person"], wanted) and ours["person"] != usual["person"]
    assert ours.keys() == usual.keys()
    assert all(torch.equal(ours[name], usual[name]) for name in usual if name != "person")


@pytest.mark.parametrize("name", [name for name in IDEAL if name.endswith("pose-score")])
def test_a_pose_score_learns_the_oks_of_its_pose(name):
    "After some steps with the rest held still, the scores where people are learnt approach the poses' OKS."
    torch.manual_seed(0)
    method, batch = IDEAL[name], scene_batch()
    net = Rival(TINY, method).train()
    before = method_losses(net, batch, CONFIG)
    mine = [p for n, p in net.named_parameters() if re.search(r"score|head\.centre", n)]
    assert mine and "score" in before
    learn = torch.optim.Adam(mine, 0.02)
    for _ in range(40):
        learn.zero_grad()
        loss = method_losses(net, batch, CONFIG)["score"]
        loss.backward()
        learn.step()
    assert loss < 0.8 * before["score"]


@pytest.mark.parametrize("name", [name for name in IDEAL if name.endswith("pose-score")])
def test_the_product_sorts(name):
    "Confidence is p times q with q in [0, 1]; the findings also count p alone and q alone."
    torch.manual_seed(0)
    method, batch = IDEAL[name], scene_batch()
    net = Rival(TINY, method).eval()
    with torch.inference_mode():
        answer = net(net.normalize(batch.images, batch.sizes))
        found = method.candidates(net, answer, 0, (96, 128), DecodeConfig())
    assert len(found.person) and (found.confidence <= found.person).all() and (found.confidence >= 0).all()
    assert (found.confidence != found.person).any() and method.scores_poses(TINY)
    plain = replace(method, pose_score=False)
    assert not plain.scores_poses(TINY) and Smpr().scores_poses(TINY) == TINY.score


@pytest.mark.slow
@methods
def test_a_run_leaves_a_record(method, tmp_path, monkeypatch):
    "Two steps on kept features of the smoke scale, then the validation pictures; again: nothing is trained."
    monkeypatch.setenv("SMPR_RUNS", str(tmp_path))
    smoke = make_scale("smoke")
    scale = replace(smoke, config=replace(smoke.config, train=replace(smoke.config.train, steps=2)))
    run = run_method("t", "rival", method, scale)
    assert set(run.record["metrics"]) == set(METRICS) and run.record["steps"] == 2
    assert run.record["method"]["name"] == type(method).__name__ and json.dumps(run.record)
    ways = {"score", "person", "true-oks"} | (
        {"pose-score"} if method.scores_poses(scale.config.model) else set()
    )
    assert set(run.record["scoring"]) == ways
    check_results(run.findings.results, 17)
    again = run_method("t", "rival", method, scale)
    assert again.record["metrics"] == run.record["metrics"] and again.record["log"] == run.record["log"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_rivals_on_drawn_people(name, tmp_path, monkeypatch):
    "Other keypoints, small square pictures, whole pictures instead of kept features: two steps each."
    monkeypatch.setenv("SMPR_RUNS", str(tmp_path))
    few, smoke = drawn_set(tmp_path, 12), make_scale("smoke")
    model = replace(TINY, frozen_stages=0, frozen_norm_affine=False)
    config = replace(CONFIG, data=replace(CONFIG.data, short=96, long=96), test=TestConfig(short=96, long=96))
    config = replace(config, model=model)
    scale = replace(smoke, frozen_features=False, start=None, config=config)
    run = run_rival("t", name, scale, config=config, options=RunOptions(train_set=few, val_set=few))
    assert run.record["row"] == name and run.record["steps"] == 2 and run.net.skeleton.K == few.skeleton.K
    check_results(run.findings.results, few.skeleton.K)
    with pytest.raises(SmprError, match="devices 2: this network is trained by one process"):
        run_rival("t", name, scale, config=config, options=RunOptions(devices=2, train_set=few, val_set=few))
