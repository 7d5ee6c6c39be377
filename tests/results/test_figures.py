"""The figures: right for grids and for continuous samplers, honest about what is missing."""

import math
from pathlib import Path

import optuna
import plotly.graph_objects as go
import pytest

from spec_opt.errors import WorkError
from spec_opt.results.figures import (
    MOST_DRAWN,
    PLOTS,
    SHAPES,
    figures,
    write_pngs,
)
from spec_opt.results.recommend import recommend_all
from spec_opt.results.table import StudyTable, read_table
from tests.results import studies

GRID = read_table(studies.grid_study())
GUIDE = {"acceptance_vs_mse", "acceptance_heatmap", "mse_heatmap", "k_effect", "pareto_frontier"}


def drawn(table: StudyTable) -> dict[str, go.Figure]:
    return figures(table, recommend_all(table))


def names(figure: go.Figure) -> list[str]:
    shapes = [shape.name for shape in figure.layout.shapes if shape.name]
    return [trace.name for trace in figure.data if trace.name] + shapes


def test_the_guides_five_and_two_more() -> None:
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


def test_acceptance_vs_mse_has_every_trial_with_setting_error_and_shape() -> None:
    figure = drawn(GRID)["acceptance_vs_mse"]
    assert sum(len(trace.x) for trace in figure.data) == 80
    assert [trace.name for trace in figure.data] == [f"k = {k}" for k in range(1, 6)]
    assert len({trace.marker.symbol for trace in figure.data}) == 5
    assert "sigma 0.1, bias 1, k 1" in figure.data[0].text[0]
    assert figure.data[0].error_y.visible


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
    assert heatmap.text[1][3] == "0.6466<br>0.4756 – 0.9099"


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


def test_many_points_are_thinned_but_never_the_front() -> None:
    table = read_table(studies.large_study())
    figure = figures(table)["acceptance_vs_mse"]
    shown = sum(len(trace.x) for trace in figure.data)
    assert len(table.front) < shown <= MOST_DRAWN + len(table.front)
    assert "of 10,000 drawn, the front in full" in figure.layout.title.subtitle.text
    assert figure.data[0].error_y.visible is None


def test_more_values_of_k_than_shapes_become_ranges() -> None:
    rows = [(0.1, 1.0, k, 0.5, 0.45 + k / 1000) for k in range(1, 31)]
    figure = drawn(read_table(studies.study_of(*rows)))["acceptance_vs_mse"]
    assert len(figure.data) <= len(SHAPES)
    assert figure.data[0].name == "k = 1 to 3"


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
    assert "measured 0.90x" in measured.text[0]


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
    assert [path.name for path in paths] == ["pareto_frontier.png", "acceptance_vs_mse.png"]
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
