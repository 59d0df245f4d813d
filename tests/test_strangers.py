"""Files that another tool wrote: whose category is a person, how sides are spelled, in which order keypoints
come. Every door, Python and command, does the same: follows the names, or says in one line what differs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import smpr
from smpr.beyond.real_people import join_sets
from smpr.cli import Train, main, open_set, training_set
from smpr.coco_format import as_id, person_category, read_json
from smpr.command.check import check_set
from smpr.data import file_skeleton, load_set
from smpr.evaluation import detect_set, evaluate, score_vs_oks
from smpr.run_folder import fitting_weights
from smpr.settings import SmprError, load_settings
from smpr.skeleton import COCO17, flip_pairs_from_names, keypoint_order, skeleton_from_category
from smpr.training import train
from smpr.update import small_config

DATA = load_settings().data / "val"
QUIET = dict(workers=0, device="cpu", progress=False, sheets=False)
BACK = [*range(16, -1, -1)]  # an order of our own: ankles first
CAR = {"id": 1, "name": "car", "supercategory": ""}


@pytest.fixture(scope="module")
def document() -> dict:
    "Four validation pictures with people on them, as COCO writes them."
    whole = json.loads((DATA / "person_keypoints.json").read_text())
    busy = {a["image_id"] for a in whole["annotations"] if a["num_keypoints"] > 8 and a["area"] > 1500}
    images = [image for image in whole["images"] if image["id"] in busy][:4]
    kept = {image["id"] for image in images}
    people = [a for a in whole["annotations"] if a["image_id"] in kept]
    return {"images": images, "annotations": people, "categories": whole["categories"]}


@pytest.fixture(scope="module")
def model():
    return smpr.load("rendered", "cpu")


@pytest.fixture(scope="module")
def found(model, document):
    return smpr.predict(model, [DATA / "images" / image["file_name"] for image in document["images"]])


def write(folder: Path, document: dict, name: str = "set.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def changed(document: dict, category: dict | None = None, **fields) -> dict:
    "A copy with other fields of the person's category and of all annotations."
    people = [a | fields for a in document["annotations"]]
    plain = {k: v for k, v in document["categories"][0].items() if k != "flip_pairs"}
    return document | {"annotations": people, "categories": [plain | (category or {})]}


def reordered(document: dict, order: list[int] = BACK) -> dict:
    "The same people, their keypoints listed in another order."
    category = document["categories"][0]
    place = {old: new for new, old in enumerate(order)}
    more = {
        "keypoints": [category["keypoints"][k] for k in order],
        "sigmas": [COCO17.sigmas[k] for k in order],
    }
    more["skeleton"] = [[place[a - 1] + 1, place[b - 1] + 1] for a, b in category["skeleton"]]
    out = changed(document, more)
    for a in out["annotations"]:
        a["keypoints"] = np.reshape(a["keypoints"], (17, 3))[order].ravel().tolist()
    return out


def second(document: dict) -> dict:
    "A person of category 2; category 1 is a car, boxes without keypoints."
    out = changed(document, {"id": 2}, category_id=2)
    out["categories"].insert(0, CAR)
    boxes = [
        {"id": 9000 + k, "image_id": image["id"], "category_id": 1, "bbox": [1, 1, 9, 9]}
        for k, image in enumerate(document["images"])
    ]
    return out | {"annotations": out["annotations"] + boxes}


def truth_results(document: dict, **more) -> list[dict]:
    "The labelled people as detections."
    return [
        {"image_id": a["image_id"], "score": 1.0, "keypoints": [float(v) for v in a["keypoints"]]} | more
        for a in document["annotations"]
        if a.get("num_keypoints")
    ]


def run(capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    return main([str(w) for w in words]), *capsys.readouterr()


def refusal(call, *args, **more) -> str:
    with pytest.raises(SmprError) as e:
        call(*args, **more)
    assert "\n" not in str(e.value)
    return str(e.value)


# 1. which category is a person


def test_a_person_of_category_2(document, model, found, tmp_path, capsys):
    "Found, measured alike and written with the file's id; every door counts the boxes of cars."
    path, usual = write(tmp_path, second(document)), load_set(DATA / "images", document)
    poses = load_set(DATA / "images", path)
    assert "4 of 'car' (id 1)" in capsys.readouterr().err
    assert poses.category_id == 2 and poses.ignored == {"'car' (id 1)": 4}
    assert [len(r.areas) for r in poses.records] == [len(r.areas) for r in usual.records]
    results = detect_set(model, poses, model.test, progress=False)
    assert {r["category_id"] for r in results} == {2}
    numbers = evaluate(usual, found)
    assert evaluate(path, results) == evaluate(poses, found) == numbers
    report = check_set(DATA / "images", path, progress=False)
    assert report.problems == [] and report.people["id"] == 2 and report.ignored == poses.ignored
    place = ("--images", DATA / "images", "--annotations", path)
    code, out, _ = run(capsys, "data", "check", *place)
    assert code == 0 and json.loads(out)["left out"] == {"'car' (id 1)": 4}
    wrote = tmp_path / "found.json"
    code, out, err = run(
        capsys, "eval", "--weights", "rendered", "--device", "cpu", *place, "--results", wrote
    )
    assert code == 0 and f"AP    {numbers['AP']:.4f}" in out and "4 of 'car'" in err
    assert evaluate(path, wrote) == numbers


def test_results_of_another_category_are_not_scored_0(document, capsys):
    truth = second(document)
    ours, theirs = truth_results(document, category_id=2), truth_results(document, category_id=1)
    assert evaluate(truth, ours)["AP"] > 0.999
    assert evaluate(truth, [{k: v for k, v in r.items() if k != "category_id"} for r in ours])["AP"] > 0.999
    said = refusal(evaluate, truth, theirs)
    assert "category_id 1" in said and "people 2" in said
    capsys.readouterr()
    assert evaluate(truth, ours + theirs[:3])["AP"] > 0.999
    assert f"3 of {len(ours) + 3} entries do not count" in capsys.readouterr().err
    assert evaluate(document, ours + theirs)["AP"] > 0.999  # and the other way


def test_two_categories_with_keypoints_are_asked_for_by_name(document, tmp_path, capsys):
    mixed = changed(document)
    for n, a in enumerate(mixed["annotations"]):
        a["category_id"] = 1 + n % 2
    mixed["categories"].append(document["categories"][0] | {"id": 2, "name": "child"})
    path = write(tmp_path, mixed)
    doors = (
        lambda: load_set(DATA / "images", path),
        lambda: evaluate(path, []),
        lambda: file_skeleton(path),
        lambda: open_set(DATA / "images", path),
    )
    for door in doors:
        said = refusal(door)
        assert "'person' (id 1) and 'child' (id 2)" in said and "--category" in said
    place = ("--images", DATA / "images", "--annotations", path)
    for words in (("data", "check"), ("eval", "--weights", "rendered"), ("train", "--run", tmp_path / "run")):
        code, _, err = run(capsys, *words, *place)
        assert code == 2 and "'child' (id 2)" in err and not (tmp_path / "run").exists()
    half = load_set(DATA / "images", path, category="child")
    assert half.category_id == 2 and sum(half.ignored.values()) + sum(
        len(r.areas) for r in half.records
    ) == len(mixed["annotations"])
    assert (
        load_set(DATA / "images", path, category="2").records[0].keypoints.shape
        == half.records[0].keypoints.shape
    )
    assert evaluate(path, [], category="person")["AR"] == 0
    assert run(capsys, "data", "check", *place, "--category", "child")[0] == 0
    assert "choose one of" in refusal(load_set, DATA / "images", path, category="adult")


@pytest.mark.parametrize(
    "categories, kinds, id",
    [
        ([], (3,), 3),  # no list of categories at all
        ([{"id": 0, "name": "background"}, {"id": 5, "name": "human"}], (5,), 5),  # no names of keypoints
        ([{"id": 8, "name": "person"}], (None,), 8),  # no category at the annotations
        ([{"id": "7", "name": "person"}], (7,), "7"),
        ([{"id": 7.0, "name": "person"}], ("7",), 7),
        (
            [{"id": k, "name": f"animal {k}", "keypoints": [*COCO17.names]} for k in range(54)],
            (31,),
            31,
        ),  # AP-10K
        ([{"id": 0, "name": "person", "keypoints": [*COCO17.names]}, CAR], (0,), 0),
    ],
)
def test_whoever_has_keypoints_is_a_person(document, categories, kinds, id):
    people = [a | {"category_id": kinds[n % len(kinds)]} for n, a in enumerate(document["annotations"])]
    told = document | {"annotations": people, "categories": categories}
    poses = load_set(DATA / "images", told)
    assert as_id(poses.category_id) == as_id(id) and poses.ignored == {}
    assert sum(len(r.areas) for r in poses.records) == len(people)
    assert evaluate(told, truth_results(document, category_id=id))["AP"] > 0.999


def test_nobody_of_the_peoples_category_is_said(document):
    off_by_one = changed(document, category_id=0)
    assert "category_id 1" in refusal(load_set, DATA / "images", off_by_one)
    for categories in (5, [5], [{"id": []}], {"id": 1}, None):
        assert person_category({"categories": categories}) == {}


# 9. ids, numbers and bytes as other programs write them: nothing to mend


@pytest.mark.parametrize(
    "field, change",
    [("category_id", str), ("image_id", float), ("id", float), ("image_id", str), ("category_id", float)],
)
def test_ids_as_texts_and_floats(document, field, change):
    told = document | {"annotations": [a | {field: change(a[field])} for a in document["annotations"]]}
    assert min(v for v in evaluate(told, truth_results(document)).values() if v >= 0) > 0.999
    results = [
        r | {"image_id": change(r["image_id"]), "category_id": change(1)} for r in truth_results(document)
    ]
    assert evaluate(document, results)["AP"] > 0.999
    assert len(score_vs_oks(results, load_set(DATA / "images", document))[0]) == len(results)


@pytest.mark.parametrize("kind", (str, float))
def test_image_ids_as_texts_and_floats(document, kind):
    "Numbers at the annotations and in the results; what we write has the file's own form."
    told = document | {"images": [image | {"id": kind(image["id"])} for image in document["images"]]}
    poses = load_set(DATA / "images", told)
    assert {type(r.id) for r in poses.records} == {str if kind is str else int}
    assert evaluate(poses, truth_results(document))["AP"] > 0.999


@pytest.mark.parametrize("field", ("iscrowd", "num_keypoints", "bbox"))
def test_null_is_not_given(document, field):
    without = [{k: v for k, v in a.items() if k != field} for a in document["annotations"]]
    null = [a | {field: None} for a in document["annotations"]]
    one, two = (load_set(DATA / "images", document | {"annotations": people}) for people in (without, null))
    for a, b in zip(one.records, two.records):
        assert np.array_equal(a.keypoints, b.keypoints) and np.array_equal(a.crowd, b.crowd)


@pytest.mark.parametrize("part, field", [("annotations", "num_keypoints"), ("annotations", "iscrowd")])
def test_whole_numbers_as_floats(document, part, field, tmp_path, capsys):
    "15.0 is 15, for many programs know floats only; 15.5 is refused by name."
    told = document | {part: [entry | {field: float(entry[field])} for entry in document[part]]}
    assert evaluate(told, truth_results(document)) == evaluate(document, truth_results(document))
    path = write(tmp_path, told)
    assert check_set(DATA / "images", path, progress=False).problems == []
    for value in (15.5, "15", [15], float("nan")):
        told[part][0] = told[part][0] | {field: value}
        assert field in refusal(load_set, DATA / "images", told)
        place = ("--images", DATA / "images", "--annotations", write(tmp_path, told))
        code, _, err = run(capsys, "data", "check", *place)
        assert code == 2 and field in err


def test_sizes_as_floats(document):
    images = [i | {"width": float(i["width"]), "height": float(i["height"])} for i in document["images"]]
    poses = load_set(DATA / "images", document | {"images": images})
    assert {type(side) for r in poses.records for side in r.size} == {int}


def test_one_of_two_files(document, tmp_path, capsys):
    "Pictures without annotations, or the other way round: in Python, in the notebook of a run, as flags."
    path, given = write(tmp_path, document), {"load_set": load_set}
    book = json.loads((Path(__file__).parent.parent / "nbs/ablations/run.ipynb").read_text())
    cell = next("".join(c["source"]) for c in book["cells"] if "def given(" in "".join(c["source"]))
    exec(cell[cell.index("def given(") :].partition("train_set")[0], given)  # as papermill runs it
    assert given["given"](None, None) is None and len(given["given"](str(DATA / "images"), str(path))) == 4
    for images, annotations in ((DATA, None), (None, path), ("", path), (str(DATA), "")):
        for call in (load_set, given["given"]):
            said = refusal(call, images, annotations)
            assert "give both" in said and f"'{annotations}'" in said
    for flag in ("--images", "--annotations", "--val-images", "--val-annotations"):
        code, _, err = run(capsys, "train", "--run", tmp_path / "run", flag, path)
        assert code == 2 and "give both" in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "more",
    ({}, {"segmentation": None, "caption": "x"}, {"category_id": "1", "id": 7}, {"bbox": [1, 2, 30, 40]}),
)
def test_results_of_any_program(document, more, tmp_path, capsys):
    "Measured by `smpr eval --results-in` as by Python, without pictures or a network."
    path, theirs = write(tmp_path, document), tmp_path / "theirs.json"
    half = truth_results(document, **more)[::2]
    theirs.write_text(json.dumps(half))
    place = ("--annotations", path, "--results-in", theirs)
    for _ in range(2):  # its own numbers are replaced
        code, out, _ = run(capsys, "eval", *place, "--json", tmp_path / "numbers.json")
        numbers = evaluate(path, half)
        assert code == 0 and f"AP    {numbers['AP']:.4f}" in out and 0 < numbers["AR"] < 1
    wrote = json.loads((tmp_path / "numbers.json").read_text())
    assert wrote == numbers | {"pictures": 4, "results": str(theirs)}
    for flags in ("--flip", "--scales 240", "--results x", "--weights mine", "--workers 1", "--device cpu"):
        said = flags.split()[0]
        code, _, err = run(capsys, "eval", *place, *flags.split())
        assert code == 2 and f"{said} asks for a network" in err
    code, _, err = run(capsys, "eval", *place, "--json", theirs)
    assert code == 2 and "is read by this call" in err and json.loads(theirs.read_text()) == half
    theirs.write_text(json.dumps([half[0] | {"image_id": 10**6}]))
    code, _, err = run(capsys, "eval", *place)
    assert code == 2 and "theirs.json: entry 0" in err


@pytest.mark.parametrize("encoding", ("utf-8-sig", "utf-16", "utf-16-le", "utf-32"))
def test_byte_order_marks(tmp_path, encoding):
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"name": "Käfer"}, ensure_ascii=False), encoding=encoding)
    assert read_json(path) == {"name": "Käfer"}


@pytest.mark.parametrize("way", (iter, tuple, lambda found: (r for r in found), lambda found: found[::-1]))
def test_results_in_any_form(document, found, way):
    "A stream of results can be read only once, and counts as the list does."
    entries = [e for r, image in zip(found, document["images"]) for e in r.to_coco(image["id"])]
    usual = evaluate(document, found)
    assert usual["AP"] > 0.1 and evaluate(document, way(found)) == evaluate(document, way(entries)) == usual


def test_things_that_are_no_results_no_set_and_no_network(document, found, model, tmp_path):
    "Python's own slips: one result instead of many is one; the rest is refused in a line."
    one = evaluate(document, found[0])
    assert one == evaluate(document, [found[0]])
    poses = load_set(DATA / "images", document)
    for call, said in (
        (lambda: evaluate(document, None), "no list of entries"),
        (lambda: evaluate(document, 5), "no list of entries"),
        (lambda: evaluate(document, {"results": []}), "no list of entries"),
        (lambda: evaluate(None, found), "give both"),
        (lambda: detect_set(model, "photos"), "smpr.load_set"),
        (lambda: train(small_config(), "photos", tmp_path), "smpr.load_set"),
        (lambda: train(small_config(), poses, tmp_path, "val.json"), "val_set is 'val.json'"),
        (lambda: train(None, poses, tmp_path), "smpr.small_config()"),
        (lambda: train(small_config(), poses, tmp_path, speed=1), "no option 'speed'"),
        (lambda: smpr.load(None), "None: no such weights"),
        (lambda: smpr.predict(model, b"JFIF"), "is no picture"),
        (lambda: smpr.predict(model, {"a": 1}), "is no picture"),
        (lambda: smpr.predict(model, True), "is no picture"),
        (lambda: smpr.predict(model, -1), "is no picture"),
    ):
        assert said in refusal(call)
    assert not list(tmp_path.iterdir())


# 2. sides

SPELLINGS = {
    "L_Eye": ("L_Eye", "R_Eye"),
    "Left Eye": ("Left Eye", "Right Eye"),
    "LeftEye": ("LeftEye", "RightEye"),
    "LEFT_EYE": ("LEFT_EYE", "RIGHT_EYE"),
    "eye_l": ("eye_l", "eye_r"),
    "eye.L": ("eye.L", "eye.R"),
    "leftEye": ("leftEye", "rightEye"),
    "eye-left": ("eye-left", "eye-right"),
    "LEye": ("LEye", "REye"),
    "lefteye": ("lefteye", "righteye"),
    "lwrist": ("lwrist", "rwrist"),
    "L_F_Paw": ("L_F_Paw", "R_F_Paw"),
    "FLpaw": ("FL paw", "FR paw"),
    "eye (left)": ("eye (left)", "eye (right)"),
    "finger_l2": ("finger_l2", "finger_r2"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_sides_in_all_spellings(spelling, tmp_path, capsys):
    left, right = SPELLINGS[spelling]
    assert flip_pairs_from_names(["nose", right, left]) == ((2, 1),)
    category = {"id": 4, "name": "dog", "keypoints": ["nose", right, left], "sigmas": [0.05] * 3}
    assert skeleton_from_category(category).flip_order == (0, 2, 1)
    dog = {"id": 1, "image_id": 1, "category_id": 4, "area": 30, "keypoints": [1, 1, 2, 5, 7, 2, 3, 4, 2]}
    image = {"id": 1, "file_name": "a.png", "width": 9, "height": 9}
    path = write(tmp_path, {"images": [image], "annotations": [dog], "categories": [category]})
    assert load_set(tmp_path, path).skeleton.sides == (0, 2, 1)
    _, out, _ = run(capsys, "data", "check", "--images", tmp_path, "--annotations", path)
    people = json.loads(out)["people"]
    assert people["left / right"] == [f"{left} / {right}"] and people["no side"] == ["nose"]


@pytest.mark.parametrize("names", (["nose", "left_ear"], ["l_ear", "r_ear", "r_paw"], ["RightEye", "tail"]))
def test_a_side_without_the_other(names):
    assert "no twin" in refusal(flip_pairs_from_names, names)


@pytest.mark.parametrize(
    "names", (["L5", "L4", "T12"], ["upright", "bright spot"], ["bill", "tail", "crown", "lip"])
)
def test_letters_that_mean_no_side(names):
    assert flip_pairs_from_names(names) == ()


# 3. order and names of keypoints


def test_another_order_is_measured_alike(document, model, found, tmp_path, capsys):
    "By Python and by the command; the results follow the file, as other programs need them."
    path, usual = write(tmp_path, reordered(document)), load_set(DATA / "images", document)
    numbers, poses = evaluate(usual, found), load_set(DATA / "images", path)
    results = detect_set(model, poses, model.test, progress=False)
    assert evaluate(path, found) == evaluate(path, results) == numbers and numbers["AP"] > 0.1
    same = detect_set(model, usual, model.test, progress=False)
    assert np.array_equal(
        np.reshape(results[0]["keypoints"], (17, 3)), np.reshape(same[0]["keypoints"], (17, 3))[BACK]
    )
    given = load_set(DATA / "images", path, COCO17)
    assert given.skeleton.names == poses.skeleton.names and evaluate(given, results) == numbers
    assert evaluate(path, results, COCO17) == numbers
    wrote, place = tmp_path / "found.json", ("--images", DATA / "images", "--annotations", path)
    code, out, _ = run(capsys, "eval", "--weights", "rendered", "--device", "cpu", *place, "--results", wrote)
    assert code == 0 and f"AP    {numbers['AP']:.4f}" in out and evaluate(path, wrote) == numbers


def test_another_spelling_is_the_same_keypoint(document, found):
    words = [n.replace("_", " ").title() for n in COCO17.names]
    told = changed(document, {"keypoints": words})
    del told["categories"][0]["sigmas"]
    poses = load_set(DATA / "images", told)
    assert poses.skeleton.sigmas == COCO17.sigmas and poses.skeleton.flip_pairs == COCO17.flip_pairs
    assert evaluate(poses, found) == evaluate(document, found)


def test_other_keypoints_are_refused_with_what_differs(document, model, found, tmp_path, capsys):
    told = changed(document, {"keypoints": ["tail", *COCO17.names[1:]]})
    path = write(tmp_path, told)
    poses = load_set(DATA / "images", path)
    doors = (
        lambda: evaluate(path, found),
        lambda: detect_set(model, poses, model.test, progress=False),
        lambda: load_set(DATA / "images", path, COCO17),
        lambda: train(
            small_config(steps=1), load_set(DATA / "images", document), tmp_path / "run", poses, **QUIET
        ),
    )
    for door in doors:
        said = refusal(door)
        assert "set.json" in said and "nose too many" in said and "tail missing" in said
    assert not (tmp_path / "run").exists()
    place = ("--images", DATA / "images", "--annotations", path)
    code, _, err = run(capsys, "eval", "--weights", "rendered", "--device", "cpu", *place)
    assert code == 2 and "tail missing" in err and err.count("\n") == 1


def test_a_list_of_pictures_says_nothing_of_keypoints(document, model):
    info = {"images": document["images"]}
    poses, usual = load_set(DATA / "images", info), load_set(DATA / "images", document)
    same = [detect_set(model, p, model.test, progress=False) for p in (poses, usual)]
    assert same[0] == same[1]


def test_own_sigmas_of_coco_keypoints_are_kept(document):
    told = changed(document, {"sigmas": [0.2] * 17})
    assert load_set(DATA / "images", told).skeleton.sigmas == (0.2,) * 17


def tiny():
    "So small that a step takes a moment; the rate leaves the start weights as they are."
    base = small_config(steps=1, batch=2)
    data, test = (replace(part, short=72, long=96) for part in (base.data, base.test))
    return replace(base, data=data, test=test, train=replace(base.train, lr=1e-9, ema=0.0))


@pytest.mark.slow
def test_training_follows_names(document, tmp_path, capsys):
    "Start weights and the validation set in other orders measure as in the same one; a run is not continued."
    usual, back = (load_set(DATA / "images", d) for d in (document, reordered(document)))
    ways = {"same": (usual, usual), "val": (usual, back), "start": (back, usual), "both": (back, back)}
    got = {}
    for name, (learn, val) in ways.items():
        got[name] = train(tiny(), learn, tmp_path / name, val, "rendered", **QUIET)["metrics"]["AP"]
    assert got["same"] > 0.05 and max(got.values()) - min(got.values()) < 1e-3, got
    assert "at random" not in capsys.readouterr().err
    said = refusal(train, tiny(), back, tmp_path / "same", steps=1, **QUIET)
    assert "another run folder" in said and "nose" in said


def test_rendered_people_join_in_the_order_of_the_set(document, tmp_path):
    "`smpr train --rendered` and `join_sets`: by name, too."
    path = write(tmp_path, reordered(document))
    asked = Train(images=DATA / "images", annotations=path, rendered=0.5)
    both, rendered = training_set(asked), open_set(None, None)
    assert len(both) == 6 and both.skeleton.names == COCO17.reordered(BACK).names
    assert np.array_equal(both.records[4].keypoints, rendered.records[0].keypoints[:, BACK])
    other = replace(rendered, skeleton=replace(COCO17, names=("tail", *COCO17.names[1:])))
    assert "tail too many" in refusal(join_sets, [rendered, other])
    assert "sigmas differ" in refusal(
        join_sets, [rendered, replace(other, skeleton=replace(COCO17, sigmas=(0.1,) * 17))]
    )


def test_start_weights_of_other_keypoints(capsys):
    "Just as many keypoints, but others: what belongs to keypoints begins at random, and that is said."
    other = replace(COCO17, names=("tail", *COCO17.names[1:]))
    fit = fitting_weights("rendered", small_config(), other)
    err = capsys.readouterr().err
    assert "head.initial.conv.weight" not in fit and "head.person.weight" in fit
    assert "tail missing" in err and "head.initial.conv" in err
    whole, turned = (fitting_weights("rendered", small_config(), s) for s in (COCO17, COCO17.reordered(BACK)))
    rows = whole["head.initial.conv.weight"].unflatten(0, (17, 2))[BACK].flatten(0, 1)
    assert torch.equal(turned["head.initial.conv.weight"], rows) and whole.keys() == turned.keys()
    assert keypoint_order(COCO17.names, COCO17.reordered(BACK).names) == BACK


def test_no_sides_is_said_before_training(document, tmp_path, capsys):
    plain = changed(document, {"keypoints": [f"point {k}" for k in range(17)]})
    train(tiny(), load_set(DATA / "images", plain), tmp_path / "run", start="rendered", **QUIET)
    assert "mirrored pictures swap none" in capsys.readouterr().err
    train(tiny(), load_set(DATA / "images", document), tmp_path / "sides", start="rendered", **QUIET)
    assert "mirrored" not in capsys.readouterr().err


def test_crowdpose_as_published(document, tmp_path, capsys):
    "Edges of another body, no sigmas: each is said with what to write into the file; then it trains."
    names = [*COCO17.names[5:], "head", "neck"]
    people = [
        a | {"keypoints": a["keypoints"][15:] + a["keypoints"][:3] * 2} for a in document["annotations"]
    ]
    category = {"id": 1, "name": "person", "keypoints": names, "skeleton": [[16, 14], [1, 3]]}
    told = document | {"annotations": people, "categories": [category]}
    assert "joins keypoint 16 and there are 14" in refusal(load_set, DATA / "images", told)
    category["skeleton"] = [[1, 3]]
    path = write(tmp_path, told)
    said = refusal(load_set, DATA / "images", path)
    assert "set.json" in said and "'head' (2 such keypoints)" in said and '"sigmas" in its category' in said
    report = check_set(DATA / "images", path, progress=False)
    assert len(report.problems) == 1 and report.counts["persons"] == len(people)
    category["sigmas"] = [*COCO17.sigmas[5:], 0.079, 0.079]
    assert load_set(DATA / "images", told).skeleton.flip_pairs == tuple((k, k + 1) for k in range(0, 12, 2))
