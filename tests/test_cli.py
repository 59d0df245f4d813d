"""The command `smpr`: every subcommand on tiny data, and every kind of bad input in one line with exit code
2."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trust.load import SMALL, TEST

from smpr.checkpoints import load_weights, save_weights
from smpr.cli import EXAMPLES, change_many, flag_text, main
from smpr.config import SmprError, change, flat, to_dict
from smpr.evaluation import METRICS, check_results
from smpr.experiments.runner import Trial
from smpr.inference import load
from smpr.model import SMPR
from smpr.skeleton import COCO17, Skeleton, skeleton_to_category
from smpr.update import Config, small_config

FIVE = Skeleton(
    ("head", "left_hand", "right_hand", "left_foot", "right_foot"),
    (0.05,) * 5,
    ((1, 2), (3, 4)),
    ((0, 1), (0, 2), (0, 3), (0, 4)),
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    "No test writes into the checkout or takes a GPU."
    for name in ("FIGURES", "RUNS", "COCO"):
        monkeypatch.setenv(f"SMPR_{name}", str(tmp_path / name.lower()))
    for name, value in (("DEVICE", "cpu"), ("WORKERS", "0")):
        monkeypatch.setenv(f"SMPR_{name}", value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save_weights(
        SMPR(SMALL), tmp_path_factory.mktemp("weights") / "tiny.safetensors", {"test": to_dict(TEST)}
    )


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.fromarray(rng.integers(0, 255, (72, 96, 3), dtype=np.uint8)).save(folder / name)
    return folder


def coco(skeleton: Skeleton = COCO17, **more) -> dict:
    "Three pictures with one person each."
    rng = np.random.default_rng(1)
    k = np.concatenate([rng.uniform(10, 60, (3, skeleton.K, 2)).round(1), np.full((3, skeleton.K, 1), 2)], -1)
    people = [
        {
            "id": i + 1,
            "image_id": i + 1,
            "category_id": 1,
            "iscrowd": 0,
            "num_keypoints": skeleton.K,
            "area": 2500.0,
            "bbox": [10, 10, 50, 50],
            "keypoints": k[i].ravel().tolist(),
        }
        for i in range(3)
    ]
    pictures = [
        {"id": i + 1, "file_name": n, "width": 96, "height": 72}
        for i, n in enumerate(("a.png", "b.jpg", "c.webp"))
    ]
    return {"images": pictures, "annotations": people, "categories": [skeleton_to_category(skeleton)]} | more


def write(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def truth(tmp_path) -> Path:
    return write(tmp_path / "truth.json", coco())


@pytest.fixture
def smpr(capsys):
    def call(*words, code: int = 0):
        "Output of the command; fails unless it ends in `code`, and unless an error is one line on stderr."
        capsys.readouterr()
        found = main([str(w) for w in words])
        out, err = capsys.readouterr()
        assert found == code, err
        if code == 2:
            lines = [l for l in err.splitlines() if l.startswith("smpr: error: ")]
            assert len(lines) == 1 and err.rstrip().endswith(lines[0]) and "Traceback" not in err
            return lines[0]
        return out

    return call


def full_disk(monkeypatch, after: int = 0) -> None:
    "From the `after`-th whole file on, the disk is full."
    real, count = os.replace, [0]

    def replace(*a, **k):
        count[0] += 1
        if count[0] > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*a, **k)

    monkeypatch.setattr(os, "replace", replace)


# help


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0 and f"example: {EXAMPLES[name]}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["predict", "--help"]])
def test_help_needs_no_torch(words):
    code = (
        "import contextlib, sys, smpr.cli\n"
        f"with contextlib.suppress(SystemExit): smpr.cli.main({words})\n"
        "assert not {'torch', 'timm', 'matplotlib'} & set(sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "smpr" in said


@pytest.mark.parametrize("words", [["--help"], ["eval", "--help"]], ids=" ".join)
def test_help_on_a_terminal_of_ascii(words):
    ascii = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "smpr.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ascii)
    assert done.returncode == 0 and "usage: smpr" in done.stdout and not done.stderr


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "smpr.cli", "dance"], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and done.stderr.startswith("smpr: error: ")
        and "dance" in done.stderr
        and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dance"],
        ["predict"],
        ["predict", "a.png", "--loud"],
        ["data", "burn"],
        ["data", "check", "--report"],
        ["convert", "a.pth", "b.safetensors"],
        ["render"],
    ],
    ids=" ".join,
)
def test_bad_words(words, smpr):
    assert "--help" in smpr(*words, code=2)


# flags


@pytest.mark.parametrize("config", [Config(), small_config()], ids=["paper", "small"])
def test_every_setting_is_a_flag(config):
    other = small_config() if config == Config() else Config()
    words = [word for name, value in flat(config).items() for word in (f"--{name}", flag_text(value))]
    assert change_many(other, words) == config
    assert change_many(other, [f"{flag}={text}" for flag, text in zip(words[::2], words[1::2])]) == config


RANGES = {  # flags, and what their one line says: the flag, and what it takes
    "train --train.lr -1": ("--train.lr", "above 0"),
    "train --train.lr 1x2": ("--train.lr", "a number"),
    "train --train.batch none": ("--train.batch", "a whole number"),
    "train --data.flip 7": ("--data.flip", "from 0 to 1"),
    "train --data.zoom 2,0.5": ("--data.zoom", "smallest first"),
    "train --data.zoom 0.8": ("--data.zoom", "2 values"),
    "train --train.bf16 perhaps": ("--train.bf16", "true or false"),
    "train --test.decode.keep 0": ("--test.decode.keep", "at least 1"),
    "train --steps 0": ("--steps", "at least 1"),
    "train --minutes soon": ("--minutes", "a number above 0"),
    "train --eval_every 0": ("--eval_every", "at least 1"),
    "predict a.png --threshold high": ("--threshold", "a number"),
    "predict a.png --snap -1": ("--snap", "at least 0"),
    "predict a.png --snap nan": ("--snap", "at least 0"),
    "predict a.png --threshold 50": ("--threshold", "from 0 to 1"),
    "predict a.png --threshold -1": ("--threshold", "from 0 to 1"),
    "predict a.png --threshold nan": ("--threshold", "from 0 to 1"),
    "predict a.png --scales 0": ("--scales", "from 1 to 8192"),
    "predict a.png --scales 240,": ("--scales", "a whole number"),
    "predict a.png --scales 9000": ("--scales", "from 1 to 8192"),
    "train --rendered -1": ("--rendered", "from 0 to 100"),
    "train --rendered inf": ("--rendered", "from 0 to 100"),
    "train --data.short 0": ("--data.short", "from 1 to 8192"),
    "eval --images x --annotations y --scales 400,big": ("--scales", "a whole number"),
    "reproduce --seeds two": ("--seeds", "a whole number"),
    "reproduce --scale huge": ("--scale", "smoke, mini, rendered, gpu, coco"),
    "render out --count -3": ("--count", "at least 0"),
}


@pytest.mark.parametrize("line", RANGES)
def test_a_wrong_value_names_flag_and_range(line, smpr):
    flag, said = RANGES[line]
    error = smpr(*line.split(), code=2)
    assert error.startswith(f"smpr: error: {flag} is ") and said in error


def test_shell_and_python_say_the_same(smpr):
    with pytest.raises(SmprError) as e:
        change(Config(), "train.lr", "-1")
    assert smpr("train", "--train.lr", "-1", code=2).endswith(str(e.value).partition("TrainConfig.")[2])


def test_list(smpr):
    lines = smpr("train", "--list").splitlines()
    assert len(lines) == len(flat(Config())) and "--train.lr 0.001" in lines


# predict


def test_predict(smpr, weights, photos):
    out = smpr("predict", photos, "photos/*.png", "--weights", weights, "--out", "drawn", "--threshold", "0")
    results, images = (json.loads(Path("drawn", f"{n}.json").read_text()) for n in ("results", "images"))
    check_results(results, 17)
    assert len(images) == 4 and {r["image_id"] for r in results} == {0, 1, 2, 3} and len(results) == 80
    assert (
        sorted(p.name for p in Path("drawn").glob("*.png")) == ["a-2.png", "a.png", "b.png", "c.png"]
        and "20 people" in out
    )
    assert images[1] == {"id": 1, "file_name": str(photos / "b.jpg"), "width": 96, "height": 72}


def test_predict_takes_flip_and_scales(smpr, weights, photos):
    smpr("predict", photos / "a.png", "--weights", weights, "--out", "one")
    smpr("predict", photos / "a.png", "--weights", weights, "--out", "many", "--flip", "--scales", "72,96")
    one, many = (json.loads(Path(n, "results.json").read_text()) for n in ("one", "many"))
    assert len(one) == len(many) == 20 and one != many
    assert "a whole number" in smpr("predict", photos, "--weights", weights, "--scales", "big", code=2)


def test_predict_shipped_weights(smpr, photos):
    smpr("predict", photos / "a.png")
    assert Path("smpr-out", "a.png").exists() and Path("smpr-out", "results.json").exists()


def test_predict_never_overwrites_its_sources(smpr, weights, photos):
    before = (photos / "a.png").read_bytes()
    smpr("predict", photos, "--weights", weights, "--out", photos)
    assert (photos / "a.png").read_bytes() == before and (photos / "a-2.png").exists()


def test_a_bad_picture_does_not_stop_the_others(smpr, weights, photos):
    (photos / "b.jpg").write_bytes((photos / "b.jpg").read_bytes()[:700])
    line = smpr("predict", photos, "--weights", weights, "--out", "drawn", code=2)
    assert str(photos / "b.jpg") in line and {
        r["id"] for r in json.loads(Path("drawn/images.json").read_text())
    } == {0, 2}
    assert Path("drawn/c.png").exists() and not Path("drawn/b.png").exists()


@pytest.mark.parametrize("source", ["missing.jpg", "missing/*.png", "notes.txt", "empty"])
def test_predict_bad_source(source, smpr, weights):
    Path("notes.txt").write_text("no picture")
    Path("empty").mkdir()
    assert source in smpr("predict", source, "--weights", weights, code=2)


def test_predict_kinds_of_pictures(smpr, weights, photos):
    picture = Image.open(photos / "a.png")
    picture.convert("CMYK").save(photos / "cmyk.jpg")
    picture.convert("L").save(photos / "grey.png")
    picture.resize((300, 1)).save(photos / "thin.png")
    smpr("predict", photos, "--weights", weights, "--out", "drawn")
    assert len(json.loads(Path("drawn/images.json").read_text())) == 6


def test_full_disk_while_predicting(smpr, weights, photos, monkeypatch):
    full_disk(monkeypatch, after=2)
    line = smpr("predict", photos, "--weights", weights, "--out", "drawn", code=2)
    assert "No space left" in line and "free some space" in line
    assert (
        sorted(p.name for p in Path("drawn").iterdir()) == ["a.png", "results.jsonl"]
        and Image.open("drawn/a.png").size[0] > 0
    )


def test_out_is_no_folder(smpr, weights, photos):
    assert "notes.txt" in smpr(
        "predict", photos, "--weights", weights, "--out", write(Path("notes.txt"), "x"), code=2
    )


def test_interrupted(smpr, weights, photos, monkeypatch):
    import smpr.command.media as media

    real = media.each_of_file

    def each_of_file(source):
        if source.name == "c.webp":
            raise KeyboardInterrupt
        return real(source)

    monkeypatch.setattr(media, "each_of_file", each_of_file)
    smpr("predict", photos, "--weights", weights, "--out", "drawn", code=130)
    assert len(json.loads(Path("drawn/images.json").read_text())) == 2


# videos


@pytest.fixture
def clip(tmp_path) -> Path:
    av = pytest.importorskip("av")
    rng, path = np.random.default_rng(2), tmp_path / "clip.mp4"
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for _ in range(5):
            for packet in stream.encode(
                av.VideoFrame.from_ndarray(rng.integers(0, 255, (72, 96, 3), dtype=np.uint8), format="rgb24")
            ):
                video.mux(packet)
        for packet in stream.encode():
            video.mux(packet)
    return path


def test_video(smpr, weights, clip):
    import av

    out = smpr("predict", clip, "--weights", weights, "--out", "drawn", "--threshold", "0")
    results = json.loads(Path("drawn/clip.json").read_text())
    check_results(results, 17)
    with av.open("drawn/clip.mp4") as video:
        frames = list(video.decode(video=0))
    assert (
        len(frames) == 5
        and (frames[0].width, frames[0].height) == (96, 72)
        and {r["image_id"] for r in results} == set(range(5))
        and "5 frames" in out
    )


def test_damaged_video(smpr, weights, clip, photos):
    clip.write_bytes(clip.read_bytes()[:300])
    assert "clip.mp4" in smpr("predict", clip, photos, "--weights", weights, "--out", "drawn", code=2)
    assert len(json.loads(Path("drawn/images.json").read_text())) == 3


def test_video_that_breaks_off(smpr, weights, clip):
    "What came before the break is kept."
    import av

    with (
        av.open(str(clip)) as video,
        av.open("clip.mkv", "w") as out,
    ):  # Matroska can be read up to where it ends
        stream = out.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuv420p"
        for frame in video.decode(video=0):
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    cut = Path("clip.mkv").read_bytes()
    Path("clip.mkv").write_bytes(cut[: len(cut) * 2 // 3])
    main(["predict", "clip.mkv", "--weights", str(weights), "--out", "drawn"])
    frames = {r["image_id"] for r in json.loads(Path("drawn/clip.json").read_text())}
    with av.open("drawn/clip.mp4") as video:
        assert {*range(len(list(video.decode(video=0))))} == frames and 1 <= len(frames) <= 5


@pytest.mark.slow
def test_full_disk_while_writing_a_video(tmp_path):
    "No file of this process may grow beyond 20 kB: the system says so in the middle of the video."
    pytest.importorskip("av")
    pytest.importorskip("resource")
    code = """if True:
        import resource, sys, numpy as np
        from pathlib import Path
        from PIL import Image
        from smpr.command.media import write_video
        from smpr.settings import SmprError
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        rng = np.random.default_rng(0)
        noise = (rng.integers(0, 255, (240, 320, 3), dtype=np.uint8) for _ in range(20))
        try:
            write_video(Path("big.mp4"), ((Image.fromarray(n), 25) for n in noise))
        except SmprError as e:
            sys.exit(str(e))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (
        done.returncode == 1
        and done.stderr.startswith("big.mp4: cannot be written")
        and done.stderr.count("\n") == 1
    )


