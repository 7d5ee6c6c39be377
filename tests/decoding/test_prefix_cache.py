"""The prefix cache: the same numbers as the plain decoder, from few model evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.data.windows import Windows
from spec_opt.decoding import rules
from spec_opt.decoding.contexts import patches_to_cover
from spec_opt.decoding.prefix_cache import PrefixCache, Walk
from spec_opt.decoding.speculative import Counters
from spec_opt.errors import DecodingError
from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.forecaster import Forecaster, Gaussian

from .stubs import Constant, Counting, Near, Stub, decode, decode_alone, random_windows, workload

SEED = 21
GRID = [
    Setting(sigma=sigma, bias=bias, k=k)
    for sigma, bias, k in product((0.1, 0.25, 0.5, 1.0), (1.0, 2.0, 5.0, 10.0), range(1, 6))
]

Pair = tuple[Forecaster, Forecaster]


@pytest.fixture(scope="module")
def target(reference_dir: Path) -> Forecaster:
    return load_timer_xl(reference_dir / "tiny_target.pth")


@pytest.fixture(scope="module")
def drafts(target: Forecaster, reference_dir: Path) -> dict[str, Forecaster]:
    """The tiny draft, which is far off, and drafts near enough to be accepted."""
    return {
        "own": load_timer_xl(reference_dir / "tiny_draft.pth"),
        "near": Near(target, 0.08, 0.25),
        "near, without variance": Near(target, 0.08, None),
    }


def assert_same(walk: Walk, pair: Pair, rule: str, setting: Setting, windows: Windows) -> None:
    """The cache gives what the plain decoder gives."""
    plain = decode(workload(*pair, rule, windows, SEED), setting)
    for field in fields(Counters):
        name = field.name
        assert torch.equal(vars(walk.counters)[name], vars(plain.counters)[name]), name
    assert walk.forecast is not None
    torch.testing.assert_close(walk.forecast, plain.forecast, rtol=1e-5, atol=1e-5)
    error = plain.forecast.double() - windows.futures().double()
    torch.testing.assert_close(
        walk.errors[:, 0], error.square().sum(dim=(1, 2)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(walk.errors[:, 1], error.abs().sum(dim=(1, 2)), rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Case:
    rule: str
    draft: str
    settings: Sequence[Setting]
    horizon: int
    batch_size: int
    stride: int


sigmas = st.sampled_from([0.25, 0.5, 1.0]) | st.floats(0.1, 3.0)
cases = st.builds(
    Case,
    rule=st.sampled_from(["stride", "exact", "point"]),
    draft=st.sampled_from(["own", "near", "near, without variance"]),
    settings=st.lists(
        st.builds(Setting, sigma=sigmas, bias=st.floats(0.2, 10.0), k=st.integers(1, 7)),
        min_size=1,
        max_size=5,
    ),
    horizon=st.integers(1, 200),
    batch_size=st.integers(1, 8),
    stride=st.integers(1, 40),
)


@settings(max_examples=50)
@given(case=cases)
def test_any_sequence_of_settings_equals_the_plain_decoder(
    target: Forecaster, drafts: dict[str, Forecaster], case: Case
) -> None:
    """Horizons up to twice the context, multiples of the patch or not; k up to 7; three rules."""
    pair = target, drafts[case.draft]
    windows = random_windows(5, 96, case.horizon, 2, seed=1, stride=case.stride)
    cache = PrefixCache(workload(*pair, case.rule, windows, SEED), batch_size=case.batch_size)

    for setting in case.settings:
        assert_same(cache.walk(setting, forecast=True), pair, case.rule, setting, windows)


def test_the_cases_above_are_not_all_alike(
    target: Forecaster, drafts: dict[str, Forecaster]
) -> None:
    """Near drafts are accepted sometimes, and the own one by `stride` at a sigma around 1.9."""
    windows = random_windows(20, 96, 130, 2, seed=1)
    for rule, draft, sigma in (
        ("stride", "own", 1.9),
        ("stride", "near", 0.5),
        ("exact", "near", 0.5),
        ("exact", "near, without variance", 0.5),
        ("point", "near", 0.05),
        ("point", "own", 1.0),
    ):
        cache = PrefixCache(workload(target, drafts[draft], rule, windows, SEED))
        counters = cache.walk(Setting(sigma=sigma, bias=1.0, k=3)).counters
        rate = float(counters.accepted.sum() / counters.tested.sum())
        assert 0.02 < rate < 0.98, (rule, draft)


@pytest.mark.parametrize("rule", ["stride", "exact", "point"])
def test_the_whole_grid_equals_the_plain_decoder(
    target: Forecaster, drafts: dict[str, Forecaster], rule: str
) -> None:
    pair = target, drafts["near"]
    windows = random_windows(6, 96, 84, 2)
    cache = PrefixCache(workload(*pair, rule, windows, SEED))

    for setting in GRID:
        assert_same(cache.walk(setting, forecast=True), pair, rule, setting, windows)


class TestMemory:
    """Forgetting prefixes changes no number, and the limit holds."""

    PATCH, CHANNELS, PATCHES = 24, 2, 5
    WHOLE = 10_000
    """KiB that suffice for all prefixes."""

    @pytest.fixture
    def windows(self) -> Windows:
        return random_windows(12, 96, 110, self.CHANNELS, stride=7)

    @pytest.fixture
    def pair(self) -> Pair:
        return (
            Stub(self.PATCH, lambda last: 0.5 * last),
            Stub(
                self.PATCH,
                lambda last: 0.5 * last + 0.05,
                lambda last: torch.full_like(last, 0.25),
            ),
        )

    @pytest.fixture
    def order(self) -> list[Setting]:
        """A sigma returns, so that forgotten prefixes are needed again."""
        return [
            Setting(sigma=sigma, bias=bias, k=k)
            for sigma in (0.5, 0.6, 0.5)
            for bias in (0.5, 3.0)
            for k in (1, 4)
        ]

    @pytest.mark.parametrize("rule", ["stride", "exact", "point"])
    @pytest.mark.parametrize("kibibytes", [1, 20, 40, 70, WHOLE])
    def test_every_limit(
        self, pair: Pair, windows: Windows, order: list[Setting], rule: str, kibibytes: int
    ) -> None:
        limit = kibibytes * 1024
        cache = PrefixCache(workload(*pair, rule, windows, SEED), limit_bytes=limit)
        roots = cache.statistics.bytes
        # The most that one window adds in a walk: per step two prefixes with 11 numbers each, and
        # three answers. On top, three tables of children with one entry for every prefix.
        patch_bytes = 4 * self.PATCH * self.CHANNELS
        a_window = self.PATCHES * (5 * patch_bytes + 2 * 11 * 8)

        for setting in order:
            assert_same(cache.walk(setting, forecast=True), pair, rule, setting, windows)
            held = cache.statistics
            assert held.bytes <= max(limit, roots + a_window + 3 * 8 * held.prefixes)

        statistics = cache.statistics
        assert statistics.limit_bytes == limit
        assert (statistics.evictions == 0) == (kibibytes == self.WHOLE)

    def test_more_memory_means_fewer_evaluations(
        self, pair: Pair, windows: Windows, order: list[Setting]
    ) -> None:
        asked = []
        for kibibytes in (1, 40, 80, self.WHOLE):
            limit = kibibytes * 1024
            cache = PrefixCache(workload(*pair, "stride", windows, SEED), limit_bytes=limit)
            for setting in order:
                cache.walk(setting)
            asked.append(cache.statistics.target_evaluations)

        assert asked == sorted(asked, reverse=True)
        assert asked[0] > 3 * asked[-1]

    def test_the_chain_of_proposals_is_kept_longest(self, pair: Pair, windows: Windows) -> None:
        """A sigma at which all is accepted needs the chain only, which is evaluated once."""
        chain = Setting(sigma=50.0, bias=1.0, k=7)
        cache = PrefixCache(workload(*pair, "stride", windows, SEED), limit_bytes=160 * 1024)
        cache.walk(chain)
        for sigma in (0.1, 0.2, 0.3, 0.4):
            cache.walk(Setting(sigma=sigma, bias=1.0, k=1))
        before = cache.statistics

        cache.walk(chain)

        assert before.evictions > 0
        assert cache.statistics.target_evaluations == before.target_evaluations
        assert cache.statistics.draft_evaluations == before.draft_evaluations

    def test_a_sampler_that_never_repeats_a_sigma_stays_within_the_limit(
        self, pair: Pair, windows: Windows
    ) -> None:
        limit = 200 * 1024
        cache = PrefixCache(workload(*pair, "exact", windows, SEED), limit_bytes=limit)

        for step in range(60):
            cache.walk(Setting(sigma=0.4 + step / 300, bias=0.5 + step / 100, k=1 + step % 5))
            assert cache.statistics.bytes <= limit

        assert cache.statistics.evictions > 3

    def test_baselines_survive_a_small_limit(self, pair: Pair, windows: Windows) -> None:
        roomy, tight = (
            PrefixCache(workload(*pair, "point", windows, SEED), limit_bytes=limit)
            for limit in (2**30, 1024)
        )
        for cache in (roomy, tight):
            cache.walk(Setting(sigma=1.0, bias=1.0, k=2))

        torch.testing.assert_close(
            tight.alone("target"), roomy.alone("target"), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(tight.alone("draft"), roomy.alone("draft"), rtol=1e-5, atol=1e-5)


class TestEvaluations:
    @pytest.mark.parametrize("rule", ["stride", "exact", "point"])
    def test_no_prefix_is_evaluated_twice(
        self, target: Forecaster, drafts: dict[str, Forecaster], rule: str
    ) -> None:
        counting = Counting(target), Counting(drafts["near"])
        windows = random_windows(8, 96, 84, 2)
        cache = PrefixCache(workload(*counting, rule, windows, SEED))

        for setting in GRID[::7] + GRID[::5]:
            cache.walk(setting)
        cache.alone("target")
        cache.alone("draft")

        statistics = cache.statistics
        for model, evaluations in zip(
            counting, (statistics.target_evaluations, statistics.draft_evaluations), strict=True
        ):
            assert len(model.contexts) == evaluations
            assert len(set(model.contexts)) == len(model.contexts)
        assert statistics.evictions == 0
        assert 0.0 < statistics.hit_rate < 1.0

    def test_a_repeated_setting_needs_no_evaluation(
        self, target: Forecaster, drafts: dict[str, Forecaster]
    ) -> None:
        counting = Counting(target), Counting(drafts["own"])
        windows = random_windows(8, 96, 84, 2)
        cache = PrefixCache(workload(*counting, "stride", windows, SEED))
        setting = Setting(sigma=1.9, bias=2.0, k=3)
        first = cache.walk(setting, forecast=True)
        calls = counting[0].calls, counting[1].calls

        again = cache.walk(setting, forecast=True)

        assert (counting[0].calls, counting[1].calls) == calls
        assert first.forecast is not None
        assert again.forecast is not None
        assert torch.equal(first.forecast, again.forecast)

    @pytest.mark.parametrize(("rule", "added"), [("stride", 3), ("exact", 3), ("point", 0)])
    def test_seeds_share_what_does_not_depend_on_them(
        self, target: Forecaster, drafts: dict[str, Forecaster], rule: str, added: int
    ) -> None:
        """Of forecasts of four patches: the first step, and under `point` all of them."""
        windows = random_windows(8, 96, 84, 2)
        cache = PrefixCache(workload(target, drafts["near"], rule, windows, SEED))
        setting = Setting(sigma=1e3, bias=1.0, k=2)
        first = cache.walk(setting)
        before = cache.statistics.target_evaluations

        second = cache.walk(setting, SEED + 1)

        assert before == 4 * len(windows)
        assert cache.statistics.target_evaluations == before + added * len(windows)
        assert torch.equal(first.errors, second.errors) is (rule == "point")

    @pytest.mark.parametrize(("rule", "most"), [("stride", 17), ("point", 15)])
    def test_the_grid_costs_a_few_settings(self, rule: str, most: int) -> None:
        """80 settings, forecasts of four patches: few evaluations per window in all.

        For `point` the bound is 15: all sequences of accepted and replaced, 1 + 2 + 4 + 8. For
        `stride` it depends on how many sigmas accept some proposals only: here, as on real pairs,
        one.
        """
        target = Counting(Stub(16, lambda last: 0.5 * last))
        draft = Counting(
            Stub(16, lambda last: 0.5 * last + 0.15, lambda last: torch.full_like(last, 0.045))
        )
        windows = random_windows(100, 32, 64, 7)
        cache = PrefixCache(workload(target, draft, rule, windows, SEED))

        rates = []
        for setting in GRID:
            counters = cache.walk(setting).counters
            rates.append(float(counters.accepted.sum() / counters.tested.sum()))

        assert max(rates) > 0.95
        assert any(0.2 < rate < 0.8 for rate in rates)
        assert len(target.contexts) <= most * len(windows)
        assert cache.statistics.target_evaluations == len(target.contexts)
        assert cache.statistics.hit_rate > 0.9

    def test_models_see_no_more_than_the_batch_size_at_once(self) -> None:
        sizes = []

        class Watched(Constant):
            def predict(self, context: Tensor) -> Gaussian:
                sizes.append(len(context))
                return super().predict(context)

        model = Watched(torch.zeros(2, 1))
        windows = random_windows(23, 4, 6, 1)

        cache = PrefixCache(workload(model, model, "stride", windows, SEED), batch_size=5)
        cache.walk(Setting(sigma=0.5, bias=1.0, k=2))

        assert max(sizes) == 5


@pytest.mark.parametrize("horizon", [20, 96, 110])
def test_baselines_are_the_models_alone(
    target: Forecaster, drafts: dict[str, Forecaster], horizon: int
) -> None:
    windows = random_windows(7, 96, horizon, 2)
    cache = PrefixCache(workload(target, drafts["own"], "stride", windows, SEED))
    cache.walk(Setting(sigma=1.9, bias=1.0, k=2))

    for model, found in ((target, cache.alone("target")), (drafts["own"], cache.alone("draft"))):
        error = decode_alone(model, windows, 0.0, seed=0).double() - windows.futures().double()
        squared, absolute = error.square().sum(dim=(1, 2)), error.abs().sum(dim=(1, 2))
        torch.testing.assert_close(found[:, 0], squared, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[:, 1], absolute, rtol=1e-5, atol=1e-5)


def test_walks_after_the_baselines_are_not_disturbed(
    target: Forecaster, drafts: dict[str, Forecaster]
) -> None:
    """Rule `point` proposes the forecasts of the draft alone: the two share prefixes."""
    windows = random_windows(7, 96, 110, 2)
    pair = target, drafts["near"]
    cache = PrefixCache(workload(*pair, "point", windows, SEED))
    cache.alone("draft")
    cache.alone("target")

    for k in (1, 3):
        setting = Setting(sigma=0.05, bias=1.0, k=k)
        assert_same(cache.walk(setting, forecast=True), pair, "point", setting, windows)


def test_exhausted_thinning_is_counted_as_in_the_plain_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few tries and a draft close to the target: many replacements use up their tries."""
    monkeypatch.setattr(rules, "THINNING_BOUND", 2)
    target = Stub(1, lambda last: 0.5 * last)
    draft = Stub(1, lambda last: 0.5 * last + 0.1, lambda last: torch.full_like(last, 0.25))
    windows = random_windows(300, 1, 5, 1)
    cache = PrefixCache(workload(target, draft, "exact", windows, SEED))

    for bias in (1.0, 0.5, 1.0):
        setting = Setting(sigma=0.5, bias=bias, k=2)
        walk = cache.walk(setting, forecast=True)
        assert_same(walk, (target, draft), "exact", setting, windows)
        assert int(walk.counters.thinning_exhausted.sum()) > 20


