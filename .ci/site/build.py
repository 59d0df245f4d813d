"""The site in _site/, from the notebooks, the package's docments and figures/:  python .ci/site/build.py"""

import importlib
import inspect
import logging
import re
import shutil
import sys
import time
from enum import Enum
from pathlib import Path

import nbformat
import yaml
from links import check_site, outside_code
from mkdocs.commands.build import build
from mkdocs.config import load_config
from nbconvert import MarkdownExporter
from nbdev.showdoc import show_doc
from traitlets.config import Config

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NBS, PAGES = ROOT / "nbs", ROOT / "_site_pages"
sys.path.insert(0, str(ROOT / ".ci"))
from readme import shown_cells  # noqa: E402  (a neighbour of this folder)

CARDS = {
    "data/people/README.md": "cards/people.md",
    "smpr/assets/real.md": "cards/real.md",
    "smpr/assets/rendered.md": "cards/rendered.md",
    "smpr/assets/drawn.md": "cards/drawn.md",
    "CONTRIBUTING.md": "contributing.md",
}
FOLDERS = {
    "figures/results": "results/index.md",
    "nbs/appendix": "appendix/settings.md",
    "nbs/command": "command/media.md",
    "nbs/experiments": "experiments/rows.md",
}  # a site has no folders to look into
EXPORTED = re.compile(r"^```python\n#\| exports?\n", re.M)


def write(page: str, text: str) -> str:
    "A page of the site; returns its address inside the site's sources."
    path = PAGES / page
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    return page


def relink(text: str, source: str, page: str) -> str:
    "Links of a file of the project as links between pages."

    def moved(match: re.Match) -> str:
        target, hash_, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        file = (ROOT / source).parent.joinpath(target).resolve()
        if not file.is_relative_to(ROOT):
            return match[0]  # mkdocs will complain
        inside = file.relative_to(ROOT).as_posix()
        inside = FOLDERS.get(inside, CARDS.get(inside, inside.removeprefix("nbs/")))
        if inside.endswith(".ipynb"):
            inside = inside.removesuffix("ipynb") + "md"
        return f"{match[1]}{'../' * page.count('/')}{inside}{hash_}{anchor}{match[3]}"

    return outside_code(text, lambda part: re.sub(r"(\]\()([^)\s]+)(\))", moved, part))


def module_of(book) -> str | None:
    "The module that a notebook exports."
    found = re.search(r"^#\| default_exp (\S+)", "\n".join(c.source for c in book.cells), re.M)
    return found and found[1]


def fold_solutions(cells: list) -> list:
    "Solutions of exercises between marks that a browser shows closed."
    out, mark = [], nbformat.v4.new_markdown_cell
    for cell in cells:
        if "solution" not in cell.metadata.get("tags", []):
            out.append(cell)
            continue
        n = 1 + sum("<summary>" in c.source for c in out)
        out += [
            mark(f'<details class="solution" markdown="1"><summary>Solution {n}</summary>'),
            cell,
            mark("</details>"),
        ]
    return out


def notebook_page(inside: str) -> str:
    "A notebook as a page, its pictures beside it. Exported cells carry the module's name."
    book, page = nbformat.read(NBS / inside, as_version=4), inside.removesuffix("ipynb") + "md"
    module, book.cells = module_of(book), fold_solutions(shown_cells(book, keep=("export", "exports")))
    for cell in (
        c for c in book.cells if c.cell_type == "code"
    ):  # a widget without a kernel is a line of code; its figure stands beside it
        cell.outputs = [
            o
            for o in cell.outputs
            if not o.get("data", {}).get("text/plain", "").startswith(("VBox(", "HBox("))
        ]
    book.metadata["language_info"] = {"name": "python"}  # nbdev-clean drops it; it colours the code
    name = Path(page).stem
    config = Config(
        {
            "ExtractOutputPreprocessor": {
                "output_filename_template": f"{name}_files/{{cell_index}}_{{index}}{{extension}}"
            },
            "CoalesceStreamsPreprocessor": {"enabled": True},
        }
    )  # a print in a loop is one block, not one a line
    text, resources = MarkdownExporter(config=config).from_notebook_node(book)
    for file, data in resources["outputs"].items():
        path = PAGES / Path(page).parent / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    text = EXPORTED.sub(f'```python title="smpr.{module}"\n', text)
    text = re.sub(r"!\[(?:png|svg|jpeg)\]\(", "![What the cell above shows](", text)
    link = (
        f"\n\n[Every symbol of smpr.{module}]({'../' * page.count('/')}api/{module}.md)\n" if module else ""
    )
    return write(page, relink(text, f"nbs/{inside}", page) + link)


def symbol_text(name: str, value) -> str:
    "A symbol of a module: signature with docments, members or value."
    if isinstance(value, type) and issubclass(value, Enum) or not callable(value):
        body = inspect.getsource(value) if isinstance(value, type) else f"{name} = {str(value)[:400]}"
        return f"### {name}\n\n```python\n{body.strip()}\n```\n"
    try:
        shown = show_doc(value)
    except NameError as e:  # an annotation that exists for type checkers only
        setattr(sys.modules[value.__module__], e.name, importlib.import_module(e.name))
        shown = show_doc(value)
    return shown._repr_markdown_().replace("\n---\n", "\n").removeprefix("---\n") + "\n"


