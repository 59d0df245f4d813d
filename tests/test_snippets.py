"""What the texts show can be typed: the imports of each fenced snippet run, what it takes from smpr is there,
its calls fit, and each line that calls the command is read by the command's parser, without running."""

import ast
import inspect
import json
import re
import shlex
import shutil
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import smpr
from smpr import cli
from smpr.settings import load_settings

ROOT = Path(__file__).parent.parent
PLACES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("nbs/**/*.ipynb"))]
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.M | re.S)


def texts(path: Path) -> str:
    "A text, or the markdown cells of a notebook."
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def snippets(kinds: tuple[str, ...]) -> list:
    "Every fenced snippet of these languages, as a test parameter named after its place."
    out = []
    for path in PLACES:
        for n, (kind, text) in enumerate(FENCE.findall(texts(path))):
            if kind in kinds:
                out.append(pytest.param(inspect.cleandoc(text), id=f"{path.relative_to(ROOT)}:{n}"))
    return out


def commands(text: str) -> list[list[str]]:
    "The words of every call of smpr in a snippet, torchrun's own words left out."
    out = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip().startswith(("smpr ", "torchrun ")):
            continue
        words = shlex.split(line, comments=True)
        if words[-1:] == ["..."] and not words[-2].startswith("--"):
            words = words[:-1]  # and so on
        if words[:1] == ["torchrun"] and "smpr.cli" in words:
            words = ["smpr", *words[words.index("smpr.cli") + 1 :]]
        elif words[:1] == ["torchrun"]:
            raise AssertionError(f"what does this run? {line}")
        out += [words[1:]] if words[:1] == ["smpr"] else []
    return out


def read(words: list[str]) -> None:
    "The command's own parser, options of the configuration included; nothing is run."
    if {"--help", "--version"} & set(words):
        return
    command = cli.read_command(words)
    if isinstance(command, cli.Train):
        cli.change_many(cli.preset_config(command.preset), [*command.changes])


@pytest.mark.parametrize("text", snippets(("sh", "bash", "shell", "")))
def test_command_lines_are_read(text):
    for words in commands(text):
        read(words)


INLINE = [
    pytest.param(line, id=f"{path.relative_to(ROOT)}: {line}")
    for path in PLACES
    for line in re.findall(r"`(smpr (?:train|reproduce|data coco)(?: [^`\n]+)?)`", texts(path))
]


@pytest.mark.parametrize("line", INLINE)
def test_commands_inside_sentences_are_read(line):
    for words in commands(line):
        read(words)


@pytest.mark.parametrize("text", snippets(("python", "py")))
def test_imports_run_and_calls_fit(text):
    tree, names = ast.parse(text), {"smpr": smpr}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(compile(ast.Module([node], []), "snippet", "exec"), names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "smpr":
            assert hasattr(smpr, node.attr), f"smpr.{node.attr}"
        dotted = isinstance(node, ast.Call) and re.fullmatch(r"[\w.]+", ast.unparse(node.func))
        if dotted and dotted[0].split(".")[0] in names:
            function = eval(dotted[0], names)
            if getattr(function, "__module__", "").partition(".")[0] == "smpr":
                fits = partial(inspect.signature(function).bind, *node.args)
                fits(**{k.arg: k.value for k in node.keywords if k.arg})


def test_the_reader_reads():
    "A wrong flag, a wrong option and a torchrun of something else are found."
    assert commands("smpr train --run x \\\n  --steps 3  # so\n") == [["train", "--run", "x", "--steps", "3"]]
    assert commands("torchrun --nproc-per-node 4 -m -- smpr.cli train --preset code ...") == [
        ["train", "--preset", "code"]
    ]
    for wrong in (["train", "--speed", "3"], ["train", "--train.speed", "3"], ["reproduce", "--gpus", "3"]):
        with pytest.raises(smpr.SmprError):
            read(wrong)
    with pytest.raises(TypeError):
        test_imports_run_and_calls_fit("smpr.load(weight='real')")
    with pytest.raises(ImportError):
        test_imports_run_and_calls_fit("from smpr.model import Nothing")
    assert len(snippets(("sh",))) > 5 and len(snippets(("python",))) > 5 and len(INLINE) > 5


def some(root: Path, pictures: str, file: str) -> None:
    "Three pictures of people in a folder, and a COCO-format file that says nothing of sigmas."
    source = load_settings().data / "val"
    full = json.loads((source / "person_keypoints.json").read_text())
    chosen = {a["image_id"] for a in full["annotations"] if a["num_keypoints"] > 5}
    images = [im for im in full["images"] if im["id"] in chosen][:3]
    for im in images:
        (root / pictures).mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "images" / im["file_name"], root / pictures)
    people = [a for a in full["annotations"] if a["image_id"] in {im["id"] for im in images}]
    kinds = [{k: v for k, v in c.items() if k != "sigmas"} for c in full["categories"]]
    (root / file).write_text(json.dumps({"images": images, "annotations": people, "categories": kinds}))


@pytest.mark.slow
@pytest.mark.parametrize("place", ("README.md", "nbs/tutorials/own_skeleton.ipynb"))
def test_the_python_that_a_reader_copies_runs(place, tmp_path, monkeypatch):
    "One after the other, with files of the names that the texts use; half an hour of training is one step."
    from test_media import film

    monkeypatch.setenv("SMPR_DATA", str(load_settings().data))
    monkeypatch.chdir(tmp_path)
    for part, file in (("birds/images", "birds/keypoints.json"), ("birds/val", "birds/val.json")):
        some(tmp_path, part, file)
    for part in ("train", "val"):
        some(tmp_path, f"birds/{part}/images", f"birds/{part}/keypoints.json")
    some(tmp_path, "photos", "truth.json")
    photo = next((tmp_path / "photos").iterdir())
    with Image.open(photo) as picture:
        for name in ("holiday.jpg", "bird.jpg"):
            picture.convert("RGB").save(name)
        film(tmp_path / "clip.mp4", picture.convert("RGB"), range(2), Fraction(1, 10))
    names: dict = {}
    for kind, text in FENCE.findall(texts(ROOT / place)):
        if kind == "python":
            code = text.replace("minutes=30", "minutes=0.0, device='cpu', workers=0, progress=False")
            exec(compile(inspect.cleandoc(code), place, "exec"), names)
    assert place != "README.md" or Path("bird.png").exists()
    assert Path("runs/birds/last").is_dir()
