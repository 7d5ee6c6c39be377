"""The figures: right for grids and for continuous samplers, honest about what is missing."""

import math
from itertools import pairwise
from pathlib import Path

import optuna
import plotly.express as px
import plotly.graph_objects as go
import pytest

from spec_opt.config.study_file import Setting
from spec_opt.errors import WorkError
from spec_opt.results.figure_style import SHADES
from spec_opt.results.figures import (
    FEWEST_TESTED,
    PLACES,
    PLOTS,
    figures,
    write_pngs,
)
from spec_opt.results.recommend import recommend_all
from spec_opt.results.table import StudyTable, read_table
from tests.results import studies

GRID = read_table(studies.grid_study())
SEVERAL = "several k"
GUIDE = {"acceptance_vs_mse", "acceptance_heatmap", "mse_heatmap", "k_effect", "pareto_frontier"}


def drawn(table: StudyTable) -> dict[str, go.Figure]:
    return figures(table, recommend_all(table))


def names(figure: go.Figure) -> list[str]:
    shapes = [shape.name for shape in figure.layout.shapes if shape.name]
    return [trace.name for trace in figure.data if trace.name] + shapes


def test_the_guides_five_and_three_more() -> None:
    assert tuple(drawn(GRID)) == PLOTS
    assert set(PLOTS) > GUIDE


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
def test_every_figure_of_unusual_studies_serialises(study: optuna.Study) -> None:
    for figure in drawn(read_table(study)).values():
        assert len(figure.to_json()) > 100
        assert figure.layout.title.text


def test_without_trials_the_figures_say_so() -> None:
    for figure in drawn(read_table(studies.empty_study())).values():
        assert not figure.data
        assert figure.layout.annotations[0].text == "No completed trial yet"


def test_both_baselines_are_in_the_legend() -> None:
    made = drawn(GRID)
    for name in ("acceptance_vs_mse", "pareto_frontier", "k_effect", "speedup_vs_mse"):
        found = names(made[name])
        assert "target alone: MSE 0.4404" in found
        assert "draft alone: MSE 0.4330" in found


def counts(trace: go.Scatter) -> list[int]:
    """How many trials each marker stands for."""
    return [int(text.removeprefix("×") or 1) for text in trace.text]


def test_acceptance_vs_mse_has_every_trial_with_setting_error_and_shape() -> None:
    figure = drawn(GRID)["acceptance_vs_mse"]
    assert sum(sum(counts(trace)) for trace in figure.data) == 80
    assert [trace.name for trace in figure.data] == [*(f"k = {k}" for k in range(1, 6)), SEVERAL]
    assert len({trace.marker.symbol for trace in figure.data}) == 6
    assert "sigma 0.25, bias 1, k 1" in figure.data[0].hovertext[0]
    assert figure.data[0].error_y.visible


def test_trials_that_would_hide_one_another_share_a_marker_with_their_count() -> None:
    figure = drawn(GRID)["acceptance_vs_mse"]
    several = figure.data[-1]
    # Of the 20 settings that accept nothing, whatever k and bias are, all MSEs are equal.
    at_zero = [count for x, count in zip(several.x, counts(several), strict=True) if x == 0.0]
    assert at_zero == [20]
    assert "and 19 with results like these" in several.hovertext[list(several.x).index(0.0)]
    diamonds = next(t for t in drawn(GRID)["pareto_frontier"].data if "front" in str(t.name))
    assert len(diamonds.x) == len(GRID.distinct_front)
    expected = [f"    ×{len(block)}" for block in GRID.distinct_front]
    assert list(diamonds.text) == expected


def test_a_shape_and_a_shade_stand_for_the_same_k_in_every_report() -> None:
    rows = [(0.1, 1.0, k, 0.3 + k / 100, 0.45 + k / 1000) for k in (2, 3, 9)]
    some = drawn(read_table(studies.study_of(*rows)))["acceptance_vs_mse"]
    looks = {
        t.name: (t.marker.symbol, t.marker.color) for t in drawn(GRID)["acceptance_vs_mse"].data
    }
    for trace in some.data[:2]:
        assert (trace.marker.symbol, trace.marker.color) == looks[trace.name]
    assert some.data[2].name == "k ≥ 8"


