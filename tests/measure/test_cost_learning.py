"""Costs and speedups on a simulated clock that only the models advance."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding.observer import Step
from spec_opt.decoding.rules import RULES
from spec_opt.decoding.speculative import Decoded, Workload
from spec_opt.errors import DecodingError
from spec_opt.measure.bench import interleave, learn_by_batch_size
from spec_opt.measure.cost_learning import Stopwatch, fit_cost, learn_costs, learn_costs_quickly
from spec_opt.measure.cost_model import (
    Cost,
    acceptance_by_position,
    course,
    predicted_speedup,
    speculative_seconds,
    target_only_seconds,
)
from spec_opt.models.forecaster import Forecaster, Gaussian
from tests.decoding.stubs import Stub, random_windows

CPU = torch.device("cpu")
WINDOWS = 640


@dataclass
class Clock:
    """Replaces time.perf_counter."""

    at: float = 0.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Slow:
    """A model that takes `fixed` seconds a call and `per_row` a context."""

    model: Forecaster
    clock: Clock
    fixed: float
    per_row: float
    patch: int = field(init=False)
    fingerprint: str = "slow"

    def __post_init__(self) -> None:
        self.patch = self.model.patch

    def predict(self, context: Tensor) -> Gaussian:
        self.clock.at += self.fixed + self.per_row * len(context)
        return self.model.predict(context)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("spec_opt.measure.cost_learning.time.perf_counter", clock)
    return clock


def workload(clock: Clock, horizon: int = 14, rule: str = "point") -> Workload:
    """Rule `point` with a constant gap: proposals are accepted or not by independent dice."""
    target = Stub(2, lambda last: 0.5 * last)
    draft = Stub(2, lambda last: 0.5 * last + 0.1, lambda last: 0.01 + 0.0 * last)
    return Workload(
        target=Slow(target, clock, fixed=4.0, per_row=0.5),
        draft=Slow(draft, clock, fixed=0.5, per_row=0.05),
        rule=RULES[rule],
        windows=random_windows(WINDOWS, 2, horizon, 2),
        seed=3,
    )


def test_laps_add_up_to_the_decode(clock: Clock) -> None:
    watch = Stopwatch(CPU)
    work, index = replace(workload(clock), observer=watch), torch.arange(5)

    seconds = watch.decode(lambda: work.speculatively(index, Setting(sigma=0.1, bias=1.0, k=2)))

    assert seconds == clock.at == pytest.approx(sum(taken for _, taken in watch.laps))
    assert watch.within["draft"] + watch.within["target"] == pytest.approx(seconds)
    assert watch.within["acceptance"] == 0.0
    laps, taken = zip(*watch.laps, strict=True)
    assert laps[0] == Step("draft", "next", True, 5, 0)
    assert laps[2] == Step("target", "verify", True, 5, 10)
    assert taken[:3] == pytest.approx((0.75, 0.75, 9.0))
    assert sum(lap.first for lap, _ in watch.laps) == 2


def test_observing_changes_nothing(clock: Clock) -> None:
    for rule in ("stride", "exact", "point"):
        work = workload(clock, rule=rule)
        setting = Setting(sigma=0.15, bias=1.0, k=3)
        plain = work.speculatively(torch.arange(50), setting)
        observed = replace(work, observer=Stopwatch(CPU))
        seen = observed.speculatively(torch.arange(50), setting)
        assert torch.equal(seen.forecast, plain.forecast)
        assert torch.equal(seen.counters.tested, plain.counters.tested)
        assert (seen.target_calls, seen.draft_calls) == (plain.target_calls, plain.draft_calls)
        assert seen.target_evaluations == plain.target_evaluations


def test_scripted_acceptance(clock: Clock) -> None:
    for rule in ("stride", "exact", "point"):
        work = replace(workload(clock, rule=rule), scripted_acceptance=0.6)
        counters = work.speculatively(
            torch.arange(WINDOWS), Setting(sigma=9.0, bias=1.0, k=3)
        ).counters
        rate = float(counters.accepted.sum() / counters.tested.sum())
        assert rate == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize("batch_size", [1, 8, 40])
def test_what_is_predicted_is_what_is_measured(clock: Clock, batch_size: int) -> None:
    """Costs are learnt with scripted acceptance; then settings are predicted, and timed."""
    work = workload(clock)
    settings = [Setting(sigma=0.1, bias=1.2, k=k) for k in (1, 2, 3, 5)]
    costs = learn_costs(work, [batch_size], sigma=0.1, ks=(1, 5), seconds=0.0).costs
    batches = torch.split(torch.arange(WINDOWS), batch_size)

    def timed(setting: Setting) -> Callable[[], object]:
        return lambda: [work.speculatively(index, setting) for index in batches]

    def target_only() -> object:
        return [work.target_only(index, settings[0]) for index in batches]

    (alone,), *together = interleave([target_only, *map(timed, settings)], 1, CPU)
    per_batch = alone / len(batches)
    assert target_only_seconds(7, costs, batch_size) == pytest.approx(per_batch)
    for setting, (seconds,) in zip(settings, together, strict=True):
        counters = work.speculatively(torch.arange(WINDOWS), setting).counters
        acceptance = acceptance_by_position(
            counters.accepted.sum(dim=0).tolist(), counters.tested.sum(dim=0).tolist()
        )
        assert 0.6 < acceptance[0] < 0.85
        predicted = speculative_seconds(course(acceptance, 7), costs, batch_size)
        assert predicted == pytest.approx(seconds / len(batches), rel=0.03)
        speedup = predicted_speedup(acceptance, 7, costs, batch_size)
        assert speedup == pytest.approx(alone / seconds, rel=0.03)


def test_costs_learnt_quickly(clock: Clock) -> None:
    """From a few windows, if the whole batch would take too long."""
    work = workload(clock)
    wanted = learn_costs(work, [64], sigma=0.1, ks=(1, 4), seconds=0.0).costs
    for seconds, longest in ((0.1, 2000.0), (1500.0, 3000.0), (1e9, 1e9)):
        began = clock.at
        costs = learn_costs_quickly(work, 64, sigma=0.1, largest_k=4, seconds=seconds).costs
        assert clock.at - began < longest
        if seconds > 1.0:
            for acceptance in ((0.3,), (0.9, 0.9, 0.9)):
                assert predicted_speedup(acceptance, 7, costs, 64) == pytest.approx(
                    predicted_speedup(acceptance, 7, wanted, 64), rel=0.05
                )


def test_a_cost_per_window_is_learnt_even_if_batches_take_too_long(clock: Clock) -> None:
    """Single windows alone would price a batch of 64 like one of 1."""
    work = workload(clock)
    wanted = learn_costs(work, [64], sigma=0.1, ks=(1, 4), seconds=0.0).costs
    costs = learn_costs_quickly(work, 64, sigma=0.1, largest_k=4, seconds=0.1).costs
    for acceptance in ((0.3,), (0.9, 0.9, 0.9)):
        assert predicted_speedup(acceptance, 7, costs, 64) == pytest.approx(
            predicted_speedup(acceptance, 7, wanted, 64), rel=0.05
        )
    for step in (costs.target_first, costs.target_next, costs.bonus):
        assert step.expected(1.0, 64) == pytest.approx(36.0)


def test_costs_of_each_batch_size_as_far_as_time_allows(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spec_opt.measure.bench.time.monotonic", clock)
    work = workload(clock)
    every = learn_by_batch_size(work, [64, 1, 8], sigma=0.1, largest_k=4)
    assert list(every) == [1, 8, 64]
    for size, learnt in every.items():
        assert learnt.batch_sizes == (size,)
        assert learnt.cover(size)
        assert not learnt.cover(size + 1)
        assert learnt.costs.target_next.expected(1.0, size) == pytest.approx(4.0 + 0.5 * size)

    began = clock.at
    seconds = 8000.0
    some = learn_by_batch_size(work, [1, 8, 64], sigma=0.1, largest_k=4, seconds=seconds)
    assert list(some) == [1, 8]
    assert clock.at - began < seconds
    assert learn_by_batch_size(work, [1], sigma=0.1, largest_k=4, seconds=0.1) == {}
    began = clock.at  # a decode takes half a minute: there is no time for twenty
    assert learn_by_batch_size(work, [1], sigma=0.1, largest_k=4, seconds=100.0) == {}
    assert clock.at - began < 100.0


def test_quick_costs_cover_what_was_timed(clock: Clock) -> None:
    learnt = learn_costs_quickly(workload(clock), 64, sigma=0.1, largest_k=4, seconds=1e9)
    assert learnt.batch_sizes == (1, 64)
    assert learnt.cover(20)
    assert not learnt.cover(65)


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("patches", [2, 3])
def test_every_step_is_priced(clock: Clock, patches: int, start: int) -> None:
    """Also from a single window, whose random numbers may give no bonus, or no second round."""
    work = workload(clock, horizon=2 * patches)
    windows = replace(work.windows, starts=work.windows.starts[start:])
    costs = learn_costs(
        replace(work, windows=windows), [1], sigma=0.1, ks=(1, 5), seconds=0.0
    ).costs
    assert costs.verify_next.expected(1.0, 1, 1) == pytest.approx(4.5)
    assert costs.bonus.expected(1.0, 1) == pytest.approx(4.5)
    assert costs.draft_next.expected(1.0, 1) == pytest.approx(0.55)


def test_a_batch_beyond_the_memory(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are learnt from as many windows as fit into memory, if time allows more."""
    speculatively, seen = Workload.speculatively, []

    def tight(self: Workload, index: Tensor, setting: Setting) -> Decoded:
        seen.append(len(index))
        if len(index) > limit:
            raise torch.cuda.OutOfMemoryError
        return speculatively(self, index, setting)

    monkeypatch.setattr(Workload, "speculatively", tight)
    limit = 9
    costs = learn_costs_quickly(workload(clock), 64, sigma=0.1, largest_k=4, seconds=1e9).costs
    assert max(size for size in seen if size <= limit) == 8
    assert 64 in seen
    assert costs.target_next.expected(1.0, 8) == pytest.approx(8.0)
    limit = 0
    with pytest.raises(DecodingError, match="too little memory"):
        learn_costs_quickly(workload(clock), 64, sigma=0.1, largest_k=4, seconds=1e9)


