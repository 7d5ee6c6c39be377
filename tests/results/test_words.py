"""The words that a page explains."""

from pathlib import Path

from spec_opt.results.words import WORDS

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


def test_the_glossary_says_the_same() -> None:
    rows = GLOSSARY.read_text(encoding="utf-8").splitlines()
    for word, meaning in WORDS.items():
        assert f"| {word} | {meaning} |" in rows
