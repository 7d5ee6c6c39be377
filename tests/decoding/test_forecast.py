"""`spec_opt.forecast`: the decoder's own forecasts of contexts that are given."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import spec_opt
from spec_opt.config.study_file import DecodingConfig, Setting, StudyConfig
from spec_opt.errors import DecodingError, InputError
from spec_opt.measure.objective import StudyObjective
from spec_opt.models.forecaster import MovableForecaster
from tests.conftest import DATA
from tests.models.factories import Own

SETTING = Setting(sigma=0.5, bias=2.0, k=3)


def study(rule: str, context: str = "rolling", **draft: object) -> StudyConfig:
    """The tiny pair: patches of 24 points; the horizon is not whole patches."""
    return StudyConfig.model_validate({
        "name": "tiny",
        "data": {
            "source": "synthetic", "context": 96, "horizon": 60, "max_windows": 9,
            "synthetic": {"rows": 1000},
        },
        "target": {"checkpoint": DATA / "tiny_target.pth"},
        "draft": draft or {"checkpoint": DATA / "tiny_draft.pth"},
        "decoding": {"rule": rule, "context": context, "device": "cpu", "seed": 5},
    })  # fmt: skip


@pytest.mark.parametrize(("rule", "sigma"), [("stride", 1.2), ("exact", 1.2), ("point", 0.5)])
@pytest.mark.parametrize("context_mode", ["rolling", "growing"])
def test_windows_of_a_study(rule: Any, sigma: float, context_mode: Any) -> None:
    """A window's number is the row of the series where its context begins."""
    workload = StudyObjective.prepare(study(rule, context_mode)).evaluator.workload
    every = torch.arange(len(workload.windows))
    setting = Setting(sigma=sigma, bias=2.0, k=3)
    decoded = workload.speculatively(every, setting)
    accepted, tested = decoded.counters.accepted.sum(), decoded.counters.tested.sum()
    assert rule == "exact" or 0 < int(accepted) < int(tested)
    found = spec_opt.forecast(
        workload.target,  # type: ignore[arg-type]
        workload.draft,  # type: ignore[arg-type]
        workload.windows.contexts(),
        setting,
        60,
        rule=rule,
        context_mode=context_mode,
        seed=5,
        windows=workload.windows.starts.tolist(),
        device="cpu",
        batch_size=4,
    )
    torch.testing.assert_close(found, decoded.forecast, rtol=0, atol=1e-6)


@pytest.mark.parametrize("draft", [None, Own(damping=0.6)])
def test_the_target_alone_by_its_means(draft: Own | None) -> None:
    context = torch.randn(3, 48, 2, generator=torch.Generator().manual_seed(0))
    found = spec_opt.forecast(Own(), draft, context, None, 30)
    by_hand = Own().predict(context).mean
    second = Own().predict(torch.cat([context, by_hand], dim=1)[:, -48:]).mean
    torch.testing.assert_close(found, torch.cat([by_hand, second], dim=1)[:, :30])


def test_a_draft_of_another_patch() -> None:
    target, draft = Own(patch=24, damping=0.7), Own(patch=12, damping=0.7)
    context = np.random.default_rng(0).normal(size=(48, 2))
    found = spec_opt.forecast(target, draft, context, SETTING, 24, rule="point")
    assert found.shape == (24, 2)


@pytest.mark.parametrize(
    "convert",
    [
        lambda c: c.astype(np.float64),
        lambda c: c.astype(np.float32),
        lambda c: torch.from_numpy(c).to(torch.float64),
        lambda c: torch.from_numpy(c).to(torch.bfloat16),
    ],
)
def test_the_answer_is_of_the_contexts_type(convert: Callable[[Any], Any]) -> None:
    context = convert(np.random.default_rng(0).integers(0, 9, size=(2, 48, 3)))
    for one in (context, context[0]):
        found = spec_opt.forecast(Own(), Own(), one, SETTING, 5, rule="point")
        assert (type(found), found.dtype) == (type(one), one.dtype)
        assert found.shape == (*one.shape[:-2], 5, 3)


def test_whole_numbers_give_float32() -> None:
    context = np.arange(96).reshape(48, 2)
    assert spec_opt.forecast(Own(), None, context, None, 5).dtype == np.float32
    assert spec_opt.forecast(Own(), None, torch.from_numpy(context), None, 5).dtype == torch.float32