def test_a_single_window(clock: Clock) -> None:
    work = workload(clock)
    work = replace(work, windows=random_windows(1, 2, 2, 2))
    costs = learn_costs_quickly(work, 64, sigma=0.1, largest_k=4, seconds=1.0).costs
    assert costs.target_first.expected(1.0, 1) == pytest.approx(4.5)
    assert costs.bonus == Cost(0.0, 0.0)  # the horizon is one patch: there is none
    assert predicted_speedup((0.5,), 1, costs, 1) == pytest.approx(4.5 / (4.5 + 0.55))


class TestFit:
    @staticmethod
    def lap(rows: int, proposals: int) -> Step:
        return Step("target", "verify", False, rows, proposals)

    def test_a_plane(self) -> None:
        cost = Cost(2.0, 0.3, 0.1)
        places = [(1, 1), (1, 5), (8, 8), (8, 40), (3, 7)]
        found = fit_cost([(self.lap(r, p), cost.expected(1.0, r, p)) for r, p in places])
        assert (found.fixed, found.per_row, found.per_proposal) == pytest.approx((2.0, 0.3, 0.1))

    def test_no_part_is_negative(self) -> None:
        found = fit_cost([(self.lap(1, 0), 0.5), (self.lap(2, 0), 2.0), (self.lap(3, 0), 3.5)])
        assert found.fixed >= 0.0
        assert found.per_row > 0.0

    def test_one_point_is_met(self) -> None:
        found = fit_cost([(self.lap(4, 12), 7.0)])
        assert found.expected(1.0, 4, 12) == pytest.approx(7.0)
