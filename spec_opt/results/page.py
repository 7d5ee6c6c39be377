"""A document as a page of HTML that needs nothing beside it."""

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from plotly.offline import get_plotlyjs

from spec_opt.results.document import Block, as_html


def page(title: str, blocks: Sequence[Block]) -> str:
    """A page with everything in it, so that no request leaves it; light and dark."""
    assets = files("spec_opt.results") / "assets"
    parts = {
        "title": escape(title),
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "script": (assets / "page.js").read_text(encoding="utf-8"),
        "body": as_html(blocks),
        "plotly": get_plotlyjs(),
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    # In one pass: text that looks like a place to fill stays as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)
