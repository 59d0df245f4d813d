"""COCO at full size in miniature: two processes equal one, the paper's configuration runs, downloads survive
interruptions."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file

from smpr.cli import main
from smpr.command.coco_files import COCO_PARTS, check_coco, download_coco, fetch
from smpr.data import load_set
from smpr.full_training import coco_config, coco_set
from smpr.run_folder import read_log
from smpr.settings import SmprError
from smpr.training import train
from smpr.update import Config

PEOPLE = Path(__file__).parent.parent / "data" / "people"


def wide(picture: Image.Image, notes: list[dict]) -> Image.Image:
    """In the middle of one four times as wide, its labels moved along: at the paper's sizes a third or a
    quarter of the work."""
    left = 3 * picture.width // 2
    out = Image.new("RGB", (4 * picture.width, picture.height))
    out.paste(picture, (left, 0))
    for a in notes:
        a["bbox"][0] += left
        a["keypoints"][::3] = [x + left * (v > 0) for x, v in zip(a["keypoints"][::3], a["keypoints"][2::3])]
    return out


def write_coco(root: Path, counts: dict[str, int], change: Callable = lambda picture, notes: picture) -> Path:
    "A folder laid out like COCO 2017, with a few of our pictures, each changed."
    (root / "annotations").mkdir(parents=True)
    for split, count in counts.items():
        full = json.loads((PEOPLE / split / "person_keypoints.json").read_text())
        images = full["images"][:count]
        notes = [a for a in full["annotations"] if a["image_id"] in {im["id"] for im in images}]
        (root / f"{split}2017").mkdir()
        for im in images:
            with Image.open(PEOPLE / split / "images" / im["file_name"]) as picture:
                own = [a for a in notes if a["image_id"] == im["id"]]
                changed = change(picture.convert("RGB"), own)
            im |= {"file_name": f"{im['id']:012d}.jpg", "width": changed.width, "height": changed.height}
            changed.save(root / f"{split}2017" / im["file_name"], quality=90)
        (root / "annotations" / f"person_keypoints_{split}2017.json").write_text(
            json.dumps(full | {"images": images, "annotations": notes})
        )
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco") / "coco", {"train": 8, "val": 3})


def miniature(**changes) -> Config:
    """The paper's run with a smaller backbone, narrower head and smaller pictures; schedule, losses and
    options untouched."""
    base = coco_config("code", 30, pictures=8, backbone="resnet18", start="none")
    return replace(
        base,
        model=replace(base.model, width=16, norm_groups=4, heatmap_width=16, tower_depth=1),
        data=replace(base.data, short=96, long=160, crop=96),
        test=replace(base.test, short=96, long=160),
        train=replace(
            base.train, **{"batch": 4, "steps": 3, "warmup": 1, "bf16": False, "lr": 0.002} | changes
        ),
    )


@pytest.mark.slow
def test_the_papers_run_in_miniature(coco, tmp_path):
    "Two steps of coco_config on the CPU, from files laid out like COCO, measured on val2017."
    assert check_coco(coco, official=False)["train"]["pictures"] == 8
    summary = train(
        miniature(bf16=True, ema=0.9),
        coco_set(coco),
        tmp_path,
        coco_set(coco, "val"),
        steps=2,
        workers=1,
        device="cpu",
        progress=False,
    )
    assert summary["step"] == 2 and 0 <= summary["metrics"]["AP"] <= 1
    assert {"person", "initial", "refined", "score", "heatmap"} <= set(summary["losses"])


SCRIPT = """
import sys
from pathlib import Path
import torch; torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_full_training import miniature
from smpr.full_training import coco_set
from smpr.training import train
from smpr.processes import processes
coco, folder = Path(sys.argv[1]), Path(sys.argv[2])
with processes("cpu"):
    for parts in (1, 2):
        train(miniature(accumulate=parts), coco_set(coco), folder / ("run" + str(parts)),
              coco_set(coco, "val"), steps=2, log_every=1, workers=0, device="cpu",
              progress=False, minutes=60)
