"""Equations become MathML when the site is built: browsers draw it themselves, no script is needed."""

import html
import re

from latex2mathml.converter import convert


def on_page_content(text: str, **_) -> str:
    "Called by mkdocs with the HTML of each page."
    text = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>',
        lambda m: convert(html.unescape(m[1])),
        text,
        flags=re.S,
    )
    return re.sub(
        r'<div class="arithmatex">\\\[(.*?)\\\]</div>',
        lambda m: f'<div class="equation">{convert(html.unescape(m[1]), display="block")}</div>',
        text,
        flags=re.S,
    )
