"""Studies compared: paired where the windows are the same, in three formats."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from spec_opt.api import find_settings
from spec_opt.cli import main
from spec_opt.config.study_file import Setting
from spec_opt.errors import ConfigError, InputError
from spec_opt.measure.uncertainty import ACCEPTANCE, MSE, difference
from spec_opt.results.comparison import (
    Comparison,
    comparison_document,
    comparison_page,
    comparison_text,
    fronts,
)
from spec_opt.results.comparison import compare_studies as compare_tables
from spec_opt.study.database import split_reference
from spec_opt.study.store import open_store
from tests.results import studies

TRIALS = [(0.1, 1.0, 1, 0.70, 0.440), (0.2, 1.0, 2, 0.80, 0.445), (0.3, 2.0, 3, 0.95, 0.470)]
SEARCH = {"sigma": [0.1, 0.2, 0.3], "bias": [1.0, 2.0], "k": [1, 2, 3]}
BETTER = [(s, b, k, a + 0.02, m - 0.02) for s, b, k, a, m in TRIALS]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with `a`, and `b` on the same windows, better by far more than the noise."""
    url = f"sqlite:///{tmp_path}/store.db"
    with open_store(url) as store:
        for name, trials in (("a", TRIALS), ("b", BETTER)):
            add(store.storage, name, trials)
    return url


def compare_studies(references: list[str], url: str) -> Comparison:
    named = [split_reference(reference, url) for reference in references]
    return compare_tables([(find_settings(name, store), store) for name, store in named])


def add(storage: Any, name: str, trials: list[tuple[float, float, int, float, float]]) -> Any:
    config = {"name": name, "data": studies.DATA, "search": SEARCH}
    study = studies.empty_study(name, storage=storage, config=config)
    for sigma, bias, k, acceptance, mse in trials:
        setting = Setting(sigma=sigma, bias=bias, k=k)
        study.add_trial(studies.complete(setting, acceptance, mse))
    return study


def other_store(folder: Path, name: str = "a", **prints: str) -> str:
    url = f"sqlite:///{folder}/other.db"
    with open_store(url) as store:
        study = add(store.storage, name, TRIALS)
        study.set_user_attr("fingerprints", studies.FINGERPRINTS | prints)
    return url


def test_the_same_windows_are_paired_block_by_block(url: str) -> None:
    found = compare_studies(["a", "b"], url)
    assert found.same_windows
    assert [one.scenario for one in found.differences] == ["speed", "quality", "balanced"]
    for one, ours, theirs in zip(
        found.differences,
        found.studies[0].recommendations,
        found.studies[1].recommendations,
        strict=True,
    ):
        assert (one.study, one.against, one.paired) == ("b", "a", True)
        assert ours.point is not None
        assert theirs.point is not None
        assert ours.point.result.blocks is not None
        assert theirs.point.result.blocks is not None
        for quantity, change in ((MSE, one.mse), (ACCEPTANCE, one.acceptance_rate)):
            wanted = difference(quantity, theirs.point.result.blocks, ours.point.result.blocks)
            assert wanted is not None
            assert change.half_width == pytest.approx(wanted.half_width)
        assert one.mse.value == pytest.approx(theirs.point.result.mse - ours.point.result.mse)
        assert one.mse.is_clear
        # What the windows share would have hidden it.
        assert one.mse.half_width is not None
        assert one.mse.half_width < 0.028


def test_other_windows_are_not_paired_and_it_says_so(url: str, tmp_path: Path) -> None:
    other = other_store(tmp_path, data="z" * 12)
    found = compare_studies(["b", f"a@{other}"], url)
    assert not found.same_windows
    for one in found.differences:
        assert not one.paired
        assert one.mse.half_width == pytest.approx(math.hypot(0.028, 0.028))
    text = " ".join(comparison_text(found).split())
    assert "differences between those are unpaired" in text.lower()
    assert fronts(found).layout.yaxis.title.text == "MSE / target's"


def test_studies_of_one_name_are_told_apart_by_their_stores(url: str, tmp_path: Path) -> None:
    other = other_store(tmp_path)
    found = compare_studies(["a", f"a@{other}"], url)
    assert [one.label for one in found.studies] == ["a (1)", "a (2)"]
    assert [one.storage for one in found.studies] == [url, other]
    assert found.same_windows
    assert all(one.mse.value == 0.0 and not one.mse.is_clear for one in found.differences)


def test_a_study_file_names_a_study_and_its_thresholds(url: str, tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    data = '[data]\nsource = "synthetic"\ncontext = 96\nhorizon = 96\n'
    search = "\n".join(f"{name} = {values}" for name, values in SEARCH.items())
    file.write_text(
        f'name = "b"\n{data}[search]\n{search}\n[recommend.quality]\nmin_acceptance = 0.9\n'
    )
    found = compare_studies(["a", str(file)], url)
    sigmas = [one.recommendations[1].setting for one in found.studies]
    assert [setting and setting.sigma for setting in sigmas] == [0.1, 0.3]


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        (["a"], InputError, "two studies or more"),
        (["a", "b", "a"], InputError, "study a is named twice"),
        (["a", "c"], ConfigError, "which holds a, b; "),
    ],
)
def test_what_cannot_be_compared(
    url: str, names: list[str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as raised:
        compare_studies(names, url)
    assert says in str(raised.value)


def both(url: str) -> Comparison:
    return compare_studies(["a", "b"], url)


def test_the_document(url: str) -> None:
    document = json.loads(json.dumps(comparison_document(both(url))))
    assert [one["study"] for one in document["studies"]] == ["a", "b"]
    assert document["same_windows"]
    one = document["differences"][1]
    assert (one["scenario"], one["study"], one["against"]) == ("quality", "b", "a")
    assert one["mse"]["value"] == pytest.approx(-0.02)
    assert one["mse"]["low"] < one["mse"]["value"] < one["mse"]["high"] < 0.0
    assert one["mse"]["clear"]
    first = document["studies"][0]
    assert len(first["front"]) == 3
    assert [r["scenario"] for r in first["recommendations"]] == ["speed", "quality", "balanced"]
    assert first["verdict"]["decision"]


def test_text_and_page_show_both_side_by_side(url: str) -> None:
    found = both(url)
    text = comparison_text(found, 100)
    assert max(len(line) for line in text.splitlines() if url not in line) <= 100
    assert "-0.0200 ±" in text
    rows = [line.split()[:2] for line in text.splitlines()]
    assert rows.count(["quality", "a"]) == 1
    assert rows.count(["quality", "b"]) == 2
    html = comparison_page(found)
    assert "<title>a and b: spec-opt compare</title>" in html
    ids = re.findall('id="([^"]+)"', html.split("</main>")[0].split("<main>")[1])
    assert "fronts_figure" in ids
    assert len(set(ids)) == len(ids)
    names = [trace.name for trace in fronts(found).data]
    assert names == ["a", "b"]
    assert list(fronts(found).data[0].y) == [0.470, 0.445, 0.440]


def test_the_command(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "a", "b", "--storage", url]
    assert main(command) == 0
    assert "Differences from a" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]
    page, data = tmp_path / "both.html", tmp_path / "both.json"
    assert main([*command, "-o", str(page)]) == 0
    assert main([*command, "-o", str(data)]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(data.read_text(encoding="utf-8"))["studies"]
    assert main(["compare", "a@postgresql+x://user:quokka@host/d", "b", "--storage", url]) == 2
    assert "quokka" not in capsys.readouterr().err