def api_page(module: str, chapter: str) -> str:
    "All symbols of a module."
    code = importlib.import_module(f"smpr.{module}")
    symbols = "\n".join(symbol_text(n, getattr(code, n)) for n in code.__all__)
    page = f"api/{module}.md"
    return write(
        page,
        f"# smpr.{module}\n\n{(code.__doc__ or '').strip()}\n\n"
        f"Explained in [{chapter.removesuffix('.md')}](../{chapter}).\n\n{symbols}",
    )


def results_page(folder: Path) -> str:
    "Tables and pictures of one folder of figures/, and the notebook that makes them."
    tables = [
        relink(t.read_text().replace(" ± ", "\u00a0±\u00a0"), t.relative_to(ROOT).as_posix(), "results/x.md")
        for t in sorted(folder.glob("*.md"))
    ]
    pictures = [f"![{p.stem}](../figures/{folder.name}/{p.name})" for p in sorted(folder.glob("*.png"))]
    maker = next((p for p in ("ablations", "appendix") if (NBS / p / f"{folder.name}.ipynb").exists()), None)
    made = (
        f"Made by [{maker}/{folder.name}](../{maker}/{folder.name}.md)."
        if maker
        else "Made by `make bench`; read in [appendix/speed](../appendix/speed.md)."
        if folder.name == "bench"
        else ""
    )
    title = re.sub(r"(\D)(\d)", r"\1 \2", folder.name).capitalize()
    return write(f"results/{folder.name}.md", "\n\n".join([f"# {title}", made, *tables, *pictures]))


def results() -> list[str]:
    "The pages of figures/, an overview first."

    def order(f):
        return (not f.name.startswith("table"), f.name)

    folders = sorted(
        (f for f in (ROOT / "figures").iterdir() if f.is_dir() and list(f.glob("*.png"))), key=order
    )
    shutil.copytree(
        ROOT / "figures",
        PAGES / "figures",
        ignore=shutil.ignore_patterns("results", "screens", "*.svg", "*.tex", "*.csv", "*.md"),
    )
    pages = [results_page(f) for f in folders if f.name != "screens"]
    honest = (
        (PAGES / "index.md").read_text().partition("## How far the reproduction is")[2].partition("\n## ")[0]
    )
    honest = re.sub(r"\]\((?!https?:|#)", "](../", honest)  # one folder deeper than the index
    links = "\n".join(f"* [{re.search('# (.+)', (PAGES / p).read_text())[1]}]({Path(p).name})" for p in pages)
    return [
        write("results/index.md", f"# Results\n\n{honest.strip()}\n\n## Tables and figures\n\n{links}"),
        *pages,
    ]


def chapters() -> dict[str, list]:
    "Sections of nbs/sidebar.yml with their notebooks."
    contents, sections = (
        yaml.safe_load((NBS / "sidebar.yml").read_text())["website"]["sidebar"]["contents"],
        {"Chapters": []},
    )
    for entry in contents:
        if isinstance(entry, dict):
            sections[entry["section"]] = entry["contents"]
        else:
            sections["Chapters"].append(entry)
    return sections


def nav_entry(page: str):
    "Chapters keep their number in the list."
    number = re.match(r"(\d\d[a-z]?)_", page)
    return (
        {f"{number[1]} {re.search('^# (.+)', (PAGES / page).read_text(), re.M)[1]}": page} if number else page
    )


def main() -> int:
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s"
    )  # a strict build stops at the first warning; say which
    began = time.time()
    for folder in (PAGES, ROOT / "_site"):
        shutil.rmtree(folder, ignore_errors=True)
    PAGES.mkdir()
    shutil.copy(HERE / "site.css", PAGES)
    nav = [
        notebook_page("index.ipynb"),
        *(
            {title: [nav_entry(notebook_page(n)) for n in notebooks if n != "index.ipynb"]}
            for title, notebooks in chapters().items()
        ),
    ]
    cards = [
        write(page, relink((ROOT / file).read_text(), file, page))
        for file, page in CARDS.items()
        if (ROOT / file).exists()
    ]
    nav.append({"Results": [*results(), *cards]})
    made = {
        module_of(nbformat.read(NBS / n, as_version=4)): n.removesuffix("ipynb") + "md"
        for part in chapters().values()
        for n in part
    }
    modules = [api_page(m, made[m]) for m in made if m]
    index = "\n".join(
        f"* [{Path(p).stem}]({Path(p).name}): {(PAGES / p).read_text().split(chr(10) * 2)[1]}"
        for p in modules
    )
    nav.append(
        {
            "API": [
                write(
                    "api/index.md",
                    f"# API\n\nEvery public symbol, from the signatures' own comments.\n\n{index}",
                ),
                *modules,
            ]
        }
    )
    config = load_config(str(HERE / "mkdocs.yml"), nav=nav, strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    shutil.rmtree(PAGES)
    (ROOT / "_site" / "404.html").unlink()  # its links hold on a server's root only
    pages, links, faults = check_site(ROOT / "_site")
    print("\n".join(faults))
    print(
        f"{pages} pages, {links} links checked, {len(faults)} broken, {time.time() - began:.0f} s: "
        "open _site/index.html, or `python -m http.server --bind 127.0.0.1 -d _site` for the search as well"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
