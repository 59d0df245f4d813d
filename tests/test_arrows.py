"""Who may import whom, as data; the walk over all imports, those inside functions too, that holds the package
to it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "smpr"
ALL = ("core", "viz", "deploy", "rendering", "world", "experiments", "peers", "beyond")
MAY_IMPORT = {  # room -> rooms below it; a room may import itself
    "core": (),
    "deploy": ("core",),
    "rendering": ("core",),
    "world": ("core",),
    "viz": ("core", "world"),
    "experiments": ("core", "deploy", "viz", "world"),
    "peers": ("core", "experiments", "world"),
    "beyond": ("core", "experiments"),
    "command": ALL,  # smpr.cli, the only one that sees every room; nobody imports it
}
STRUCTURES = {"People", "Predictions", "Sample", "Batch", "Candidates", "Poses", "Result"}


def room(module: str) -> str:
    "The room of a module: smpr.viz.panels is in viz, smpr.cli is the command, smpr.losses is core."
    first = (module.split(".") + [""])[1]
    if first in ("cli", "command"):
        return "command"
    return first if first and (PACKAGE / first).is_dir() else "core"


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str, is_package: bool, modules: set[str]) -> set[str]:
    "Modules of the package that a module imports, anywhere in its text: top, functions, under TYPE_CHECKING."
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            if node.level:
                base = base[: len(base) - node.level + is_package]
                source = ".".join(base + (node.module.split(".") if node.module else []))
            else:
                source = node.module
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                if not alias.name.startswith("__"):  # from smpr import __version__ reads a constant
                    found.add(inner if inner in modules else source)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            found |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    return {m for m in found if m in modules and m != module}


def import_graph(package: Path) -> dict[str, set[str]]:
    "Every module of a package and the modules of the package that it imports."
    files = {module_name(p, package): p for p in package.rglob("*.py") if p.name != "_modidx.py"}
    return {
        m: imported(ast.parse(p.read_text()), m, p.name == "__init__.py", set(files))
        for m, p in files.items()
    }


GRAPH = import_graph(PACKAGE)


def test_the_table_knows_every_room():
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert rooms | {"core", "command"} == set(MAY_IMPORT)
    assert len(GRAPH) > 25


def test_no_arrow_runs_up():
    wrong = [
        f"{a} imports {b}"
        for a, others in GRAPH.items()
        for b in others
        if room(b) != room(a) and room(b) not in MAY_IMPORT[room(a)]
    ]
    assert not wrong


def test_the_core_reaches_into_no_room():
    rooms = {m for m in GRAPH if room(m) != "core"}
    assert [f"{m} imports {n}" for m in GRAPH if room(m) == "core" for n in GRAPH[m] & rooms] == []


def test_nobody_imports_the_command():
    assert [m for m, others in GRAPH.items() if room(m) != "command" and "smpr.cli" in others] == []


def test_no_circles():
    try:
        tuple(TopologicalSorter(GRAPH).static_order())
    except CycleError as e:
        pytest.fail(" imports ".join(reversed(e.args[1])))


def test_a_chapter_builds_on_earlier_chapters():
    "The order of the book is the order of the imports."
    order = {f"smpr.{p.stem[3:]}": int(p.stem[:2]) for p in ROOT.glob("nbs/[0-9][0-9]_*.ipynb")}
    later = [
        f"{a} (chapter {order[a]}) imports {b} (chapter {order[b]})"
        for a in order
        for b in GRAPH.get(a, ())
        if order.get(b, 0) > order[a]
    ]
    assert len(order) >= 15 and later == []


def test_structures_have_one_home():
    found = {
        (node.name, module_name(p, PACKAGE))
        for p in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(p.read_text()))
        if isinstance(node, ast.ClassDef) and node.name in STRUCTURES
    }
    assert found == {(name, "smpr.structures") for name in STRUCTURES}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("from .viz.panels import Panel", {"smpr.viz.panels"}),
        ("def f():\n    from smpr.viz import panels", {"smpr.viz.panels"}),
        ("if TYPE_CHECKING:\n    import smpr.cli", {"smpr.cli"}),
        ("from . import cli", {"smpr.cli"}),
        ("import importlib\nimportlib.import_module('smpr.viz.panels')", {"smpr.viz.panels"}),
        ("from smpr import __version__", set()),
        ("'from smpr import cli'  # import smpr.cli", set()),
    ],
)
def test_the_walk_sees_every_import(text, expected):
    modules = {"smpr", "smpr.cli", "smpr.data", "smpr.viz", "smpr.viz.panels"}
    assert imported(ast.parse(text), "smpr.data", False, modules) == expected


def test_relative_imports_of_a_room():
    modules = {"smpr", "smpr.data", "smpr.viz", "smpr.viz.panels"}
    found = imported(ast.parse("from ..data import x\nfrom . import y"), "smpr.viz.panels", False, modules)
    assert found == {"smpr.data", "smpr.viz"}
