"""Exported files beside PyTorch. Keypoints are compared in px of the network's input (240x320, up to 319),
probabilities absolutely, at every location."""

import ast
import json
import operator
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import smpr.deploy.export
from smpr.cli import main
from smpr.data import load_set, read_image
from smpr.deploy.export import (
    Dense,
    dense_poses,
    difference,
    export_network,
    export_program,
    load_exported,
    make_notes,
    save_onnx,
    save_pt2,
    self_check,
    weights_digest,
)
from smpr.fuse import fold_norms
from smpr.inference import TestConfig, fit_picture, load, predict
from smpr.model import SMPR, BackboneName, ModelConfig
from smpr.settings import SmprError, atomic_write, load_settings

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow  # exporting a network takes a minute
KINDS = (".onnx", ".pt2")
LIMIT = 1e-3  # px and probability


def foreign_ops(program) -> list[str]:
    "Operations of the graph that are neither PyTorch's own (aten) nor Python's arithmetic on sizes."
    calls = {n.target for n in program.graph.nodes if n.op == "call_function"}
    others = (f for f in calls if getattr(f, "namespace", "") != "aten")
    return sorted(str(f) for f in others if getattr(operator, getattr(f, "__name__", ""), None) is not f)


@pytest.fixture(scope="session")
def net() -> SMPR:
    return load("rendered", "cpu")


@pytest.fixture(scope="session")
def program(net):
    return export_program(net)


@pytest.fixture(scope="session")
def paths(net, program, tmp_path_factory) -> dict[str, Path]:
    folder, notes = tmp_path_factory.mktemp("export"), make_notes(net)
    return {
        ".onnx": save_onnx(program, notes, folder / "net.onnx"),
        ".pt2": save_pt2(program, notes, folder / "net.pt2"),
    }


@pytest.fixture(scope="session")
def files(paths):
    return {kind: load_exported(path, trust=True) for kind, path in paths.items()}


@pytest.fixture(scope="session")
def pictures() -> list[Path]:
    data = load_settings().data / "val"
    return [
        data / "images" / r.file
        for r in load_set(data / "images", data / "person_keypoints.json").records[:20]
    ]


@pytest.fixture(scope="session")
def answers(net, pictures) -> list[tuple]:
    "What PyTorch says, asked once: input, its size, dense answers, poses."
    out = []
    for path in pictures:
        padded, size, _ = fit_picture(read_image(path), 240, 320)
        with torch.inference_mode():
            out.append(
                (
                    padded,
                    torch.tensor([size]),
                    dense_poses(net, padded, torch.tensor([size])),
                    predict(net, path),
                )
            )
    return out


@torch.inference_mode()
def both(net, file, images, sizes) -> tuple[Dense, Dense]:
    return dense_poses(net, images, sizes), file.dense(images, sizes)


def message(call) -> str:
    with pytest.raises(SmprError) as e:
        call()
    assert "\n" not in str(e.value)
    return str(e.value)


# the same answers


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_pictures(kind, files, answers):
    assert len(answers) == 20
    for padded, sizes, dense, _ in answers:
        found = difference(dense, files[kind].dense(padded, sizes))
        assert found.pixels < LIMIT and found.probability < LIMIT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 96, 224), (2, 256, 320), (1, 352, 288)], ids=str)
