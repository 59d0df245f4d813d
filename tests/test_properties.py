"""Properties that must hold for any skeleton, any people and any picture; hypothesis looks for a
counterexample."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smpr.assignment import AssignConfig, Region, assign_regions, oks_positives, refinement_persons
from smpr.inference import box_iou, soft_nms
from smpr.representation import (
    Variant,
    decode_pose,
    encode_pose,
    level_locations,
    level_sizes,
    oks,
    pseudo_boxes,
)
from smpr.skeleton import (
    Scene,
    Skeleton,
    flip_pairs_from_names,
    load_scene,
    skeleton_from_category,
    skeleton_to_category,
)
from smpr.viz.assignment import assign_scene

P3_P7 = (8, 16, 32, 64, 128)
few = settings(max_examples=60, deadline=None, derandomize=True)
many = settings(max_examples=200, deadline=None, derandomize=True)  # the geometry that everything rests on
seeds = st.integers(0, 2**31)


@st.composite
def skeletons(draw):
    "Any K up to 30: some pairs of twins, some keypoints in the middle, in any order, with any edges."
    twins, middle = draw(st.integers(0, 12)), draw(st.integers(0, 6))
    names = [f"{side}_{n}" for n in range(twins) for side in ("left", "right")] + [
        f"mid_{n}" for n in range(middle)
    ] or ["only"]
    names = draw(st.permutations(names))
    index = st.integers(0, len(names) - 1)
    sigmas = draw(st.lists(st.floats(0.01, 0.2), min_size=len(names), max_size=len(names)))
    edges = draw(st.lists(st.tuples(index, index), max_size=10))
    return Skeleton(tuple(names), tuple(sigmas), flip_pairs_from_names(names), tuple(edges))


def random_people(seed: int, G: int, K: int) -> tuple[torch.Tensor, torch.Tensor]:
    "Keypoints (G, K, 3) and areas (G,); some keypoints are not labelled, perhaps all of a person."
    rng = np.random.default_rng(seed)
    keypoints = np.concatenate([rng.uniform(0, 600, (G, K, 2)), rng.integers(0, 3, (G, K, 1))], -1)
    keypoints[keypoints[..., 2] == 0] = 0
    return torch.tensor(keypoints, dtype=torch.float64), torch.tensor(rng.uniform(100, 50000, G))


def regions_one_by_one(locations, strides, boxes, all_strides, config):
    "The rule of Sec. III-A and III-C for one location and one person at a time."
    owners = []
    for (x, y), s in zip(locations.tolist(), strides.tolist()):
        low = -1 if s == all_strides[0] else s * config.range_unit / 2
        high = float("inf") if s == all_strides[-1] else s * config.range_unit
        passed = []
        for g, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            m, area = max(x - x1, x2 - x, y - y1, y2 - y), (x2 - x1 + 1) * (y2 - y1 + 1)
            inside = x1 < x < x2 and y1 < y < y2
            if config.region == Region.SHRUNK:
                r = config.half_side_strides * s
                inside = inside and abs(x - (x1 + x2) / 2) < r and abs(y - (y1 + y2) / 2) < r
            if inside and low <= m <= high:
                passed.append((area, g))
        owners.append(min(passed)[1] if passed else -1)
    return torch.tensor(owners)


@few
@given(skeletons())
def test_flip_twice_is_the_identity(skeleton):
    order = np.array(skeleton.flip_order)
    assert (order[order] == np.arange(skeleton.K)).all()
    for a, name in enumerate(skeleton.names):  # and each keypoint meets its twin by name
        twin = skeleton.names[order[a]]
        assert twin == name.replace("left", "#").replace("right", "left").replace("#", "right")


@few
@given(skeletons(), st.integers(0, 4), st.integers(1, 50), seeds)
def test_flipping_a_sample_twice_gives_it_back(skeleton, G, width, seed):
    from smpr.batches import flip
    from smpr.structures import Sample

    keypoints, areas = random_people(seed, G, skeleton.K)
    image = np.random.default_rng(seed).integers(0, 255, (6, width, 3), dtype=np.uint8)
    once = flip(Sample(image, keypoints.numpy(), areas.numpy()), skeleton)
    twice = flip(once, skeleton)
    assert (twice.image == image).all() and np.allclose(twice.keypoints, keypoints, atol=1e-9)


@few
@given(skeletons())
def test_category_round_trip(skeleton):
    assert skeleton_from_category(skeleton_to_category(skeleton)) == skeleton


@many
@given(st.integers(1, 30), st.integers(1, 40), seeds)
def test_encode_then_decode_is_the_identity(K, P, seed):
    generator = torch.Generator().manual_seed(seed)
    poses = torch.rand(P, K, 2, generator=generator, dtype=torch.float64) * 2000 - 500
    locations = torch.rand(P, 2, generator=generator, dtype=torch.float64) * 1000
    strides = torch.tensor(P3_P7, dtype=torch.float64)[torch.randint(5, (P,), generator=generator)]
    offsets = encode_pose(poses, locations, strides)
    assert offsets.shape == (P, 2 * K)
    assert torch.allclose(decode_pose(offsets, locations, strides), poses, atol=1e-9)
    assert torch.allclose(
        encode_pose(decode_pose(offsets, locations, strides), locations, strides), offsets, atol=1e-9
    )


@few
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 4), st.integers(1, 5))
def test_locations_cover_every_pixel(height, width, first, levels):
    strides = tuple(2 ** (first + n) for n in range(levels))
    sizes = level_sizes(height, width, strides)
    for (h, w), s in zip(sizes, strides):
        assert (h - 1) * s < height <= h * s and (w - 1) * s < width <= w * s
    if height * width < 40000:
        locations, steps = level_locations(sizes, strides)
        assert len(locations) == len(steps) == sum(h * w for h, w in sizes)
        assert ((locations / steps[:, None]) % 1 == 0.5).all()


@many
@given(skeletons(), st.integers(0, 5), st.integers(1, 12), seeds)
def test_oks_lies_in_0_1_and_knows_no_order_of_persons(skeleton, G, P, seed):
    people, areas = random_people(seed, G, skeleton.K)
    sigmas = torch.tensor(skeleton.sigmas, dtype=torch.float64)
    poses = (
        torch.rand(P, skeleton.K, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 600
    )
    poses = torch.cat([poses, people[..., :2]])
    similarity = oks(poses, people, areas, sigmas)
    assert similarity.shape == (P + G, G) and (similarity >= 0).all() and (similarity <= 1 + 1e-12).all()
    order = torch.randperm(G, generator=torch.Generator().manual_seed(seed + 1))
    assert torch.allclose(oks(poses, people[order], areas[order], sigmas), similarity[:, order], atol=1e-12)
    labelled = (people[..., 2] > 0).any(-1)
    assert torch.allclose(
        similarity[P:].diagonal(), labelled.double(), atol=1e-12
    )  # a person is its own best pose


@many
@given(st.integers(1, 5), st.integers(1, 20), seeds)
def test_pseudo_box_is_the_smallest_box_of_the_labelled_keypoints(G, K, seed):
    people, _ = random_people(seed, G, K)
    boxes = pseudo_boxes(people, Variant.PAPER)
    for person, box in zip(people, boxes):
        points = person[person[:, 2] > 0][:, :2]
        if len(points) == 0:
            assert box.isnan().all()
            continue
        assert (points >= box[:2]).all() and (points <= box[2:]).all()
        assert all((points == box[side]).any() for side in range(4))
    assert torch.equal(
        (boxes - pseudo_boxes(people)).nan_to_num(), torch.tensor([0.0, 0, 1, 1]).double() * (~boxes.isnan())
    )


def configs():
    return st.builds(
        AssignConfig,
        region=st.sampled_from(Region),
        shrink=st.sampled_from(Variant),
        half_side=st.none() | st.sampled_from([0.5, 1.0, 2.0, 3.0]),
        range_unit=st.sampled_from([2.0, 4.0, 8.0, 16.0]),
    )


# corners (0-149) and widths (0-159) on a coarse lattice: ties, nested boxes and exact borders are common
whole_boxes = st.lists(
    st.tuples(
        *[st.integers(0, 19).map(lambda n: 8 * n)] * 2, *[st.integers(0, 20).map(lambda n: 8 * n - 1)] * 2
    ),
    max_size=6,
)


@many
@given(whole_boxes, configs(), st.sampled_from([P3_P7, (8, 16, 32), (4, 8), (16,)]))
def test_assignment_equals_the_loop(corners, config, all_strides):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in corners], dtype=torch.float32).reshape(-1, 4)
    locations, strides = level_locations(level_sizes(96, 128, all_strides), all_strides)
    fast = assign_regions(locations, strides, boxes, all_strides, config)
    assert torch.equal(fast, regions_one_by_one(locations, strides, boxes, all_strides, config))


@many
@given(whole_boxes.filter(bool), configs())
def test_an_overlap_goes_to_the_smallest_box(corners, config):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in corners], dtype=torch.float32)
    locations, strides = level_locations(level_sizes(96, 128, P3_P7), P3_P7)
    owner = assign_regions(locations, strides, boxes, P3_P7, config)
    alone = torch.stack(
        [assign_regions(locations, strides, box[None], P3_P7, config) == 0 for box in boxes], 1
    )  # (P, G)
    area = ((boxes[:, 2:] - boxes[:, :2]) + 1).prod(-1)
    smallest = torch.where(alone, area, torch.inf).amin(1)
    assert torch.equal(owner >= 0, alone.any(1))  # nobody is lost by company
    assert torch.equal(area[owner[owner >= 0]], smallest[owner >= 0])


@few
@given(st.integers(0, 5), st.integers(1, 40), st.floats(0, 1), st.sampled_from(Variant), seeds)
def test_refinement_positives_grow_with_a_lower_bar(G, P, bar, variant, seed):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(P, G, generator=generator)
    region = torch.randint(-1, max(G, 1), (P,), generator=generator) if G else torch.full((P,), -1)
    high, low = (AssignConfig.preset(variant, oks_threshold=t) for t in (bar, bar / 2))
    assert (oks_positives(similarity, high) <= oks_positives(similarity, low)).all()
    refined = refinement_persons(region, similarity, high)
    assert (refined < max(G, 1)).all() and ((refined >= 0) <= oks_positives(similarity, high)).all()
    kept = (refined >= 0) & (region >= 0)
    assert torch.equal(refined[kept], region[kept])  # a region is never overruled


@few
@given(st.integers(1, 30), st.integers(1, 4), seeds)
def test_scene_assignment_works_for_any_K(K, G, seed):
    people, areas = random_people(seed, G, K)
    people[:, 0, 2] = 2
    skeleton = Skeleton(tuple(f"k{n}" for n in range(K)), (0.05,) * K, (), ())
    scene = Scene(np.zeros((120, 160, 3), np.uint8), people.numpy(), areas.numpy())
    view = assign_scene(scene, AssignConfig(), skeleton=skeleton)
    assert view.region.shape == view.refined.shape == view.strides.shape
    assert ((view.refined == -1) | (view.refined == view.region)).all()


def test_scene_travels_with_the_package():
    scene = load_scene()
    assert scene.keypoints.shape[::2] == (3, 3) and np.isfinite(scene.keypoints).all()


@many
@given(st.integers(1, 20), seeds, st.floats(0, 1), st.floats(0, 1))
def test_oks_falls_as_a_pose_moves_away(K, seed, near, far):
    "Along any direction the similarity never rises; it is 1 where the pose is the person."
    people, areas = random_people(seed, 1, K)
    people[:, 0, 2] = 2
    way = torch.rand(K, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 400 - 200
    poses = torch.stack([people[0, :, :2] + t * way for t in (0.0, min(near, far), max(near, far))])
    at, closer, away = oks(poses, people, areas, torch.full((K,), 0.05, dtype=torch.float64))[:, 0]
    assert at == 1 and 1 >= closer >= away >= 0


def placed(corners) -> torch.Tensor:
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in corners], dtype=torch.float32).reshape(-1, 4)


@many
@given(whole_boxes, configs(), st.sampled_from([(8, 16, 32), (16,)]), st.integers(0, 3), st.integers(0, 3))
def test_assignment_moves_with_the_people(corners, config, all_strides, dx, dy):
    "Moved by whole cells of the coarsest level, every location has the owner that its place had before."
    boxes, step, (H, W) = placed(corners), all_strides[-1], (192, 224)
    locations, strides = level_locations(level_sizes(H, W, all_strides), all_strides)
    before, after = (
        assign_regions(locations, strides, b, all_strides, config)
        for b in (boxes, boxes + step * torch.tensor([dx, dy, dx, dy]))
    )
    known = {(int(s), x, y): n for n, (s, (x, y)) in enumerate(zip(strides.tolist(), locations.tolist()))}
    for n, (s, (x, y)) in enumerate(zip(strides.tolist(), locations.tolist())):
        there = known.get((int(s), x + step * dx, y + step * dy))
        if there is not None:
            assert before[n] == after[there]


@many
@given(whole_boxes, configs(), st.sampled_from([(8, 16, 32), (16,)]))
def test_assignment_of_mirrored_people_is_mirrored(corners, config, all_strides):
    """In a picture of whole cells, a box between x1 and x2 becomes one between W - x2 and W - x1; rows of
    cells are read backwards."""
    boxes, (H, W) = placed(corners), (160, 192)
    sizes = level_sizes(H, W, all_strides)
    locations, strides = level_locations(sizes, all_strides)
    turned = torch.stack([W - boxes[:, 2], boxes[:, 1], W - boxes[:, 0], boxes[:, 3]], 1)
    a, b = (assign_regions(locations, strides, x, all_strides, config) for x in (boxes, turned))
    counts = [h * w for h, w in sizes]
    for one, other, (h, w) in zip(a.split(counts), b.split(counts), sizes):
        assert torch.equal(one.reshape(h, w), other.reshape(h, w).flip(1))


@many
@given(whole_boxes, configs(), seeds)
def test_assignment_knows_no_order_of_persons(corners, config, seed):
    "Persons in another order are the same owners, where no two have the same area."
    boxes = placed(corners)
    areas = ((boxes[:, 2:] - boxes[:, :2]) + 1).prod(-1)
    if len(set(areas.tolist())) < len(areas):
        return  # a tie goes to the first
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(seed))
    locations, strides = level_locations(level_sizes(96, 128, P3_P7), P3_P7)
    a, b = (assign_regions(locations, strides, x, P3_P7, config) for x in (boxes, boxes[order]))
    assert torch.equal(torch.where(b >= 0, order[b.clamp(min=0)] if len(order) else b, -1), a)


@many
@given(st.integers(0, 25), st.floats(0.1, 0.9), seeds)
def test_soft_nms_sorts_and_only_lowers(M, iou, seed):
    """Picks come best first, each once, with at most their own score; the best keeps its score; a pick
    overlapped by nobody above it keeps its own."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(M, 2, generator=generator) * 60
    boxes, scores = (
        torch.cat([corner, corner + torch.rand(M, 2, generator=generator) * 40], 1),
        torch.rand(M, generator=generator),
    )
    order, kept = soft_nms(boxes, scores, iou, 0.01)
    assert (
        len(set(order.tolist())) == len(order)
        and (kept.diff() <= 1e-7).all()
        and (kept <= scores[order] + 1e-7).all()
        and (kept >= 0.01).all()
    )
    if len(order):
        assert order[0] == scores.argmax() and kept[0] == scores.max()
    for n, i in enumerate(order.tolist()):
        above = order[:n].tolist()
        factor = np.prod(
            [
                1 - o if o > iou else 1.0
                for o in (box_iou(boxes[j].numpy(), boxes[i : i + 1].numpy())[0] for j in above)
            ]
        )
        assert abs(kept[n].item() - scores[i].item() * factor) < 1e-5
