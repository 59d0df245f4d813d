"""Rendered people: what must hold for any picture; needs smpr[render] for the parts with a body."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import module

from smpr.data import load_set
from smpr.rendering.bodies import archetypes, hat_shares, missing_extra, sample_pose, turn
from smpr.rendering.people import RenderConfig, body_model, mask_fields, render_picture, render_set
from smpr.rendering.rasteriser import Camera, box, edge, egg, fill, join, project_points, rasterise, visible
from smpr.settings import SmprError

needs_body = pytest.mark.skipif(missing_extra() is not None, reason=str(missing_extra()))
SMALL = RenderConfig(width=96, height=72)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_the_rasteriser_sees_what_numpy_sees(seed, triangles):
    "Whatever lies behind the camera or across the border; the first of two equally near triangles counts."
    points = np.random.default_rng(seed).uniform((-20, -20, -0.2), (52, 44, 1), (3 * triangles, 3))
    faces = np.arange(3 * triangles).reshape(-1, 3)
    near, index = np.zeros((24, 32)), np.full((24, 32), -1)
    fill(points, faces, near, index)  # not compiled
    a, b, c = points[faces].transpose(1, 2, 0)[..., None, None]
    y, x = np.mgrid[:24, :32] + 0.5
    area = edge(a, b, c[0], c[1])
    l0, l1 = edge(b, c, x, y) / area, edge(c, a, x, y) / area
    z = l0 * a[2] + l1 * b[2] + (1 - l0 - l1) * c[2]
    drawn = (np.minimum(np.minimum(a[2], b[2]), c[2]) > 0) & (abs(area) >= 1e-9)
    z = np.where(drawn & (l0 >= 0) & (l1 >= 0) & (1 - l0 - l1 >= 0), z, 0)
    for seen in ((near, index), rasterise(points, faces, 32, 24)):
        assert np.array_equal(seen[0], z.max(0))
        assert np.array_equal(seen[1], np.where(z.max(0) > 0, z.argmax(0), -1))


@given(st.floats(0.3, 4), st.floats(-0.4, 0.4), st.floats(-0.3, 0.3), st.floats(40, 400))
@settings(max_examples=60, deadline=None)
def test_camera_inverts_its_rays(above, pitch, roll, focal):
    camera = Camera(24, 18, focal, above, pitch, roll)
    seen = camera.project(camera.place + 5 * camera.rays())
    row, column = np.mgrid[0:18, 0:24]
    assert np.allclose(seen, np.stack([column.ravel() + 0.5, row.ravel() + 0.5, np.full(row.size, 5)], 1))


@given(st.floats(-1, 2), st.integers(2, 6))
def test_shares_are_a_partition(value, count):
    shares = hat_shares(value, np.linspace(-1 / 3, 1, count))
    assert np.isclose(shares.sum(), 1) and (shares >= 0).all() and (shares > 0).sum() <= 2


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(archetypes())))
@settings(max_examples=60, deadline=None)
def test_poses_are_rotations(seed, name):
    stick = {
        f"{b}.{s}": np.array(p) * [1 if s == "L" else -1, 1, 1]
        for s in "LR"
        for b, p in {
            "upperarm01": (0.17, 0.05, 0.42),
            "lowerarm01": (0.36, 0.06, 0.24),
            "wrist": (0.52, -0.02, 0.06),
        }.items()
    }
    pose = sample_pose(stick, np.random.default_rng(seed), name)
    assert all(
        np.allclose(r @ r.T, np.eye(3)) and np.isclose(np.linalg.det(r), 1)
        for r in (*pose.turns.values(), pose.root)
    )


@given(st.integers(1, 19), st.integers(1, 29), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_mask_fields_are_what_numpy_counts(height, width, seed):
    from pycocotools import mask as coding

    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    mask[height // 2, width // 2] = True
    fields = mask_fields(mask)
    code = {"size": fields["segmentation"]["size"], "counts": fields["segmentation"]["counts"].encode()}
    assert np.array_equal(coding.decode(code).astype(bool), mask)
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert fields["area"] == mask.sum() and fields["bbox"] == box


def test_a_point_behind_a_box_is_hidden():
    wall, ball = box(2, 0.1, 2).moved((0, 3, 0)), egg(0.3, 0.6).moved((0, 4, 0.7))
    mesh, whose = join([wall, ball]), np.repeat([-1, 0], [len(wall.faces), len(ball.faces)])
    camera = Camera(64, 48, 40, 1.0)
    near, index = rasterise(project_points(camera, mesh.vertices), mesh.faces, 64, 48)
    owner = np.where(index >= 0, whose[np.maximum(index, 0)], -1)
    point = camera.project(np.array([[0, 4, 1.0]]))
    assert visible(point, np.array([0.5]), near, owner, 0)[0] == 1
    alone = rasterise(project_points(camera, ball.vertices), ball.faces, 64, 48)
    assert visible(point, np.array([0.5]), alone[0], np.where(alone[1] >= 0, 0, -1), 0)[0] == 2


def test_turn_keeps_its_axis():
    assert np.allclose(turn((1, 1, 0), 2.0) @ [1, 1, 0], [1, 1, 0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"motion": 1.5},
        {"width": 8},
        {"people": (0,)},
        {"tall": (1.0,)},
        {"quality": 99},
        {"grain": float("nan")},
        {"people": (0.5, -0.1)},
    ],
)
def test_settings_that_make_no_picture_are_refused(wrong):
    with pytest.raises(SmprError, match=next(iter(wrong))):
        RenderConfig(**wrong)


def test_without_the_extra_one_line_says_so(tmp_path, monkeypatch, capsys):
    from smpr.cli import main
    from smpr.rendering import bodies

    monkeypatch.setattr(
        bodies, "missing_extra", lambda: "rendering people needs anny; pip install 'smpr[render]'"
    )
    assert main(["render", str(tmp_path / "out"), "--count", "2"]) == 2
    said = capsys.readouterr().err
    assert "smpr[render]" in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
@needs_body
def test_one_and_two_workers_write_the_same_and_a_broken_set_goes_on(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    render_set(one, 4, SMALL, seed=5)
    render_set(two, 2, SMALL, seed=5, workers=2)
    (two / "images" / "000001.jpg").unlink()
    (two / "parts").mkdir()
    (two / "parts" / "000001.json").write_text("[]")  # of a picture that is lost: drawn again
    render_set(two, 4, SMALL, seed=5, workers=2)
    contents = [
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (one, two)
    ]
    assert contents[0] == contents[1]
    with pytest.raises(SmprError, match="recipe.json"):
        render_set(one, 4, replace(SMALL, grain=0.1), seed=5)


@pytest.mark.slow
@needs_body
def test_truth_as_detections_is_perfect_and_the_set_loads(tmp_path):
    file = render_set(tmp_path / "set", 8, RenderConfig(width=192, height=144, labelled=400), seed=2)
    assert min(benchmark().score_truth(file).values()) > 0.999
    assert len(load_set(tmp_path / "set" / "images", file)) == 8


@pytest.mark.slow
@needs_body
def test_small_people_keep_their_box_only():
    for n in range(6):
        for a in render_picture(body_model(), SMALL, 4, n)[1]:
            assert a["area"] >= SMALL.labelled or a["num_keypoints"] == 0
            flags = a["keypoints"][2::3]
            assert a["num_keypoints"] == sum(v > 0 for v in flags) and set(flags) <= {0, 1, 2}


def benchmark():
    "benchmarks/render.py as a module."
    return module(Path(__file__).parent.parent / "benchmarks" / "render.py")


def test_a_set_is_described():
    picture = {"id": 1, "width": 30, "height": 20}
    one = {"image_id": 1, "bbox": [0, 5, 12, 4], "num_keypoints": 17, "keypoints": [12.0, 7.0, 2] * 17}
    two = one | {"bbox": [6, 5, 12, 4]}
    counted = benchmark().describe_set({"images": [picture], "annotations": [one, two]})
    assert counted["persons"] == 2 and counted["persons a picture"][2] == 1
    assert counted["visibility"] == [0, 0, 1] and counted["at the border"]["left"] == 0.5
    assert np.allclose(counted["behind another box"], [1, 1, 0])


def test_a_set_without_keypoints_is_not_described():
    person = {"image_id": 1, "bbox": [0, 0, 9, 9], "num_keypoints": 0, "keypoints": [0] * 51}
    content = {"images": [{"id": 1, "width": 96, "height": 72}], "annotations": [person]}
    with pytest.raises(SmprError, match="nobody with keypoints"):
        benchmark().describe_set(content)
