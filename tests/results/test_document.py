"""One document, three ways to show it."""

import html
import re

import pytest

from spec_opt.results.document import (
    Block,
    Bullets,
    Facts,
    Section,
    Table,
    Text,
    as_html,
    as_markdown,
    as_text,
)
from spec_opt.results.recommend import recommend_all
from spec_opt.results.render import choices, front
from spec_opt.results.table import StudyTable, read_table
from tests.results import studies

GRID = read_table(studies.grid_study())


def words(text: str) -> str:
    """Text without layout or signs of any format."""
    return " ".join(re.sub(r"</?[a-z][^>]*>|[|#`*-]", " ", html.unescape(text)).split())


def sentences(block: Block) -> list[str]:
    match block:
        case Text(text):
            return [text]
        case Bullets(items):
            return list(items)
        case Section(blocks):
            return [sentence for one in blocks for sentence in sentences(one)]
        case _:
            return []


def test_every_sentence_of_a_recommendation_is_in_all_three() -> None:
    blocks = choices(recommend_all(GRID), GRID)
    found = [sentence for block in blocks for sentence in sentences(block)]
    assert len(found) > 10
    for shown in map(words, (as_text(blocks), as_markdown(blocks), as_html(blocks))):
        for sentence in found:
            assert words(sentence) in shown


@pytest.mark.parametrize("table", [GRID, read_table(studies.three_objectives())])
@pytest.mark.parametrize("width", [80, 100])
def test_a_terminal_is_not_exceeded_and_nothing_is_cut(table: StudyTable, width: int) -> None:
    blocks = (*front(table), *choices(recommend_all(table), table))
    text = as_text(blocks, width)
    assert max(map(len, text.splitlines())) <= width
    assert "(7 in all)" in text or table is not GRID
    assert {"acceptance", "against", "target", "MSE"} <= set(text.split())
    assert "…" not in text.replace(", … (", "")


def test_a_file_or_pipe_is_80_columns_wide() -> None:
    blocks = (*front(GRID), *choices(recommend_all(GRID), GRID))
    assert as_text(blocks) == as_text(blocks, 80)


def test_words_longer_than_a_line_stay_whole() -> None:
    table = Table(["name", "value"], [["x" * 150, "1"], ["y", "2"]])
    head, one, other = as_text([table]).splitlines()
    assert head.endswith("name  value")
    assert one == f"  {'x' * 150}      1"
    assert other.endswith("y      2")


def test_sections_are_indented_in_a_terminal() -> None:
    blocks = [Section([Text("Balanced: `k=4`", "subheading"), Text("Why."), Bullets(["One."])])]
    assert as_text(blocks) == "Balanced: k=4\n  Why.\n  - One."
    assert as_markdown(blocks) == "### Balanced: `k=4`\n\nWhy.\n\n- One."


def test_markup_is_text_in_a_terminal() -> None:
    assert as_text([Table(["a"], [["[bold]x[/bold] :smile:"]])]).endswith("[bold]x[/bold] :smile:")


def test_markup_is_text_in_html() -> None:
    cells = Table(["<a>"], [["<b>"]])
    blocks: list[Block] = [
        Text("<c> `<d>`"),
        Bullets(["<e>"]),
        Facts([("<f>", "<g>")]),
        Text("<h>", "code"),
        cells,
    ]
    page = as_html(blocks)
    for name in "abcdefgh":
        assert f"&lt;{name}&gt;" in page
        assert f"<{name}>" not in page
    assert "<code>&lt;d&gt;</code>" in page


def test_flags_break_between_one_and_the_next_only() -> None:
    assert as_html([Text("--k 4 --sigma 0.5", "code")]) == (
        '<p class="code"><code><span>--k 4</span> <span>--sigma 0.5</span></code></p>'
    )


def test_details_are_folded_in_html_only() -> None:
    blocks = [Section([Text("Next is trial 3.")], summary="What was close")]
    assert "<details><summary>What was close</summary><p>Next" in as_html(blocks)
    assert as_text(blocks) == as_markdown(blocks) == "Next is trial 3."
