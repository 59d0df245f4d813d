"""Pictures and videos as phones and tools make them, names that collide, names that no terminal shows: from
Python as from the command."""

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trust.load import SMALL, TEST

import smpr
from smpr.checkpoints import save_weights
from smpr.cli import main
from smpr.command.check import check_set
from smpr.command.coco_files import check_zip, fetch
from smpr.command.media import Journal, name_drawings, write_results, write_video
from smpr.config import SmprError, printable, to_dict
from smpr.data import load_set, read_image, read_json, set_hash
from smpr.evaluation import evaluate
from smpr.model import SMPR
from smpr.pycoco import check_truth
from smpr.run_folder import find_checkpoint, read_log
from smpr.settings import atomic_write, hold_folder, load_settings
from smpr.sources import (
    MOST_SCANS,
    as_rgb,
    each_picture,
    find_sources,
    is_one,
    is_video,
    kind_of,
    to_rgb,
    video_frames,
)

DATA = load_settings().data / "val"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMPR_DEVICE", "cpu")


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    return save_weights(SMPR(SMALL), path, {"test": to_dict(TEST)})


@pytest.fixture(scope="session")
def model(weights):
    return smpr.load(weights, "cpu")


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    return Image.open(min((DATA / "images").iterdir())).convert("RGB")


@pytest.fixture
def predict(weights, capfd):
    def call(*words, code: int = 0) -> str:
        "What the command prints on both streams."
        capfd.readouterr()
        found = main(["predict", *map(str, words), "--weights", str(weights)])
        out, err = capfd.readouterr()
        assert found == code and "Traceback" not in err, err
        return out + err

    return call


def film(
    path: Path, photo: Image.Image, ticks, base=Fraction(1, 1000), rate=10, codec="mpeg4", **options
) -> Path:
    "A video of one picture, its frames at so many ticks."
    av = pytest.importorskip("av")
    with av.open(str(path), "w", **options) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *photo.size, "yuv420p"
        stream.codec_context.time_base = base
        stream.codec_context.gop_size = 1
        for n in ticks:
            frame = av.VideoFrame.from_image(photo)
            frame.pts, frame.time_base = n, base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def refusal(call, *args, **more) -> str:
    with pytest.raises(SmprError) as e:
        call(*args, **more)
    assert "\n" not in str(e.value)
    return str(e.value)


# 5. pictures


