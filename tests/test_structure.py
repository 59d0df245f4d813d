"""The house rules of the notebooks, one case a notebook."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from smpr.skeleton import COCO17, load_scene

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted(ROOT.glob("nbs/[0-9][0-9]*_*.ipynb"))
NOTEBOOKS = sorted(
    p
    for p in ROOT.glob("nbs/**/*.ipynb")
    if not any(part.startswith((".", "_")) for part in p.relative_to(ROOT).parts)
)


def name(p):
    return str(p.relative_to(ROOT / "nbs").with_suffix(""))


def cells(path: Path) -> list[dict]:
    return [c | {"text": "".join(c["source"])} for c in json.loads(path.read_text())["cells"]]


def exported(cell: dict) -> bool:
    return cell["cell_type"] == "code" and re.search(r"^#\|\s*exports?\b", cell["text"], re.M) is not None


def symbols(text: str) -> list[str]:
    "Public classes, functions and constants that a cell defines at its top level."
    out = []
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            out.append(node.name)
        for target in getattr(
            node, "targets", [getattr(node, "target", None)]
        ):  # x = ...; a, b = ...; x: int = ...
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                out += [
                    n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
                ]
    return [s for s in out if not s.startswith("_")]


def parsed(cell: dict) -> ast.Module:
    "A code cell's syntax tree, lines for the shell or IPython left out."
    return ast.parse("\n".join(l for l in cell["text"].splitlines() if not l.lstrip().startswith(("%", "!"))))


def checks(tree: ast.AST) -> bool:
    "Whether a cell asserts something."
    tests = ("test_eq", "test_close", "test_ne", "test_fail", "raises")
    called = (n.func for n in ast.walk(tree) if isinstance(n, ast.Call))
    return any(isinstance(n, ast.Assert) for n in ast.walk(tree)) or any(
        getattr(f, "id", getattr(f, "attr", "")) in tests for f in called
    )


def evaluated(tree: ast.AST) -> set[str]:
    "Names that a cell's code looks up when it runs: no text, comment, import, annotation or definition."
    hints = [getattr(n, f, None) for n in ast.walk(tree) for f in ("annotation", "returns")]
    silent = {id(n) for h in hints if h is not None for n in ast.walk(h)}
    nodes = [n for n in ast.walk(tree) if id(n) not in silent]
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} | {
        n.attr for n in nodes if isinstance(n, ast.Attribute)
    }


def untested(book: list[dict]) -> list[str]:
    "Exported symbols that no asserting cell of their section evaluates."
    sections, missing = [[]], []
    for cell in book:
        if cell["cell_type"] == "markdown" and re.search(r"^## ", cell["text"], re.M):
            sections.append([])
        sections[-1].append(cell)
    for section in sections:
        trees = [parsed(c) for c in section if c["cell_type"] == "code" and not exported(c)]
        found = set().union(*(evaluated(t) for t in trees if checks(t)))
        missing += [s for c in section if exported(c) for s in symbols(c["text"]) if s not in found]
    return missing


def test_a_mention_is_no_test():
    "What a comment, a text, an import or an annotation says is not evaluated."
    export = {"cell_type": "code", "text": "#| export\ndef f(x):\n    return x"}
    for text, missing in {
        "assert f(1) == 1": [],
        "y = m.f(1)\nassert y == 1": [],
        "assert True  # f": ["f"],
        "assert 'f' != 'g'": ["f"],
        "from m import f\nassert True": ["f"],
        "def g(x: f): ...\nassert g": ["f"],
        "f(1)": ["f"],
    }.items():
        assert untested([export, {"cell_type": "code", "text": text}]) == missing, text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_every_exported_symbol_has_an_asserting_cell(path):
    assert untested(cells(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_exported_cells_fit_on_a_screen(path):
    "60 lines: as the formatter lays them out, one argument a line where a call is long."
    lines = {
        c["id"]: sum(bool(l.strip()) for l in c["text"].splitlines()) for c in cells(path) if exported(c)
    }
    assert {cell: n for cell, n in lines.items() if n > 60} == {}


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_chapters_have_their_shape(path):
    text = "\n\n".join(c["text"] for c in cells(path) if c["cell_type"] == "markdown")
    assert re.search(r"^# .+\n\n> .+", text) and "In the paper" in text
    for heading in ("Deviations", "Summary", "Exercises"):
        assert re.search(rf"^## {heading}", text, re.M), heading
    assert len(re.findall(r"^\d\. ", text.split("## Exercises")[1], re.M)) == 3
    assert "](appendix/glossary.ipynb)" in text.split("\n## ")[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_named_imports_and_unique_ids(path):
    ids = [c["id"] for c in json.loads(path.read_text())["cells"]]
    assert len(ids) == len(set(ids))
    assert not [
        c["text"]
        for c in cells(path)
        if c["cell_type"] == "code" and re.search(r"^\s*from .* import \*", c["text"], re.M)
    ]


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_exercises_have_solutions_that_assert(path):
    "Three hidden cells after the exercises; they run with the notebook."
    book = cells(path)
    start = next(i for i, c in enumerate(book) if "## Exercises" in c["text"])
    solutions = [c for c in book[start:] if "solution" in c["metadata"].get("tags", [])]
    assert [
        re.match(r"#\| code-fold: true\n#\| code-summary: Solution (\d)\n", c["text"]).group(1)
        for c in solutions
    ] == ["1", "2", "3"]
    assert all(
        "hide-input" in c["metadata"]["tags"]
        and c["metadata"]["jupyter"] == {"source_hidden": True}
        and re.search(r"\bassert\b", c["text"])
        for c in solutions
    )


def test_notebooks_stay_small():
    "All of them together below 15 MB, so that a code host shows them and a clone is quick."
    assert sum(p.stat().st_size for p in NOTEBOOKS) < 15e6


def test_hooks_are_local():
    "Committing needs no network: no hook comes from elsewhere."
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"repo: *(\S+)", hooks)) == {"local"}
    assert re.findall(r"id: *(\S+)", hooks) == ["nbdev-clean", "ruff-format", "ruff-check", "nbdev-export"]


def test_no_machine_paths():
    "No folder of somebody's machine in any tracked text file, notebook outputs included."
    places = [f"/{place}" for place in ("work/", "root/", "home/", "tmp/tmp")]  # the last: tempfile's folders
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    found = []
    for file in filter(None, tracked):
        binary = Path(file).suffix in (".webp", ".png", ".safetensors", ".npz", ".xz")
        if binary or not (ROOT / file).exists():
            continue
        text = (ROOT / file).read_text(errors="replace")
        found += [(file, p) for p in places if p in text]
    assert found == []


STRANGER = """
import json, sys
from pathlib import Path
import numpy as np
import smpr
from smpr.cli import main

