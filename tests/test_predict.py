"""`import smpr` and `predict`: every kind of source, in batches, as a stream, as a table, measured."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import smpr
from smpr.data import read_image
from smpr.inference import predict_pictures
from smpr.settings import load_settings
from smpr.sources import Picture, each_picture
from smpr.structures import Result

DATA = load_settings().data / "val"


@pytest.fixture(scope="module")
def model():
    return smpr.load("rendered", "cpu")


@pytest.fixture(scope="module")
def people():
    return smpr.load_set(DATA / "images", DATA / "person_keypoints.json").subset(range(6))


@pytest.fixture(scope="module")
def paths(people) -> list[Path]:
    return [people.images / r.file for r in people.records]


@pytest.fixture(scope="module")
def alone(model, paths) -> list[Result]:
    return [smpr.predict(model, path) for path in paths]


def same(a: Result, b: Result, px: float = 0.0) -> bool:
    "Whether two results are equal: to the last bit, or up to `px` for poses that are drawn."
    if px == 0:
        return np.array_equal(a.keypoints, b.keypoints) and np.array_equal(a.scores, b.scores)
    n = int((a.scores >= 0.2).sum())
    close = np.abs(a.keypoints[:n] - b.keypoints[:n]).max(initial=0) <= px
    return close and np.allclose(a.scores[:n], b.scores[:n], atol=1e-3)


def test_import_is_lazy():
    code = "import sys, smpr; assert 'torch' not in sys.modules; smpr.predict; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in smpr.__all__:
        assert getattr(smpr, name) is not None and name in dir(smpr)
    with pytest.raises(AttributeError):
        smpr.no_such_name  # noqa: B018
    assert (Path(smpr.__file__).parent / "py.typed").exists()


def test_every_kind_of_source(model, paths, alone, tmp_path):
    path, want = paths[0], alone[0]
    photo = Image.open(path).convert("RGB")
    array, tensor = np.asarray(photo), pil_to_tensor(photo)
    for source in (str(path), photo, array, tensor, tensor.float() / 255, tensor.double() / 255):
        assert same(smpr.predict(model, source), want), type(source)
    for several in ([path], (path,), iter([path]), tensor[None], array[None], [array], (p for p in [photo])):
        (got,) = smpr.predict(model, several)
        assert same(got, want), type(several)
    gray = np.asarray(photo.convert("L"))
    assert same(smpr.predict(model, gray), smpr.predict(model, np.stack([gray] * 3, -1)))
    for n, source in enumerate(paths[:3]):
        Image.open(source).save(tmp_path / f"{n}.png")
    for folder in (tmp_path, str(tmp_path), tmp_path / "*.png"):
        found = smpr.predict(model, folder)
        assert [Path(r.source).name for r in found] == ["0.png", "1.png", "2.png"]
        assert all(same(a, b) for a, b in zip(found, alone))


def test_turned_by_exif(model, paths, tmp_path):
    "A Pillow picture with a turn in its EXIF is read as its file is."
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(paths[0]).convert("RGB").save(tmp_path / "turned.png", exif=exif)
    by_path, by_pil = (
        smpr.predict(model, tmp_path / "turned.png"),
        smpr.predict(model, Image.open(tmp_path / "turned.png")),
    )
    assert by_path.image.shape == by_pil.image.shape == (320, 240, 3) and same(by_path, by_pil)


LOOKS = ({}, {"flip": True, "scales": (200, 280)})


@pytest.fixture(scope="module")
def cut(paths) -> list[np.ndarray]:
    "Pictures of different sizes."
    return [np.ascontiguousarray(read_image(p)[:, : 320 - 40 * (n % 3)]) for n, p in enumerate(paths)]


@pytest.fixture(scope="module")
def each(model, cut) -> list[list[Result]]:
    "What each is predicted as alone, with one look and with more."
    return [[smpr.predict(model, c, **options) for c in cut] for options in LOOKS]


@pytest.mark.parametrize("size", [2, 4, 16])
def test_batches_equal_one_by_one(model, paths, alone, cut, each, size):
    "Pictures of different sizes, those of one size together; also with more looks."
    for options, one_by_one in zip(LOOKS, each, strict=True):
        together = smpr.predict(model, cut, batch_size=size, **options)
        assert len(together) == len(cut)
        assert all(same(a, b, 0.01) for a, b in zip(one_by_one, together))
    assert all(same(a, b, 0.01) for a, b in zip(alone, smpr.predict(model, paths, batch_size=size)))


def test_stream_reads_what_it_hands_out(model, paths):
    read = []

    def endless():
        while True:
            read.append(1)
            yield paths[len(read) % 3]

    stream = smpr.predict(model, endless(), stream=True, batch_size=2)
    first = [next(stream).source for _ in range(3)]
    assert len(read) == 4 and first == [str(paths[n]) for n in (1, 2, 0)]


def test_threshold(model, paths, alone):
    least = float(alone[0].scores[1])
    result = smpr.predict(model, paths[0], threshold=least)
    assert len(result) == 2 < len(alone[0]) and result.threshold == least
    assert result.draw().tobytes() == alone[0].draw(least).tobytes()
    assert smpr.predict(model, paths[0], threshold=1.0).boxes.shape == (0, 4)


def test_a_picture_that_cannot_be_read(model, paths, alone, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    mixed = [paths[0], tmp_path / "broken.jpg", paths[1]]
    with pytest.raises(smpr.SmprError, match="broken.jpg.*skip=True"):
        smpr.predict(model, mixed, batch_size=4)
    stream = smpr.predict(model, mixed, batch_size=4, stream=True)
    assert same(next(stream), alone[0], 0.01)  # what came before is there
    with pytest.raises(smpr.SmprError):
        next(stream)
    with pytest.warns(UserWarning, match="broken.jpg"):
        assert [r.source for r in smpr.predict(model, mixed, skip=True)] == [str(paths[0]), str(paths[1])]


@pytest.mark.parametrize(
    "source, said",
    [
        (np.zeros((4, 5, 4), np.uint8), "RGB"),
        (np.full((4, 5, 3), 200.0), "floats from 0 to 1"),
        (np.zeros((4, 5, 3), int), "uint8"),
        (torch.zeros(4, 5, 3), "(3, H, W)"),
        (torch.full((3, 4, 5), 200.0), "from 200 to 200; give floats from 0 to 1"),
        (torch.full((3, 4, 5), float("nan")), "from nan to nan"),
        (3.5, "float is no picture"),
        ([3.5], "float is no picture"),
        ("no_such.jpg", "no such picture"),
        ("no_such_folder/*.jpg", "no pictures or videos there"),
        (Path("no_such.mp4"), "no_such.mp4"),
        (77, "camera 77"),
    ],
)
def test_no_picture(model, source, said):
    with pytest.raises(smpr.SmprError) as e:
        smpr.predict(model, source)
    assert said in str(e.value) and "\n" not in str(e.value)


def test_video_and_camera(model, paths, alone, tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    from smpr.command.media import write_video

    frames = ((Image.open(p).convert("RGB"), 10) for p in paths[:3])
    clip = write_video(tmp_path / "clip.mp4", frames)
    found = smpr.predict(model, clip, batch_size=2)
    assert [(r.source, r.frame) for r in found] == [(str(clip), n) for n in range(3)]
    assert np.stack([r.image for r in found]).shape == (3, 240, 320, 3)
    real, asked = av.open, []

    def camera(address, format=None):
        asked.append((address, format))
        return real(str(clip))

    monkeypatch.setattr(av, "open", camera)
    stream = smpr.predict(model, 0, stream=True)
    assert [(r.source, r.frame) for r in stream] == [("camera 0", n) for n in range(3)]
    assert asked[0][1] in ("v4l2", "avfoundation", "dshow")


def test_device(model, paths, alone):
    assert same(smpr.predict(model, paths[0], device="cpu"), alone[0])
    with pytest.raises(smpr.SmprError, match="cuda:99"):
        smpr.predict(model, paths[0], device="cuda:99")


def test_result_is_what_users_expect(alone, tmp_path):
    result = alone[0]
    assert "\n" not in repr(result) and len(repr(result)) < 200 and f"{len(result)} poses" in repr(result)
    seen = result.keypoints[..., :2]
    assert np.array_equal(result.boxes, np.concatenate([seen.min(1), seen.max(1)], 1))
    table = result.to_pandas()
    assert len(table) == len(result) and table.loc[0, "left_ankle_y"] == result.keypoints[0, 15, 1]
    assert list(table.source) == [result.source] * len(result)
    assert Image.open(result.save(str(tmp_path / "drawn.png"))).size == result.draw().size
    assert result.plot().images and len(pickle.loads(pickle.dumps(result))) == len(result)


def test_drawn_by_supervision(alone):
    sv = pytest.importorskip("supervision")
    result = alone[0]
    points = result.to_supervision()
    assert np.allclose(points.xy, result.keypoints[..., :2]) and len(points) == len(result)
    edges = [(a + 1, b + 1) for a, b in result.skeleton.edges]
    drawn = sv.EdgeAnnotator(edges=edges).annotate(result.image.copy(), points)
    assert drawn.shape == result.image.shape and (drawn != result.image).any()


def test_evaluate_takes_what_predict_returned(model, people, alone, tmp_path):
    entries = smpr.detect_set(model, people, model.test, progress=False)
    want = smpr.evaluate(people, entries)
    (tmp_path / "results.json").write_text(json.dumps(entries))
    truth = DATA / "person_keypoints.json"
    ids = [r.id for r in people.records]
    for results in (alone, tmp_path / "results.json", str(tmp_path / "results.json")):
        assert smpr.evaluate(people, results) == want
        assert smpr.evaluate(str(truth), results, image_ids=ids) == want
    for batch_size, workers in ((1, 2), (4, 0)):
        again = smpr.detect_set(model, people, model.test, False, batch_size, workers)
        assert [e["image_id"] for e in again] == [e["image_id"] for e in entries]
        assert np.allclose([e["keypoints"] for e in again], [e["keypoints"] for e in entries], atol=0.02)
    stranger = smpr.predict(model, alone[0].image)
    with pytest.raises(smpr.SmprError, match="names no picture"):
        smpr.evaluate(people, [stranger])


def test_workers_name_the_picture(model, people, tmp_path):
    from dataclasses import replace

    gone = replace(people, images=tmp_path)
    with pytest.raises(smpr.SmprError) as e:
        smpr.detect_set(model, gone, model.test, False, workers=1)
    assert people.records[0].file in str(e.value) and "\n" not in str(e.value)


def test_errors_keep_their_place(model, paths):
    pictures = [Picture(read_image(paths[0])), smpr.SmprError("a"), smpr.SmprError("b")]
    kinds = [type(r) for r in predict_pictures(model, pictures, model.test, batch_size=2)]
    assert kinds == [Result, smpr.SmprError, smpr.SmprError]
    assert [type(p) for p in each_picture([paths[0], "none.jpg"])] == [Picture, smpr.SmprError]