def lightness(color: str) -> float:
    red, green, blue = px.colors.unlabel_rgb(color)
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def test_neighbouring_k_differ_in_greyscale() -> None:
    greys = [lightness(color) for color in SHADES[:5]]
    assert all(abs(a - b) > 30 for a, b in pairwise(greys))


def test_bars_stay_within_0_and_100_percent() -> None:
    made = drawn(read_table(studies.continuous_study(120)))
    for trace in made["acceptance_vs_mse"].data:
        x, above, below = trace.x, trace.error_x.array, trace.error_x.arrayminus
        assert all(a + e <= 100.0 + 1e-9 for a, e in zip(x, above, strict=True))
        assert all(a - e >= -1e-9 for a, e in zip(x, below, strict=True))
    for trace in made["k_effect"].data:
        if trace.yaxis == "y2":  # acceptance
            bars = zip(trace.y, trace.error_y.array, trace.error_y.arrayminus, strict=True)
            assert all(below <= y <= 100.0 + 1e-9 - above for y, above, below in bars)


def test_the_front_is_stepped_the_right_way() -> None:
    figure = drawn(GRID)["pareto_frontier"]
    line = next(trace for trace in figure.data if trace.mode == "lines")
    # From the highest acceptance leftwards: the MSE holds until a lower one can be had.
    assert list(line.x) == sorted(line.x, reverse=True)
    assert list(line.y) == sorted(line.y, reverse=True)
    assert line.line.shape == "hv"


def test_the_line_passes_what_a_third_objective_alone_keeps_on_the_front() -> None:
    figure = drawn(read_table(studies.three_objectives()))["pareto_frontier"]
    line = next(trace for trace in figure.data if trace.mode == "lines")
    assert list(line.x) == [90.0, 60.0]
    assert list(line.y) == [0.45, 0.44]
    diamonds = next(trace for trace in figure.data if trace.name == "on the front")
    assert len(diamonds.x) == 3


def test_recommended_settings_are_ringed_once_each() -> None:
    found = names(drawn(GRID)["pareto_frontier"])
    assert "<b>speed, balanced</b>: sigma 0.5, bias 1, k 4" in found


def test_trials_outside_the_frame_are_counted() -> None:
    figure = drawn(GRID)["pareto_frontier"]
    # The front reaches from 0.4508 to 0.4756, the draft alone lies at 0.4330: three quarters of
    # what they span above the highest of them.
    above = sum(point.result.mse > 0.4756 + 0.75 * (0.4756 - 0.4330) for point in GRID.points)
    assert f"{above} worse trials above the frame" in figure.layout.title.subtitle.text


def test_heatmap_cells_are_means_over_k() -> None:
    figure = drawn(GRID)["mse_heatmap"]
    (heatmap,) = figure.data
    assert list(heatmap.x) == ["0.1", "0.25", "0.5", "1"]
    assert list(heatmap.y) == ["1", "2", "5", "10"]
    cell = [p.result.mse for p in GRID.points if (p.setting.sigma, p.setting.bias) == (1.0, 2.0)]
    assert len(cell) == 5
    assert heatmap.z[1][3] == pytest.approx(math.fsum(cell) / 5)
    assert heatmap.text[1][3] == "0.6466"
    assert "0.4756 to 0.9099" in heatmap.hovertext[1][3]


def test_continuous_settings_are_binned_and_none_is_lost() -> None:
    table = read_table(studies.continuous_study(300))
    (heatmap,) = drawn(table)["acceptance_heatmap"].data
    assert len(heatmap.x) == len(heatmap.y) == 6
    counts = [
        int(text.rsplit("<br>", 1)[1].split()[0])
        for row in heatmap.hovertext
        for text in row
        if "trial" in text and not text.startswith("no trial")
    ]
    assert sum(counts) == 300