@pytest.mark.parametrize(
    "white, kind", [(1 / 255, "f4"), (1, "f4"), (257, "f4"), (1, "i4"), (257, "i4"), (257, "u2")]
)
@pytest.mark.parametrize("ending", ["tif", "memory"])
def test_pictures_of_many_bits(white, kind, ending, photo, tmp_path):
    "White is 1, 255 or 65535: the same picture from a file and from memory."
    shades = np.asarray(photo.convert("L")).astype(float)
    picture = Image.fromarray((shades * white).astype(kind))
    if ending == "tif":
        picture.save("deep.tif")
    found = read_image(Path("deep.tif")) if ending == "tif" else as_rgb(picture)
    assert np.abs(found[..., 0].astype(int) - shades).max() <= 1 and (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_floats_in_memory(kind, photo, model):
    "From 0 to 1, as arrays and as tensors, grey and in colours; whatever else is refused with its range."
    array = np.asarray(photo)
    shares = (array / 255).astype(kind)
    tensor = torch.from_numpy(shares).permute(2, 0, 1)
    for picture in (shares, tensor, tensor.bfloat16() if kind == "f4" else tensor):
        assert np.abs(as_rgb(picture).astype(int) - array).max() <= (
            1 if picture is not tensor.bfloat16() else 2
        )
    assert np.array_equal(as_rgb(shares[..., 0])[..., 2], array[..., 0])
    found, usual = (smpr.predict(model, picture) for picture in (shares, array))
    assert np.array_equal(found.keypoints, usual.keypoints) and np.array_equal(found.image, array)
    assert len(smpr.predict(model, np.stack([shares, shares]))) == 2
    for wrong in (
        shares * 254,
        shares - 0.1,
        np.full((9, 9), np.nan, kind),
        -shares[..., 0],
        np.full((9, 9), np.inf, kind),
    ):
        assert "floats from 0 to 1" in refusal(smpr.predict, model, wrong)
    for wrong in (array.astype(np.uint16), array.astype(int), array > 9, array.astype(complex)):
        assert "uint8 or floats" in refusal(smpr.predict, model, wrong)


@pytest.mark.parametrize("turn, said", [(6, True), (8, True), (5, True), (3, False), (1, False)])
def test_labels_of_turned_pictures(turn, said, photo, tmp_path, capsys):
    "A record with the stored size: which way its labels were drawn nobody knows, so it is said."
    note = Image.Exif()
    note[0x0112] = turn
    photo.save("a.jpg", exif=note)
    k = [v for n in range(17) for v in (20 + 9 * n, 30 + 7 * n, 2)]
    someone = {"id": 1, "image_id": 1, "keypoints": k, "area": 900.0, "bbox": [20, 30, 150, 120]}
    image = {"id": 1, "file_name": "a.jpg", "width": photo.width, "height": photo.height}
    Path("set.json").write_text(json.dumps({"images": [image], "annotations": [someone]}))
    poses = load_set(".", "set.json")
    report = check_set(Path(), Path("set.json"), progress=False)
    assert report.problems == [] and ("drawn upright" in " ".join(report.notes)) == said
    calls = [lambda: check_truth(poses)]
    if turn in (6, 3):  # one of each kind is enough for what takes longer
        words = ["eval", "--images", ".", "--annotations", "set.json", "--weights", "rendered"]
        how = {"start": "rendered", "steps": 1, "workers": 0, "device": "cpu"}
        calls += [lambda: smpr.train(smpr.small_config(1, 1), poses, tmp_path / "run", **how)]
        calls += [lambda: main(words)]
    for call in calls:
        capsys.readouterr()
        call()
        assert ("set.json: 1 pictures (the first is ['a.jpg']) are turned" in capsys.readouterr().err) == said


@pytest.mark.parametrize("value", [-1, 1e6, np.nan, np.inf])
def test_pictures_without_a_known_white(value, model, predict, tmp_path):
    picture = Image.fromarray(np.array([[0.5, value]], np.float32))
    picture.save("heat.tif")
    for source in (picture, "heat.tif"):
        assert "from 0 to 255" in refusal(smpr.predict, model, source)
    assert "heat.tif" in predict("heat.tif", code=2)


def test_pictures_in_memory_that_cannot_be_read(model, photo):
    "Pillow reads late: a damaged picture ends in one line also when it was opened by the caller."
    photo.save("cut.jpg")
    Path("cut.jpg").write_bytes(Path("cut.jpg").read_bytes()[:2000])
    for picture in (Image.open("cut.jpg"), Image.new("LAB", (30, 20))):
        with contextlib.suppress(SmprError):
            smpr.predict(model, picture)
    assert "cannot be read" in refusal(smpr.predict, model, Image.open("cut.jpg"))


def test_postscript_starts_no_program(model, predict):
    for name, head in (("holiday.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n"), ("icon.png", b"\0\0\1\0\1\0")):
        Path(name).write_bytes(head + bytes(200))
        assert name in refusal(smpr.predict, model, name) and name in predict(name, code=2)
    Path("a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    Image.new("RGB", (32, 32)).save("a.ico")
    for name in ("a.eps", "a.ico"):  # also of a picture that the caller has opened, not yet decoded
        assert "is not read here" in refusal(smpr.predict, model, Image.open(name))
    assert smpr.predict(model, Image.open("a.ico").convert("RGB")).image.shape == (32, 32, 3)


def test_scans_without_end(photo):
    "Thousands of scans of one JPEG would take minutes each to no avail."
    photo.save("scans.jpg", progressive=True)
    assert read_image(Path("scans.jpg")).shape == (240, 320, 3)
    plain = Path("scans.jpg").read_bytes()
    scan = plain[plain.rindex(b"\xff\xda") : -2]
    Path("scans.jpg").write_bytes(plain[:-2] + MOST_SCANS * scan + plain[-2:])
    start = time.monotonic()
    assert "scans" in refusal(read_image, Path("scans.jpg")) and time.monotonic() - start < 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["pipe.jpg", "pipe.mp4", "pipe"])
def test_pipes_are_not_waited_for(name, model, predict):
    os.mkfifo(name)
    assert "is no file" in refusal(smpr.predict, model, name) and "is no file" in predict(name, code=2)
    assert "is no file" in refusal(read_json, Path(name))
    assert "is no file" in refusal(load_set, ".", Path("/dev/zero"))


# 5. kinds by content


def test_kinds_by_content(photo, model, predict):
    "Endings may be wrong, unknown or missing."
    folder = Path("phone")
    (folder / "more").mkdir(parents=True)
    for name, kind in (
        ("A.JPG", "JPEG"),
        ("b.jfif", "JPEG"),
        ("d.png", "JPEG"),
        ("noending", "WEBP"),
        ("e.ppm", "PPM"),
        ("f.odd", "PNG"),
        ("photo[1].jpg", "JPEG"),
        ("looks.mp4", "PNG"),
    ):
        photo.save(folder / name, kind)
    film(folder / "v.3gp", photo, range(2), Fraction(1, 10), format="mp4")
    film(folder / "w.ts", photo, range(2), Fraction(1, 10), format="mpegts")
    film(folder / "x.jpg", photo, range(2), Fraction(1, 10), format="matroska")
    (folder / "h.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "notes.ts").write_text("Good morning: const x = 1\n" * 40)
    (folder / "._A.JPG").write_bytes(b"left by another system")
    pictures = {"A.JPG", "b.jfif", "d.png", "noending", "e.ppm", "f.odd", "photo[1].jpg", "looks.mp4"}
    videos, left = {"v.3gp", "w.ts", "x.jpg"}, {"h.heic", "notes.ts", "._A.JPG", "more/"}
    with pytest.warns(UserWarning) as said:
        found = find_sources([str(folder)])
    assert {p.name for p in found} == pictures | videos
    assert {p.name for p in found if is_video(p)} == videos
    assert "left out 4 of 15" in str(said[0].message) and all(name in str(said[0].message) for name in left)
    with pytest.warns(UserWarning, match="h.heic"):
        results = smpr.predict(model, folder)
    assert {Path(r.source).name for r in results} == pictures | videos and len(results) == 8 + 3 * 2
    out = predict(folder, "--out", "drawn")
    assert "left out 4 of 15" in out and len(json.loads(Path("drawn/images.json").read_text())) == 8
    assert {p.name for p in Path("drawn").glob("*.mp4")} == {"v.mp4", "w.mp4", "x.mp4"}
    for name in ("h.heic", "notes.ts"):  # asked for by name they are refused by name
        assert name in refusal(smpr.predict, model, folder / name)
        assert name in predict(folder / name, "--out", "other", code=2)
    assert is_one(folder / "looks.mp4") and not is_one(folder / "v.3gp")


def test_a_pattern_says_what_it_leaves_out(photo, model):
    photo.save("a.png")
    Path("notes.txt").write_text("no picture")
    with pytest.warns(UserWarning, match="left out 1 of 2.*notes.txt"):
        assert len(smpr.predict(model, "*.*")) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(smpr.predict(model, "*.png")) == 1


@pytest.mark.parametrize("address", ["http://localhost:1/a.mp4", "rtsp://camera/1", "file:///etc/passwd"])
def test_addresses_are_not_opened(address, model, predict):
    assert "addresses are not opened" in refusal(smpr.predict, model, address)
    assert "addresses are not opened" in predict(address, code=2)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".mp4", "a\0b.png"])
