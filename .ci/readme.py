"""README.md from nbs/index.ipynb, without quarto:  python .ci/readme.py [--check]"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
NOTE = "<!-- Made from nbs/index.ipynb by `make readme`; edit the notebook. -->\n\n"


def shown_cells(book, keep: tuple[str, ...] = ()) -> list:
    "The cells that a reader sees: hidden and empty ones dropped, directives stripped except those in `keep`."
    cells = [c for c in book.cells if not c.source.lstrip().startswith("#| hide")]
    for cell in (c for c in cells if c.cell_type == "code"):
        if re.search(r"^#\|\s*echo:\s*false", cell.source, re.M):
            cell.metadata.transient = {"remove_source": True}
        cell.source = "\n".join(
            l for l in cell.source.splitlines() if not l.startswith("#|") or l[2:].strip() in keep
        )
    return [c for c in cells if c.source.strip()]


def render() -> str:
    "The index notebook as Markdown: text outputs kept, links relative to the top level."
    book = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    book.cells = shown_cells(book)
    for cell in book.cells:
        for output in cell.get("outputs", []):  # a table or text says it; pictures live in figures/
            for kind in [k for k in output.get("data", {}) if k.startswith("image/")]:
                del output["data"][kind]
    text, _ = MarkdownExporter().from_notebook_node(book)
    text = re.sub(r"\]\(\.\./", "](", text)
    return NOTE + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> int:
    path, text = ROOT / "README.md", render()
    if "--check" in sys.argv:
        if path.exists() and path.read_text() == text:
            return 0
        print("README.md is older than nbs/index.ipynb: run `make readme` and commit.")
        return 1
    path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