"""


@pytest.fixture(scope="module")
def two(coco, tmp_path_factory) -> dict[int, Path]:
    "Run folders of two steps by two processes that torchrun started, with and without accumulation."
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo backend")
    folder = tmp_path_factory.mktemp("two")
    script = folder / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "127.0.0.1:0",
        "--local-addr",
        "127.0.0.1",
        str(script),
        str(coco),
        str(folder),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-6000:]
    return {parts: folder / f"run{parts}" for parts in (1, 2)}


@pytest.fixture(scope="module")
def one(coco, tmp_path_factory) -> Path:
    "The same two steps by one process."
    run = tmp_path_factory.mktemp("one") / "run"
    train(
        miniature(),
        coco_set(coco),
        run,
        coco_set(coco, "val"),
        steps=2,
        log_every=1,
        workers=0,
        device="cpu",
        progress=False,
    )
    return run


@pytest.mark.slow
@pytest.mark.parametrize("parts", (1, 2))
def test_two_processes_equal_one(two, one, parts):
    "The same losses at both steps, the same weights after them, and the same measurement."
    rows, ours = (
        [
            {k: v for k, v in r.items() if k not in ("pictures_per_second", "memory_gib")}
            for r in read_log(run)
        ]
        for run in (one, two[parts])
    )
    assert [set(r) for r in rows] == [set(r) for r in ours] and len(rows) == 3
    for a, b in zip(rows, ours):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=1e-5, abs=1e-7), (a["step"], name)
    a, b = (load_file(run / "last" / "model.safetensors") for run in (one, two[parts]))
    assert all((a[k] - b[k]).abs().max() < 1e-5 for k in a)


@pytest.mark.slow
def test_training_moved_the_weights(one, coco):
    "Otherwise equality would say little."
    from smpr.update import make_state

    start, end = make_state(miniature()).net.state_dict(), load_file(one / "last" / "model.safetensors")
    assert (start["head.initial.conv.weight"] - end["head.initial.conv.weight"]).abs().max() > 1e-4


@pytest.mark.slow
def test_another_number_of_processes_may_resume(two, one, coco):
    "Two processes began, one goes on."
    for run in (one, two[1]):
        train(miniature(), coco_set(coco), run, workers=0, device="cpu", progress=False)
    a, b = (load_file(run / "last" / "model.safetensors") for run in (one, two[1]))
    assert all((a[k] - b[k]).abs().max() < 1e-5 for k in a)


def train_words(run: Path, coco: Path, steps: int, weights: Path | str = "none") -> list[str]:
    "The command line of chapter 15, smaller."
    flags = {
        "model.backbone": "resnet18",
        "model.width": 16,
        "model.norm_groups": 4,
        "model.heatmap_width": 16,
        "model.tower_depth": 1,
        "data.short": 96,
        "data.long": 160,
        "data.crop": 96,
        "test.short": 96,
        "test.long": 160,
        "train.batch": 4,
        "train.steps": 4,
        "train.bf16": "false",
        "train.lr": 0.002,
    }
    return [
        "train",
        "--preset",
        "code",
        "--run",
        str(run),
        "--steps",
        str(steps),
        "--device",
        "cpu",
        "--weights",
        str(weights),
        "--images",
        str(coco / "train2017"),
        "--annotations",
        str(coco / "annotations/person_keypoints_train2017.json"),
        *(str(w) for k, v in flags.items() for w in (f"--{k}", v)),
    ]


def torchrun(
    machines: int, run: Path, coco: Path, steps: int, weights: Path | str = "none"
) -> list[subprocess.CompletedProcess]:
    """The command line of chapter 15 on so many machines, all of them this one: each a torchrun with one
    process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        str(machines),
        "--nproc-per-node",
        "1",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"127.0.0.1:{port}",
        "--rdzv-id",
        "coco",
        "--local-addr",
        "127.0.0.1",
        "-m",
        "--",
        "smpr.cli",
        *train_words(run, coco, steps, weights),
    ]
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "SMPR_WORKERS": "0"}
    started = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(machines)
    ]
    return [
        subprocess.CompletedProcess(command, p.wait(), out, err)
        for p, (out, err) in [(p, p.communicate(timeout=300)) for p in started]
    ]