def test_names_no_disk_knows(name, model):
    assert refusal(smpr.predict, model, name)


# 5. videos


MATRICES = {  # as MP4 stores them, and what undoes them
    "clockwise": ((0, 1, 0, -1, 0, 0, 0, 0), Image.Transpose.ROTATE_90),
    "counterclockwise": ((0, -1, 0, 1, 0, 0, 0, 0), Image.Transpose.ROTATE_270),
    "upside down": ((-1, 0, 0, 0, -1, 0, 0, 0), Image.Transpose.ROTATE_180),
    "mirrored": ((-1, 0, 0, 0, 1, 0, 0, 0), Image.Transpose.FLIP_LEFT_RIGHT),
    "front camera": ((0, 1, 0, 1, 0, 0, 0, 0), Image.Transpose.TRANSPOSE),
}


@pytest.mark.parametrize("turn", MATRICES)
def test_videos_are_upright(turn, photo, model, predict):
    matrix, undo = MATRICES[turn]
    film(Path("clip.mp4"), photo.transpose(undo), range(3), Fraction(1, 10))
    data = bytearray(Path("clip.mp4").read_bytes())
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", *(v << 16 for v in matrix), 1 << 30)
    Path("clip.mp4").write_bytes(data)
    for result in smpr.predict(model, "clip.mp4"):
        assert result.image.shape == (240, 320, 3)
        assert np.abs(result.image.astype(int) - np.asarray(photo)).mean() < 6
    predict("clip.mp4", "--out", "drawn", "--threshold", "1")
    drawn = next(video_frames(Path("drawn/clip.mp4")))[0]
    assert np.abs(drawn.astype(int) - np.asarray(photo)).mean() < 9


CLIPS = {
    "variable": (Path("c.mkv"), [0, 100, 200, 2000], Fraction(1, 1000)),
    "milliseconds": (Path("c.mkv"), [0, 33, 67, 100, 133], Fraction(1, 1000)),
    "phone": (Path("c.mp4"), np.cumsum([0, 3017, 2990, 3041, 3003, 2979]).tolist(), Fraction(1, 60000)),
    "slow": (Path("c.mp4"), [0, 7 * 60000, 7 * 60000 + 1], Fraction(1, 60000)),
    "late": (Path("c.mkv"), [5000, 5040, 5090], Fraction(1, 1000)),  # the first frame is not at 0
}


