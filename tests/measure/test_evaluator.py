"""Measured settings: by hand, against the plain decoder, and on real data."""

import csv
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spec_opt.config.study_file import DataConfig, DecodingConfig, Setting
from spec_opt.config.values import Precision, Rule
from spec_opt.data.windows import Windows, load_dataset
from spec_opt.decoding import rules
from spec_opt.errors import ConfigError, InputError
from spec_opt.measure.evaluator import Evaluator, decoding_fingerprint
from spec_opt.measure.measurement import Measurement
from spec_opt.measure.uncertainty import draft_against_target
from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig
from tests.models.factories import Own

CPU = DecodingConfig(device="cpu")


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Evaluators set the precision of matrix products for the whole process."""
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def tiny_pair(reference_dir: Path) -> tuple[FrozenTimerXL, FrozenTimerXL]:
    return (
        load_timer_xl(reference_dir / "tiny_target.pth"),
        load_timer_xl(reference_dir / "tiny_draft.pth"),
    )


def windows_of(count: int, context: int, horizon: int, channels: int, stride: int = 5) -> Windows:
    rows = (count - 1) * stride + context + horizon
    values = torch.randn(rows, channels, generator=torch.Generator().manual_seed(0))
    return Windows(values, torch.arange(count) * stride, context, horizon)


def shifted_mean(shift: float, patch: int = 2, log_variance: float | None = None) -> FrozenTimerXL:
    """Forecasts the context's mean plus `shift` of its standard deviations, for every point."""
    model = TimerXL(
        TimerXLConfig(
            patch=patch,
            d_model=8,
            heads=2,
            feedforward=8,
            layers=1,
            stochastic=log_variance is not None,
        )
    )
    with torch.no_grad():
        model.mean_head.weight.zero_()
        model.mean_head.bias.fill_(shift)
        if model.log_variance_head is not None:
            model.log_variance_head.weight.zero_()
            model.log_variance_head.bias.fill_(log_variance or 0.0)
    return FrozenTimerXL(model)


