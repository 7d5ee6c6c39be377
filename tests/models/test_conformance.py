"""Every kind of model does what a model must, and the checks notice one that does not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spec_opt.models.adapted import adapted
from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.conformance import check_model
from spec_opt.models.forecaster import Gaussian, MovableForecaster, RememberingForecaster
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.linear import LinearForecaster
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

CHANNELS, CONTEXT = 2, 96


def context() -> Tensor:
    series = torch.randn(4, CONTEXT, CHANNELS, generator=torch.Generator().manual_seed(1))
    return series.cumsum(dim=1) + torch.tensor([0.0, 5.0])


def network(patch: int, seed: int = 0) -> FrozenTimerXL:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FrozenTimerXL(TimerXL(TimerXLConfig(patch, 16, 2, 32, 2, stochastic=True)))


def linear(patch: int, points: int = 48, seed: int = 0) -> LinearForecaster:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(patch, points, generator=generator) / points
    return LinearForecaster(
        matrix, torch.full((patch, CHANNELS), 0.1), torch.randn(patch, generator=generator)
    )


def seasonal(period: int) -> LinearForecaster:
    matrix = torch.eye(period)[torch.arange(24) % period]
    return LinearForecaster(matrix, torch.ones(24, CHANNELS))


TARGET = network(24)


def draft(model: MovableForecaster, points: int) -> MovableForecaster:
    return adapted(model, TARGET, CONTEXT, points)


MODELS: dict[str, tuple[MovableForecaster, MovableForecaster]] = {
    "Timer-XL": (network(24), network(24, seed=1)),
    "linear": (linear(24), linear(24, seed=1)),
    "seasonal": (seasonal(12), seasonal(36)),
    "a shorter context": (draft(network(24), 48), draft(network(24), 72)),
    "half the patch": (draft(network(12), CONTEXT), draft(network(12, seed=1), CONTEXT)),
    "half and shorter": (draft(network(12), 36), draft(network(12), 48)),
    "no whole part": (draft(linear(10), 72), draft(linear(10, seed=1), 72)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model(name: str) -> None:
    model, changed = MODELS[name]
    # With several steps a memory keeps one scale for all of them, `predict` takes a new one.
    check_model(model, context(), changed=changed, one_scale="half" not in name)


def test_checkpoints(reference_dir: Path) -> None:
    target, draft = (
        load_timer_xl(reference_dir / f"tiny_{role}.pth") for role in ("target", "draft")
    )
    check_model(target, context(), changed=draft)
    check_model(draft, context())


def test_drafts_remember_where_they_can() -> None:
    remembering = {n for n, (m, _) in MODELS.items() if isinstance(m, RememberingForecaster)}
    assert remembering == {"Timer-XL", "a shorter context", "half the patch", "half and shorter"}
    assert adapted(TARGET, TARGET, CONTEXT, CONTEXT) is TARGET


def test_a_shorter_context_is_all_that_is_seen() -> None:
    model, series = MODELS["a shorter context"][0], context()
    expected = network(24).predict(series[:, -48:])
    assert torch.equal(model.predict(series).mean, expected.mean)


def test_several_steps_read_what_they_forecast() -> None:
    model, series = MODELS["half the patch"][0], context()
    first = network(12).predict(series)
    second = network(12).predict(torch.cat([series, first.mean], dim=1)[:, -CONTEXT:])
    assert torch.equal(model.predict(series).mean, torch.cat([first.mean, second.mean], dim=1))


class Broken(LinearForecaster):
    """A model with one fault."""

    fault: Callable[[Tensor], Tensor]

    def predict(self, context: Tensor) -> Gaussian:
        return Gaussian(self.fault(context), None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda x: x[:, -12:], r"mean: \[4, 12, 2\], not \[4, 24, 2\]"),
        (lambda x: x[:, -24:] - x.mean(dim=0)[-24:], "row 0 without the others: differs by"),
        (lambda x: x[:, -24:] / 0.0, "mean is not finite"),
        (lambda x: x.add_(1.0)[:, -24:].clone(), "predict changes its context"),
        (lambda x: x[:, -24:] + torch.rand(()), "a second call: differs by"),
    ],
)
def test_faults_are_found(fault: Callable[[Tensor], Tensor], message: str) -> None:
    model = linear(24)
    broken = Broken(model.matrix, model.variance, model.intercept)
    object.__setattr__(broken, "fault", fault)
    with pytest.raises(AssertionError, match=message):
        check_model(broken, context())


def test_a_fingerprint_that_ignores_the_weights_is_found() -> None:
    model = linear(24)
    with pytest.raises(AssertionError, match="does not know the weights"):
        check_model(model, context(), changed=replace(model))
