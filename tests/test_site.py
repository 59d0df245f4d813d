"""The link check of `make site` finds what is wrong with a small site; links are changed, code is not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / ".ci" / "site"))
from links import check_site, outside_code  # noqa: E402


def site(folder: Path, **pages: str) -> tuple[int, int, list[str]]:
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>")
    return check_site(folder)


def test_a_sound_site(tmp_path):
    (tmp_path / "a b.png").write_bytes(b"")
    assert site(
        tmp_path,
        one='<a href="two.html#here">x</a><img src="a%20b.png"><a '
        'href="https://arxiv.org/abs/2006.15576">y</a>',
        two='<h2 id="here">z</h2><a href="#here">up</a>',
    ) == (2, 3, [])


def test_what_is_broken_is_named(tmp_path):
    (tmp_path / "style.css").write_text("@import url(https://example.org/font.css);")
    pages, links, faults = site(
        tmp_path,
        one='<a href="none.html">x</a><a href="#nowhere">y</a><img src="gone.png"><script '
        'src="https://example.org/x.js"></script>',
    )
    assert (pages, links, len(faults)) == (1, 4, 5)
    for word in ("none.html", "#nowhere", "gone.png", "x.js", "font.css"):
        assert any(word in fault for fault in faults)


def test_code_keeps_what_looks_like_a_link():
    "A call of an element, x[a](b), is no link: neither in a block of code nor between backticks."
    text = "[one](a.md) `x[a](b)` [`two`](a.md)\n\n```python\ny = x[a](m).float()\n```\n\n[three](a.md)\n"
    changed = outside_code(text, lambda part: part.replace("](", "](../"))
    assert changed == text.replace("(a.md)", "(../a.md)")
