"""Our evaluation against a real peer's detections on real pictures, and against the truth itself."""

import json
import os
from pathlib import Path

import pytest

from smpr.data import load_set
from smpr.evaluation import METRICS, evaluate
from smpr.settings import load_settings

SHARED = Path(os.environ.get("SMPR_SHARED", Path(__file__).parent.parent.parent / "shared")) / "coco"
PEER = {
    256: (0.2531, 0.4554, 0.2421, 0.1106, 0.4533, 0.2918, 0.4847, 0.2958, 0.1228, 0.5095),
    512: (0.3367, 0.5514, 0.3499, 0.3095, 0.3793, 0.3837, 0.6000, 0.4042, 0.3308, 0.4580),
}  # pycocotools 2.0.11, measured outside this project
needs_real = pytest.mark.skipif(
    not (SHARED / "val").exists(), reason=f"{SHARED.name}/val with real pictures is not here; set SMPR_SHARED"
)


def as_detections(annotations: Path) -> list[dict]:
    people = json.loads(annotations.read_text())["annotations"]
    return [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0}
        for a in people
        if a.get("num_keypoints", 0) and not a.get("iscrowd")
    ]


@needs_real
@pytest.mark.parametrize("size", PEER)
def test_a_peer_gets_its_own_numbers(size):
    results = json.loads((SHARED / "peers" / f"movenet_multipose_{size}.json").read_text())
    numbers = evaluate(SHARED / "val" / "person_keypoints.json", results)
    assert all(abs(numbers[m] - want) < 1e-4 for m, want in zip(METRICS, PEER[size], strict=True)), numbers


@needs_real
def test_truth_is_perfect_on_real_pictures():
    file = SHARED / "val" / "person_keypoints.json"
    assert evaluate(file, as_detections(file))["AP"] > 0.9999


def test_truth_is_perfect_on_rendered_pictures():
    file = load_settings().data / "val" / "person_keypoints.json"
    numbers = evaluate(file, as_detections(file))
    assert min(numbers.values()) > 0.9999


@needs_real
def test_real_sets_load():
    for split, pictures in (("train", 2008), ("val", 300)):
        assert len(load_set(SHARED / split / "images", SHARED / split / "person_keypoints.json")) == pictures