def test_batch_and_size(kind, shape, net, files):
    n, h, w = shape
    images = torch.randint(
        0, 256, (n, 3, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    found = difference(*both(net, files[kind], images, torch.tensor([[h - 3 * i, w - 7] for i in range(n)])))
    assert found.pixels < LIMIT and found.probability < LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_poses_after_selection(kind, files, pictures, answers):
    people = 0
    for path, (*_, want) in zip(pictures, answers, strict=True):
        got = files[kind].predict(path)
        assert (
            len(want) == len(got)
            and np.allclose(want.keypoints, got.keypoints, atol=1e-2)
            and np.allclose(want.scores, got.scores, atol=LIMIT)
        ), path.name
        people += int((want.scores > 0.2).sum())
    assert people > 10


def test_scales_mirror_and_lists(net, files, pictures):
    config = TestConfig(scales=((192, 256), (240, 320)), flip=True, decode=net.test.decode)
    for want, got in zip(
        predict(net, pictures[:1], config), files[".onnx"].predict(pictures[:1], config), strict=True
    ):
        assert np.allclose(want.keypoints, got.keypoints, atol=1e-2) and np.allclose(
            want.scores, got.scores, atol=LIMIT
        )


# what is inside


def test_plain_operators(program, paths):
    model = onnx.load(paths[".onnx"])
    onnx.checker.check_model(model)
    assert (
        {n.domain for n in model.graph.node} == {""}
        and not model.functions
        and {o.domain for o in model.opset_import} <= {""}
    )
    assert foreign_ops(program) == [] == foreign_ops(torch.export.load(paths[".pt2"]))
    assert {t.data_type for t in model.graph.initializer} & {
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    } == set()


def test_foreign_ops_are_seen():
    class Foreign(torch.nn.Module):
        def forward(self, x):
            return torch.ops.torchvision.nms(x, x[:, 0], 0.5)

    import torchvision  # registers its operators

    assert torchvision.ops and foreign_ops(torch.export.export(Foreign(), (torch.rand(3, 4),))) == [
        "torchvision.nms.default"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_notes(kind, net, files, paths):
    file = files[kind]
    assert (file.config, file.skeleton, file.test, file.digest) == (
        net.config,
        net.skeleton,
        net.test,
        weights_digest(net),
    )
    content = paths[kind].read_bytes()
    assert not [
        p
        for p in (str(Path(smpr.deploy.export.__file__).parent), str(Path(torch.__file__).parent))
        if p.encode() in content
    ]


# errors


def test_unknown_ending(net, tmp_path):
    for call in (
        lambda: export_network(net, tmp_path / "net.tflite"),
        lambda: load_exported(tmp_path / "net"),
    ):
        assert ".onnx or .pt2" in message(call)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_files(kind, tmp_path, paths):
    assert "no such file" in message(lambda: load_exported(tmp_path / f"none{kind}"))
    for name, content in (
        ("text", b"not a graph"),
        ("empty", b""),
        ("cut", paths[kind].read_bytes()[:200_000]),
    ):
        path = tmp_path / f"{name}{kind}"
        path.write_bytes(content)
        assert "export it again" in message(
            lambda: load_exported(path, True)
        ) or "not written by smpr" in message(lambda: load_exported(path, True))


def test_files_of_others(tmp_path, paths):
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), tmp_path / "other.pt2")
    model = onnx.load(paths[".onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    for kind in KINDS:
        assert "not written by smpr export" in message(lambda: load_exported(tmp_path / f"other{kind}", True))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages(package, net, tmp_path, monkeypatch, paths):
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'smpr[export]'" in message(
        lambda: export_network(net, tmp_path / "net.onnx")
    ) and not list(tmp_path.iterdir())
    if package == "onnxruntime":
        assert "pip install 'smpr[export]'" in message(lambda: load_exported(paths[".onnx"]))


@pytest.mark.parametrize("side", [32, 100, 8192])
def test_sides(side, files):
    assert "64 to 4096 px in steps of 32" in message(
        lambda: files[".onnx"].dense(
            torch.zeros(1, 3, side, 320, dtype=torch.uint8), torch.tensor([[side, 320]])
        )
    )


def test_other_weights(net, paths):
    other = load("rendered", "cpu")
    with torch.no_grad():
        other.head.person.bias += 1
    assert "other weights" in message(lambda: self_check(other, paths[".onnx"]))


def test_a_file_that_differs_is_not_kept(net, program, tmp_path, monkeypatch):
    old = tmp_path / "net.pt2"
    old.write_bytes(b"older")
    right = smpr.deploy.export.dense_poses

    def wrong(*a):
        d = right(*a)
        return Dense(d.keypoints, d.person + 0.01, d.confidence, d.strides)

    monkeypatch.setattr(smpr.deploy.export, "dense_poses", wrong)
    assert "differs from PyTorch" in message(lambda: export_network(net, old, program))
    assert old.read_bytes() == b"older" and [p.name for p in tmp_path.iterdir()] == ["net.pt2"]


def test_a_full_disk_keeps_the_old_file(net, program, tmp_path, monkeypatch):
    def full(*a):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "cannot be written" in message(
        lambda: export_network(net, tmp_path / "net.pt2", program)
    ) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_the_command(kind, program, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(smpr.deploy.export, "export_program", lambda net: program)  # made once is enough
    if kind == ".onnx":
        monkeypatch.setattr(
            smpr.deploy.export, "save_onnx", lambda program, notes, path: atomic_write(path, b"not a graph")
        )
    code = main(["export", "rendered", str(tmp_path / "new" / f"net{kind}")])
    out, err = capsys.readouterr()
    if kind == ".pt2":
        assert code == 0 and "MB" in out and "px" in out and os.listdir(tmp_path / "new") == ["net.pt2"]
    else:
        assert code == 2 and err.count("smpr: error: ") == 1 and not os.listdir(tmp_path / "new")


# other networks


@pytest.mark.parametrize(
    "backbone, kind", [(BackboneName.RESNET18, ".onnx"), (BackboneName.RESNET50, ".pt2")]
)
def test_random_networks(backbone, kind, tmp_path):
    torch.manual_seed(0)
    other = SMPR(
        ModelConfig(
            backbone=backbone, strides=(8, 16), width=16, tower_depth=1, norm_groups=4, heatmap_width=8
        )
    ).eval()
    other = fold_norms(other)
    other.test = TestConfig(120, 160)
    path, found = export_network(other, tmp_path / f"net{kind}")
    images = torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8)
    assert (
        found.worst < LIMIT
        and difference(
            *both(other, load_exported(path, True), images, torch.tensor([[96, 128], [90, 100]]))
        ).worst
        < LIMIT
    )


@pytest.fixture(scope="session")
def snapping(tmp_path_factory) -> tuple[SMPR, dict]:
    "The weights `real`, which snap, and what both kinds of file of them say; the graph is made once."
    net, folder = load("real", "cpu"), tmp_path_factory.mktemp("real")
    program = export_program(net)
    return net, {kind: export_network(net, folder / f"real{kind}", program) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_snaps_takes_its_heatmap_along(kind, snapping, pictures):
    net, (path, found) = snapping[0], snapping[1][kind]
    file, still = (
        load_exported(path, trust=True),
        replace(net.test, decode=replace(net.test.decode, snap=None)),
    )
    ours, theirs, unsnapped = (
        f(pictures[:3], config)
        for f, config in (
            (lambda *a: predict(net, *a), net.test),
            (file.predict, None),
            (file.predict, still),
        )
    )
    assert net.test.decode.snap == 1 and found.worst < LIMIT and file.test == net.test
    assert any(len(a.scores) for a in ours)
    for a, b, c in zip(ours, theirs, unsnapped, strict=True):
        assert np.allclose(a.keypoints, b.keypoints, atol=0.05) and np.allclose(a.scores, b.scores, atol=1e-3)
        assert (
            not len(a.scores)
            or len(a.scores) != len(c.scores)
            or not np.allclose(a.keypoints, c.keypoints, atol=0.5)
        )


def test_a_file_without_heatmap_says_so(files, pictures):
    snapping = replace(files[".pt2"].test, decode=replace(files[".pt2"].test.decode, snap=1.0))
    assert "snap None" in message(lambda: files[".pt2"].predict(pictures[0], snapping))


# without this package


CHAPTER = Path(__file__).parent.parent / "nbs" / "deploy" / "export.ipynb"
HEAD = "%%writefile onnx_example.py\n"  # the cell that shows the program
ALONE = """
import runpy, sys
sys.modules["torch"] = sys.modules["smpr"] = None  # whoever imports them fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(script: Path, *arguments: Path) -> subprocess.CompletedProcess:
    "A program run where neither PyTorch nor this package can be imported."
    command = [sys.executable, "-c", ALONE, script, *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


@pytest.fixture(scope="session")
def example(tmp_path_factory) -> Path:
    "The program that the chapter shows, as a file."
    texts = ["".join(c["source"]) for c in json.loads(CHAPTER.read_text())["cells"]]
    [text] = [t.removeprefix(HEAD) for t in texts if t.startswith(HEAD)]
    path = tmp_path_factory.mktemp("alone") / "onnx_example.py"
    path.write_text(text + "\n")
    return path


def test_the_program_is_short_and_needs_little(example):
    "Forty lines, one statement each, as the linter likes them; no import but the runtime's and pictures."
    text = example.read_text()
    nodes = list(ast.walk(ast.parse(text)))
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    assert names <= {"json", "sys", "numpy", "onnxruntime", "PIL"} and len(text.splitlines()) <= 40
    settings = ["--config", str(CHAPTER.parents[2] / "pyproject.toml")]
    for rule in (["check", "--extend-select", "E7"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *rule, *settings, str(example)]
        assert subprocess.run(command, capture_output=True).returncode == 0, rule


@pytest.mark.parametrize("module", ["torch", "smpr.inference"])
def test_alone_is_alone(module, tmp_path):
    script = tmp_path / "needs_more.py"
    script.write_text(f"import {module}\n")
    run = alone(script)
    assert run.returncode and "ModuleNotFoundError" in run.stderr


@pytest.mark.parametrize("weights", ["real", "rendered"])
def test_the_program_finds_what_predict_finds(weights, net, paths, snapping, example, pictures):
    "Settings, sizes, snapping and selection are in the file and forty lines: 0.1 px and 0.001 in score."
    network, file = (snapping[0], snapping[1][".onnx"][0]) if weights == "real" else (net, paths[".onnx"])
    people = 0
    for picture in pictures[:6]:
        want, run = predict(network, picture), alone(example, file, picture)
        assert not run.returncode, run.stderr
        rows = [line.split() for line in run.stdout.splitlines()]
        scores = [float(r[1]) for r in rows if len(r) == 2]
        n = int((want.scores >= 0.2).sum())
        assert len(scores) == n and np.allclose(scores, want.scores[:n], rtol=0, atol=0.001), picture.name
        points = np.array([r[1:] for r in rows if len(r) == 3], float).reshape(n, 17, 2)
        assert [r[0] for r in rows if len(r) == 3] == n * list(network.skeleton.names)
        assert np.allclose(points, want.keypoints[:n, :, :2], rtol=0, atol=0.1), picture.name
        people += n
    assert people > 2