@pytest.mark.parametrize("name", CLIPS)
def test_times_of_frames_are_kept(name, photo, model, predict):
    path, ticks, base = CLIPS[name]
    film(path, photo.resize((64, 48)), ticks, base, Fraction(30))
    want = [float((n - ticks[0]) * base) for n in ticks]
    results = smpr.predict(model, path)
    assert np.allclose([r.time for r in results], want, atol=0.0015) and results[1].frame == 1
    predict(path, "--out", "drawn", "--threshold", "0")
    drawn = [time for _, _, time in video_frames(Path("drawn/c.mp4"))]
    assert np.allclose(drawn, want, atol=0.0015)
    entries = json.loads(Path("drawn/c.json").read_text())
    assert {e["image_id"]: e["time"] for e in entries} == {r.frame: r.time for r in results}


@pytest.mark.parametrize(
    "rate", [Fraction(990000, 33101), Fraction(640000, 19413), Fraction(30000, 1001), 1000, 0.5]
)
def test_any_rate_can_be_written(rate, photo, tmp_path):
    small = photo.resize((64, 48))
    path = write_video(tmp_path / "clip.mp4", ((small, rate) for _ in range(4)))
    assert np.allclose([t for *_, t in video_frames(path)], [float(n / rate) for n in range(4)], atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (33, 17), (9000, 4)])
def test_any_size_can_be_written(size, tmp_path):
    path = write_video(tmp_path / "clip.mp4", ((Image.new("RGB", size), 10) for _ in range(2)))
    assert len(list(video_frames(path))) == 2


def test_an_error_while_writing_is_the_one_said(photo, tmp_path):
    "What the network says is not hidden by what closing the file says; what was drawn is kept."

    def pictures():
        yield photo, 10
        raise RuntimeError("of the network")

    with pytest.raises(RuntimeError, match="of the network"):
        write_video(tmp_path / "clip.mp4", pictures())
    assert len(list(video_frames(tmp_path / "clip.mp4"))) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]
    assert "cannot be written" in refusal(write_video, tmp_path / "none" / "clip.mp4", iter([(photo, 10)]))


def test_damage_in_the_middle(photo, model, predict):
    "Whatever is decodable comes, and the damage is said, once."
    film(Path("clip.avi"), photo, range(8), Fraction(1, 10))
    data = bytearray(Path("clip.avi").read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"00dc"]
    for n in (2, 5):
        data[starts[n] + 8 : starts[n] + 308] = np.random.default_rng(n).bytes(300)
    Path("clip.avi").write_bytes(data)
    *frames, error = each_picture("clip.avi")
    assert [round(frame.time, 1) for frame in frames] == [0.0, 0.2, 0.3, 0.5, 0.6, 0.7]
    assert "2 damaged frames left out of 8" in str(error)
    assert np.abs(frames[-1].image.astype(int) - np.asarray(photo)).mean() < 6
    with pytest.warns(UserWarning, match="2 damaged frames"):
        assert len(smpr.predict(model, "clip.avi", skip=True)) == 6
    for _ in range(2):  # and again, under the same name
        assert "2 damaged frames left out of 8" in predict("clip.avi", "--out", "drawn", code=2)
        assert len(list(video_frames(Path("drawn/clip.mp4")))) == 6
    assert [p.name for p in Path("drawn").glob("*.mp4")] == ["clip.mp4"]


def test_a_video_that_was_cut_short_is_said(photo, model, predict, capfd):
    "What is there is read; a head that announces more frames than follow is quoted, in both ways of asking."
    film(Path("whole.avi"), photo, range(8), Fraction(1, 10))
    data = Path("whole.avi").read_bytes()
    starts = [i for i in range(len(data)) if data[i : i + 4] == b"00dc"]
    Path("cut.avi").write_bytes(data[: starts[5]])
    assert len(list(video_frames(Path("whole.avi")))) == 8 and capfd.readouterr().err == ""
    there = len(smpr.predict(model, "cut.avi"))
    said = f"cut.avi: announces 8 frames, {there} are there"
    assert 0 < there < 8 and said in capfd.readouterr().err
    assert said in predict("cut.avi", "--out", "drawn")


def test_videos_without_frames(photo, model, predict):
    film(Path("empty.avi"), photo, [])
    film(Path("cut.avi"), photo, range(3), Fraction(1, 10))
    data = Path("cut.avi").read_bytes()
    Path("cut.avi").write_bytes(data[: data.index(b"00dc") + 20])
    for name in ("empty.avi", "cut.avi"):
        assert name in refusal(smpr.predict, model, name) and name in predict(name, code=2)