def test_video_without_its_package(smpr, weights, clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'smpr[video]'" in smpr("predict", clip, "--weights", weights, code=2)


# eval


def test_eval(smpr, weights, photos, truth):
    out = smpr(
        "eval",
        "--images",
        photos,
        "--annotations",
        truth,
        "--weights",
        weights,
        "--json",
        "numbers.json",
        "--results",
        "found.json",
        "--flip",
        "--scales",
        "72,96",
    )
    numbers = json.loads(Path("numbers.json").read_text())
    assert (
        all(0 <= numbers[m] <= 1 or m in ("APL", "ARL") for m in METRICS)
        and numbers["pictures"] == 3
        and numbers["flip"]
    )
    assert [l.split()[0] for l in out.splitlines()] == list(METRICS)
    check_results(json.loads(Path("found.json").read_text()), 17)


def test_every_listed_picture_counts(smpr, weights, photos, truth, monkeypatch):
    "Perfect poses on one picture of three find a third of the people."
    right = [
        {"image_id": 1, "category_id": 1, "keypoints": coco()["annotations"][0]["keypoints"], "score": 0.9}
    ]
    monkeypatch.setattr("smpr.evaluation.detect_set", lambda *a, **k: right)
    smpr("eval", "--images", photos, "--annotations", truth, "--weights", weights, "--json", "numbers.json")
    numbers = json.loads(Path("numbers.json").read_text())
    assert numbers["AR"] == pytest.approx(1 / 3) and numbers["AP"] == pytest.approx(34 / 101)


def test_eval_without_annotations(smpr, weights, photos):
    info = write(
        Path("info.json"),
        {
            "images": coco()["images"],
            "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}],
        },
    )
    smpr("eval", "--images", photos, "--image-info", info, "--weights", weights, "--results", "found.json")
    assert {r["image_id"] for r in json.loads(Path("found.json").read_text())} == {1, 2, 3}


def test_a_full_disk_keeps_old_results(smpr, weights, photos, truth, monkeypatch):
    write(Path("found.json"), "[]")
    full_disk(monkeypatch)
    assert "found.json" in smpr(
        "eval",
        "--images",
        photos,
        "--annotations",
        truth,
        "--weights",
        weights,
        "--results",
        "found.json",
        code=2,
    )
    assert Path("found.json").read_text() == "[]" and not list(Path().glob("*.tmp"))


def changed(annotation: dict) -> dict:
    "The set with its second annotation changed."
    data = coco()
    data["annotations"][1] |= annotation
    return data


BAD_SETS = {
    "malformed": ('{"images": [', "not valid JSON"),
    "no images": ({"annotations": []}, "images"),
    "empty": (coco(images=[], annotations=[]), "empty"),
    "nobody": (coco(annotations=[]), "labelled keypoints"),
    "too few keypoints": (changed({"keypoints": [1, 2, 2]}), "annotation 2"),
    "nan": (json.dumps(changed({"keypoints": [float("nan")] * 51})), "annotation 2"),
    "unknown image": (changed({"image_id": 77}), "77"),
    "missing picture": (
        coco(images=[*coco()["images"], {"id": 4, "file_name": "d.png", "width": 96, "height": 72}]),
        "d.png",
    ),
    "wrong size": (coco(images=[i | {"width": 50} for i in coco()["images"]]), "a.png"),
}


@pytest.mark.parametrize("name", BAD_SETS)
def test_eval_bad_set(name, smpr, weights, photos):
    content, said = BAD_SETS[name]
    assert said in smpr(
        "eval",
        "--images",
        photos,
        "--annotations",
        write(Path("bad.json"), content),
        "--weights",
        weights,
        "--json",
        "numbers.json",
        code=2,
    )
    assert not Path("numbers.json").exists()


def test_eval_truncated_picture(smpr, weights, photos, truth):
    (photos / "b.jpg").write_bytes((photos / "b.jpg").read_bytes()[:700])
    assert "b.jpg" in smpr("eval", "--images", photos, "--annotations", truth, "--weights", weights, code=2)


@pytest.mark.parametrize(
    "words,said",
    [
        (["--annotations", "none.json"], "none.json"),
        ([], "--annotations"),
        (["--image-info", "truth.json"], "--results"),
    ],
)
def test_eval_bad_words(words, said, smpr, weights, photos, truth):
    assert said in smpr("eval", "--images", photos, "--weights", weights, *words, code=2)


# weights and devices


def test_weights_of_another_network(smpr, photos, truth, tmp_path):
    five = save_weights(SMPR(SMALL, FIVE), tmp_path / "five.safetensors", {"test": to_dict(TEST)})
    assert "nose, left_eye" in smpr(
        "eval", "--images", photos, "--annotations", truth, "--weights", five, code=2
    )


@pytest.mark.parametrize("damage", ["cut", "strange", "pickle", "nan", "missing"])
def test_bad_weights(damage, smpr, weights, photos, tmp_path):
    path = tmp_path / "bad.safetensors"
    if damage == "cut":
        path.write_bytes(weights.read_bytes()[:5000])
    if damage == "strange":
        path.write_text("not weights")
    if damage == "pickle":
        torch.save({"a": torch.zeros(1)}, path)
    if damage == "nan":
        net = SMPR(SMALL)
        torch.nn.init.constant_(net.head.person.weight, float("nan"))
        save_weights(net, path)
    line = smpr("predict", photos, "--weights", path, code=2)
    assert "bad.safetensors" in line and not Path("smpr-out").exists()


def test_no_gpu(smpr, weights, photos):
    assert "cuda:99" in smpr("predict", photos, "--weights", weights, "--device", "cuda:99", code=2)


def test_convert_refuses(smpr, tmp_path):
    torch.save(
        {
            "state_dict": {
                "backbone.conv1.weight": torch.zeros(64, 3, 7, 7),
                "bbox_head.fcos_mystery.weight": torch.zeros(1),
            }
        },
        tmp_path / "old.pth",
    )
    assert "fcos_mystery" in smpr("convert", "old.pth", "new.safetensors", "--kind", "resnet50_pafpn", code=2)
    assert "hrnet_w32" in smpr("convert", "old.pth", "new.safetensors", "--kind", "resnet51", code=2)
    write(Path("notes.pth"), "x")
    assert "notes.pth" in smpr("convert", "notes.pth", "new.safetensors", "--kind", "hrnet_w32", code=2)
    torch.save({"state_dict": {"a": Exploding()}}, tmp_path / "free.pth")
    assert "free.pth" in smpr("convert", "free.pth", "new.safetensors", "--kind", "hrnet_w32", code=2)
    assert not Path("new.safetensors").exists() and not Path("exploded").exists()


def test_convert(smpr, tmp_path):
    shapes = (
        Path(__file__).parent.parent
        / os.environ.get("SMPR_GOLDEN", "../shared/golden")
        / "state_dict_shapes.json"
    )
    if not shapes.exists():
        pytest.skip(f"{shapes}: the names and shapes of a published checkpoint are not here; set SMPR_GOLDEN")
    names = json.loads(shapes.read_text())["resnet50_pafpn"]
    torch.save(
        {
            "state_dict": {
                n: torch.full(s, 0.5) if n.endswith("scale") else torch.rand(s) for n, s in names.items()
            },
            "meta": {},
        },
        tmp_path / "old.pth",
    )
    assert "new.safetensors" in smpr("convert", "old.pth", "new.safetensors", "--kind", "resnet50_pafpn")
    net = load("new.safetensors", "cpu")
    assert net.config.neck == "pafpn" and torch.equal(net.head.initial.scales, torch.full((5,), 0.5))


class Exploding:
    "What a free pickle can do."

    def __reduce__(self):
        return Path("exploded").write_text, ("x",)


# train

TINY = [
    "--train.batch=2",
    "--train.steps",
    "2",
    "--data.short",
    "64",
    "--data.long",
    "86",
    "--test.short",
    "72",
    "--test.long",
    "96",
    "--test.decode.score_threshold",
    "0",
    "--model.width",
    "16",
    "--model.tower_depth",
    "1",
    "--model.norm_groups",
    "4",
    "--model.heatmap_width",
    "8",
]


def test_train_then_eval(smpr, photos, truth):
    out = smpr(
        "train",
        "--images",
        photos,
        "--annotations",
        truth,
        "--val-images",
        photos,
        "--val-annotations",
        truth,
        "--run",
        "run",
        *TINY,
    )
    assert json.loads(out.splitlines()[-1])["step"] == 2
    found = sorted(Path("run").rglob("model.safetensors"))
    assert found and load_weights(found[0])[0].width == 16
    smpr("eval", "--images", photos, "--annotations", truth, "--weights", found[0], "--json", "numbers.json")
    assert json.loads(Path("numbers.json").read_text())["pictures"] == 3
    assert "model.width" in smpr(
        "train",
        "--images",
        photos,
        "--annotations",
        truth,
        "--run",
        "run",
        *TINY,
        "--model.width",
        "32",
        code=2,
    )


def test_train_five_keypoints(smpr, photos):
    five = coco(FIVE)
    five["categories"][0] |= {"sigmas": list(FIVE.sigmas)}
    smpr(
        "train",
        "--images",
        photos,
        "--annotations",
        write(Path("five.json"), five),
        "--run",
        "run",
        "--steps",
        "1",
        *TINY,
    )
    assert load_weights(next(Path("run").rglob("model.safetensors")))[1].K == 5


@pytest.mark.parametrize(
    "words,said",
    [
        (["--train.lr", "fast"], "--train.lr is 'fast'"),
        (["--train.speed", "1"], "--train.speed"),
        (["--train.lr"], "Missing value for argument '--train.lr'"),
        (["--model.backbone", "vgg"], "vgg"),
        (["--images", "photos"], "give both"),
        (["--val-images", "photos"], "give both"),
        (["--eval-every", "1", "--steps", "1"], "--val-images"),
        (["--weights", "mine"], "mine"),
        (["--train.steps", "2.5"], "whole number"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_train_bad_words(words, said, smpr, photos):
    assert said in smpr("train", "--run", "run", *words, code=2)


def test_train_needs_people(smpr, photos):
    nobody = write(Path("nobody.json"), coco(annotations=[]))
    assert "nobody.json" in smpr(
        "train", "--images", photos, "--annotations", nobody, "--run", Path("run").resolve(), *TINY, code=2
    )


# data, reproduce, info


def test_data_check(smpr, photos, truth):
    counts = json.loads(smpr("data", "check", "--images", photos, "--annotations", truth))["counts"]
    assert counts["pictures"] == counts["readable"] == counts["persons"] == 3
    (photos / "c.webp").unlink()
    assert "c.webp" in smpr("data", "check", "--images", photos, "--annotations", truth, code=2)
    assert "--annotations" in smpr("data", "check", code=2)


def test_data_coco(smpr, monkeypatch, tmp_path):
    asked = []
    place = "smpr.command.coco_files.download_coco"
    monkeypatch.setattr(place, lambda root, *parts: asked.append((root, *parts)))
    smpr("data", "coco", "--root", "here", "--part", "val2017", "--part", "annotations")
    assert asked == [(Path("here"), ("val", "annotations"))]
    monkeypatch.undo()
    assert "dogs" in smpr("data", "coco", "--root", tmp_path / "dogs_root", "--part", "dogs", code=2)
    assert "nowhere" in smpr("data", "coco", "--root", "nowhere", "--check-only", code=2)


def test_reproduce(smpr, monkeypatch):
    asked = []
    monkeypatch.setattr("smpr.experiments.runner.reproduce", lambda *a: asked.append(a) or len(asked) - 1)
    smpr("reproduce", "table1", "--scale", "smoke", "--seeds", "2", "--jobs", "1")
    smpr("reproduce", "table1", "--scale", "smoke", code=1)  # a row failed
    smpr(
        "reproduce",
        "table2",
        "--scale",
        "coco",
        "--steps",
        "2",
        "--batch",
        "1",
        "--scheduler",
        "tcp://here:8786",
        code=1,
    )
    assert asked == [
        ("table1", "smoke", 2, 1, Trial(), None),
        ("table1", "smoke", 1, None, Trial(), None),
        ("table2", "coco", 1, None, Trial(2, 1), "tcp://here:8786"),
    ]
    monkeypatch.undo()
    assert "--steps is '0'" in smpr("reproduce", "--steps", "0", code=2) and "give both" in smpr(
        "reproduce", "--images", "x", code=2
    )
    assert "table9" in smpr("reproduce", "table9", code=2)


def test_info(smpr):
    out = smpr("info")
    assert (
        f"torch {torch.__version__}" in out
        and "device cpu" in out
        and "device = cpu (environment)" in out
        and "weights 'rendered'" in out
    )


def test_bad_settings(smpr, monkeypatch):
    monkeypatch.setenv("SMPR_WORKERS", "many")
    assert "SMPR_WORKERS" in smpr("info", code=2)


# what is read is never replaced


@pytest.mark.parametrize(
    "outputs",
    (
        ("--json", "truth.json"),
        ("--results", "truth.json"),
        ("--json", "photos/b.jpg"),
        ("--results", "linked.json"),
        ("--json", "weights"),
        ("--json", "new.json", "--results", "new.json"),
        ("--json", "run.sh"),
        ("--json", "others.json"),
        ("--results", "others.json"),
        ("--results", "list.json"),
    ),
)
def test_eval_never_replaces_what_it_reads(outputs, smpr, weights, photos, truth, monkeypatch):
    Path("linked.json").hardlink_to(truth)
    Path("run.sh").write_text("ls")
    write(Path("others.json"), coco(info={}))
    write(Path("list.json"), ["what somebody wrote"])
    names = {"weights": weights, "photos/b.jpg": photos / "b.jpg", "truth.json": truth}
    others = map(Path, ("run.sh", "others.json", "list.json"))
    before = {path: path.read_bytes() for path in (*names.values(), *others)}
    words = [names.get(word, word) for word in outputs]
    files = ["--images", photos, "--annotations", truth, "--weights", weights]
    assert "choose another name" in smpr("eval", *files, *words, code=2)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not Path("new.json").exists()


def test_check_and_convert_never_replace_what_they_read(smpr, photos, truth):
    before = truth.read_bytes()
    assert "is read by" in smpr(
        "data", "check", "--images", photos, "--annotations", truth, "--report", truth, code=2
    )
    torch.save({"a": torch.zeros(1)}, "a.pth")
    assert "is read by" in smpr("convert", "a.pth", "./a.pth", "--kind", "resnet50_fpn", code=2)
    assert truth.read_bytes() == before and torch.load("a.pth", weights_only=True)


def test_own_outputs_are_replaced_and_nobody_elses(smpr, weights, photos, truth):
    files = ["--images", photos, "--annotations", truth]
    for _ in range(2):
        smpr("eval", *files, "--weights", weights, "--json", "numbers.json", "--results", "found.json")
        smpr("data", "check", *files, "--report", "report.json")
    for words in (
        ["data", "check", *files, "--report", "numbers.json"],
        ["convert", "a.pth", "photos/a.png", "--kind", "resnet50_fpn"],
        ["export", weights, "theirs.onnx"],
        ["export", weights, "theirs.pt2"],
    ):
        Path("a.pth").write_bytes(b"x")
        for name in ("theirs.onnx", "theirs.pt2"):
            Path(name).write_bytes(b"somebody's network")
        before = {p: p.read_bytes() for p in (*Path().iterdir(), photos / "a.png") if p.is_file()}
        assert "was not written by this command" in smpr(*words, code=2)
        assert all(p.read_bytes() == content for p, content in before.items())


@pytest.mark.parametrize(
    "words, said",
    (
        ("data coco --images x", "--images does not belong to `smpr data coco`"),
        ("data coco --report x.json --check-only", "--report does not"),
        ("data check --root x --images a --annotations b", "--root does not belong to `smpr data check`"),
        ("data check --part val --images a --annotations b", "--part does not"),
        ("eval --annotations a.json", "--images is missing"),
        ("eval --images x --annotations a.json --image-info b.json", "--image_info does not go with"),
        ("eval --images x --image-info b.json --results c.json --json d.json", "--json asks for numbers"),
    ),
)
def test_no_flag_is_ignored(words, said, smpr):
    assert said in smpr(*words.split(), code=2)
