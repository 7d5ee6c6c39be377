"""Linear and seasonal models: what they compute, and that fitting finds what is there."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spec_opt.config.study_file import StudyConfig
from spec_opt.data.windows import Dataset, load_dataset
from spec_opt.errors import CheckpointError, ConfigError, InputError
from spec_opt.models.checkpoint import load_model, load_timer_xl
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.linear import (
    EPSILON,
    LinearForecaster,
    examples_of,
    fit_linear,
    fit_to_series,
    period_of,
)
from spec_opt.models.preparation import prepare_models
from tests.conftest import DATA

CONTEXT, PATCH = 96, 24


def study(draft: dict[str, Any], **tables: Any) -> StudyConfig:
    return StudyConfig.model_validate({
        "name": "small",
        "data": {
            "source": "synthetic", "context": CONTEXT, "horizon": 48,
            "synthetic": {"rows": 1500, "channels": 2},
        },
        "target": {"checkpoint": DATA / "tiny_target.pth"},
        "draft": draft,
    } | tables)  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(study({}).data)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


class Known:
    """A target that is linear in normalised units."""

    patch, fingerprint = PATCH, "known"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(PATCH, CONTEXT, generator=generator) / 8
        self.intercept = torch.randn(PATCH, 1, generator=generator)

    def predict(self, context: Tensor) -> Gaussian:
        mean = context.mean(dim=1, keepdim=True)
        deviation = (context.var(dim=1, keepdim=True, correction=0) + EPSILON).sqrt()
        forecast = self.matrix @ ((context - mean) / deviation) + self.intercept
        return Gaussian(forecast * deviation + mean, None)


def test_a_linear_target_is_found(dataset: Dataset) -> None:
    target = Known()
    model = fit_linear(*examples_of(dataset, CONTEXT, PATCH, target), CONTEXT)
    windows = dataset.windows("test", CONTEXT, PATCH)
    truth = target.predict(windows.contexts()).mean
    found = model.predict(windows.contexts())
    assert (found.mean - truth).square().mean() < 1e-3 * truth.var()
    # A larger and shifted series has a larger and shifted forecast.
    moved = model.predict(3.0 * windows.contexts() + 7.0).mean
    torch.testing.assert_close(moved, 3.0 * found.mean + 7.0, atol=1e-3, rtol=1e-3)


def test_the_variance_is_that_of_the_residuals(dataset: Dataset) -> None:
    model = fit_to_series(dataset, CONTEXT, PATCH)
    windows = dataset.windows("train", CONTEXT, PATCH)
    residuals = model.predict(windows.contexts()).mean - windows.futures()
    torch.testing.assert_close(model.variance, residuals.square().mean(dim=0), rtol=0.02, atol=0)
    answer = model.predict(windows.contexts(slice(3)))
    assert answer.variance is not None
    assert torch.equal(answer.variance[1], model.variance)


def test_the_series_model_beats_repeating_the_past(dataset: Dataset) -> None:
    windows = dataset.windows("test", CONTEXT, PATCH)
    forecast = fit_to_series(dataset, CONTEXT, PATCH).predict(windows.contexts()).mean
    error = (forecast - windows.futures()).square().mean()
    assert error < 0.9 * (windows.contexts()[:, -24:] - windows.futures()).square().mean()


def test_contexts_that_do_not_fit() -> None:
    model = LinearForecaster(torch.ones(4, 8), torch.ones(4, 2))
    with pytest.raises(InputError, match=r"7 points and 2 channels.* reads 8 points of 2"):
        model.predict(torch.zeros(1, 7, 2))
    with pytest.raises(InputError, match="3 channels"):
        model.predict(torch.zeros(1, 8, 3))


@pytest.mark.parametrize("period", [7, 24, 30])
def test_a_period_is_found(period: int) -> None:
    time = torch.arange(2000.0)
    noise = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    wave = torch.sin(2 * math.pi * time / period)
    series = wave.unsqueeze(1) * torch.tensor([1.0, 2.0, 0.0]) + 0.3 * noise
    assert period_of(series, 96) == period


def test_no_period() -> None:
    with pytest.raises(ConfigError, match=r"at no lag up to 50: give draft\.period"):
        period_of(torch.arange(300.0).unsqueeze(1), 50)


@pytest.mark.parametrize("period", [None, 12, 30])
def test_a_seasonal_draft(dataset: Dataset, cache: Path, period: int | None) -> None:
    draft = prepare_models(study({"kind": "seasonal", "period": period}), dataset).draft
    context = dataset.windows("test", CONTEXT, PATCH).contexts(slice(5))
    mean, period = draft.predict(context).mean, period or 24
    expected = [context[:, CONTEXT - period + i % period] for i in range(PATCH)]
    assert torch.equal(mean, torch.stack(expected, dim=1))


def test_a_season_longer_than_the_context(dataset: Dataset, cache: Path) -> None:
    draft = {"kind": "seasonal", "period": 60, "context": 48}
    with pytest.raises(ConfigError, match=r"draft\.period = 60: must be at most the 48 points"):
        prepare_models(study(draft), dataset)


def test_a_draft_left_out_is_linear(dataset: Dataset, cache: Path) -> None:
    made = prepare_models(study({}), dataset)
    assert isinstance(made.draft, LinearForecaster)
    assert made.draft.matrix.shape == (PATCH, CONTEXT)
    # It is close to its target, and found again.
    windows = dataset.windows("test", CONTEXT, PATCH)
    gap = made.draft.predict(windows.contexts()).mean - made.target.predict(windows.contexts()).mean
    assert gap.square().mean() < 0.2 * windows.contexts().var()
    found = prepare_models(study({"kind": "linear"}), dataset)
    assert found.draft.fingerprint == made.draft.fingerprint
    assert len(list(cache.glob("*.safetensors"))) == 1
    shorter = prepare_models(study({"context": 40}), dataset).draft
    assert isinstance(shorter, LinearForecaster)
    assert shorter.matrix.shape == (PATCH, 40)
    assert len(list(cache.glob("*.safetensors"))) == 2


def test_a_fitted_draft_can_be_a_checkpoint(dataset: Dataset, cache: Path) -> None:
    made = prepare_models(study({}), dataset)
    path = next(cache.glob("*.safetensors"))
    given = prepare_models(study({"checkpoint": path}), dataset)
    assert given.draft.fingerprint == made.draft.fingerprint
    assert isinstance(load_model(path), LinearForecaster)
    with pytest.raises(CheckpointError, match="it holds a linear model, not a Timer-XL"):
        load_timer_xl(path)


def test_an_altered_file(dataset: Dataset, cache: Path) -> None:
    prepare_models(study({}), dataset)
    path = next(cache.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="the file was altered"):
        load_model(path)


def test_a_network_is_distilled_from_any_target(dataset: Dataset, cache: Path) -> None:
    """By its next patch alone, where it forecasts no others."""
    config = study({
        "kind": "timer-xl",
        "scale": {"d_model": 0.25, "layers": 0.5},
        "training": {"epochs": 6, "max_windows": 256, "learning_rate": 3e-3},
    }, target={"factory": "tests.models.factories:make"})  # fmt: skip
    models = prepare_models(config, dataset)
    assert isinstance(models.draft, FrozenTimerXL)
    windows = dataset.windows("test", CONTEXT, PATCH)
    target, draft = (m.predict(windows.contexts()).mean for m in (models.target, models.draft))
    level = windows.contexts().mean(dim=1, keepdim=True)
    assert (draft - target).square().mean() < 0.7 * (level - target).square().mean()


def test_a_network_that_sees_less_than_its_target(dataset: Dataset, cache: Path) -> None:
    training = {"epochs": 1, "max_windows": 64}
    models = prepare_models(study({"context": 48, "training": training}), dataset)
    context = dataset.windows("test", CONTEXT, PATCH).contexts(slice(5))
    expected = models.draft.predict(context).mean
    context[:, :48] = 0.0
    assert torch.equal(models.draft.predict(context).mean, expected)
    with pytest.raises(
        ConfigError, match=r"draft\.context = 50: .* a multiple of the target's, 24"
    ):
        prepare_models(study({"context": 50, "training": training}), dataset)


def test_a_target_without_dropout(dataset: Dataset, cache: Path) -> None:
    config = study(
        {"distillation": {"teacher_dropout": 0.1}},
        target={"factory": "tests.models.factories:make"},
    )
    with pytest.raises(ConfigError, match=r"teacher_dropout = 0\.1: this target has no dropout"):
        prepare_models(config, dataset)