def test_names_of_streams_are_any_bytes(photo, model, predict):
    av = pytest.importorskip("av")
    with av.open("title.mkv", "w") as file:
        file.metadata["title"] = "cafXX"
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *photo.size, "yuv420p"
        stream.metadata["title"] = "cafXX"
        file.mux(stream.encode(av.VideoFrame.from_image(photo)))
        file.mux(stream.encode(None))
    Path("title.mkv").write_bytes(Path("title.mkv").read_bytes().replace(b"cafXX", b"caf\xe9\xff"))
    assert len(smpr.predict(model, "title.mkv")) == 1
    predict("title.mkv", "--out", "drawn")
    assert Path("drawn/title.mp4").exists()


def test_people_are_counted_from_the_threshold(photo, predict):
    film(Path("clip.mp4"), photo, range(3), Fraction(1, 10))
    assert "3 of 3 frames with people" in predict("clip.mp4", "--out", "all", "--threshold", "0")
    assert "0 of 3 frames with people" in predict("clip.mp4", "--out", "none", "--threshold", "1")


# 6. names that collide


def shade(path: str, value: int) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (value,) * 3).save(path)
    return Path(path)


def mean(path: str) -> int:
    return round(np.asarray(Image.open(path).convert("L")).mean())


def test_two_calls_into_one_folder(predict):
    "In the second call, and in the first one's again, each source has its own drawing."
    a, b = shade("a/cam.png", 10), shade("b/cam.png", 200)
    for n, source in enumerate((a, b, a, b)):
        out = predict(source, "--out", "drawn", "--threshold", "1")
        assert ("done before" in out) == (n > 1)
        (picture,) = json.loads(Path("drawn/images.json").read_text())
        assert picture["file_name"] == str(source)
    assert mean("drawn/cam.png") == 10 and mean("drawn/cam-2.png") == 200
    predict(b, a, "--out", "drawn", "--threshold", "1", "--fresh")
    assert mean("drawn/cam.png") == 10 and mean("drawn/cam-2.png") == 200
    assert sorted(p.name for p in Path("drawn").glob("*.png")) == ["cam-2.png", "cam.png"]


def test_one_relative_name_in_two_folders(predict, monkeypatch, tmp_path):
    "B/frame.bmp is not taken for A/frame.bmp, which has its size and time."
    for folder, value in (("A", 10), ("B", 200)):
        os.utime(shade(f"{folder}/frame.bmp", value), ns=(10**18, 10**18))
    for folder in "AB":
        monkeypatch.chdir(tmp_path / folder)
        assert "done before" not in predict("frame.bmp", "--out", tmp_path / "out", "--threshold", "1")
    assert mean(tmp_path / "out/frame.png") == 10 and mean(tmp_path / "out/frame-2.png") == 200


def test_a_changed_picture_of_the_same_size_and_time(predict):
    for value in (10, 200):
        os.utime(shade("frame.bmp", value), ns=(10**18, 10**18))
        predict("frame.bmp", "--out", "out", "--threshold", "1")
        assert mean("out/frame.png") == value


@pytest.mark.parametrize("name", ["results.mp4", "images.mp4", "Results.MOV"])
def test_a_video_called_like_our_files(name, photo, predict):
    film(Path(name), photo, range(2), Fraction(1, 10))
    shade("a.png", 9)
    predict(name, "a.png", "--out", "drawn", "--threshold", "0")
    stem = Path(name).stem
    assert len(json.loads(Path(f"drawn/{stem}-2.json").read_text())) == 40
    assert len(json.loads(Path("drawn/results.json").read_text())) == 20


def test_a_picture_and_two_videos_of_one_stem(photo, predict):
    for name in ("clip.mp4", "more/clip.avi"):
        Path(name).parent.mkdir(exist_ok=True)
        film(Path(name), photo, range(2), Fraction(1, 10))
    shade("clip.png", 9)
    predict("clip.mp4", "more/clip.avi", "clip.png", "--out", "drawn")
    names = {"clip.mp4", "clip.json", "clip-2.mp4", "clip-2.json", "clip.png"}
    assert names < {p.name for p in Path("drawn").iterdir()}


def test_nothing_that_others_wrote_is_replaced(predict):
    shade("a.png", 10)
    shade("drawn/a.png", 77)  # somebody's
    Path("drawn/b.png").mkdir()  # a folder with a drawing's name
    shade("b.png", 10)
    Path("drawn/b-2.png").symlink_to("nowhere.png")
    predict("a.png", "b.png", "--out", "drawn", "--threshold", "1")
    assert mean("drawn/a.png") == 77 and mean("drawn/a-2.png") == 10 and mean("drawn/b-3.png") == 10
    assert not Path("drawn/nowhere.png").exists()
    for name in ("results.json", "images.json", "results.jsonl"):
        other = Path(name[:-1], name)
        other.parent.mkdir()
        other.write_text('{"mine": 1}\n')
        assert "not written by `smpr predict`" in predict("a.png", "--out", other.parent, code=2)
        assert other.read_text() == '{"mine": 1}\n'