assert smpr.__file__.startswith(sys.argv[1]), smpr.__file__
picture = smpr.load_set("people", "people.json")
found = smpr.predict(smpr.load("rendered", "cpu"), ["people/a.png", np.zeros((60, 80, 3), np.uint8)])
assert len(found[0].to_pandas()) == len(found[0]) > 0 and found[0].save("drawn.png").exists()
assert set(smpr.evaluate(picture, found[:1])) > {"AP", "AR"}
quiet = {"workers": 0, "device": "cpu", "progress": False}
assert smpr.train(smpr.small_config(1, batch=1), picture, "run", start="rendered", **quiet)["step"] == 1
extras = {
    "video": lambda: smpr.predict(smpr.load("rendered", "cpu"), "clip.mp4"),
    "supervision": found[0].to_supervision,
    "export": lambda: smpr.export_network(smpr.load("rendered", "cpu"), "net.onnx"),
}
for extra, use in extras.items():
    try:
        use()
    except smpr.SmprError as e:
        assert f"pip install 'smpr[{extra}]'" in str(e), e
    else:
        raise AssertionError(extra)
for words, extra in (
    ("train --weights imagenet --images people --annotations people.json", "imagenet"),
    ("reproduce table1 --scale smoke", "experiments"),
    ("reproduce table1 --scale smoke --scheduler tcp://here:1", "dask"),
    ("render out --count 1", "render"),
):
    print(extra)
    assert main(words.split()) == 2
