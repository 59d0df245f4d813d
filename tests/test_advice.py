"What an error advises can be done: every flag and subcommand that a text of the package names exists."

import ast
import inspect
import re
import textwrap
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

import smpr
from smpr.cli import COMMANDS, MORE
from smpr.config import flat
from smpr.update import Config

# 9. advice that can be followed

ROOT = Path(__file__).parent.parent
MODULES = sorted(p for p in ROOT.glob("smpr/**/*.py") if p.name != "_modidx.py")
OTHERS = {"--help", "--version", "--porcelain", "--nthreads"}  # of every command; of git and dask
OTHERS |= {"--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint", "--local-addr", "--no-python"}  # torchrun


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


@pytest.mark.parametrize("name", ("load_set", "evaluate", "train"))
def test_help_shows_an_example_that_can_be_typed(name):
    doc = inspect.getdoc(getattr(smpr, name))
    code = textwrap.dedent("\n".join(line for line in doc.splitlines() if line.startswith("    ")))
    calls = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call)]
    assert name in {n.func.attr for n in calls} and len(doc.splitlines()) > 4
    for call in calls:
        words = [k.arg for k in call.keywords]
        inspect.signature(getattr(smpr, call.func.attr)).bind(*call.args, **dict.fromkeys(words))