def test_drawings_are_no_sources(predict):
    "Into the folder of the pictures, twice: nothing is drawn on a drawing."
    for name in ("a.png", "b.jpg"):
        shade(f"photos/{name}", 10)
    for _ in range(2):
        predict("photos", "--out", "photos")
        assert sorted(p.name for p in Path("photos").glob("*.png")) == ["a-2.png", "a.png", "b.png"]
        assert len(json.loads(Path("photos/images.json").read_text())) == 2


def test_two_weights_in_one_folder(predict, weights, tmp_path):
    shade("a.png", 10)
    predict("a.png", "--out", "drawn")
    before = {p: p.read_bytes() for p in Path("drawn").iterdir()}
    torch.manual_seed(1)
    other = save_weights(SMPR(SMALL), tmp_path / "other.safetensors", {"test": to_dict(TEST)})
    for words, said in ((["--flip"], "another flip"), (["--threshold", "0.3"], "another threshold")):
        line = predict("a.png", "--out", "drawn", *words, code=2)
        assert said in line and "--fresh" in line
    assert main(["predict", "a.png", "--out", "drawn", "--weights", str(other)]) == 2
    assert {p: p.read_bytes() for p in Path("drawn").iterdir()} == before
    assert main(["predict", "a.png", "--out", "drawn", "--weights", str(other), "--fresh"]) == 0
    assert Path("drawn/results.json").read_bytes() != before[Path("drawn/results.json")]


def test_two_calls_at_once(predict):
    shade("a.png", 10)
    with hold_folder(Path("drawn")):
        assert "another call writes there" in predict("a.png", "--out", "drawn", code=2)
        assert not list(Path("drawn").iterdir())
        predict("a.png", "--out", "elsewhere")
    predict("a.png", "--out", "drawn")