@pytest.mark.slow
def test_two_machines_meet_and_equal_one(coco, tmp_path, monkeypatch, capsys):
    """Two torchruns find each other at the rendezvous and train as one process does, which goes on from their
    checkpoint."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo backend")
    done = torchrun(2, tmp_path / "2", coco, 2)
    assert [d.returncode for d in done] == [0, 0], done[0].stderr[-3000:]
    assert sum('"step": 2' in d.stdout for d in done) == 1  # one of them speaks
    monkeypatch.setenv("SMPR_WORKERS", "0")
    assert main(train_words(tmp_path / "1", coco, 2)) == 0 and '"step": 2' in capsys.readouterr().out
    a, b = (load_file(tmp_path / n / "last" / "model.safetensors") for n in "12")
    assert all((a[k] - b[k]).abs().max() < 1e-5 for k in a)
    assert main(train_words(tmp_path / "2", coco, 4)) == 0
    assert '"step": 4, "steps": 2' in capsys.readouterr().out


def test_machines_must_see_the_same_run(tmp_path, monkeypatch):
    "A process that found no checkpoint while another did says so instead of waiting for ever."
    from smpr import run_folder, update

    config = miniature()
    state = update.make_state(config)
    monkeypatch.setattr(run_folder, "over_ranks", lambda t: (t + 250) / 2)  # the other one is at step 250
    poses = load_set(PEOPLE / "val" / "images", PEOPLE / "val" / "person_keypoints.json")
    with pytest.raises(SmprError, match="step 0 .* all of them must see"):
        run_folder.open_run(tmp_path / "run", config, poses, state)


class Handler(http.server.BaseHTTPRequestHandler):
    "Serves files below `root` with ranges; hangs up after `cut` bytes."

    root, cut, sent = Path(), None, 0

    def do_GET(self):
        path = Handler.root / self.path.lstrip("/")
        if not path.is_file():
            return self.send_error(404)
        data, start = path.read_bytes(), int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        Handler.sent += len(data[start:][: Handler.cut])
        self.wfile.write(data[start:][: Handler.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(coco, tmp_path):
    "Address of a server with the miniature COCO as zips, and the folder it serves."
    Handler.root, Handler.cut, Handler.sent = tmp_path / "www", None, 0
    for part in ("zips", "annotations"):
        (Handler.root / part).mkdir(parents=True)
    for name in ("train", "val", "annotations"):
        with zipfile.ZipFile(Handler.root / COCO_PARTS[name].file, "w") as z:
            for f in sorted((coco / COCO_PARTS[name].holds).iterdir()):
                z.write(f, f"{COCO_PARTS[name].holds}/{f.name}")
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}", Handler.root
    serving.shutdown()
    serving.server_close()


FEW = {
    name: replace(COCO_PARTS[name], members=n, checksum=None)
    for name, n in (("train", 8), ("val", 3), ("annotations", None))
}


def test_interrupted_download_goes_on(server, coco, tmp_path):
    """Every connection ends after 20,000 bytes: repeated calls finish, no byte is sent twice, and the result
    is the original."""
    base, root = server
    Handler.cut = 20_000
    for _ in range(50):
        try:
            download_coco(tmp_path / "got", base_url=base, known=FEW, progress=False)
        except SmprError as e:
            assert "run again" in str(e)
        else:
            break
    else:
        pytest.fail("never finished")
    assert Handler.sent == sum(
        (root / COCO_PARTS[n].file).stat().st_size for n in ("train", "val", "annotations")
    )
    assert check_coco(tmp_path / "got", official=False) == check_coco(coco, official=False)
    for f in (coco / "train2017").iterdir():
        assert (tmp_path / "got" / "train2017" / f.name).read_bytes() == f.read_bytes()


@pytest.mark.parametrize("damage", ("bit", "cut", "checksum", "count"))
def test_damaged_zip_is_found(server, tmp_path, damage):
    "Nothing is unpacked from a zip that is not what it should be."
    base, root = server
    path, val = root / COCO_PARTS["val"].file, FEW["val"]
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[len(data) // 2] ^= 4
    if damage == "cut":
        del data[-100:]
    if damage == "checksum":
        val = replace(val, checksum="0" * 64)
    if damage == "count":
        val = replace(val, members=4)
    path.write_bytes(data)
    with pytest.raises(SmprError, match="download it again"):
        download_coco(tmp_path / "got", ("val",), base, {"val": val}, progress=False)
    assert not (tmp_path / "got" / "val2017").exists()


def test_server_trouble(server, tmp_path):
    base, _ = server
    with pytest.raises(SmprError, match="404"):
        fetch(f"{base}/nowhere.zip", tmp_path / "x.zip", progress=False)
    with pytest.raises(SmprError, match="run again"):
        fetch("http://127.0.0.1:9/x.zip", tmp_path / "x.zip", progress=False, timeout=5)
    (tmp_path / "file").write_text("")
    with pytest.raises(SmprError, match="failed"):
        fetch(f"{base}/{COCO_PARTS['val'].file}", tmp_path / "file" / "x.zip", progress=False)
    assert not (tmp_path / "x.zip").exists()


def test_check_names_what_is_missing(tmp_path):
    root = write_coco(tmp_path / "coco", {"train": 2, "val": 2})
    with pytest.raises(SmprError, match="118,287"):
        check_coco(root)
    next((root / "val2017").iterdir()).unlink()
    with pytest.raises(SmprError, match="1 of 2 pictures are missing.*smpr data coco"):
        check_coco(root, official=False)
    (root / "annotations" / "person_keypoints_train2017.json").unlink()
    with pytest.raises(SmprError, match="no such file"):
        check_coco(root, official=False)
