"""What every model must do, as checks that a test can run on a model of one's own.

from spec_opt.models.conformance import check_model
check_model(make(), context)      # [at least 3, L, C]
"""

import torch
from torch import Tensor

from spec_opt.models.forecaster import Gaussian, MovableForecaster, RememberingForecaster

_CPU = torch.device("cpu")


def check_model(
    model: MovableForecaster,
    context: Tensor,
    *,
    changed: MovableForecaster | None = None,
    tolerance: float = 1e-4,
    one_scale: bool = True,
) -> None:
    """Check a model in float32 on the CPU.

    Args:
        context: `[B, L, C]` with at least three different rows; L is whole input patches if the
            model remembers.
        changed: the same model with one weight changed.
        tolerance: largest difference between forecasts that must be equal, absolute and relative.
        one_scale: whether a memory's first forecast must be that of `predict`.

    Raises:
        AssertionError: a check failed; it says which.
    """
    given = context.clone()
    answer = model.predict(context)
    _check_answer(answer, [len(context), model.patch, context.shape[2]])
    assert torch.equal(context, given), "predict changes its context"
    _require_same(model.predict(context), answer, tolerance, "a second call")
    for row in range(len(context)):
        alone = model.predict(context[row : row + 1])
        expected = answer.map(lambda part, row=row: part[row : row + 1])  # type: ignore[misc]
        _require_same(alone, expected, tolerance, f"row {row} without the others")
    _check_fingerprint(model, changed)
    _check_moves(model, context, answer, tolerance)
    if isinstance(model, RememberingForecaster):
        _check_memory(model, context, tolerance, one_scale)


def _check_answer(answer: Gaussian, shape: list[int]) -> None:
    for name, part in answer._asdict().items():
        if part is not None:
            assert list(part.shape) == shape, f"{name}: {list(part.shape)}, not {shape}"
            assert part.isfinite().all(), f"{name} is not finite"
            assert not part.requires_grad, f"{name} has a gradient"
    assert answer.variance is None or (answer.variance > 0).all(), "a variance is not positive"


def _require_same(found: Gaussian, expected: Gaussian, tolerance: float, what: str) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None), f"{what}: only one has a variance"
        if a is not None and b is not None:
            same = torch.allclose(a.float(), b.float(), atol=tolerance, rtol=tolerance)
            assert same, f"{what}: differs by {(a - b).abs().max():g}"


def _check_fingerprint(model: MovableForecaster, changed: MovableForecaster | None) -> None:
    assert isinstance(model.fingerprint, str), "fingerprint is not a text"
    moved = model.to(_CPU, torch.float32)
    assert moved.fingerprint == model.fingerprint, "fingerprint changes although nothing does"
    if changed is not None:
        assert changed.fingerprint != model.fingerprint, "fingerprint does not know the weights"


def _check_moves(
    model: MovableForecaster, context: Tensor, answer: Gaussian, tolerance: float
) -> None:
    half = model.to(_CPU, torch.bfloat16).predict(context)
    _check_answer(half, list(answer.mean.shape))
    spread = context.std() + answer.mean.std()
    assert (half.mean - answer.mean).abs().max() < spread, "bfloat16 gives another forecast"
    _require_same(model.predict(context), answer, tolerance, "`to` changes the model itself")


def _check_memory(
    model: RememberingForecaster, context: Tensor, tolerance: float, one_scale: bool
) -> None:
    """One pass, patch by patch, after rejections, and for some rows only: all the same."""
    batch, length, channels = context.shape
    patch, times = model.patch, length // model.patch
    noise = torch.randn(batch, 3 * patch, channels, generator=torch.Generator().manual_seed(0))
    later = context[:, -1:] + 0.5 * noise * context.std()
    rows, start = torch.arange(batch), torch.zeros(batch, dtype=torch.int64)
    series = torch.cat([context, later], dim=1)
    lead = length % patch  # comes before time 0
    once = model.remember(context, 3).read(rows, start, series[:, lead:], 4)

    memory = model.remember(context, 3)
    first = memory.read(rows, start, context[:, lead:], 1)
    _require_same(first, once.map(lambda part: part[:, :1]), tolerance, "a memory's first forecast")
    if one_scale:
        expected = model.predict(context).map(lambda part: part.unsqueeze(1))
        _require_same(first, expected, tolerance, "remember and predict")
    for step in range(3):
        new = later[:, step * patch : (step + 1) * patch]
        memory.read(rows, start + times + step, new + 1.0, 1)  # rejected: replaced at once
        found = memory.read(rows, start + times + step, new, 1)
        expected = once.map(lambda part, at=step + 1: part[:, at : at + 1])  # type: ignore[misc]
        _require_same(found, expected, tolerance, f"a memory after {step + 1} patches")

    some = torch.tensor([0, 2])
    new = torch.stack([later[0, : 2 * patch], later[2, patch:]])
    found = memory.read(some, torch.tensor([times, times + 1]), new, 1)
    at = torch.tensor([2, 3])
    expected = once.map(lambda part: part[some, at].unsqueeze(1))
    _require_same(found, expected, tolerance, "a memory's rows at different times")