def test_a_folder_is_free_when_its_call_was_killed(tmp_path):
    code = f"""if True:
        import time
        from pathlib import Path
        from smpr.settings import hold_folder
        with hold_folder(Path({str(tmp_path / "held")!r})):
            print("held", flush=True)
            time.sleep(60)"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    assert "another call" in refusal(hold_folder(tmp_path / "held").__enter__)
    other.kill()
    other.wait()
    with hold_folder(tmp_path / "held"):
        pass


def test_names_that_a_disk_takes_for_one():
    "Case, and letters with and without a combining accent."
    sources = [
        Path(p)
        for p in (
            "a/X.jpg",
            "b/x.jpg",
            "c/cafe\u0301.jpg",
            "d/caf\u00e9.jpg",
            "e/Stra\u00dfe.jpg",
            "f/STRASSE.jpg",
        )
    ]
    names = [t.name for _, t in name_drawings(sources, Path("out"), {})]
    assert names == [
        "X.png",
        "x-2.png",
        "cafe\u0301.png",
        "caf\u00e9-2.png",
        "Stra\u00dfe.png",
        "STRASSE-2.png",
    ]


def test_names_as_long_as_can_be(photo, predict):
    names = ["n" * 251 + ".png", "m" * 251 + ".png", "\u00fc" * 125 + ".png", "k" * 255]
    for name in names:
        photo.save(name, "PNG")
    film(Path("v" * 251 + ".mp4"), photo.resize((64, 48)), range(2), Fraction(1, 10))
    predict(*names, "v" * 251 + ".mp4", "--out", "drawn")
    predict(*names, "--out", "drawn")
    assert len(list(Path("drawn").glob("*.png"))) == 4 and len(list(Path("drawn").glob("v*.mp4"))) == 1
    assert len(json.loads(Path("drawn/images.json").read_text())) == 4
    long = atomic_write(Path("j" * 250 + ".json"), "{}")
    assert long.read_text() == "{}"


def test_a_damaged_journal_goes_on(predict):
    for n in range(4):
        shade(f"photos/{n}.png", 10 + n)
    predict("photos", "--out", "drawn")
    lines = Path("drawn/results.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    lines[2] = lines[2].replace(b'"source"', b'"s\xffurce"')
    Path("drawn/results.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:30])
    said = predict("photos", "--out", "drawn")
    assert "1 lines cannot be read" in said and "2 of 4 were done before" in said
    assert len(json.loads(Path("drawn/images.json").read_text())) == 4
    assert len(list(Path("drawn").glob("*.png"))) == 4


def test_a_drawing_made_again_counts_once(predict):
    shade("a.png", 10)
    predict("a.png", "--out", "drawn")
    Path("drawn/a.png").unlink()
    predict("a.png", "--out", "drawn")
    assert len(json.loads(Path("drawn/images.json").read_text())) == 1
    assert len(json.loads(Path("drawn/results.json").read_text())) == 20


def test_the_disk_has_what_the_journal_says(monkeypatch, tmp_path):
    "A line of the journal outlives a power cut, and so does the drawing it speaks of."
    import smpr.command.media as media

    source, synced = shade("a.png", 10), []
    journal = Journal(tmp_path / "out", [source], {})
    target = journal.named[0][1]
    shade(str(target), 3)
    monkeypatch.setattr(media.os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    journal.add(source, target, width=1, height=1, poses=[])
    assert synced == [target.stat().st_ino, journal.path.stat().st_ino] and write_results(journal) == (0, 1)


# 7. printing what strangers wrote


NAMES = (
    b"caf\xe9.png",
    "b '\u00fc' \u5199\u771f.png".encode(),
    b"red\x1b[31m.png",
    b"two\nlines.png",
    "\u202egnp.png".encode(),
)


WIDER = [pytest.param(e, marks=pytest.mark.slow) for e in ("utf-8:strict", "latin-1:strict")]


@pytest.mark.parametrize("encoding", ["ascii:strict", *WIDER])
def test_names_of_any_bytes(encoding, photo, weights, tmp_path):
    "None stops the others, and none steers the terminal."
    folder = tmp_path / "in"
    folder.mkdir()
    try:
        for name in NAMES:
            photo.save(os.fsdecode(bytes(folder) + b"/" + name), "PNG")
    except OSError:
        pytest.skip("this disk takes text only")
    film(
        Path(os.fsdecode(bytes(folder) + b"/film\xe9.mp4")), photo.resize((64, 48)), range(2), Fraction(1, 10)
    )
    (folder / os.fsdecode(b"broken\xff.jpg")).write_bytes(b"no picture")
    words = [
        sys.executable,
        "-m",
        "smpr.cli",
        "predict",
        "in",
        "--weights",
        weights,
        "--out",
        os.fsdecode(b"o\xfct"),
    ]
    done = subprocess.run(words, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding})
    said = done.stdout + done.stderr
    assert done.returncode == 2 and b"Traceback" not in said and done.stderr.count(b"smpr: error") == 1
    assert b"\x1b[31m" not in said and b"broken\\udcff.jpg" in done.stderr
    out = Path(os.fsdecode(bytes(tmp_path) + b"/o\xfct"))
    assert len(json.loads((out / "images.json").read_text())) == len(NAMES)
    assert len(list(out.glob("*.png"))) == len(NAMES) and len(list(out.glob("*.mp4"))) == 1


def test_python_calls_print_any_name(photo, model):
    name = os.fsdecode(b"red\x1b[31m\xe9.png")
    photo.save(name, "PNG")
    result = smpr.predict(model, name)
    repr(result).encode("utf-8")
    assert "\x1b" not in repr(result) and result.source == name
    with pytest.warns(UserWarning) as said:
        smpr.predict(model, ["none\x1b[2J\udce9.png"], skip=True)
    assert str(said[0].message).isprintable()
    assert (
        printable("a\u200bb\x07\r") == "a\\u200bb\\x07\\r" and printable("\u00fc \u5199") == "\u00fc \u5199"
    )


def test_notes_never_steer_the_terminal(photo, tmp_path, capfd, monkeypatch):
    "What categories, files and run folders are called is said with escapes, from Python and by the command."
    photo.save("a.png")
    red = "\x1b[31mred\x1b[2J\u202e"
    k = [v for n in range(17) for v in (20 + 9 * n, 30 + 7 * n, 2)]
    someone = {"image_id": 1, "keypoints": k, "area": 900.0, "bbox": [20, 30, 150, 120]}
    data = {"images": [{"id": 1, "file_name": "a.png", "width": photo.width, "height": photo.height}]}
    data["annotations"] = [
        someone | {"id": 1, "category_id": 4},
        {"id": 2, "image_id": 1, "category_id": red},
    ]
    names = {"keypoints": [f"{red} {n}" for n in range(17)], "sigmas": [0.05] * 17}
    data["categories"] = [{"id": 4, "name": f"man {red}"} | names, {"id": red, "name": red}]
    file = Path(f"{red}.json")
    file.write_text(json.dumps(data))
    run = tmp_path / red
    poses = load_set(".", file)
    smpr.train(smpr.small_config(1, 1), poses, run, start="rendered", steps=1, workers=0, device="cpu")
    (run / "log.jsonl").write_text("{\n")
    read_log(run)
    (run / "last" / "state.json").write_text("{}")
    find_checkpoint(run / "last")
    evaluate(poses, [{"image_id": 1, "score": 1, "keypoints": k, "category_id": i} for i in (4, red)])
    place = ["--images", ".", "--annotations", str(file)]
    assert main(["data", "check", *place]) == 0
    monkeypatch.setenv("SMPR_RUNS", red)
    assert main(["info"]) == 0
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err and "\u202e" not in out + err and err.count("\\x1b[31mred") > 5


def test_a_set_with_names_of_any_bytes(photo, capfd):
    "Checked, measured by its fingerprint, and its problems printed."
    name = os.fsdecode(b"caf\xe9.png")
    photo.save(name)
    k = [100, 100, 2, 150, 120, 2] + [0] * 45
    people = [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "area": 900,
            "bbox": [100, 100, 50, 20],
            "num_keypoints": 2,
            "keypoints": k,
        }
    ]
    images = [{"id": 1, "file_name": name, "width": 320, "height": 240}]
    Path("set.json").write_text(json.dumps({"images": images, "annotations": people}))
    assert len(set_hash(load_set(".", "set.json"))) == 16
    assert main(["data", "check", "--images", ".", "--annotations", "set.json"]) == 0
    images[0]["file_name"] = "none\x1b[31m\udce9.png"
    Path("set.json").write_text(json.dumps({"images": images, "annotations": people}))
    assert main(["data", "check", "--images", ".", "--annotations", "set.json", "--report", "r.json"]) == 2
    said = capfd.readouterr().err
    assert "none\\x1b[31m\\udce9.png" in said and "\x1b[31m" not in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_annotations_in_any_unicode(encoding):
    Path("a.json").write_bytes(json.dumps({"images": ["\u00fc"]}).encode(encoding))
    assert read_json(Path("a.json")) == {"images": ["\u00fc"]}
    Path("b.json").write_bytes(b'{"a": "caf\xe9"}')
    assert "not valid JSON" in refusal(read_json, Path("b.json"))


# 10. unlucky surroundings


class Drip(threading.Thread):
    "A server that promises a file and sends three bytes at a time."

    def __init__(self):
        import socket

        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/a.zip"
        self.start()

    def run(self):
        connection, _ = self.socket.accept()
        connection.recv(9999)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"abc")
                time.sleep(0.05)


def test_a_server_that_drips_is_given_up(tmp_path):
    start = time.monotonic()
    assert "run again to go on" in refusal(fetch, Drip().url, tmp_path / "a.zip", False, timeout=0.5)
    assert time.monotonic() - start < 10 and (tmp_path / "a.zip.part").stat().st_size >= 3


@pytest.mark.parametrize("method", [0, 8, 12, 14])
@pytest.mark.parametrize("damage", ["bytes", "encrypted", "method"])
def test_zips_of_any_damage(method, damage, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as z:
        z.writestr("a.txt", bytes(range(256)) * 40)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    end = data.rindex(b"PK\x01\x02")
    if damage == "bytes":
        data[40 : end - 10] = np.random.default_rng(0).bytes(end - 50)
    else:
        for at in (6, end + 8) if damage == "encrypted" else (8, end + 10):
            data[at] = data[at] | 1 if damage == "encrypted" else 77
    (tmp_path / "a.zip").write_bytes(data)
    assert "a.zip" in refusal(check_zip, tmp_path / "a.zip")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_loaders_end_with_a_killed_training(tmp_path):
    code = """if True:
        import os, time, torch
        from torch.utils.data import DataLoader
        from smpr.processes import one_thread
        class Slow(torch.utils.data.Dataset):
            def __len__(self): return 10**6
            def __getitem__(self, n):
                while n > 20: pass
                return torch.zeros(10**5)
        it = iter(DataLoader(Slow(), 2, num_workers=2, worker_init_fn=one_thread))
        next(it)
        print(*(w.pid for w in it._workers), flush=True)
        time.sleep(60)"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    workers = [int(n) for n in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def alive(pid: int) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        return False

    until = time.monotonic() + 15
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.2)
    left = [pid for pid in workers if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_the_unchanged_stays(photo):
    "Pictures of 8 bits are read as before, and turned by EXIF from a file as from memory."
    photo.save("plain.png")
    assert np.array_equal(read_image(Path("plain.png")), np.asarray(photo)) and kind_of(Path("plain.png"))
    note = Image.Exif()
    note[0x0112] = 8
    photo.save("turned.png", exif=note)
    assert np.array_equal(read_image(Path("turned.png")), to_rgb(Image.open("turned.png")))
