"""A memory that grows: the same as reading the longer series at once."""

import pytest
import torch
from torch import Tensor

from spec_opt.errors import InputError
from spec_opt.models.forecaster import Gaussian, RememberingForecaster
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.layers import Geometry, rotation_at
from spec_opt.models.timer_xl import TimerXLConfig

from .test_timer_xl import assert_close, contexts, network

CONTEXT, EMITTED, CHANNELS = 6, 5, 3
"""Tokens observed, and appended."""


def double(layers: int = 2, stochastic: bool = False) -> FrozenTimerXL:
    config = TimerXLConfig(4, 16, 2, 32, layers, stochastic=stochastic)
    return FrozenTimerXL(network(config).double())


def series(batch: int = 4) -> Tensor:
    return contexts(batch, 4 * (CONTEXT + EMITTED), CHANNELS).double()


def observed(values: Tensor) -> Tensor:
    return values[:, : 4 * CONTEXT]


def run(values: Tensor, first: Tensor, width: int) -> Tensor:
    """Patches `first` to `first + width - 1` of each row."""
    return torch.stack(
        [row[4 * at : 4 * (at + width)] for row, at in zip(values, first.tolist(), strict=True)]
    )


@torch.inference_mode()
def from_start(model: FrozenTimerXL, values: Tensor, stride: int = CONTEXT) -> Gaussian:
    """What every patch of the longer series says of the next, by one plain causal forward.

    Tokens stand channel by channel, as in training; statistics are those of the observed part,
    positions and mask are written down here once more.
    """
    network = model.network
    _, points, channels = values.shape
    times = points // 4
    mean = observed(values).mean(dim=1, keepdim=True)
    deviation = torch.sqrt(observed(values).var(dim=1, correction=0, keepdim=True) + 1e-5)
    patches = ((values - mean) / deviation).transpose(1, 2).reshape(-1, channels, times, 4)
    channel = torch.arange(channels).repeat_interleave(times)
    time = torch.arange(times).repeat(channels)
    geometry = Geometry(
        rotation_at(channel * stride + time, 8, torch.float64),
        channel.unsqueeze(1) == channel,
        time.unsqueeze(1) < time,
    )
    hidden = network.embedding(patches).flatten(1, 2)
    for layer in network.layers:
        hidden = layer(hidden, geometry, 0.0)
    hidden = network.norm(hidden).unflatten(1, (channels, times))

    def patchwise(values: Tensor) -> Tensor:  # [B, C, T, P] -> [B, T, P, C]
        return values.permute(0, 2, 3, 1)

    scale = deviation.unsqueeze(1)
    answer = patchwise(network.mean_head(hidden)) * scale + mean.unsqueeze(1)
    if network.log_variance_head is None:
        return Gaussian(answer, None)
    variance = patchwise(network.log_variance_head(hidden)).clamp(-10, 10).exp() * scale.square()
    return Gaussian(answer, variance)


def part(answer: Gaussian, rows: Tensor, first: Tensor, count: int) -> Gaussian:
    """`count` outputs from `first` on of each of `rows`."""
    index = first.unsqueeze(1) + torch.arange(count)
    mean, variance = answer
    every = rows.unsqueeze(1)
    return Gaussian(mean[every, index], None if variance is None else variance[every, index])


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_patch_by_patch_equals_one_forward(layers: int, stochastic: bool) -> None:
    model, values = double(layers, stochastic), series()
    expected = from_start(model, values)
    memory = model.remember(observed(values), EMITTED)
    rows, zero = torch.arange(4), torch.zeros(4, dtype=torch.int64)

    answers = [memory.read(rows, zero, observed(values), outputs=2)]
    for time in range(CONTEXT, CONTEXT + EMITTED):
        first = torch.full((4,), time)
        answers.append(memory.read(rows, first, run(values, first, 1), outputs=1))

    assert_close(answers[0], part(expected, rows, zero + CONTEXT - 2, 2), 1e-10)
    for time, answer in enumerate(answers[1:], start=CONTEXT):
        assert_close(answer, part(expected, rows, zero + time, 1), 1e-10)


