"""Our evaluation against a real peer's detections on real pictures, and against the truth itself."""

import copy
import json
import os
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from smpr.beyond.real_people import join_sets, split_dev
from smpr.data import PoseSet, load_set
from smpr.evaluation import METRICS, coco_truth, evaluate
from smpr.experiments.findings import match_detections
from smpr.experiments.rows import make_scale, row_sets
from smpr.inference import soft_nms
from smpr.settings import SmprError, load_settings
from smpr.skeleton import COCO17

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


PEOPLE = load_settings().data / "val"


@pytest.fixture(scope="module")
def document() -> dict:
    return json.loads((PEOPLE / "person_keypoints.json").read_text())


@pytest.fixture(scope="module")
def people() -> PoseSet:
    return load_set(PEOPLE / "images", PEOPLE / "person_keypoints.json")


def perfect(poses: PoseSet) -> list[dict]:
    "Everybody who counts, exactly where the truth has them."
    return [
        {"image_id": r.id, "category_id": 1, "keypoints": k.ravel().tolist(), "score": 1.0}
        for r in poses.records
        for k, crowd in zip(r.keypoints, r.crowd)
        if (k[:, 2] > 0).any() and not crowd
    ]


def by_pycocotools(data: dict, results: list[dict], image_ids: list | None = None) -> list[float]:
    "The ten numbers without us: the document as it is."
    with redirect_stdout(StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data)
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "keypoints")
        run.params.kpt_oks_sigmas, run.params.catIds = np.array(COCO17.sigmas), [1]
        run.params.imgIds = run.params.imgIds if image_ids is None else image_ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats.tolist()


def rough(poses: PoseSet, seed: int = 0) -> list[dict]:
    "Moved by a few px, scores in ties, and a pose over everybody whom nobody labelled."
    rng, out = np.random.default_rng(seed), []
    for e in perfect(poses):
        k = np.reshape(e["keypoints"], (17, 3)) + rng.normal(0, 2, (17, 3)) * (1, 1, 0)
        out.append(e | {"keypoints": k.ravel().tolist(), "score": round(rng.random(), 1)})
    for r in poses.records:
        for (x, y, w, h), k in zip(r.boxes, r.keypoints):
            if not (k[:, 2] > 0).any():
                spread = [[x + w * (i % 4 + 1) / 5, y + h * (i % 5 + 1) / 6, 1] for i in range(17)]
                out.append(e | {"image_id": r.id, "keypoints": np.ravel(spread).tolist(), "score": 0.95})
    return out


def test_a_set_its_file_and_pycocotools_give_the_same_numbers(people, document):
    results, ids = rough(people), [r.id for r in people.records[5:80]]
    file = PEOPLE / "person_keypoints.json"
    official = by_pycocotools(document, results)
    for truth in (people, file, document):
        assert list(evaluate(truth, results).values()) == official
    part = by_pycocotools(document, results, ids)
    assert list(evaluate(file, results, image_ids=ids).values()) == part
    subset = people.subset(range(5, 80))
    mine = [e for e in results if e["image_id"] in ids]
    assert list(evaluate(subset, mine).values()) == part != official
    assert match_detections(subset, mine).people.sum() == len(perfect(subset))


@pytest.mark.parametrize("first", (0, 1))
def test_every_set_is_measured_against_its_own_people(people, tmp_path, first):
    "Ids may begin with 0, parts and joins bring their truth along, pictures without people count."
    poses = [k.ravel().tolist() for r in people.records for k in r.keypoints if (k[:, 2] > 0).all()]
    size = {"width": 320, "height": 240}
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} | size for i in range(first, first + 5)],
        "annotations": [
            {"id": i, "image_id": i, "area": 9000.0, "keypoints": k} for i, k in enumerate(poses[:3], first)
        ],
    }
    file = tmp_path / "set.json"
    file.write_text(json.dumps(data))
    own = load_set(tmp_path, file)
    assert evaluate(own, [*perfect(own), perfect(own)[0] | {"image_id": first + 4, "score": 2.0}])["AP"] < 0.9
    train, dev = split_dev(people, 50)
    sets = {
        "own": own,
        "subset": own.subset([2, 0]),
        "joined subset": join_sets([people.subset(range(30, 37))]),
        "joined": join_sets([own, people.subset(range(20))]),
        "joined, repeated": join_sets([people.subset(range(9)), own], [1, 1]),
        "training part": train,
        "dev part": dev,
        "dev of a join": split_dev(join_sets([own, people]), 60)[1],
    }
    for name, poses in sets.items():
        assert perfect(poses) and evaluate(poses, perfect(poses))["AP"] > 0.9999, name
        assert match_detections(poses, perfect(poses)).hit.all(), name
    with pytest.raises(SmprError, match="no image id"):
        evaluate(sets["joined"], [perfect(people)[0] | {"image_id": 499}])


