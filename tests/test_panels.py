"""Every corner of the sliders of the four panels: a figure, the counts that the package computes, and
nothing else."""

import numpy as np
import pytest
import torch

from smpr.data import load_set, read_image
from smpr.evaluation import score_vs_oks
from smpr.inference import load
from smpr.settings import load_settings
from smpr.skeleton import Scene, load_scene
from smpr.structures import Candidates, Poses
from smpr.viz.assignment import AssignChoices, assign_scene, draw_choices
from smpr.viz.detections import ListChoices, PickChoices, draw_list, draw_pick, pick, thin_out
from smpr.viz.method import CellChoices, cell_of, draw_cell, look_inside
from smpr.viz.panels import as_png, corners
from smpr.world.people import FIGURE, drawn_scene


@pytest.fixture(scope="module")
def people():
    place = load_settings().data / "val"
    return load_set(place / "images", place / "person_keypoints.json").subset(range(12))


@pytest.fixture(scope="module")
def scenes(people):
    "The scene of the chapters, one with many people, one with a single person."
    sizes = [int((r.keypoints[..., 2] > 0).any(1).sum()) for r in people.records]
    chosen = [people.records[n] for n in (int(np.argmax(sizes)), sizes.index(min(s for s in sizes if s)))]
    return (load_scene(), *(Scene(read_image(people.images / r.file), r.keypoints, r.areas) for r in chosen))


def made_up(scene: Scene, count: int) -> Candidates:
    "Candidates around the true poses, the worse the less likely."
    torch.manual_seed(0)
    truth = torch.tensor(scene.keypoints[..., :2], dtype=torch.float32)
    error = torch.rand(count) * 30
    poses = (
        truth[torch.arange(count) % len(truth)] + torch.randn(count, truth.shape[1], 2) * error[:, None, None]
    )
    person = torch.sigmoid(3 - error / 4)
    return Candidates(poses, person, person * torch.sigmoid(2 - error / 6))


@pytest.mark.parametrize(
    "n, choices", list(enumerate(c for c in corners(AssignChoices) if c.scene == 0)), ids=str
)
def test_assignment_panel(n, choices, scenes):
    scene = scenes[n % len(scenes)]  # 64 corners, the scenes in turns
    view, figure = assign_scene(scene, choices.config, choices.enlarged), draw_choices(choices, (scene,))
    chosen, refined = int((view.region >= 0).sum()), int((view.refined >= 0).sum())
    assert figure.get_suptitle() == f"{chosen} positives by place, {refined} refined"
    rings = [l for l in figure.axes[0].lines if l.get_marker() == "o" and l.get_markeredgecolor() == "k"]
    assert sum(len(l.get_xdata()) for l in rings) == refined
    assert as_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [0, 1, 400])
@pytest.mark.parametrize("choices", list(corners(ListChoices)), ids=str)
def test_inference_panel(choices, count, scenes):
    found = made_up(scenes[0], count)
    poses = thin_out(found, choices)
    assert (
        isinstance(poses, Poses)
        and poses.keypoints.shape == (len(poses.scores), 17, 2)
        and len(poses.scores) <= 20
    )
    assert poses.scores.tolist() == sorted(poses.scores.tolist(), reverse=True)
    if count and choices.score_threshold == 0:
        assert len(poses.scores) >= 1
    if count < 400 or choices.score_threshold:
        return  # the drawing once for each kind
    figure = draw_list(choices, scenes[0].image, found)
    assert f" {len(poses.scores)} poses in the list" in figure.get_suptitle() and as_png(figure).startswith(
        b"\x89PNG"
    )


@pytest.mark.parametrize("choices", list(corners(PickChoices)), ids=str)
def test_evaluation_panel(choices, people):
    rng = np.random.default_rng(0)
    results = [
        {
            "image_id": r.id,
            "category_id": 1,
            "score": float(rng.random()),
            "keypoints": (k + rng.normal(0, 5, k.shape) * (1, 1, 0)).ravel().tolist(),
        }
        for r in people.records
        for k in r.keypoints
        if (k[:, 2] > 0).any()
    ]
    scores, best = score_vs_oks(results, people)
    figure, n = draw_pick(choices, results, people, scores, best), pick(scores, best, choices)
    assert all(
        np.hypot(scores[n] - choices.score, best[n] - choices.quality)
        <= np.hypot(s - choices.score, b - choices.quality)
        for s, b in zip(scores, best)
    )
    place, picture = f"detection {n + 1} of {len(scores)}", results[n]["image_id"]
    assert figure.get_suptitle() == f"{place}: picture {picture}, score {scores[n]:.2f}, OKS {best[n]:.2f}"
    assert as_png(figure).startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def inside():
    return look_inside(load("drawn", "cpu"), drawn_scene().image)


@pytest.mark.parametrize("choices", list(corners(CellChoices)), ids=str)
def test_cell_panel(choices, inside):
    "The cell holds the place; what is drawn and said are its numbers."
    n, figure = cell_of(choices, inside), draw_cell(choices, drawn_scene().image, inside, FIGURE)
    assert (inside.locations[n] - torch.tensor([choices.x, choices.y])).abs().max() <= inside.strides[n] / 2
    assert inside.strides[n] == {"P3": 8, "P4": 16, "P5": 32}[choices.level]
    p, q = inside.person[n].item(), inside.quality[n].item()
    assert f"p {p:.2f}, q {q:.2f}, p q {p * q:.2f};" in figure.get_suptitle()
    assert [bar.get_height() for bar in figure.axes[3].patches] == [p, q, p * q]
    assert as_png(figure).startswith(b"\x89PNG")
