"""Outputs of imported networks against vectors that the system they come from computed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXLConfig

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
SUFFIX = {torch.float32: "f32", torch.float64: "f64"}

Arrays = Mapping[str, npt.NDArray[np.floating]]


@pytest.fixture(scope="module")
def arrays(reference_dir: Path) -> Arrays:
    with np.load(reference_dir / "reference_tiny.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(params=["pth", "safetensors"])
def target(reference_dir: Path, request: pytest.FixtureRequest) -> FrozenTimerXL:
    return load_timer_xl(reference_dir / f"tiny_target.{request.param}")


@pytest.fixture(params=["pth", "safetensors"])
def draft(reference_dir: Path, request: pytest.FixtureRequest) -> FrozenTimerXL:
    return load_timer_xl(reference_dir / f"tiny_draft.{request.param}")


def assert_parity(found: Tensor | None, arrays: Arrays, name: str, tolerance: float) -> None:
    assert found is not None
    np.testing.assert_allclose(found.detach().numpy(), arrays[name], rtol=0, atol=tolerance)


def forecast(model: FrozenTimerXL, context: Tensor, patches: int) -> Tensor:
    """The rolling forecast: each mean joins the context, and the oldest patch leaves it."""
    length = context.shape[1]
    for _ in range(patches):
        context = torch.cat([context, model.predict(context[:, -length:]).mean], dim=1)
    return context[:, length:]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_target(target: FrozenTimerXL, arrays: Arrays, dtype: torch.dtype) -> None:
    context = torch.from_numpy(arrays["x"]).to(dtype)
    target = target.to(dtype=dtype)
    suffix, tolerance = SUFFIX[dtype], TOLERANCE[dtype]
    assert_parity(target.network(context).mean, arrays, f"target_out_{suffix}", tolerance)
    assert_parity(forecast(target, context, 3), arrays, f"ar3_target_{suffix}", tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_draft(draft: FrozenTimerXL, arrays: Arrays, dtype: torch.dtype) -> None:
    context = torch.from_numpy(arrays["x"]).to(dtype)
    draft = draft.to(dtype=dtype)
    mean, variance = draft.network(context)
    suffix, tolerance = SUFFIX[dtype], TOLERANCE[dtype]
    assert variance is not None
    assert_parity(mean, arrays, f"draft_mean_{suffix}", tolerance)
    assert_parity(variance.log(), arrays, f"draft_logvar_{suffix}", tolerance)
    assert_parity(forecast(draft, context, 3), arrays, f"ar3_draft_mean_{suffix}", tolerance)


def test_exact_rotation_tables(target: FrozenTimerXL, draft: FrozenTimerXL, arrays: Arrays) -> None:
    """With the reference's tables in float64 too, nothing but rounding is left."""
    context = torch.from_numpy(arrays["x"])
    mean, variance = draft.to(dtype=torch.float64).network(context)
    assert variance is not None
    target = target.to(dtype=torch.float64)
    assert_parity(target.network(context).mean, arrays, "target_out_f64rope", 1e-12)
    assert_parity(mean, arrays, "draft_mean_f64rope", 1e-12)
    assert_parity(variance.log(), arrays, "draft_logvar_f64rope", 1e-12)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("role", "config", "parameters"),
    [
        ("target", TimerXLConfig(96, 256, 8, 512, 2), 1_104_256),
        ("draft", TimerXLConfig(96, 64, 2, 128, 1, stochastic=True), 52_292),
    ],
)
def test_real_pair(shared_dir: Path, role: str, config: TimerXLConfig, parameters: int) -> None:
    model = load_timer_xl(shared_dir / "checkpoints" / f"etth1_{role}_checkpoint.pth")
    assert model.config == config
    assert model.parameters == parameters