def test_a_forecast_is_given_only_when_asked_for() -> None:
    model = Constant(torch.zeros(2, 1))
    windows = random_windows(3, 4, 5, 1)
    cache = PrefixCache(workload(model, model, "stride", windows, SEED))

    setting = Setting(sigma=0.5, bias=1.0, k=2)
    with_forecast = cache.walk(setting, forecast=True).forecast

    assert cache.walk(setting).forecast is None
    assert with_forecast is not None
    assert with_forecast.shape == (3, 5, 1)


def test_forecasts_longer_than_the_context() -> None:
    """Late contexts hold emitted patches only, as in the plain decoder."""
    target = Stub(2, lambda last: 0.5 * last)
    draft = Stub(2, lambda last: 0.4 * last, lambda last: torch.full_like(last, 0.2))
    windows = random_windows(9, 4, 19, 2)
    assert patches_to_cover(19, 2) * 2 > 4
    cache = PrefixCache(workload(target, draft, "stride", windows, SEED))

    for k in (1, 4, 7):
        setting = Setting(sigma=0.5, bias=1.5, k=k)
        assert_same(cache.walk(setting, forecast=True), (target, draft), "stride", setting, windows)


def test_what_is_not_finite_stops_the_walk() -> None:
    target = Stub(2, lambda last: last * torch.nan)
    windows = random_windows(3, 4, 5, 1)
    cache = PrefixCache(workload(target, Constant(torch.zeros(2, 1)), "point", windows, SEED))

    with pytest.raises(DecodingError, match="not finite"):
        cache.walk(Setting(sigma=0.5, bias=1.0, k=2))
