"""Whatever is wrong with pictures, annotations or results: one line that names it and says what to do, never
a traceback."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smpr.batches import DataConfig, DrawSampler, TrainStream
from smpr.cli import main
from smpr.data import load_set, read_image
from smpr.evaluation import check_results, evaluate, score_vs_oks
from smpr.settings import SmprError
from smpr.skeleton import COCO17, Skeleton

POSE = [v for k in range(17) for v in (20 + 2 * k, 10 + 3 * k, 2)]
RESULT = {"image_id": 1, "category_id": 1, "keypoints": POSE, "score": 0.5}
ADVICE = (
    "fix",
    "give",
    "add",
    "remove",
    "replace",
    "check",
    "choose",
    "were ",
    "was ",
    "is it",
    "renumber",
    "ids must differ",
    "export",
)


def good() -> dict:
    "A correct set of two pictures and two persons."

    def person(id, image):
        return {
            "id": id,
            "image_id": image,
            "category_id": 1,
            "iscrowd": 0,
            "area": 900,
            "bbox": [20, 10, 40, 60],
            "num_keypoints": 17,
            "keypoints": list(POSE),
        }

    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 90} for i in (1, 2)],
        "annotations": [person(11, 1), person(12, 2)],
        "categories": [{"id": 1, "name": "person"}],
    }


def write(folder: Path, data) -> Path:
    "An annotation file with two pictures beside it."
    for i in (1, 2):
        Image.fromarray(np.full((90, 80, 3), 100 * i, np.uint8)).save(folder / f"{i}.png")
    path = folder / "set.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def one_line(error: pytest.ExceptionInfo, *words: str) -> None:
    "The message is one line, names what is wrong, and says what to do."
    text = str(error.value)
    assert "\n" not in text and all(w in text for w in words), text
    assert any(a in text for a in ADVICE), text


def change(place, value=KeyError):
    "A change of the correct set: set the field at a path, or delete it."

    def apply(data):
        *path, last = place
        for p in path:
            data = data[p]
        if value is KeyError:
            del data[last]
        else:
            data[last] = value

    return apply


A, I = ("annotations", 1), ("images", 1)
BROKEN = {
    "no images": (change(("images",)), ["images"]),
    "empty": (change(("images",), []), ["empty"]),
    "images not a list": (change(("images",), {"id": 1}), ["images"]),
    "annotations not a list": (change(("annotations",), {"id": 1}), ["annotations"]),
    "image without a size": (change((*I, "width")), ["image record 1", "width"]),
    "image without a name": (change((*I, "file_name")), ["image record 1", "file_name"]),
    "size 0": (change((*I, "height"), 0), ["image record 1", "height"]),
    "size NaN": (change((*I, "height"), float("nan")), ["image record 1", "height"]),
    "image id a list": (change((*I, "id"), [1]), ["image record 1", "id"]),
    "image is a string": (change(I, "2.png"), ["image record 1"]),
    "name not a text": (change((*I, "file_name"), 5), ["image record 1", "file_name"]),
    "image id twice": (change((*I, "id"), 1), ["image id 1", "twice"]),
    "annotation id twice": (change((*A, "id"), 11), ["annotation id 11", "twice"]),
    "annotation without id": (change((*A, "id")), ["annotation record 1", "id"]),
    "annotation is a number": (change(A, 5), ["annotation record 1"]),
    "unknown image": (change((*A, "image_id"), 77), ["annotation 12", "77"]),
    "image id missing": (change((*A, "image_id")), ["annotation 12"]),
    "too few keypoints": (change((*A, "keypoints"), POSE[:-3]), ["annotation 12", "48", "51"]),
    "keypoints a text": (change((*A, "keypoints"), "nose"), ["annotation 12", "keypoints"]),
    "keypoints hold a text": (change((*A, "keypoints", 4), "left"), ["annotation 12", "numbers"]),
    "keypoints hold null": (change((*A, "keypoints", 4), None), ["annotation 12"]),
    "keypoints nested": (change((*A, "keypoints", 4), [1, 2]), ["annotation 12"]),
    "NaN": (change((*A, "keypoints", 4), float("nan")), ["annotation 12", "NaN"]),
    "infinity": (change((*A, "keypoints", 4), float("inf")), ["annotation 12", "infinity"]),
    "visibility 3": (change((*A, "keypoints", 5), 3), ["annotation 12", "visibility"]),
    "area a text": (change((*A, "area"), "large"), ["annotation 12", "area"]),
    "area NaN": (change((*A, "area"), float("nan")), ["annotation 12", "area"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_annotations(tmp_path, case):
    apply, words = BROKEN[case]
    data = good()
    apply(data)
    path = write(tmp_path, data)
    for read in (lambda: load_set(tmp_path, path), lambda: evaluate(path, [])):
        with pytest.raises(SmprError) as e:
            read()
        one_line(e, "set.json", *words)


@pytest.mark.parametrize("text", ("", "{", json.dumps(good())[:-30], "[" * 100000, "\x00\x01", "not json"))
def test_malformed_json(tmp_path, text):
    path = write(tmp_path, text)
    for read in (lambda: load_set(tmp_path, path), lambda: evaluate(path, [])):
        with pytest.raises(SmprError) as e:
            read()
        one_line(e, "set.json", "JSON")


def test_json_of_other_bytes_and_no_json_at_all(tmp_path):
    path = write(tmp_path, good())
    path.write_bytes('{"images": "\u00e4"}'.encode("latin-1"))
    for p, word in ((path, "set.json"), (tmp_path / "none.json", "no such file"), (tmp_path, tmp_path.name)):
        with pytest.raises(SmprError) as e:
            load_set(tmp_path, p)
        one_line(e, word)


def test_correct_set_passes(tmp_path):
    "The set that the cases above break is right, and scores."
    path = write(tmp_path, good())
    assert len(load_set(tmp_path, path)) == 2
    assert evaluate(path, [RESULT, RESULT | {"image_id": 2}])["AP"] > 0.9999


def test_optional_fields_may_be_missing(tmp_path):
    data = good()
    for a in data["annotations"]:
        for f in ("iscrowd", "num_keypoints", "bbox", "category_id"):
            del a[f]
    data["annotations"][0]["id"] = 0  # id 0 is a person like others
    del data["categories"]
    path = write(tmp_path, data)
    assert (
        evaluate(path, [RESULT, RESULT | {"image_id": 2}])["AP"] > 0.9999
        and len(load_set(tmp_path, path).records[0].areas) == 1
    )


@pytest.mark.parametrize("change_file", ("missing", "truncated", "text", "empty", "folder", "other size"))
def test_bad_pictures(tmp_path, change_file):
    poses = load_set(tmp_path, write(tmp_path, good()))
    path = tmp_path / "2.png"
    if change_file in ("truncated", "other size"):
        Image.fromarray(
            np.random.default_rng(0).integers(
                0, 256, (90, 80 + 8 * (change_file == "other size"), 3), dtype=np.uint8
            )
        ).save(path)
    whole = path.read_bytes()
    path.unlink()
    if change_file == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    if change_file == "text":
        path.write_text("no picture")
    if change_file == "empty":
        path.write_bytes(b"")
    if change_file == "folder":
        path.mkdir()
    if change_file == "other size":
        path.write_bytes(whole)
    stream = TrainStream(poses, DataConfig(short=64, long=90, crop=0))
    for read in (lambda: read_image(path, (90, 80)), lambda: [stream[d] for d in range(2)], stream.preload):
        with pytest.raises(SmprError) as e:
            read()
        one_line(e, "2.png")


@pytest.mark.parametrize("cut", range(1, 10))
@pytest.mark.parametrize("suffix", ("png", "jpg", "webp", "gif", "bmp", "tif"))
def test_truncated_anywhere(tmp_path, suffix, cut):
    """A picture that ends after any tenth of its bytes is named, or (some decoders forgive the end) read at
    its size."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * cut // 10])
    try:
        assert read_image(path, (60, 50)).shape == (60, 50, 3)
    except SmprError as e:
        assert path.name in str(e) and "\n" not in str(e)