def test_a_split_knows_where_its_pictures_come_from(people):
    "Also after joining, where ids are new."
    marked = replace(
        people,
        records=tuple(
            replace(r, split="val2017" if i % 5 else "train2017") for i, r in enumerate(people.records)
        ),
    )
    dev = split_dev(join_sets([people.subset(range(10)), marked]), 60)[1]
    assert {r.split for r in dev.records} == {"val2017"}


def test_boxes_of_the_unlabelled_travel_with_the_set(people, document):
    "A detection of somebody whom nobody labelled counts neither way, because it lies near the box."
    results, poses = rough(people), people.subset(range(40))
    mine = [e for e in results if e["image_id"] in {r.id for r in poses.records}]
    assert sum(not (k[:, 2] > 0).any() for r in poses.records for k in r.keypoints) > 20
    known = evaluate(poses, mine)["AP"]
    lost = replace(poses, records=tuple(replace(r, boxes=r.boxes * 0 + 1) for r in poses.records))
    assert evaluate(lost, mine)["AP"] < known - 0.05
    crowded = copy.deepcopy(document)
    for a in crowded["annotations"]:
        a["iscrowd"] = int(a["num_keypoints"] == 0 or a["id"] % 7 == 0)
    again = load_set(Path(), crowded)
    assert list(evaluate(again, results).values()) == by_pycocotools(crowded, results)
    a = next(a for a in document["annotations"] if a["num_keypoints"])
    miscounted = copy.deepcopy(document)  # the file says that nothing is labelled: pycocotools believes it
    next(b for b in miscounted["annotations"] if b["id"] == a["id"])["num_keypoints"] = 0
    with pytest.raises(SmprError, match="1 of .* have a num_keypoints that contradicts"):
        coco_truth(load_set(Path(), miscounted))


@pytest.mark.slow
def test_results_as_other_programs_write_them(people, document):
    results = rough(people)
    plain, boxed = evaluate(people, results), [e | {"bbox": [0, 0, 5, 5]} for e in results]
    assert list(evaluate(people, boxed).values()) == by_pycocotools(document, boxed) != list(plain.values())
    for more in (
        {"bbox": []},
        {"bbox": None},
        {"area": 1.0},
        {"segmentation": None},
        {"caption": "x"},
        {"id": 7},
    ):
        assert evaluate(people, [e | more for e in results]) == plain, more
    assert evaluate(people, [boxed[0], *results[1:]]) == plain  # a box here and there says nothing
    with pytest.raises(SmprError, match="all entries have category_id 2"):
        evaluate(people, [e | {"category_id": 2} for e in results])
    assert evaluate(people, [{k: v for k, v in e.items() if k != "category_id"} for e in results]) == plain


def test_somebody_without_an_area_is_named(document):
    data = copy.deepcopy(document)
    del data["annotations"][3]["area"]
    with pytest.raises(SmprError, match=f"1 of {len(data['annotations'])} people .* have no area"):
        evaluate(load_set(Path(), data), [])


def test_an_empty_set_has_nobody(people):
    "And is not taken for a missing one; to measure on it is refused."
    nobody = people.subset([])
    assert len(row_sets(make_scale("smoke"), nobody, people)[0]) == 0
    with pytest.raises(SmprError, match="nobody has usable keypoints"):
        row_sets(make_scale("smoke"), people, nobody)
    assert set(evaluate(nobody, []).values()) == {-1.0} and len(match_detections(nobody, []).people) == 0


@pytest.mark.parametrize("least", (-0.5, 0.0))
def test_soft_nms_picks_nobody_twice(least):
    "Two equal boxes: the second decays to 0, and what was picked must not come back as 0."
    boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9], [50, 50, 59, 59.0]])
    order, scores = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), min_score=least)
    assert sorted(order.tolist()) == [0, 1, 2, 3] and scores.tolist() == pytest.approx([0.9, 0.6, 0, 0])
