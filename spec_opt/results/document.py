"""A document as frozen blocks, made once and shown in a terminal, as Markdown or as HTML.

Backticks in a text mark code.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import StringIO
from typing import TYPE_CHECKING

from rich import console, padding, table

from spec_opt.config.outgoing import printable

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLAIN_WIDTH = 80
"""Columns of what is no terminal: a file or a pipe."""
PROSE_WIDTH = 96
"""Lines of prose in a terminal are not longer than this."""

MARKDOWN = {"title": "# {}", "heading": "## {}", "subheading": "### {}", "code": "    {}"}
HTML = {
    "title": "<h1>{}</h1>",
    "subheading": "<h3>{}</h3>",
    "note": '<p class="note">{}</p>',
    "code": '<p class="code"><code><span>{}</span></code></p>',
}
"""How styles of text look; any other is plain."""


@dataclass(frozen=True)
class Text:
    """One paragraph or heading; an empty one is left out."""

    text: str
    style: str = "plain"


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and short values, side by side."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Contents:
    """Links to headings, in HTML only."""

    headings: Sequence[str]


@dataclass(frozen=True)
class Plot:
    """A figure, in HTML only."""

    name: str
    figure: go.Figure


@dataclass(frozen=True)
class Section:
    """Blocks that belong together; in a terminal those below a heading are indented."""

    blocks: Sequence[Block]
    style: str = "section"
    """Its class in the style sheet."""
    summary: str = ""
    """In HTML the blocks are folded away below it."""


Block = Text | Bullets | Facts | Table | Contents | Plot | Section


def as_text(blocks: Iterable[Block], width: int | None = None) -> str:
    """For a terminal of `width` columns, or for a file; words that are longer stay whole."""
    return "\n\n".join(text for block in blocks if (text := _text(block, width or PLAIN_WIDTH, "")))


def _text(block: Block, width: int, indent: str) -> str:
    match block:
        case Text(text, "code"):
            return indent + text
        case Text(text, style):
            shown = text.replace("`", "") if style == "subheading" else text
            return _wrapped(shown, width, indent)
        case Bullets(items):
            return "\n".join(_wrapped(item, width, indent, "- ") for item in items)
        case Facts(pairs):
            return _wrapped(_joined(pairs), width, indent)
        case Table():
            return _text_table(block, width, f"{indent}  ")
        case Contents() | Plot():
            return ""
        case Section((Text(style="heading" | "subheading") as heading, *rest)):
            texts = [_text(one, width, f"{indent}  ") for one in rest]
            return "\n".join([_text(heading, width, indent), *filter(None, texts)])
        case Section(inner, summary=summary):
            return ("\n" if summary else "\n\n").join(_text(one, width, indent) for one in inner)


def _wrapped(text: str, width: int, indent: str, bullet: str = "") -> str:
    return textwrap.fill(
        text,
        width=min(width, PROSE_WIDTH),
        initial_indent=indent + bullet,
        subsequent_indent=indent + " " * len(bullet),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _text_table(shown: Table, width: int, indent: str) -> str:
    grid = table.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    columns = [*zip(shown.columns, *shown.rows, strict=True)]
    space = width - len(indent) - 2 * (len(columns) - 1)
    for (name, *_), column_width in zip(columns, _widths(columns, space), strict=True):
        grid.add_column(name, justify="right", width=column_width)
    for row in shown.rows:
        grid.add_row(*row)
    page = console.Console(file=StringIO(), width=1000, markup=False, emoji=False)
    with page.capture() as capture:
        page.print(padding.Padding(grid, (0, 0, 0, len(indent))), highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _widths(columns: Sequence[Sequence[str]], space: int) -> list[int]:
    """Widths of columns, names first; too little space breaks names, then cells, but no word."""
    widths = [max(map(len, column)) for column in columns]
    cells = [max(map(len, [*name.split(), *rest])) for name, *rest in columns]
    words = [max(map(len, " ".join(column).split())) for column in columns]
    for least in (cells, words):
        while sum(widths) > space and widths != least:
            pairs = enumerate(zip(widths, least, strict=True))
            _, widest = max((width, i) for i, (width, floor) in pairs if width > floor)
            widths[widest] -= 1
    return widths


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in pairs)


def as_markdown(blocks: Iterable[Block]) -> str:
    """Without a trailing newline, and without control characters."""
    return printable("\n\n".join(text for block in blocks if (text := _markdown(block))))


def _markdown(block: Block) -> str:
    match block:
        case Text(text, style):
            return MARKDOWN.get(style, "{}").format(text)
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Facts(pairs):
            return _joined(pairs)
        case Table(columns, rows):
            lines = [columns, ["---"] * len(columns), *rows]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Contents() | Plot():
            return ""
        case Section(inner):
            return as_markdown(inner)


def as_html(blocks: Iterable[Block]) -> str:
    """The body of a page, without control characters; `assets/` holds the rest of it."""
    return printable("\n".join(filter(None, map(_html, blocks))))


def page(title: str, blocks: Sequence[Block]) -> str:
    """A page with everything in it, so that no request leaves it; light and dark."""
    from plotly.offline import get_plotlyjs  # not at the top: only a page needs it

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


def _html(block: Block) -> str:
    match block:
        case Text(""):
            return ""
        case Text(text, "code"):
            # A line may break between flags, not between a flag and its value.
            return HTML["code"].format(escape(text).replace(" --", "</span> <span>--"))
        case Text(text, "heading"):
            return f'<h2 id="{_anchor(text)}">{_inline(text)}</h2>'
        case Text(text, style):
            return HTML.get(style, "<p>{}</p>").format(_inline(text))
        case Bullets(items):
            return f"<ul>{_each('li', items)}</ul>"
        case Facts(pairs):
            each = (
                f"<div>{_each('dt', [name])}{_each('dd', [value])}</div>" for name, value in pairs
            )
            return f"<dl>{''.join(each)}</dl>"
        case Table(columns, rows):
            head = f"<thead><tr>{_each('th', columns)}</tr></thead>" if any(columns) else ""
            body = "".join(f"<tr>{_each('td', row)}</tr>" for row in rows)
            # The keyboard scrolls what can have the focus.
            return (
                f'<div class="scroll" tabindex="0"><table>{head}<tbody>{body}</tbody></table></div>'
            )
        case Contents(headings):
            links = (f'<a href="#{_anchor(text)}">{_inline(text)}</a>' for text in headings)
            return f'<nav aria-label="Contents">{" ".join(links)}</nav>'
        case Plot(name, figure):
            buttons = {"displaylogo": False, "responsive": True, "displayModeBar": False}
            return str(
                figure.to_html(buttons, full_html=False, include_plotlyjs=False, div_id=name)
            )
        case Section(inner, style, summary):
            if summary:
                return f"<details><summary>{_inline(summary)}</summary>{as_html(inner)}</details>"
            return f'<section class="{style}">{as_html(inner)}</section>'


def _each(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{_inline(text)}</{tag}>" for text in texts)


def _anchor(heading: str) -> str:
    return re.sub("[^a-z0-9]+", "-", heading.lower()).strip("-")


def _inline(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))
