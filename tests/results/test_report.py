"""The report's files, and its page in a real browser."""

import io
import re
import statistics
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
import pytest

from spec_opt.measure.cost_model import Cost, Costs, LearntCosts
from spec_opt.results.figures import PLOTS
from spec_opt.results.judgement import Judgement
from spec_opt.results.recommend import closing_choice, recommend_all
from spec_opt.results.render import DECISIONS
from spec_opt.results.report import (
    OLD_COLUMNS,
    Report,
    results_frame,
    summary,
    write_report,
)
from spec_opt.results.table import read_table
from spec_opt.results.verdict import verdict_of
from tests.results import studies

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report on a study whose costs are known, so that every figure is drawn."""
    study, folder = studies.grid_study(), tmp_path_factory.mktemp("full")
    study.set_user_attr("costs", {studies.PLACE: asdict(studies.LEARNT)})
    report_of(study, folder)
    return (folder / "report.html").as_uri()


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
    # The verdict goes first.
    assert text.splitlines()[2] == "### Not settled"


def test_summary_statistics_and_tops_reach_the_user(folder: Path) -> None:
    text = (folder / "summary.md").read_text(encoding="utf-8")
    html = (folder / "report.html").read_text(encoding="utf-8")
    mses = [point.result.mse for point in GRID.points]
    cells = [f"{f(mses):.6g}" for f in (min, statistics.median, statistics.fmean, max)]
    assert f"| MSE | {' | '.join(cells)} |" in text
    assert f"<td>MSE</td>{''.join(f'<td>{cell}</td>' for cell in cells)}" in html
    for title in ("Highest acceptance", "Lowest MSE", "Best balanced"):
        assert f"### {title}\n\n| trial | sigma | bias | k | acceptance % |" in text
        assert f"<h3>{title}</h3>" in html


def test_tables_hold_distinct_results_with_their_count_and_six_digits(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    front = html.split('id="pareto-front"')[1].split("</table>")[0]
    rows = re.findall(r"<tr>(<td>.*?)</tr>", front)
    assert len(rows) == len(GRID.distinct_front)
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
    equal = {str(block[0].number): str(len(block)) for block in GRID.distinct_front}
    assert {row[0]: row[12] for row in cells} == equal
    assert [row[6] for row in cells] == [
        f"{block[0].result.mse:.6g}" for block in GRID.distinct_front
    ]


def test_the_verdict_goes_first_in_the_decisions_colour_and_in_words(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    banner = html.split("<main>")[1].split("</section>")[0]
    decision = verdict_of(GRID).decision
    assert f'<section class="banner {decision}">' in banner
    assert f"<h3>{DECISIONS[decision]}</h3>" in banner


def test_the_page_says_how_it_was_made(tmp_path: Path) -> None:
    study = studies.grid_study()
    study.set_user_attr("series", {"summary": "ETTh1.csv: 17,420 rows, hourly, 7 channels"})
    study.set_user_attr("models", {"draft": {"parameters": 1200, "trained": True}})
    costs = LearntCosts(Costs(*[Cost(1.0, 0.5)] * 7), spread=0.1)
    study.set_user_attr("costs", {"cpu, float32, batch size 64, 2 threads": asdict(costs)})
    report_of(study, tmp_path)
    origin = (tmp_path / "report.html").read_text(encoding="utf-8").split("How it was made</h2>")[1]
    for text in (
        "2025-03-01 12:00 UTC to 2025-03-01 12:03 UTC",
        "<td>machine</td><td>host</td>",
        "<td>windows</td><td>255</td>",
        "ETTh1.csv: 17,420 rows, hourly, 7 channels",
        "<td>draft model</td><td>parameters 1200, trained True</td>",
        "cpu, float32, batch size 64, 2 threads",
        "rule stride",
    ):
        assert text in origin


def test_what_confirm_found_is_shown(tmp_path: Path) -> None:
    study = studies.grid_study()
    why = "MSE 5.8% above the target's, at most 5% allowed"
    judgement = Judgement("quality", "test", 3, "not confirmed", why, 1.058, 1.02, 1.09, 1.05, 0.7)
    study.set_user_attr("judgements", [asdict(judgement)])
    report_of(study, tmp_path)
    line = "quality, test split: not confirmed: MSE 5.8% above the target's, at most 5% allowed"
    assert f"- {line}" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert escape(line) in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_summary_shows_a_measured_speedup() -> None:
    study = studies.single_study()
    row = {"trial": 0, "device": "cpu", "batch_size": 8, "predicted_speedup": 1.4, "speedup": 1.31}
    study.set_user_attr("speedups", [row])
    table = read_table(study)
    text = summary(table, verdict_of(table), recommend_all(table), ())
    assert "Speedup: 1.31x at best (cpu, batch size 8)" in text


def test_summary_where_nothing_is_met() -> None:
    table = read_table(studies.rejecting_study())
    recommendations = recommend_all(table)
    assert closing_choice(recommendations) is None
    assert "No setting meets any of the scenarios." in summary(
        table, verdict_of(table), recommendations, ()
    )


def test_the_page_is_self_contained_and_keeps_no_secret(folder: Path) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "secret" not in html
    assert "spec-opt report &lt;study&gt;" in html
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"']?(https?:)?//", html)
    for name in PLOTS:  # the costs of this study are not known: no empty figure of its schedule
        assert (f'id="{name}"' in html) == (name != "speedup_by_batch_size")


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
HEATMAPS = ("#acceptance_heatmap", "#mse_heatmap")
INK = {"light": "#1f2933", "dark": "#e4e9ee", "phone": "#1f2933"}


@pytest.mark.browser
@pytest.mark.parametrize("look", LOOKS)
def test_the_page_in_a_browser(look: str, full_page: str, browser: "Browser") -> None:
    page = browser.new_context(**LOOKS[look]).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url))
    page.goto(full_page)
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
    assert page.evaluate(CONTRASTS) >= 4.5
    # A table that is wider than its box says so.
    front = page.locator(".scroll").first
    wider = front.evaluate("box => box.scrollWidth > box.clientWidth")
    assert wider or look != "phone"
    assert front.evaluate("box => box.classList.contains('wide')") == wider
    if look != "phone":
        left, right = (page.locator(name).bounding_box() for name in HEATMAPS)
        assert left is not None
        assert right is not None
        assert (left["y"], left["x"] + left["width"]) <= (right["y"], right["x"])
    own = ("file:", "data:", "blob:")
    assert [text for text in complaints if not text.startswith(own)] == []


CONTRASTS = """() => {
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => {
    const [r, g, b] = parts(color).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    const color = element ? getComputedStyle(element).backgroundColor : "rgb(255, 255, 255)";
    const [, , , alpha = 1] = parts(color);
    return alpha > 0 ? color : ground(element.parentElement);
  };
  const ratios = [...document.querySelectorAll("main *")]
    .filter(e => !e.closest(".plotly-graph-div, noscript"))
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => [light(getComputedStyle(e).color), light(ground(e))])
    .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  return Math.min(...ratios);
}"""
"""The least contrast of a text of the page with its background."""


@pytest.mark.browser
def test_links_lead_to_their_parts_and_flags_are_copied(full_page: str, browser: "Browser") -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(full_page)
    links = page.locator("nav a")
    titles = links.all_text_contents()
    assert titles[:3] == ["Pareto front", "Which setting to use", "A k for each batch size"]
    assert titles == page.locator("h2").all_text_contents()
    for target in links.evaluate_all("all => all.map(a => a.getAttribute('href'))"):
        assert page.locator(target).count() == 1
    page.locator(".card button.copy").first.click()
    page.wait_for_selector("text=Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "--spec_sigma 0.5 --spec_accept_bias 1 --spec_k 4"
