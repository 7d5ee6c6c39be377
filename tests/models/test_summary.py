"""The line that says what a model is."""

from pathlib import Path

import pytest

from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.summary import counted, summarise_model


def test_the_pair(reference_dir: Path) -> None:
    path = reference_dir / "tiny_target.pth"
    target, draft = load_timer_xl(path), load_timer_xl(reference_dir / "tiny_draft.pth")
    line = f"target: Timer-XL 32/4/64/2, 19 k parameters, from {path}"
    assert str(summarise_model("target", target, path)) == line
    small = summarise_model("draft", draft, Path("d.pth"), target)
    assert str(small).endswith("4.5 k parameters, from d.pth, 4.1 times smaller")
    swapped = summarise_model("draft", target, Path("d.pth"), draft)
    assert str(swapped).endswith("from d.pth, 4.1 times larger than the target")
    assert small.as_document()["summary"] == str(small)


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (1_000, "1.0 k"), (52_300, "52 k"), (1_060_000, "1.1 M"), (84e9, "84 G")],
)
def test_counts(number: int, text: str) -> None:
    assert counted(number) == text
