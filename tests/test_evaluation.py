"""Our evaluation against a real peer's detections on real pictures, and against the truth itself."""
import json
import os
from pathlib import Path

import pytest

from smpr.data import load_set
from smpr.evaluation import METRICS, evaluate
from smpr.settings import load_settings

SHARED = Path(os.environ.get("SMPR_SHARED", Path(__file__).parent.parent.parent / "shared")) / "coco"
PEER = {256: (.2531, .4554, .2421, .1106, .4533, .2918, .4847, .2958, .1228, .5095),
        512: (.3367, .5514, .3499, .3095, .3793, .3837, .6000, .4042, .3308, .4580)}     # pycocotools 2.0.11, measured outside this project
needs_real = pytest.mark.skipif(not (SHARED / "val").exists(), reason=f"{SHARED.name}/val with real pictures is not here; set SMPR_SHARED")


def as_detections(annotations: Path) -> list[dict]:
    people = json.loads(annotations.read_text())["annotations"]
    return [{"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0}
            for a in people if a.get("num_keypoints", 0) and not a.get("iscrowd")]


@needs_real
@pytest.mark.parametrize("size", PEER)
def test_a_peer_gets_its_own_numbers(size):
    results = json.loads((SHARED / "peers" / f"movenet_multipose_{size}.json").read_text())
    numbers = evaluate(SHARED / "val" / "person_keypoints.json", results)
    assert all(abs(numbers[m] - want) < 1e-4 for m, want in zip(METRICS, PEER[size], strict=True)), numbers


@needs_real
def test_truth_is_perfect_on_real_pictures():
    file = SHARED / "val" / "person_keypoints.json"
    assert evaluate(file, as_detections(file))["AP"] > .9999


def test_truth_is_perfect_on_rendered_pictures():
    file = load_settings().data / "val" / "person_keypoints.json"
    numbers = evaluate(file, as_detections(file))
    assert min(numbers.values()) > .9999


@needs_real
def test_real_sets_load():
    for split, pictures in (("train", 2008), ("val", 300)):
        assert len(load_set(SHARED / split / "images", SHARED / split / "person_keypoints.json")) == pictures
