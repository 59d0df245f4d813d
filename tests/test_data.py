"""Reading, changing and batching pictures with people: properties on random samples, and real sets when they
are here."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smpr.batches import (
    DataConfig,
    DrawSampler,
    Outside,
    TrainStream,
    augment,
    clip_people,
    collate,
    crop,
    flip,
    train_loader,
    warp,
)
from smpr.data import PictureRecord, PoseSet, load_set, make_sample, read_image, resize, set_hash, trainable
from smpr.representation import Variant
from smpr.settings import load_settings
from smpr.skeleton import COCO17, Skeleton
from smpr.structures import Sample

REAL = Path(os.environ.get("SMPR_SHARED", Path(__file__).parent.parent.parent / "shared")) / "coco"
needs_real = pytest.mark.skipif(
    not (REAL / "val").exists(),
    reason="real pictures (coco/train, coco/val) are not here; SMPR_SHARED names their folder",
)
few = settings(max_examples=60, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def random_sample(seed: int, skeleton: Skeleton = COCO17, boxes: Variant | None = Variant.CODE) -> Sample:
    "A small picture of noise with up to five people, some keypoints not labelled."
    rng = np.random.default_rng(seed)
    w, h, G = int(rng.integers(20, 160)), int(rng.integers(20, 160)), int(rng.integers(0, 6))
    keypoints = np.concatenate(
        [rng.uniform(0, 1, (G, skeleton.K, 2)) * (w - 1, h - 1), rng.integers(0, 3, (G, skeleton.K, 1))], -1
    )
    keypoints[keypoints[..., 2] == 0] = 0
    record = PictureRecord(1, "noise", w, h, keypoints, rng.uniform(20, 900, G), np.zeros(G, bool))
    return make_sample(rng.integers(0, 256, (h, w, 3), dtype=np.uint8), record, boxes)


def same(a: Sample, b: Sample) -> bool:
    return (
        np.array_equal(a.image, b.image)
        and np.allclose(a.keypoints, b.keypoints)
        and np.allclose(a.areas, b.areas)
    )


@few
@given(seeds)
def test_flip_twice_is_nothing(seed):
    sample = random_sample(seed)
    once = flip(sample, COCO17)
    assert same(flip(once, COCO17), sample) and np.allclose(flip(once, COCO17).boxes, sample.boxes)
    w = sample.image.shape[1]
    for a, b in COCO17.flip_pairs:
        assert (
            np.allclose(once.keypoints[:, a, 0], w - 1 - sample.keypoints[:, b, 0])
            and (once.keypoints[:, a, 2] == sample.keypoints[:, b, 2]).all()
        )


@few
@given(seeds, st.integers(8, 170), st.sampled_from(Outside), st.booleans())
def test_crop_stays_inside(seed, size, outside, boxes):
    sample = random_sample(seed, boxes=Variant.CODE if boxes else None)
    h, w = sample.image.shape[:2]
    rng = np.random.default_rng(seed + 1)
    x, y = int(rng.integers(0, max(w - size, 0) + 1)), int(rng.integers(0, max(h - size, 0) + 1))
    done = crop(sample, x, y, size, outside)
    H, W = done.image.shape[:2]
    assert (H, W) == (min(h, size), min(w, size)) and len(done.areas) <= len(sample.areas)
    assert (
        (done.keypoints[..., :2] >= 0).all()
        and (done.keypoints[..., 0] <= W - 1).all()
        and (done.keypoints[..., 1] <= H - 1).all()
    )
    assert (
        (done.areas > 0).all()
        and len(done.keypoints) == len(done.areas)
        and (done.keypoints[..., 2] > 0).any(1).all()
    )
    if done.boxes is not None:
        assert (
            (done.boxes[:, 2:] > done.boxes[:, :2]).all()
            and (done.boxes >= 0).all()
            and (done.boxes <= (W - 1, H - 1, W - 1, H - 1)).all()
        )


@few
@given(seeds)
def test_a_window_over_everything_changes_nothing(seed):
    sample = random_sample(seed)
    for outside in Outside:
        assert same(clip_people(sample, outside), sample)
    assert same(crop(sample, 0, 0, 1000), sample)


@few
@given(seeds)
def test_dropping_keeps_a_subset_of_clamping(seed):
    "What is still labelled with `drop` has the same place with `clamp`."
    sample = random_sample(seed, boxes=None)
    size = max(min(sample.image.shape[:2]) // 2, 8)
    pulled = sample.keypoints - (3, 4, 0)
    clamp, drop = (
        clip_people(Sample(sample.image[4 : 4 + size, 3 : 3 + size], pulled, sample.areas), o)
        for o in (Outside.CLAMP, Outside.DROP)
    )
    assert (
        len(drop.areas) <= len(clamp.areas)
        and (drop.keypoints[..., 2] > 0).sum() <= (clamp.keypoints[..., 2] > 0).sum()
    )
    places = {tuple(p) for person in clamp.keypoints for p in person if p[2] > 0}
    assert all(tuple(p) in places for person in drop.keypoints for p in person if p[2] > 0)


@few
@given(seeds, st.floats(0.3, 3))
def test_resize_scales_people(seed, factor):
    sample = random_sample(seed)
    done = resize(sample, factor)
    h, w = sample.image.shape[:2]
    assert done.image.shape[:2] == (int(h * factor + 0.5), int(w * factor + 0.5))
    assert np.allclose(done.keypoints[..., :2], sample.keypoints[..., :2] * factor) and np.allclose(
        done.areas, sample.areas * factor**2
    )
    assert (
        np.allclose(done.boxes, sample.boxes * factor)
        and (done.keypoints[..., 2] == sample.keypoints[..., 2]).all()
    )


@few
@given(seeds, st.floats(0.5, 2), st.floats(-180, 180))
def test_warp_and_back(seed, zoom, turn):
    "Into a picture large enough for everything, and back: people are where they were."
    sample = random_sample(seed, boxes=None)
    h, w = sample.image.shape[:2]
    center, size = ((w - 1) / 2, (h - 1) / 2), (2 * int(zoom * (w + h)),) * 2
    there = warp(sample, size, zoom, turn, center, Outside.CLAMP)
    back = warp(there, (h, w), 1 / zoom, -turn, ((size[0] - 1) / 2,) * 2, Outside.CLAMP)
    seen = sample.keypoints[..., 2] > 0
    if len(there.areas) < len(sample.areas) or len(back.areas) < len(sample.areas):
        return  # turned into one column: not trainable
    assert np.allclose(back.keypoints[seen], sample.keypoints[seen], atol=1e-6)


@few
@given(seeds, st.lists(seeds, min_size=1, max_size=4))
def test_collate_keeps_everyone(seed, others):
    samples = [random_sample(s) for s in (seed, *others)]
    batch = collate(samples)
    H, W = batch.images.shape[2:]
    assert H % 32 == 0 == W % 32 and H - 32 < max(s.image.shape[0] for s in samples) <= H
    for n, s in enumerate(samples):
        h, w = s.image.shape[:2]
        assert np.array_equal(batch.images[n, :, :h, :w].permute(1, 2, 0), s.image) and int(
            batch.images[n].sum()
        ) == int(s.image.sum(dtype=np.int64))
        assert len(batch.people[n].areas) == len(s.areas) == len(batch.people[n].boxes)


@pytest.mark.parametrize(
    "config",
    (
        DataConfig(short=96, long=160, crop=96),
        DataConfig(short=96, long=160, zoom=(0.6, 1.7), turn=10, color=0.1, outside="drop"),
        DataConfig(short=96, long=160, short_range=(64, 128), crop=0),
    ),
    ids=("paper", "small run", "scales"),
)
def test_draws_do_not_depend_on_who_asks(config):
    place = load_settings().data / "train"
    poses = load_set(place / "images", place / "person_keypoints.json").subset(range(12))
    stream, again = TrainStream(poses, config, seed=5), TrainStream(poses, config, seed=5).preload()
    draws = [17, 3, 40, 3]
    assert all(
        same(a, b) for a, b in zip([stream[d] for d in draws], [again[d] for d in reversed(draws)][::-1])
    )
    whole = list(train_loader(stream, DrawSampler(4, 1, 4), 0))
    halves = [list(train_loader(stream, DrawSampler(4, 1, 4, rank, 2), 1)) for rank in range(2)]
    for step, batch in enumerate(whole):
        split = [p for half in halves for p in half[step].people]
        assert all(
            torch.equal(a.keypoints, b.keypoints) and torch.equal(a.boxes, b.boxes)
            for a, b in zip(batch.people, split, strict=True)
        )


def test_any_skeleton():
    five = Skeleton(
        ("head", "left_hand", "right_hand", "left_foot", "right_foot"),
        (0.03, 0.06, 0.06, 0.09, 0.09),
        ((1, 2), (3, 4)),
        ((0, 1),),
    )
    samples = [
        augment(
            random_sample(s, five), DataConfig(short=64, long=100, crop=64), five, np.random.default_rng(s)
        )
        for s in range(8)
    ]
    assert all(p.keypoints.shape[1:] == (5, 3) for p in collate(samples).people)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_shows_upright(tmp_path, orientation):
    "The stored picture is the upright one, changed the opposite way; PNG keeps it exact."
    upright = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    T = Image.Transpose
    store = {
        1: None,
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_90,
        7: T.TRANSVERSE,
        8: T.ROTATE_270,
    }[orientation]
    image, note = Image.fromarray(upright), Image.Exif()
    note[0x0112] = orientation
    stored = image if store is None else image.transpose(store)
    stored.save(tmp_path / "a.png", exif=note)
    assert np.array_equal(read_image(tmp_path / "a.png", (20, 30)), upright)
    if orientation >= 5:
        assert np.array_equal(
            read_image(tmp_path / "a.png", stored.size[::-1]), np.array(stored)
        )  # annotated as stored


@pytest.mark.parametrize("mode", ("L", "LA", "RGBA", "P", "1", "CMYK", "I;16"))
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.tile(np.linspace(0, 255, 30).astype(np.uint8), (20, 1))
    image = (
        Image.fromarray(grey.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(np.stack([grey] * 3, -1)).convert(mode)
    )
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    out = read_image(path, (20, 30))
    assert out.shape == (20, 30, 3) and out.dtype == np.uint8
    if mode != "1":
        assert np.abs(out.astype(int) - grey[..., None]).max() <= (
            52 if mode == "P" else 3
        )  # P: a palette of 6 steps a channel


@needs_real
@pytest.mark.parametrize(
    "split, pictures, persons, crowds, unlabelled",
    (("val", 300, 1233, 30, 30), ("train", 2008, 7110, 5, None)),
)
def test_real_sets_are_read_whole(split, pictures, persons, crowds, unlabelled):
    poses = load_set(REAL / split / "images", REAL / split / "person_keypoints.json")
    assert (
        len(poses) == pictures
        and sum(len(r.areas) for r in poses.records) == persons
        and sum(int(r.crowd.sum()) for r in poses.records) == crowds
    )
    if unlabelled is not None:
        assert sum(not (r.keypoints[..., 2] > 0).any() for r in poses.records) == unlabelled
    assert len(set_hash(poses)) == 16
    for r in poses.records:
        assert not (trainable(r.keypoints, r.areas, r.crowd) & r.crowd).any()


@needs_real
@pytest.mark.parametrize("split", ("train", "val"))
def test_real_pictures_make_batches(split):
    poses = load_set(REAL / split / "images", REAL / split / "person_keypoints.json").subset(range(0, 240, 8))
    stream = TrainStream(poses, DataConfig(short=160, long=266, crop=160), seed=1)
    assert all(
        trainable(r.keypoints, r.areas, r.crowd).any() for r in (poses.records[i] for i in stream.order)
    )
    for batch in train_loader(stream, DrawSampler(8, 0, 3), 0):
        assert batch.images.shape[0] == 8 and batch.images.shape[2] <= 160 == batch.images.shape[2] // 32 * 32
        for people, (h, w) in zip(batch.people, batch.sizes.tolist()):
            assert (
                len(people.areas)
                and (people.areas > 0).all()
                and torch.isfinite(people.boxes).all()
                and torch.isfinite(people.keypoints).all()
            )
            assert (
                (people.boxes[:, 2:] > people.boxes[:, :2]).all()
                and (people.keypoints[..., 0] <= w - 1).all()
                and (people.keypoints[..., 1] <= h - 1).all()
            )


@needs_real
def test_real_grey_pictures_are_read():
    "COCO holds a few grey pictures; they come back with three equal channels."
    poses = load_set(REAL / "train" / "images", REAL / "train" / "person_keypoints.json")

    def mode(r):
        with Image.open(poses.images / r.file) as im:
            return im.mode

    grey = [r for r in poses.records if mode(r) == "L"]
    for r in grey[:5]:
        image = read_image(poses.images / r.file, r.size)
        assert image.shape == (r.height, r.width, 3) and (image[..., 0] == image[..., 1]).all()


def test_subset_and_empty_pictures_keep_their_records():
    empty = PictureRecord(3, "c.png", 9, 9, np.zeros((0, 17, 3)), np.zeros(0), np.zeros(0, bool))
    poses = PoseSet(Path("a"), Path("b"), (empty, replace(empty, id=4)))
    assert [r.id for r in poses.subset([1]).records] == [4] and len(
        make_sample(np.zeros((9, 9, 3), np.uint8), empty).areas
    ) == 0
