"""The report's files, and its page in a real browser."""

import io
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
import pytest

from spec_opt.config.study_file import RecommendConfig
from spec_opt.results.figures import PLOTS
from spec_opt.results.recommend import recommend_all
from spec_opt.results.report import (
    OLD_COLUMNS,
    Report,
    closing_choice,
    results_frame,
    summary,
    write_report,
)
from spec_opt.results.table import read_table
from tests.results import studies

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LIMITS = RecommendConfig()
GRID = read_table(studies.grid_study())


def report_of(study: optuna.Study, folder: Path, *, png: bool = False) -> Report:
    return write_report(
        read_table(study),
        folder,
        storage="postgresql://me:secret@host/db",
        command="spec-opt report <study>",
        png=png,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report_of(studies.grid_study(), folder)
    return folder


def test_the_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "report.html",
        "results.csv",
        "results.parquet",
        "summary.md",
    ]


def test_results_csv_begins_with_the_nine_columns_of_the_old_script(folder: Path) -> None:
    frame = pd.read_csv(folder / "results.csv")
    assert tuple(frame.columns[:9]) == OLD_COLUMNS
    old = pd.read_csv(studies.OLD_SWEEP)
    assert tuple(old.columns) == OLD_COLUMNS
    for name in ("sigma", "bias", "k", "mse", "mae", "acceptance_pct"):
        assert frame[name].tolist() == pytest.approx(old[name].tolist())
    assert "acceptance_rate" in frame.columns
    assert not frame.columns.duplicated().any()


def test_parquet_holds_the_same(folder: Path) -> None:
    parquet = pd.read_parquet(folder / "results.parquet")
    assert parquet["mse"].tolist() == pd.read_csv(folder / "results.csv")["mse"].tolist()


def test_results_are_the_completed_trials_only() -> None:
    assert results_frame(read_table(studies.failing_study())).empty


def test_summary_closes_as_the_guide_does(folder: Path) -> None:
    text = (folder / "summary.md").read_text(encoding="utf-8")
    assert "Optimal (balanced): sigma=0.5, bias=1, k=4\n" in text
    assert "Acceptance: 100%, MSE: 0.4756, Speedup: not measured (predicted 2.50x)\n" in text
    assert "    --spec_sigma 0.5 --spec_accept_bias 1 --spec_k 4\n" in text
    assert "12 Pareto trials of 80 completed." in text
    assert text.count("The draft alone is as accurate") == 1


def test_summary_statistics_and_tops_reach_the_user(folder: Path) -> None:
    text = (folder / "summary.md").read_text(encoding="utf-8")
    html = (folder / "report.html").read_text(encoding="utf-8")
    mses = [point.result.mse for point in GRID.points]
    cells = [f"{f(mses):.4f}" for f in (min, statistics.median, statistics.fmean, max)]
    assert f"| MSE | {' | '.join(cells)} |" in text
    assert f"<td>MSE</td>{''.join(f'<td>{cell}</td>' for cell in cells)}" in html
    for title in ("Highest acceptance", "Lowest MSE", "Best balanced"):
        assert f"## {title}\n\n| trial | sigma | bias | k | acceptance | MSE |" in text
        assert f"<h3>{title}</h3>" in html


def test_summary_shows_a_measured_speedup() -> None:
    study = studies.single_study()
    row = {"trial": 0, "device": "cpu", "batch_size": 8, "predicted_speedup": 1.4, "speedup": 1.31}
    study.set_user_attr("speedups", [row])
    table = read_table(study)
    assert "Speedup: 1.31x at best (cpu, batch size 8)" in summary(
        table, recommend_all(table), LIMITS
    )


def test_summary_where_nothing_is_met() -> None:
    table = read_table(studies.rejecting_study())
    recommendations = recommend_all(table)
    assert closing_choice(recommendations) is None
    assert "No setting meets any of the scenarios." in summary(table, recommendations, LIMITS)


def test_the_page_is_self_contained_and_keeps_no_secret(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "secret" not in html
    assert "spec-opt report &lt;study&gt;" in html
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?(https?:)?//", html)
    for name in PLOTS:
        assert f'id="{name}"' in html


def test_markup_in_names_and_errors_is_text(tmp_path: Path) -> None:
    study = studies.failing_study()
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.FAIL,
            user_attrs={"error": "<script>alert(1)</script> {{plotly}}"},
        )
    )
    report_of(study, tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{plotly}}" in html


@pytest.mark.parametrize(
    "study",
    [
        studies.empty_study(),
        studies.failing_study(),
        studies.single_study(),
        studies.rejecting_study(),
        studies.continuous_study(300),
        studies.grid_study(baseline=None),
    ],
    ids=lambda study: study.study_name,
)
def test_unusual_studies(study: optuna.Study, tmp_path: Path) -> None:
    report = report_of(study, tmp_path)
    assert all(path.stat().st_size > 0 for path in report.files)
    frame = pd.read_csv(io.BytesIO((tmp_path / "results.csv").read_bytes()))
    assert tuple(frame.columns[:9]) == OLD_COLUMNS


def test_10_000_trials(tmp_path: Path) -> None:
    report_of(studies.large_study(), tmp_path)
    assert len(pd.read_csv(tmp_path / "results.csv")) == 10_000


def test_without_a_browser_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent")
    report = report_of(studies.single_study(), tmp_path, png=True)
    assert report.png_problem is not None
    assert "Chromium" in report.png_problem
    assert len(report.files) == 4
    assert (tmp_path / "report.html").is_file()


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1100, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1100, "height": 900}},
    "phone": {"is_mobile": True, "viewport": {"width": 390, "height": 844}},
}
INK = {"light": "#1f2933", "dark": "#e4e9ee", "phone": "#1f2933"}


@pytest.mark.browser
@pytest.mark.parametrize("look", LOOKS)
def test_the_page_in_a_browser(look: str, folder: Path, browser: "Browser") -> None:
    page = browser.new_context(**LOOKS[look]).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url))
    page.goto((folder / "report.html").as_uri())
    page.wait_for_selector("#speedup_vs_mse .plot-container")
    drawn = page.evaluate(
        "[...document.querySelectorAll('.plotly-graph-div')]"
        ".map(d => [d.id, d.querySelectorAll('.trace, .hm').length])"
    )
    assert [name for name, _ in drawn] == list(PLOTS)
    assert all(traces > 0 for _, traces in drawn)
    # Nothing is wider than the screen, and the text of the figures has the page's colour.
    overflow = "document.documentElement.scrollWidth - window.innerWidth"
    assert page.evaluate(overflow) <= 0
    assert page.evaluate("document.getElementById('k_effect').layout.font.color") == INK[look]
    own = ("file:", "data:", "blob:")
    assert [text for text in complaints if not text.startswith(own)] == []
