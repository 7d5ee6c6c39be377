"""Decoding with the target alone, and the buffer that contexts are read from."""

import pytest
import torch
from torch import Tensor

from spec_opt.decoding.contexts import EmittedBuffer, patches_to_cover, require_finite
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.errors import DecodingError
from spec_opt.models.forecaster import Gaussian

from .stubs import Constant, Counting, Stub, decode_alone, random_windows, windows_on


@pytest.mark.parametrize(
    ("horizon", "patch", "expected"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (336, 96, 4), (96, 1, 96)]
)
def test_patches_to_cover(horizon: int, patch: int, expected: int) -> None:
    assert patches_to_cover(horizon, patch) == expected


def test_contexts_roll_by_patches() -> None:
    context = torch.arange(12.0).view(2, 6, 1)
    buffer = EmittedBuffer(context, patch=2, patches=3)
    rows = torch.tensor([0, 1])

    assert torch.equal(buffer.before(rows, torch.tensor([0, 0]), 6), context)
    buffer.write(rows, torch.tensor([0, 0]), torch.tensor([[[70.0], [71.0]], [[80.0], [81.0]]]))
    buffer.write(rows[1:], torch.tensor([1]), torch.tensor([[[90.0], [91.0]]]))

    # The first row after one patch, the second after two.
    assert buffer.before(rows, torch.tensor([1, 2]), 6).squeeze(2).tolist() == [
        [2.0, 3.0, 4.0, 5.0, 70.0, 71.0],
        [10.0, 11.0, 80.0, 81.0, 90.0, 91.0],
    ]
    assert buffer.at(rows[1:], torch.tensor([0])).flatten().tolist() == [80.0, 81.0]
    assert buffer.forecast(3).squeeze(2).tolist() == [[70.0, 71.0, 0.0], [80.0, 81.0, 90.0]]


def test_means_are_fed_back() -> None:
    """Each patch is the one before plus 1."""
    model = Stub(2, lambda last: last + 1.0)
    context = torch.tensor([[[0.0], [0.5]], [[10.0], [20.0]]])

    forecast = decode_alone(model, windows_on(context, 5), 0.0, seed=0)

    assert forecast.squeeze(2).tolist() == [
        [1.0, 1.5, 2.0, 2.5, 3.0],
        [11.0, 21.0, 12.0, 22.0, 13.0],
    ]


def test_noise_is_that_of_the_window_and_position() -> None:
    model = Constant(torch.zeros(2, 3))
    windows = torch.tensor([5, 9])
    context = torch.zeros(2, 2, 3)

    forecast = decode_alone(model, windows_on(context, 4, windows), 0.5, seed=3)

    for position in range(2):
        draws = Draws(3, windows, torch.full_like(windows, position))
        expected = 0.5 * draws.normal(Purpose.TARGET_PATCH, (2, 3))
        torch.testing.assert_close(forecast[:, 2 * position : 2 * position + 2], expected)


def test_the_model_is_called_once_for_each_patch() -> None:
    model = Counting(Constant(torch.zeros(4, 1)))
    windows = random_windows(3, 8, 10, 1)

    decode_alone(model, windows, 1.0, seed=0)

    assert len(model.contexts) == 3 * 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_an_error(bad: float) -> None:
    patch = torch.zeros(3, 2, 1)
    require_finite(patch)
    patch[1, 1] = bad

    with pytest.raises(DecodingError, match="not finite"):
        require_finite(patch)


def test_large_values_are_finite() -> None:
    require_finite(torch.full((1000, 8, 1), 3e38))


def test_a_model_that_diverges_is_an_error() -> None:
    class Diverging:
        patch = 1
        fingerprint = "diverging"

        def predict(self, context: Tensor) -> Gaussian:
            return Gaussian(context[:, -1:] * 1e20, None)

    with pytest.raises(DecodingError, match="diverges"):
        decode_alone(Diverging(), windows_on(torch.ones(2, 4, 1), 3), sigma=0.0, seed=0)