def by_hand(windows: Windows, shift: float, patch: int = 2) -> NDArray[np.float64]:
    """The forecasts of such a model alone, `[W, H, C]`, by a loop over windows and patches."""
    forecasts = []
    for context in windows.contexts().double().numpy():
        values = context
        for _ in range(-(-windows.horizon // patch)):
            seen = values[-windows.context :]
            point = seen.mean(axis=0) + shift * np.sqrt(seen.var(axis=0) + 1e-5)
            values = np.concatenate([values, np.repeat(point[None], patch, axis=0)])
        forecasts.append(values[windows.context :][: windows.horizon])
    return np.stack(forecasts)


class TestBaseline:
    WINDOWS = windows_of(9, context=4, horizon=5, channels=2)

    def test_by_hand(self) -> None:
        evaluator = Evaluator(shifted_mean(0.0), shifted_mean(0.5), self.WINDOWS, CPU)
        truth = self.WINDOWS.futures().double().numpy()
        target, draft = (by_hand(self.WINDOWS, shift) - truth for shift in (0.0, 0.5))

        baseline = evaluator.baseline()

        assert baseline.target_mse == pytest.approx(float(np.mean(target**2)), rel=1e-5)
        assert baseline.target_mae == pytest.approx(float(np.mean(np.abs(target))), rel=1e-5)
        assert baseline.draft_mse == pytest.approx(float(np.mean(draft**2)), rel=1e-5)
        assert baseline.draft_mae == pytest.approx(float(np.mean(np.abs(draft))), rel=1e-5)

    @pytest.mark.parametrize("rule", ["stride", "exact", "point"])
    def test_it_does_not_depend_on_the_rule_or_on_what_was_measured_before(self, rule: str) -> None:
        config = CPU.model_copy(update={"rule": rule})
        target, draft = shifted_mean(0.0), shifted_mean(0.5, log_variance=-1.0)
        expected = Evaluator(target, draft, self.WINDOWS, CPU).baseline()
        evaluator = Evaluator(target, draft, self.WINDOWS, config)

        evaluator.measure(Setting(sigma=0.5, bias=1.0, k=2))

        assert evaluator.baseline() == expected

    def test_a_draft_equal_to_its_target_is_as_good(self) -> None:
        same = Evaluator(shifted_mean(0.1), shifted_mean(0.1), self.WINDOWS, CPU).baseline()
        worse = Evaluator(shifted_mean(0.0), shifted_mean(9.0), self.WINDOWS, CPU).baseline()

        assert same.draft_minus_target_mse_se == pytest.approx(0.0, abs=1e-12)
        assert draft_against_target(same, 0.02) == "equivalent"
        assert draft_against_target(worse, 0.02) == "worse"

    def test_a_draft_that_is_the_linear_model_is_not_another(self) -> None:
        target, linear = shifted_mean(0.1), shifted_mean(0.4)
        other = Evaluator(target, shifted_mean(0.2), self.WINDOWS, CPU).baseline(linear)
        draft = Evaluator(target, linear, self.WINDOWS, CPU).baseline(linear)
        assert draft.linear_mse == pytest.approx(draft.draft_mse, rel=1e-6)
        assert list(draft.levels) == ["target alone", "draft alone"]
        assert other.levels["linear model alone"] == other.linear_mse == draft.linear_mse

    def test_a_single_window_has_no_standard_errors(self) -> None:
        evaluator = Evaluator(shifted_mean(0.0), shifted_mean(0.5), windows_of(1, 4, 5, 2), CPU)

        baseline = evaluator.baseline()
        measurement = evaluator.measure(Setting(sigma=0.5, bias=1.0, k=2))

        assert baseline.target_mse_se is None
        assert baseline.draft_mse_se is None
        assert baseline.draft_minus_target_mse_se is None
        assert measurement.mse_se is None
        assert measurement.acceptance_se is None


def counted(measurement: Measurement) -> Measurement:
    """The counters only, without errors, costs and times."""
    return replace(
        measurement,
        mse=0.0,
        mae=0.0,
        mse_se=0.0,
        mse_ci95=0.0,
        evaluation_seconds=0.0,
        target_evaluations=0,
        draft_evaluations=0,
        blocks=replace(measurement.blocks, mse=()),
    )


class TestMeasure:
    @pytest.mark.parametrize("rule", ["stride", "exact", "point"])
    @pytest.mark.parametrize("batch_size", [4, 64])
    def test_the_cache_and_the_plain_decoder_agree(
        self, reference_dir: Path, rule: Rule, batch_size: int
    ) -> None:
        config = DecodingConfig(device="cpu", rule=rule, batch_size=batch_size, seed=3)
        evaluator = Evaluator(*tiny_pair(reference_dir), windows_of(12, 96, 80, 2), config)

        for setting in (
            Setting(sigma=1.9, bias=1.0, k=3),
            Setting(sigma=1.9, bias=2.0, k=1),
            Setting(sigma=1.0, bias=5.0, k=6),
        ):
            cached, plain = evaluator.measure(setting), evaluator.measure_plainly(setting)

            assert cached.mse == pytest.approx(plain.mse, rel=1e-5)
            assert cached.mae == pytest.approx(plain.mae, rel=1e-5)
            assert cached.mse_se == pytest.approx(plain.mse_se, rel=1e-5)
            assert cached.blocks.mse == pytest.approx(plain.blocks.mse, rel=1e-5)
            assert counted(cached) == counted(plain)
            assert cached.target_evaluations < plain.target_evaluations
            assert plain.target_evaluations == plain.proposed + plain.bonus
            assert plain.draft_evaluations == plain.proposed

    def test_a_growing_context_agrees_too(self, reference_dir: Path) -> None:
        config = DecodingConfig(device="cpu", context="growing", batch_size=5)
        evaluator = Evaluator(*tiny_pair(reference_dir), windows_of(12, 96, 80, 2), config)
        setting = Setting(sigma=1.2, bias=2.0, k=3)

        cached, plain = evaluator.measure(setting), evaluator.measure_plainly(setting)

        assert 0 < cached.accepted < cached.tested
        assert counted(cached) == counted(plain)
        assert cached.mse == pytest.approx(plain.mse, rel=1e-5)

    def test_all_accepted_by_hand(self) -> None:
        """Rule `point`, draft and target equal: the target's forecast, in full rounds."""
        windows = windows_of(6, context=4, horizon=7, channels=2)  # four patches
        config = DecodingConfig(device="cpu", rule="point")
        evaluator = Evaluator(shifted_mean(0.3), shifted_mean(0.3), windows, config)
        error = by_hand(windows, 0.3) - windows.futures().double().numpy()

        measurement = evaluator.measure(Setting(sigma=0.1, bias=1.0, k=2))

        # Two proposals and a bonus, then one proposal.
        assert measurement.acceptance_rate == 1.0
        assert measurement.acceptance_se == 0.0
        assert measurement.mse == pytest.approx(float(np.mean(error**2)), rel=1e-5)
        assert measurement.mae == pytest.approx(float(np.mean(np.abs(error))), rel=1e-5)
        assert measurement.accepted == measurement.tested == measurement.proposed == 6 * 3
        assert measurement.accepted_by_position == measurement.tested_by_position == (12, 6)
        assert (measurement.rounds, measurement.bonus, measurement.patches) == (12, 6, 24)
        assert measurement.patches_per_round == 2.0
        assert measurement.windows == 6
        assert measurement.thinning_exhausted == 0
        assert measurement.evaluation_seconds > 0

    def test_all_rejected_by_hand(self) -> None:
        """Means that are far apart: the target's forecast, one patch per round."""
        windows = windows_of(6, context=4, horizon=7, channels=2)
        config = DecodingConfig(device="cpu", rule="point")
        evaluator = Evaluator(shifted_mean(0.3), shifted_mean(50.0), windows, config)
        error = by_hand(windows, 0.3) - windows.futures().double().numpy()

        measurement = evaluator.measure(Setting(sigma=0.1, bias=1.0, k=3))

        assert measurement.acceptance_rate == 0.0
        assert measurement.mse == pytest.approx(float(np.mean(error**2)), rel=1e-5)
        assert measurement.tested_by_position == (24, 0, 0)
        assert measurement.accepted_by_position == (0, 0, 0)
        assert measurement.proposed == 6 * (3 + 3 + 2 + 1)
        assert (measurement.rounds, measurement.bonus) == (24, 0)
        assert measurement.patches_per_round == 1.0

    def test_the_rate_is_a_quotient_in_double_precision(self, reference_dir: Path) -> None:
        evaluator = Evaluator(*tiny_pair(reference_dir), windows_of(12, 96, 80, 2), CPU)

        measurement = evaluator.measure(Setting(sigma=1.9, bias=1.0, k=3))

        assert 0 < measurement.accepted < measurement.tested
        assert measurement.acceptance_rate == measurement.accepted / measurement.tested
        assert measurement.patches_per_round == measurement.patches / measurement.rounds
        assert sum(measurement.accepted_by_position) == measurement.accepted
        assert sum(measurement.tested_by_position) == measurement.tested

    def test_standard_errors_cover(self) -> None:
        """The acceptance rates of many seeds spread as their standard errors say."""
        windows = windows_of(200, context=4, horizon=4, channels=1, stride=9)
        pair = shifted_mean(0.0), shifted_mean(0.2, log_variance=0.0)
        setting = Setting(sigma=1.0, bias=1.0, k=1)
        measurements = [
            Evaluator(*pair, windows, DecodingConfig(device="cpu", seed=seed)).measure(setting)
            for seed in range(40)
        ]
        rates = np.array([m.acceptance_rate for m in measurements])
        errors = np.array([m.acceptance_se or math.nan for m in measurements])

        assert 0.1 < rates.mean() < 0.95
        # Seeds vary the dice only, not the windows, so the spread can be a bit smaller.
        assert 0.6 < rates.std(ddof=1) / errors.mean() < 1.3

    def test_more_forecasts_than_a_batch_and_one_more(self, reference_dir: Path) -> None:
        windows = windows_of(9, 96, 48, 2)
        setting = Setting(sigma=1.9, bias=1.0, k=2)
        numbers = [
            Evaluator(
                *tiny_pair(reference_dir), windows, DecodingConfig(device="cpu", batch_size=size)
            ).measure(setting)
            for size in (1, 8, 100)
        ]

        assert len({m.accepted for m in numbers}) == 1
        assert numbers[0].mse == pytest.approx(numbers[2].mse, rel=1e-5)
        assert numbers[1].mse == pytest.approx(numbers[2].mse, rel=1e-5)

    def test_exhausted_thinning_is_reported(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(rules, "THINNING_BOUND", 1)
        windows = windows_of(60, context=4, horizon=4, channels=1)
        config = DecodingConfig(device="cpu", rule="exact")
        evaluator = Evaluator(
            shifted_mean(0.0), shifted_mean(0.3, log_variance=0.0), windows, config
        )

        with caplog.at_level(logging.WARNING, logger="spec_opt"):
            measurement = evaluator.measure(Setting(sigma=1.0, bias=1.0, k=1))

        assert measurement.thinning_exhausted > 0
        assert [r.message.split()[0] for r in caplog.records] == [
            str(measurement.thinning_exhausted)
        ]


def wide_draft(rule: Rule, first: int, seeds: int, windows: Windows) -> Measurement:
    """Of a pair whose results depend on random numbers, under every rule."""
    pair = shifted_mean(0.0), shifted_mean(0.4, log_variance=-1.0)
    config = DecodingConfig(device="cpu", rule=rule, seed=first, seeds=seeds)
    return Evaluator(*pair, windows, config).measure(Setting(sigma=0.5, bias=1.0, k=2))


class TestSeveralSeeds:
    WINDOWS = windows_of(30, context=4, horizon=5, channels=1, stride=10)

    @pytest.mark.parametrize("rule", ["stride", "exact", "point"])
    @pytest.mark.parametrize("limit_bytes", [None, 6000])
    def test_results_are_means_and_counts_are_sums(
        self, rule: Rule, limit_bytes: int | None
    ) -> None:
        singles = [wide_draft(rule, seed, 1, self.WINDOWS) for seed in (5, 6, 7)]
        pair = shifted_mean(0.0), shifted_mean(0.4, log_variance=-1.0)
        config = DecodingConfig(device="cpu", rule=rule, seed=5, seeds=3)
        evaluator = Evaluator(*pair, self.WINDOWS, config, cache_limit_bytes=limit_bytes)
        setting = Setting(sigma=0.5, bias=1.0, k=2)

        several, plain = evaluator.measure(setting), evaluator.measure_plainly(setting)

        assert len({one.mse for one in singles}) == 3
        assert len({one.acceptance_rate for one in singles}) > 1
        assert (evaluator.cache_statistics.evictions > 0) is (limit_bytes is not None)
        for name in ("accepted", "tested", "proposed", "rounds", "bonus", "patches"):
            assert vars(several)[name] == sum(vars(one)[name] for one in singles), name
        assert several.acceptance_rate == several.accepted / several.tested
        assert several.patches_per_round == several.patches / several.rounds
        assert (several.windows, several.seeds, singles[0].seeds) == (30, 3, 1)
        for name in ("mse", "mae"):
            mean = np.mean([vars(one)[name] for one in singles])
            assert vars(several)[name] == pytest.approx(mean, rel=1e-6)
        by_block = np.mean([one.blocks.mse for one in singles], axis=0)
        assert several.blocks.mse == pytest.approx(by_block, rel=1e-6)
        assert several.blocks.same_windows(singles[0].blocks)
        assert sum(several.blocks.tested) == several.tested
        assert several.mse == pytest.approx(plain.mse, rel=1e-6)
        assert several.mse_seed_se == pytest.approx(plain.mse_seed_se, rel=1e-6)
        assert counted(replace(several, mse_seed_se=0)) == counted(replace(plain, mse_seed_se=0))

    def test_one_seed_does_not_show_what_it_adds(self) -> None:
        single = wide_draft("stride", 0, 1, self.WINDOWS)

        assert (single.acceptance_seed_se, single.mse_seed_se) == (None, None)

    @pytest.mark.parametrize("rule", ["stride", "point"])
    def test_the_part_of_random_numbers_is_how_far_other_seeds_are(self, rule: Rule) -> None:
        windows = windows_of(60, context=4, horizon=4, channels=1, stride=9)
        found = [wide_draft(rule, 3 * group, 3, windows) for group in range(40)]

        for name in ("acceptance_rate", "mse"):
            spread = np.std([vars(one)[name] for one in found], ddof=1)
            part = f"{name.removesuffix('_rate')}_seed_se"
            assert 0.7 < spread / np.mean([vars(one)[part] for one in found]) < 1.35

    def test_intervals_cover_windows_and_random_numbers(self) -> None:
        """Three seeds on 100 pieces of a series; the truth is the mean over all of them."""
        every = windows_of(3000, context=4, horizon=4, channels=1, stride=8)
        pieces = (replace(every, starts=starts) for starts in torch.split(every.starts, 30))
        found = [wide_draft("stride", 0, 3, piece) for piece in pieces]

        for name, half_width in (("acceptance_rate", "acceptance_ci95"), ("mse", "mse_ci95")):
            values = np.array([vars(one)[name] for one in found])
            widths = np.array([vars(one)[half_width] for one in found])
            assert np.mean(np.abs(values - values.mean()) <= widths) > 0.88


class TestPrecision:
    def test_bfloat16_is_close_to_float32(self, reference_dir: Path) -> None:
        setting = Setting(sigma=1.9, bias=1.0, k=2)
        windows = windows_of(12, 96, 48, 2)
        precisions: tuple[Precision, Precision] = ("float32", "bfloat16")
        full, half = (
            Evaluator(
                *tiny_pair(reference_dir),
                windows,
                DecodingConfig(device="cpu", precision=precision),
            ).measure(setting)
            for precision in precisions
        )

        assert half.mse != full.mse
        assert half.mse == pytest.approx(full.mse, rel=0.2)

    def test_tf32_ends_with_the_evaluator_that_asked_for_it(self, reference_dir: Path) -> None:
        windows = windows_of(2, 96, 24, 2)
        pair = tiny_pair(reference_dir)

        Evaluator(*pair, windows, DecodingConfig(device="cpu", precision="tf32"))
        assert torch.get_float32_matmul_precision() == "high"
        Evaluator(*pair, windows, DecodingConfig(device="cpu", precision="float32"))
        assert torch.get_float32_matmul_precision() == "highest"


class TestInput:
    def test_patches_must_agree(self) -> None:
        with pytest.raises(InputError, match="2 points and the draft's 4: a draft must be dist"):
            Evaluator(shifted_mean(0.0), shifted_mean(0.0, patch=4), windows_of(2, 4, 4, 1), CPU)

    def test_growing_contexts_need_a_target_that_remembers(self, reference_dir: Path) -> None:
        config = DecodingConfig(device="cpu", context="growing")
        with pytest.raises(InputError, match="does not: use context = 'rolling'"):
            Evaluator(Own(2), Own(2), windows_of(2, 4, 4, 1), config)
        with pytest.raises(InputError, match=r"data\.context = 100 must be a multiple .* 24 po"):
            Evaluator(*tiny_pair(reference_dir), windows_of(2, 100, 24, 1), config)

    def test_rolling_contexts_need_not_be_whole_patches(self) -> None:
        evaluator = Evaluator(Own(2), Own(2, damping=0.5), windows_of(2, 5, 7, 1), CPU)
        cached, plain = (
            measure(Setting(sigma=0.5, bias=1.0, k=2))
            for measure in (evaluator.measure, evaluator.measure_plainly)
        )
        assert cached.mse == pytest.approx(plain.mse, rel=1e-6)

    def test_a_missing_gpu(self) -> None:
        config = DecodingConfig(device="cuda:99")

        with pytest.raises(ConfigError, match=r"decoding\.device = 'cuda:99': .* use 'cpu'"):
            Evaluator(shifted_mean(0.0), shifted_mean(0.0), windows_of(2, 4, 4, 1), config)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_no_gpu_at_all(self) -> None:
        pair, windows = (shifted_mean(0.0), shifted_mean(0.0)), windows_of(2, 4, 4, 1)

        with pytest.raises(ConfigError, match="0 CUDA devices"):
            Evaluator(*pair, windows, DecodingConfig(device="cuda"))
        assert Evaluator(*pair, windows, DecodingConfig(device="auto")).device.type == "cpu"


def test_the_decoding_fingerprint_covers_what_the_numbers_depend_on() -> None:
    base = decoding_fingerprint(DecodingConfig())

    for same in ({"device": "cpu"}, {"batch_size": 7}):
        assert decoding_fingerprint(DecodingConfig().model_copy(update=same)) == base
    others = (
        {"rule": "point"},
        {"context": "growing"},
        {"precision": "bfloat16"},
        {"seed": 1},
        {"seeds": 2},
    )
    hashes = {decoding_fingerprint(DecodingConfig().model_copy(update=o)) for o in others}
    assert len(hashes | {base}) == 6
    # Studies from before there were several seeds are resumed.
    assert base.startswith("975c3165780a383b")


@pytest.fixture(scope="module")
def real(shared_dir: Path) -> Evaluator:
    """ETTh1 and the trained pair: the 255 test windows of the research code's own table."""
    data = DataConfig(source=str(shared_dir / "data" / "ETTh1.csv"), context=672, horizon=336)
    windows = load_dataset(data).windows("test", data.context, data.horizon, stride=10)
    folder = shared_dir / "checkpoints"
    target = load_timer_xl(folder / "etth1_target_checkpoint.pth")
    return Evaluator(target, load_timer_xl(folder / "etth1_draft_checkpoint.pth"), windows, CPU)


@pytest.fixture(scope="module")
def grid(real: Evaluator, reference_dir: Path) -> list[tuple[dict[str, str], Measurement]]:
    """The rows of that table, each with our own measurement of its setting."""
    with (reference_dir / "old_sweep.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    settings = [
        Setting(sigma=float(row["sigma"]), bias=float(row["bias"]), k=int(row["k"])) for row in rows
    ]
    return [(row, real.measure(setting)) for row, setting in zip(rows, settings, strict=True)]


@pytest.mark.shared
class TestRealPair:
    def test_the_grid_agrees_with_the_research_code(
        self, grid: list[tuple[dict[str, str], Measurement]]
    ) -> None:
        """If all or nothing is accepted, only noise differs; otherwise the counting does too."""
        assert len(grid) == 80
        for row, measurement in grid:
            decided = float(row["acceptance_pct"]) in (0.0, 100.0)
            tolerance = 0.01 if decided else 0.02
            assert measurement.mse == pytest.approx(float(row["mse"]), abs=tolerance), row
            assert measurement.mae == pytest.approx(float(row["mae"]), abs=tolerance), row
            if decided:
                rate = float(row["acceptance_pct"]) / 100
                assert measurement.acceptance_rate == pytest.approx(rate, abs=0.01)
            else:
                assert measurement.acceptance_rate < float(row["acceptance_pct"]) / 100

    def test_the_grid_costs_few_evaluations(
        self, real: Evaluator, grid: list[tuple[dict[str, str], Measurement]]
    ) -> None:
        asked = sum(measurement.target_evaluations for _, measurement in grid)

        assert asked <= 17 * grid[0][1].windows
        assert real.cache_statistics.hit_rate > 0.9

    def test_baselines(self, real: Evaluator) -> None:
        baseline = real.baseline()

        assert round(baseline.target_mse, 4) == 0.4404
        assert round(baseline.draft_mse, 4) == 0.4330