def test_rows_may_stand_at_different_times() -> None:
    model, values = double(3, stochastic=True), series()
    expected = from_start(model, values)
    memory = model.remember(observed(values), EMITTED)
    rows = torch.arange(4)
    memory.read(rows, torch.zeros_like(rows), run(values, torch.zeros_like(rows), 7), outputs=1)

    for chosen, first, width, outputs in (
        ([0, 2, 3], [7, 6, 5], 2, 1),
        ([1, 2], [7, 8], 3, 3),
        ([0, 1, 2, 3], [9, 10, 8, 7], 1, 1),
        ([3], [8], 3, 2),
    ):
        at = torch.tensor(first)
        answer = memory.read(
            torch.tensor(chosen), at, run(values[torch.tensor(chosen)], at, width), outputs
        )
        last = part(expected, torch.tensor(chosen), at + width - outputs, outputs)
        assert_close(answer, last, 1e-10)


def test_what_was_read_in_vain_leaves_no_trace() -> None:
    """Two wrong patches are read, the first of them is then written over."""
    model, values = double(), series()
    rows, at = torch.arange(4), torch.full((4,), CONTEXT)
    memory = model.remember(observed(values), EMITTED)
    memory.read(rows, torch.zeros_like(rows), observed(values), 1)
    memory.read(rows, at, 100 * run(values, at, 3), 3)

    answer = memory.read(rows, at, run(values, at, 1), 1)

    assert_close(answer, part(from_start(model, values), rows, at, 1), 1e-10)


@pytest.mark.parametrize("stride", [CONTEXT, CONTEXT + EMITTED])
def test_positions(stride: int) -> None:
    model, values = double(), series()
    rows = torch.arange(4)
    memory = model.remember(observed(values), EMITTED, stride)

    answer = memory.read(rows, torch.zeros_like(rows), values, CONTEXT + EMITTED)

    assert_close(answer, from_start(model, values, stride), 1e-10)


def test_the_first_forecast_is_that_of_the_context_alone() -> None:
    model, values = double(3, stochastic=True), series()
    answer = model.remember(observed(values), 0).read(
        torch.arange(4), torch.zeros(4, dtype=torch.int64), observed(values), 1
    )
    alone = model.predict(observed(values))
    assert alone.variance is not None
    assert_close(answer, Gaussian(alone.mean.unsqueeze(1), alone.variance.unsqueeze(1)), 1e-10)


def test_tables_are_of_the_frozen_weights() -> None:
    trained, values = network().double(), series()
    rows = torch.arange(4)

    def forecast(model: FrozenTimerXL) -> Gaussian:
        memory = model.remember(observed(values), EMITTED)
        return memory.read(rows, torch.zeros_like(rows), values, 1)

    model = FrozenTimerXL(trained)
    before = forecast(model)
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "attention_bias" in name or "key.weight" in name:
                weight.mul_(2.0)
    again = FrozenTimerXL(trained)
    after = forecast(again)

    assert_close(forecast(model), before, 0.0)
    assert not torch.allclose(before.mean, after.mean)
    expected = from_start(again, values)
    assert_close(after, part(expected, rows, torch.full((4,), CONTEXT + EMITTED - 1), 1), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision(dtype: torch.dtype) -> None:
    """The answer comes in the context's type, at least float32, whatever the network's."""
    values = series()
    expected = from_start(double(), values).mean[:, -1]
    memory = double().to(dtype=dtype).remember(observed(values).float(), EMITTED)

    answer = memory.read(torch.arange(4), torch.zeros(4, dtype=torch.int64), values.float(), 1)

    assert answer.mean.dtype == torch.float32
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    scale = observed(values).std()
    assert float((answer.mean[:, 0] - expected).abs().max() / scale) < tolerance


def test_it_is_what_decoders_ask_for() -> None:
    assert isinstance(double(), RememberingForecaster)


def test_a_context_that_is_not_whole_patches() -> None:
    with pytest.raises(InputError, match="multiple of the model's patch"):
        double().remember(torch.zeros(2, 7, 1), 1)
