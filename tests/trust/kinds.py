"""The ten kinds of trouble that strangers' files and surroundings bring: how many tests each has, and how
many hold. A test belongs to the kind whose number stands in the last comment above it."""

import contextlib
import re
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
KINDS = {
    1: "an assumed id",
    2: "names guessed silently",
    3: "compatibility by count",
    4: "truth that cannot be measured",
    5: "media as phones and tools make them",
    6: "names that collide",
    7: "printing what strangers wrote",
    8: "values out of range",
    9: "advice that cannot be followed",
    10: "hostile and unlucky surroundings",
}
NAMES = ("strangers", "truth", "media", "ranges", "advice", "absurd", "other_data")
FILES = tuple(HERE / f"test_{name}.py" for name in NAMES)


def kind_at(path: Path, line: int) -> int:
    "The kind that a line of a test file belongs to; 0 for none."
    marks = (re.match(r"# (\d+)\. ", text) for text in path.read_text().splitlines()[:line])
    return next((int(mark[1]) for mark in reversed([*marks]) if mark), 0)


class Counted:
    "Counts the tests of each kind, for pytest."

    def __init__(self):
        self.ran, self.held, self.skipped, self.wrong = Counter(), Counter(), 0, []

    def pytest_runtest_logreport(self, report) -> None:
        "A test began, ran or ended."
        self.skipped += report.skipped
        if report.failed or (report.when == "call" and report.passed):
            path, line, name = report.location
            kind = KINDS[kind_at(HERE / Path(path).name, line)]
            self.ran[kind] += 1
            self.held[kind] += report.passed
            self.wrong += [f"{Path(path).name}: {name}"] * report.failed


def try_kinds(folder: Path) -> dict:
    "Run all of them; what pytest prints goes to a log in `folder`."
    counted = Counted()
    with (folder / "log").open("w") as f, contextlib.redirect_stdout(f), contextlib.redirect_stderr(f):
        pytest.main(["-q", "-p", "no:cacheprovider", *map(str, FILES)], plugins=[counted])
    return {
        "attempted": counted.ran.total(),
        "held": counted.held.total(),
        "skipped": counted.skipped,
        "rows": {
            kind: {"attempted": counted.ran[kind], "held": counted.held[kind]} for kind in KINDS.values()
        },
        "wrong": counted.wrong[:50],
    }
