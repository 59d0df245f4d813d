"What an error advises can be done: every flag and subcommand that a text of the package names exists."

import ast
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from smpr.cli import COMMANDS, MORE
from smpr.config import flat
from smpr.update import Config

ROOT = Path(__file__).parent.parent
MODULES = sorted(p for p in ROOT.glob("smpr/**/*.py") if p.name != "_modidx.py")
OTHERS = {"--help", "--version", "--porcelain", "--nthreads"}  # of every command; of git and dask


def flags() -> set[str]:
    "All that a shell may give after `smpr COMMAND`."
    found = {f.name for kind in COMMANDS.values() for f in fields(kind)} | set(flat(Config()))
    for module, name in MORE.values():
        found |= set(flat(getattr(import_module(module), name)()))
    found |= {f"no_{name}" for name in found}
    return OTHERS | {f"--{name.replace('_', '-')}" for name in found}


def texts(path: Path) -> list[str]:
    "Every text in a module that is no docstring, with its values left out."
    tree = ast.parse(path.read_text())
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_flags_and_commands_that_texts_name_exist(path):
    known = flags()
    for text in texts(path):
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9_.-]*[a-z0-9]", text):
            assert flag.replace("_", "-") in known, text
        for command in re.findall(r"`smpr ([a-z]+)", text):
            assert command in COMMANDS, text
