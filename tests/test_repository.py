"What a forge reads: workflow, forms, citation, changelog; they say what pyproject.toml and the Makefile say."

import base64
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import smpr

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
STEPS = [step for job in FLOW["jobs"].values() for step in job["steps"]]
FORMS = sorted(p for p in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml") if p.name != "config.yml")
TEXTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob(".github/**/*.md"), *ROOT.glob(".github/**/*.yml"), ROOT / "Dockerfile"]
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def promised() -> list[str]:
    "The Python versions of the classifiers."
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in PROJECT["classifiers"])
    return [match[1] for match in found if match]


def test_every_promised_python_is_tried():
    tried = FLOW["jobs"]["quick"]["strategy"]["matrix"]["python"]
    assert tried == promised() and PROJECT["requires-python"] == f">={tried[0]}"
    chosen = [step["with"]["python-version"] for step in STEPS if "setup-python" in step.get("uses", "")]
    assert set(chosen) <= {"${{ matrix.python }}", *tried}


def test_the_workflow_may_read_and_nothing_else():
    assert FLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in FLOW["jobs"].values())
    assert "secrets" not in str(FLOW) and FLOW["concurrency"]["cancel-in-progress"] is True
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in STEPS if "uses" in step)
    assert [step["run"].split()[:2] for step in STEPS if "run" in step] == [
        ["make", "quick"],
        ["make", "test"],
    ]


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_named_targets_and_files_exist(path):
    "`make x` is a target of the Makefile; a relative link leads somewhere."
    text, targets = path.read_text(), re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"(?:`|run: |^)make ([a-z]+)", text, re.M)) <= set(targets)
    links = re.findall(r"\]\(([^)#]+)", text) if path.suffix == ".md" else []
    assert [l for l in links if "://" not in l and not (path.parent / l).exists()] == []


@pytest.mark.parametrize("path", FORMS, ids=name)
def test_form(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"]
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len(asked)
    assert all(part["attributes"]["label"] for part in asked)
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_citation():
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert about["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(about)
    assert (about["title"], about["version"], about["license"]) == (
        "smpr",
        smpr.__version__,
        PROJECT["license"],
    )
    paper, readme = about["references"][0], (ROOT / "README.md").read_text()
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    assert f"{{{paper['title']}}}" in readme and f"{{{authors}}}" in readme and paper["url"] in readme


def test_changelog():
    "What is not released stands first, then versions, newest first; this package's version is among them."
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.+)$", text, re.M)
    assert heads[0] == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", head) for head in heads[1:]]
    assert all(versions)
    numbers = [tuple(map(int, match.groups())) for match in versions]
    assert numbers == sorted(set(numbers), reverse=True) and f"## [{smpr.__version__}] - " in text
    kinds = set(re.findall(r"^### (.+)$", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_readme_shows_the_diagram_of_chapter_00():
    "The picture is the stored output of the notebook, byte for byte: benchmarks/readme_picture.py copies it."
    cells = json.loads((ROOT / "nbs" / "00_one_page.ipynb").read_text())["cells"]
    stored = [o["data"] for c in cells for o in c.get("outputs", []) if "image/jpeg" in o.get("data", {})]
    picture = base64.b64encode((ROOT / "figures" / "readme_method.jpg").read_bytes()).decode()
    assert picture in ["".join(d["image/jpeg"]).replace("\n", "") for d in stored]