def test_random_numbers_are_keyed_by_seed_and_window() -> None:
    context = np.random.default_rng(0).normal(size=(48, 2))

    def draw(**options: Any) -> np.ndarray[Any, Any]:
        return spec_opt.forecast(Own(), Own(damping=0.6), context, SETTING, 24, **options)

    assert np.array_equal(draw(), draw(windows=[0]))
    assert not np.array_equal(draw(), draw(windows=[7]))
    assert not np.array_equal(draw(), draw(seed=1))


def test_growing_contexts_of_a_model_alone_that_does_not_remember() -> None:
    context = np.random.default_rng(0).normal(size=(48, 2))
    growing = spec_opt.forecast(Own(), None, context, None, 30, context_mode="growing")
    assert np.array_equal(growing, spec_opt.forecast(Own(), None, context, None, 30))


def test_torch_is_left_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    spec_opt.forecast(Own(), None, np.ones((48, 1)), None, 5, precision="tf32")
    assert torch.get_float32_matmul_precision() == before


def tiny(name: str) -> MovableForecaster:
    return spec_opt.load_model(DATA / f"tiny_{name}.pth")


GOOD = np.random.default_rng(0).normal(size=(96, 3))
HOLED = GOOD.copy()
HOLED[5, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": GOOD[:, 0]}, r"context of shape \[96\]: must be \[points, channels\]"),
        ({"context": GOOD[:0]}, r"context of shape \[0, 3\]"),
        ({"context": HOLED}, r"context\[5, 1\] = nan: must be a finite number"),
        ({"context": GOOD.tolist()}, "context is a list of no numbers: must be a numpy array"),
        ({"context": GOOD.astype(complex)}, "context is a ndarray of complex128"),
        ({"context": GOOD.astype(object)}, "context is a ndarray of object"),
        ({"context": torch.ones(48, 2, dtype=torch.complex64)}, "must be of real numbers"),
        ({"context": GOOD[:20]}, "target: context of 20 points: must be a multiple"),
        ({"horizon": 0}, "horizon = 0: must be a whole number of at least 1"),
        ({"horizon": 2.5}, "horizon = 2.5"),
        ({"windows": [1, 2]}, r"windows = \[1, 2\]: must be 1 whole numbers from 0 on"),
        ({"windows": [-1]}, r"windows = \[-1\]"),
        ({"rule": "strict"}, "forecast: rule = 'strict': must be 'stride', 'exact' or 'point'"),
        ({"device": "cuda:77"}, "decoding.device = 'cuda:77'"),
        ({"setting": (1.0, 2.0, 3)}, "setting is a tuple: must be a spec_opt.Setting, such as"),
        ({"setting": Setting(sigma=1.0, bias=0.5, k=1)}, "bias = 0.5: rule 'stride' takes"),
        ({"target": Own(), "context_mode": "growing"}, "needs a target that remembers"),
        ({"target": Own(fault="raises")}, r"target: .*factories.py:\d+: ValueError: the weights"),
        ({"draft": Own(fault="shape")}, r"draft: the mean of a forecast has shape \[1, 3, 3\]"),
    ],
)
def test_what_cannot_work_is_one_line(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "target": tiny("target"),
        "draft": tiny("draft"),
        "context": GOOD,
        "setting": SETTING,
        "horizon": 30,
    }
    with pytest.raises(InputError, match=message) as caught:
        spec_opt.forecast(**arguments | change)
    assert "\n" not in str(caught.value)


def test_channels_that_a_model_does_not_have() -> None:
    pair = StudyObjective.prepare(study("point", kind="linear")).evaluator.workload
    with pytest.raises(InputError, match="draft: context of 96 points and 2 channels"):
        spec_opt.forecast(pair.target, pair.draft, GOOD[:, :2], SETTING, 30)  # type: ignore[arg-type]


def test_a_forecast_that_is_not_finite() -> None:
    with pytest.raises(DecodingError, match="not finite"):
        spec_opt.forecast(replace(Own(), damping=1e30), None, GOOD, None, 96)


def test_defaults_are_those_of_a_study() -> None:
    defaults = inspect.signature(spec_opt.forecast).parameters
    # A forecast is one draw, of `seed`: the number of `seeds` is for measuring.
    for name, value in DecodingConfig().model_dump(exclude={"seeds"}).items():
        assert defaults["context_mode" if name == "context" else name].default == value