def test_positions_are_pooled_over_trials() -> None:
    figure = drawn(GRID)["acceptance_by_position"]
    quarter = next(trace for trace in figure.data if trace.name == "sigma 0.25")
    accepted = tested = 0
    for point in GRID.points:
        if point.setting.sigma == 0.25:
            accepted += (point.result.accepted_by_position or ())[0]
            tested += (point.result.tested_by_position or ())[0]
    assert quarter.y[0] == pytest.approx(100 * accepted / tested)


def test_a_sigma_that_accepts_nothing_shows_its_first_position_only() -> None:
    trace = drawn(GRID)["acceptance_by_position"].data[0]
    assert trace.name == "sigma 0.1"
    assert list(trace.x) == [1]
    assert list(trace.y) == [0.0]


def test_many_trials_are_counted_and_none_is_left_out() -> None:
    figure = figures(read_table(studies.large_study()))["acceptance_vs_mse"]
    assert sum(sum(counts(trace)) for trace in figure.data) == 10_000
    assert sum(len(trace.x) for trace in figure.data) < PLACES**2
    assert not figure.data[0].error_y.visible


def test_shares_of_few_proposals_are_left_out_and_it_is_said() -> None:
    study = studies.empty_study()
    setting = Setting(sigma=0.2, bias=1.0, k=2)
    few = {"tested_by_position": [400, FEWEST_TESTED - 1], "accepted_by_position": [9, 9]}
    study.add_trial(studies.complete(setting, 0.1, 0.45, number=0, **few))
    figure = drawn(read_table(study))["acceptance_by_position"]
    assert list(figure.data[0].x) == [1]
    assert "fewer than 10 tested proposals" in figure.layout.title.subtitle.text


def test_measured_speedups_are_shown_beside_predicted_ones() -> None:
    study = studies.single_study()
    study.set_user_attr(
        "speedups",
        [
            {
                "trial": 0,
                "device": "cpu",
                "batch_size": 1,
                "predicted_speedup": 1.2,
                "speedup": 0.9,
            }
        ],
    )
    figure = drawn(read_table(study))["speedup_vs_mse"]
    measured = next(trace for trace in figure.data if trace.name == "measured")
    assert list(measured.x) == [0.9]
    assert "measured 0.90x" in measured.hovertext[0]


def test_without_any_speedup_the_figure_says_how_to_get_one() -> None:
    study = studies.empty_study()
    trial = studies.complete(GRID.points[0].setting, 0.5, 0.5, predicted_speedup=None)
    study.add_trial(trial)
    figure = drawn(read_table(study))["speedup_vs_mse"]
    assert "spec-opt bench" in figure.layout.annotations[0].text


@pytest.mark.browser
def test_pngs(tmp_path: Path, chromium: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", chromium)
    some = {name: drawn(GRID)[name] for name in PLOTS[:2]}
    paths = write_pngs(some, tmp_path)
    assert [path.name for path in paths] == [f"{name}.png" for name in PLOTS[:2]]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_without_a_browser_the_error_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent")
    with pytest.raises(WorkError, match=r"For PNGs: .*Chromium"):
        write_pngs({"k_effect": drawn(GRID)["k_effect"]}, tmp_path)
    assert list(tmp_path.iterdir()) == []


class DriverError(Exception):
    """Of no kind that is known beforehand."""


@pytest.mark.parametrize(
    ("error", "said"), [(OSError(), "^OSError. For PNGs"), (DriverError("so\nso"), "^so. For PNGs")]
)
def test_whatever_the_browser_raises_is_one_line(
    error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("plotly.io.write_images", fail)
    with pytest.raises(WorkError, match=said):
        write_pngs({"k_effect": drawn(GRID)["k_effect"]}, tmp_path)