assert main(["info"]) == 0
"""


@pytest.mark.slow
def test_wheel_with_base_dependencies_only(tmp_path):
    """The package as a wheel, built from a copy and unpacked, in another folder, with nothing that an extra
    brings: it predicts, trains, measures, and names the extra that a request lacks."""
    source, site, away = tmp_path / "source", tmp_path / "site", tmp_path / "away"
    shutil.copytree(ROOT / "smpr", source / "smpr", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    (away / "people").mkdir(parents=True)
    # no isolation: nothing is downloaded
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    built = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-800:]
    wheel = next(tmp_path.glob("smpr-*.whl"))
    zipfile.ZipFile(wheel).extractall(site)  # what pip does with a pure Python wheel
    kept = {
        str(p.relative_to(ROOT)) for p in (ROOT / "smpr").rglob("*") if p.suffix in (".py", ".pyi", ".typed")
    }
    there = {str(p.relative_to(site)) for p in (site / "smpr").rglob("*")}
    assets = {f"smpr/assets/{p.name}" for p in (ROOT / "smpr" / "assets").iterdir()}
    assert assets and there >= kept | assets, "a sub-package or a file is missing"
    scene = load_scene()
    Image.fromarray(scene.image).save(away / "people" / "a.png")
    label = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": float(scene.areas[0])}
    label["keypoints"] = scene.keypoints[0].ravel().tolist()
    image = {"id": 1, "file_name": "a.png", "width": 320, "height": 240}
    kind = {"id": 1, "name": "person", "keypoints": list(COCO17.names)}
    document = {"images": [image], "annotations": [label], "categories": [kind]}
    (away / "people.json").write_text(json.dumps(document))
    (tmp_path / "stranger.py").write_text(STRANGER)
    env = {k: v for k, v in os.environ.items() if not k.startswith("SMPR_")} | {
        "PYTHONPATH": str(site),
        "HF_HUB_OFFLINE": "1",
    }
    words = [sys.executable, ROOT / "tests" / "base_only.py", tmp_path / "stranger.py", site]
    run = subprocess.run(words, cwd=away, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-800:] + run.stderr[-1600:]
    for extra in ("imagenet", "experiments", "dask", "render"):
        assert f"pip install 'smpr[{extra}]'" in run.stderr, (extra, run.stderr[-1600:])


def test_extras_are_named_alike():
    "Every extra that the code asks for is one of pyproject's, brings that module, and stands in the README."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = set()
    for path in (ROOT / "smpr").rglob("*.py"):
        asked |= set(re.findall(r"smpr\[(\w+)\]", path.read_text()))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
                asked.add(node.args[1].value)
    assert asked and asked <= set(project), asked - set(project)
    readme = (ROOT / "README.md").read_text()
    assert not [extra for extra in project if f"`smpr[{extra}]`" not in readme]


def program_texts() -> list[tuple[str, str]]:
    "Name and text of every script and of every code cell that is Python through and through."
    parts = [ROOT / part for part in ("benchmarks", "data", "tests", ".ci")]
    files = [p for part in parts for p in part.rglob("*.py") if "venv" not in p.parts]
    texts = [(str(p.relative_to(ROOT)), p.read_text()) for p in files]
    for path in NOTEBOOKS:
        plain = [
            c for c in cells(path) if c["cell_type"] == "code" and not re.search(r"^[!%]", c["text"], re.M)
        ]
        texts += [(f"{name(path)} {c['id']}", c["text"]) for c in plain]
    return texts


def test_every_import_from_the_package_exists():
    "In scripts that no test runs and in cells, too: every name that they take from the package is there."
    texts = program_texts()
    missing = [
        f"{where}: {node.module}.{a.name}"
        for where, text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "smpr"
        for a in node.names
        if not hasattr(importlib.import_module(node.module), a.name)
    ]
    assert len(texts) > 1000 and not missing


SHORT = {"00", "01", "02", "03"}


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_chapters_can_be_read(path):
    """40 to 80 cells, the first chapters 40 to 60; half of the code cells do at most eight things,
    however many lines the formatter takes."""
    book = cells(path)
    statements = sorted(
        sum(isinstance(n, ast.stmt) for n in ast.walk(parsed(c))) for c in book if c["cell_type"] == "code"
    )
    least, most = (40, 60) if path.name[:2] in SHORT else (40, 80)
    assert least <= len(book) <= most and statements[len(statements) // 2] <= 8, (len(book), statements)
