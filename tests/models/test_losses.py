"""Losses against values worked out by other means."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spec_opt.config.models import DistillationConfig, TrainingConfig
from spec_opt.data.windows import Windows
from spec_opt.models import training
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig
from spec_opt.models.training import DistillationLoss, SupervisedLoss, Task

CONTEXT, PATCH, CHANNELS = 12, 4, 2


def some_windows(count: int = 6) -> Windows:
    values = torch.randn(60, CHANNELS, generator=torch.Generator().manual_seed(0)).cumsum(0)
    return Windows(values, torch.arange(count) * 3, CONTEXT, PATCH)


@pytest.fixture
def teacher() -> FrozenTimerXL:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FrozenTimerXL(TimerXL(TimerXLConfig(PATCH, 16, 2, 32, 1)))


def distillation(teacher: FrozenTimerXL, **config: float) -> DistillationLoss:
    windows, settings = some_windows(), TrainingConfig(batch_size=4, seed=1)
    task = Task("draft", settings, training=windows, validation=windows)
    return DistillationLoss(teacher, DistillationConfig(**config), task)


def forecast_of_all(teacher: FrozenTimerXL, variance: float = 0.5) -> Gaussian:
    mean = torch.full((6, CONTEXT, CHANNELS), 0.25)
    return Gaussian(mean, torch.full_like(mean, variance))


def rows_of_all() -> Tensor:
    windows = some_windows()
    return torch.cat([windows.contexts(), windows.futures()], dim=1)


def test_supervised_loss_is_the_error_one_patch_ahead() -> None:
    windows = some_windows()
    task, rows = SupervisedLoss(windows), rows_of_all()
    shifted = rows[:, PATCH:]
    exact = task.training(Gaussian(shifted, None), rows, torch.arange(6))
    assert exact == 0
    assert task.training(Gaussian(shifted + 2, None), rows, torch.arange(6)) == pytest.approx(4)
    last = Gaussian(windows.futures(slice(2, 4)) - 3, None)
    assert task.validation(last, slice(2, 4)) == pytest.approx(9)


def test_distillation_loss_without_noise_is_the_gaussian_likelihood(teacher: FrozenTimerXL) -> None:
    task = distillation(teacher, teacher_noise=0.0, variance_regularizer=0.0)
    forecast = forecast_of_all(teacher)
    assert forecast.variance is not None
    truth = teacher.network(some_windows().contexts(), dropout=0.0).mean
    expected = F.gaussian_nll_loss(forecast.mean, truth.detach(), forecast.variance)
    found = task.training(forecast, rows_of_all(), torch.arange(6))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_validation_loss_is_the_mean_over_the_noise(teacher: FrozenTimerXL) -> None:
    task = distillation(teacher, teacher_noise=0.3, variance_regularizer=1.0)
    mean = torch.zeros(6, PATCH, CHANNELS)
    forecast = Gaussian(mean, torch.full_like(mean, 0.2))
    assert forecast.variance is not None
    truth = teacher.predict(some_windows().contexts()).mean
    noise = 0.3 * torch.randn(4000, *truth.shape, generator=torch.Generator().manual_seed(2))
    samples = 0.5 * (forecast.variance.log() + (mean - truth - noise).square() / forecast.variance)
    found = task.validation(forecast, slice(None))
    assert float(found) == pytest.approx(float(samples.mean()), abs=0.05)
    assert found == task.validation(forecast, slice(None))


def test_perfect_draft_has_the_variance_of_the_noise(teacher: FrozenTimerXL) -> None:
    task = distillation(teacher, teacher_noise=0.3)
    mean = teacher.predict(some_windows().contexts()).mean
    losses = {
        deviation: float(
            task.validation(Gaussian(mean, torch.full_like(mean, deviation**2)), slice(None))
        )
        for deviation in (0.2, 0.25, 0.3, 0.35, 0.4)
    }
    assert min(losses, key=losses.__getitem__) == 0.3


@pytest.mark.parametrize(("log_variance", "penalty"), [(-4.0, 0.0), (-5.0, 0.0), (-7.0, 2.0)])
def test_small_variances_are_penalised(
    teacher: FrozenTimerXL, log_variance: float, penalty: float
) -> None:
    free, bound = (
        distillation(teacher, teacher_noise=0.0, variance_regularizer=weight).training(
            forecast_of_all(teacher, math.exp(log_variance)), rows_of_all(), torch.arange(6)
        )
        for weight in (0.0, 10.0)
    )
    assert float(bound - free) == pytest.approx(10 * penalty, abs=1e-3)


def test_noise_is_new_in_every_batch_and_the_same_for_a_seed(teacher: FrozenTimerXL) -> None:
    forecast, rows, index = forecast_of_all(teacher), rows_of_all(), torch.arange(6)
    first, second = distillation(teacher), distillation(teacher)
    losses = [float(first.training(forecast, rows, index)) for _ in range(3)]
    assert len(set(losses)) == 3
    assert losses == [float(second.training(forecast, rows, index)) for _ in range(3)]


def test_teacher_is_asked_once_where_memory_allows(
    teacher: FrozenTimerXL, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = torch.tensor([4, 0, 5, 2])
    forecast = forecast_of_all(teacher)
    assert forecast.variance is not None
    some = Gaussian(forecast.mean[order], forecast.variance[order])
    kept = distillation(teacher, teacher_noise=0.0)
    monkeypatch.setattr(training, "TEACHER_MEMORY", 0)
    asked_anew = distillation(teacher, teacher_noise=0.0)
    assert asked_anew._known is None
    found = kept.training(some, rows_of_all()[order], order)
    assert float(found) == pytest.approx(
        float(asked_anew.training(some, rows_of_all()[order], order)), rel=1e-5
    )


def test_teacher_dropout_uses_its_own_rate_and_leaves_no_trace(
    teacher: FrozenTimerXL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention weights, attention output, hidden units and output: all at this rate."""
    rates: list[float] = []
    attention, drop = F.scaled_dot_product_attention, F.dropout

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float
    ) -> Tensor:
        rates.append(dropout_p)
        return attention(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p)

    def dropped(values: Tensor, rate: float) -> Tensor:
        rates.append(rate)
        return drop(values, rate)

    task = distillation(teacher, teacher_dropout=0.4)
    monkeypatch.setattr("spec_opt.models.layers.F.scaled_dot_product_attention", attend)
    monkeypatch.setattr("spec_opt.models.layers.F.dropout", dropped)
    task.training(forecast_of_all(teacher), rows_of_all(), torch.arange(6))
    assert rates == [0.4] * 4
    assert not teacher.network.training
    assert teacher.config.dropout == 0.1
    assert all(p.grad is None for p in teacher.network.parameters())


@pytest.mark.parametrize(("size", "expected"), [(4, [4, 2]), (6, [6]), (9, [6])])
def test_batches(size: int, expected: list[int]) -> None:
    windows = some_windows()
    task = Task("draft", TrainingConfig(batch_size=size), training=windows, validation=windows)
    batches = list(task.batches(windows))
    assert [len(contexts) for _, contexts in batches] == expected
    assert torch.equal(torch.cat([contexts for _, contexts in batches]), windows.contexts())
    assert all(torch.equal(windows.contexts(index), contexts) for index, contexts in batches)