def test_nobody_to_train_on(tmp_path):
    data = good()
    for a in data["annotations"]:
        a["keypoints"] = [0] * 51
    poses = load_set(tmp_path, write(tmp_path, data))
    with pytest.raises(SmprError) as e:
        TrainStream(poses, DataConfig())
    assert "set.json" in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(SmprError, match="multiple of 3"):
        DrawSampler(4, 0, 1, 0, 3)


BAD_RESULTS = {
    "not a list": ({"a": 1}, []),
    "entry a text": (["pose"], ["entry 0", "image_id"]),
    "no score": ([{k: v for k, v in RESULT.items() if k != "score"}], ["entry 0", "score"]),
    "NaN score": ([RESULT, RESULT | {"score": float("nan")}], ["entry 1", "NaN"]),
    "infinite score": ([RESULT | {"score": float("inf")}], ["entry 0", "infinity"]),
    "NaN keypoint": ([RESULT | {"keypoints": [float("nan"), *POSE[1:]]}], ["entry 0", "NaN"]),
    "another skeleton": ([RESULT | {"keypoints": POSE[:15]}], ["entry 0", "15", "51"]),
    "keypoints a number": ([RESULT | {"keypoints": 5}], ["entry 0", "51"]),
    "score a text": ([RESULT | {"score": "high"}], ["entry 0", "number"]),
    "keypoints nested": ([RESULT | {"keypoints": [[1, 2, 3]] * 51}], ["entry 0", "number"]),
}


