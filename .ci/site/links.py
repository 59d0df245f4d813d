"""Does every link of a built site lead somewhere, and does no page fetch anything from elsewhere?"""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

CODE = re.compile(r"^(```+)[^\n]*\n.*?^\1[ \t]*$|`[^`\n]+`", re.M | re.S)  # fenced, or between backticks


def outside_code(text: str, change: Callable[[str], str]) -> str:
    "Markdown with `change` applied to all of it but code, where `x[a](b)` is a call and no link."
    out, end = [], 0
    for code in CODE.finditer(text):
        out += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*out, change(text[end:])])


class Page(HTMLParser):
    "Links, fetched files and anchors of a page."

    def __init__(self, text: str):
        super().__init__()
        self.links, self.fetched, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.anchors |= {values[a] for a in ("id", "name") if values.get(a)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" and values.get("href") and values.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(values["href"])
        if values.get("src"):
            self.fetched.append(values["src"])


def check_site(folder: Path) -> tuple[int, int, list[str]]:
    """Pages, links and files looked up, and what is wrong. Addresses on other hosts are allowed to be linked,
    never to be fetched."""
    pages = {p.resolve(): Page(p.read_text()) for p in sorted(folder.rglob("*.html"))}
    count, faults = 0, []
    for path, page in pages.items():
        here = path.relative_to(folder.resolve())
        for address in page.links + page.fetched:
            url = urlsplit(address)
            if url.scheme == "data" or url.scheme in ("http", "https", "mailto") and address in page.links:
                continue
            count += 1
            if url.scheme or url.netloc:
                faults.append(f"{here}: fetches {address} from elsewhere")
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.is_file():
                faults.append(f"{here}: {address} leads nowhere")
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].anchors:
                faults.append(f"{here}: {address} has no such anchor")
    for style in folder.rglob("*.css"):
        faults += [
            f"{style.relative_to(folder)}: fetches {a} from elsewhere"
            for a in re.findall(r"url\([\"']?(https?://[^)\"']+)", style.read_text())
        ]
    return len(pages), count, faults