@pytest.mark.parametrize("case", BAD_RESULTS)
def test_bad_results(tmp_path, case):
    results, words = BAD_RESULTS[case]
    path = write(tmp_path, good())
    for read in (lambda: evaluate(path, results), lambda: check_results(results, 17)):
        with pytest.raises(SmprError) as e:
            read()
        one_line(e, "results", *words)


def test_results_of_another_set(tmp_path):
    path = write(tmp_path, good())
    for read in (
        lambda: evaluate(path, [RESULT | {"image_id": 4711}]),
        lambda: score_vs_oks([RESULT | {"image_id": 4711}], load_set(tmp_path, path)),
        lambda: evaluate(path, [RESULT], image_ids=[4711]),
    ):
        with pytest.raises(SmprError) as e:
            read()
        one_line(e, "4711")


def test_another_skeleton(tmp_path):
    "A K = 5 set read as COCO's, and the other way."
    five = Skeleton(tuple("abcde"), (0.05,) * 5, (), ())
    data = good()
    path = write(tmp_path, data)
    with pytest.raises(SmprError, match="51.*15|15.*51"):
        load_set(tmp_path, path, five)
    for a in data["annotations"]:
        a["keypoints"] = POSE[:15]
    path = write(tmp_path, data)
    with pytest.raises(SmprError, match="51.*17|15.*51"):
        load_set(tmp_path, path, COCO17)
    assert (
        evaluate(path, [RESULT | {"keypoints": POSE[:15], "image_id": i} for i in (1, 2)], five)["AP"]
        > 0.9999
    )


@pytest.mark.parametrize("case", ("unknown image", "NaN", "missing picture", "no file"))
def test_the_command_exits_with_2_and_one_line(tmp_path, capsys, case):
    data = good()
    if case in BROKEN:
        BROKEN[case][0](data)
    path = write(tmp_path, data)
    if case == "missing picture":
        os.remove(tmp_path / "2.png")
    if case == "no file":
        path = tmp_path / "none.json"
    numbers = tmp_path / "numbers.json"
    numbers.write_text("kept")
    assert (
        main(
            [
                "eval",
                "--images",
                str(tmp_path),
                "--annotations",
                str(path),
                "--weights",
                "rendered",
                "--device",
                "cpu",
                "--json",
                str(numbers),
            ]
        )
        == 2
    )
    lines = [l for l in capsys.readouterr().err.splitlines() if "evaluating" not in l and l.strip()]
    assert len(lines) == 1 and "Traceback" not in lines[0] and numbers.read_text() == "kept", lines
    assert {"missing picture": "2.png", "no file": "none.json"}.get(case, "annotation 12") in lines[0]


@pytest.mark.parametrize(
    "field, value, word",
    (
        ("names", (), "1 to 1000"),
        ("names", ("a", "a"), "twice"),
        ("sigmas", (0.1,), "1 sigmas for 2 names"),
        ("sigmas", (0.1, float("nan")), "above 0"),
        ("edges", ((0, 2),), "0 to 1"),
        ("flip_pairs", ((0, 1), (1, 0)), "two flip_pairs"),
    ),
)
def test_a_skeleton_that_cannot_be_right(field, value, word):
    right = {"names": ("a", "b"), "sigmas": (0.1, 0.1), "flip_pairs": ((0, 1),), "edges": ((0, 1),)}
    with pytest.raises(SmprError, match=word) as e:
        Skeleton(**right | {field: value})
    assert ";" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("value", (10**30, -(10**7), 2.5, "17"))
def test_a_count_that_is_none(tmp_path, value):
    data = good()
    data["annotations"][1]["num_keypoints"] = value
    with pytest.raises(SmprError, match="annotation 12: num_keypoints") as e:
        load_set(tmp_path, write(tmp_path, data))
    one_line(e, "set.json")
