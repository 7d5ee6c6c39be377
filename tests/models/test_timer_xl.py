"""The network: shapes, causality, precision, and the lean forecast against the plain one."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from spec_opt.config.models import ScaleConfig
from spec_opt.errors import InputError
from spec_opt.models.forecaster import Gaussian, MovableForecaster
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig, scaled_config

TINY = TimerXLConfig(patch=4, d_model=16, heads=2, feedforward=32, layers=2)


def network(config: TimerXLConfig = TINY, seed: int = 0) -> TimerXL:
    """A network of which every parameter matters, the biases included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TimerXL(config)
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def frozen(config: TimerXLConfig = TINY, seed: int = 0) -> FrozenTimerXL:
    return FrozenTimerXL(network(config, seed))


@torch.inference_mode()
def every_position(model: TimerXL, context: Tensor) -> Gaussian:
    """The forecast by way of `forward`: the plain way that `predict` is measured against."""
    mean, variance = model(context, dropout=0.0)
    last = slice(-model.config.patch, None)
    return Gaussian(mean[:, last], None if variance is None else variance[:, last])


def contexts(batch: int = 3, length: int = 24, channels: int = 2, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(batch, length, channels, generator=generator).cumsum(1)


def assert_close(found: Gaussian, expected: Gaussian, tolerance: float) -> None:
    torch.testing.assert_close(found.mean, expected.mean, rtol=tolerance, atol=tolerance)
    if found.variance is None or expected.variance is None:
        assert found.variance is expected.variance
    else:
        torch.testing.assert_close(
            found.variance, expected.variance, rtol=tolerance, atol=tolerance
        )


def test_shapes() -> None:
    model: MovableForecaster = frozen()
    assert model.patch == 4
    mean, variance = model.predict(contexts())
    assert mean.shape == (3, 4, 2)
    assert variance is None
    stochastic = network(TimerXLConfig(4, 16, 2, 32, 1, stochastic=True))
    mean, variance = stochastic(contexts())
    assert variance is not None
    assert mean.shape == variance.shape == (3, 24, 2)
    assert (variance > 0).all()


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("length", "channels"), [(24, 2), (4, 1), (4, 3), (40, 1)])
def test_lean_forecast_equals_the_plain_one(
    layers: int, activation: str, stochastic: bool, length: int, channels: int
) -> None:
    config = TimerXLConfig(4, 16, 2, 32, layers, activation=activation, stochastic=stochastic)  # type: ignore[arg-type]
    model, context = network(config).double(), contexts(length=length, channels=channels).double()
    assert_close(FrozenTimerXL(model).predict(context), every_position(model, context), 1e-10)


def test_no_windows() -> None:
    assert frozen().predict(contexts()[:0]).mean.shape == (0, 4, 2)


def test_windows_do_not_see_each_other() -> None:
    model, context = FrozenTimerXL(network().double()), contexts(batch=5).double()
    together = model.predict(context).mean
    alone = torch.cat([model.predict(context[i : i + 1]).mean for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_tokens_do_not_see_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without instance normalisation, whose statistics are those of the whole context."""
    model, context = network().double(), contexts().double()
    changed = context.clone()
    changed[:, 16:, 1] += 5
    scale = model.normalise(context)[1]
    normalise = model.normalise

    def without_normalisation(values: Tensor) -> tuple[Tensor, object]:
        patches, own = normalise(values)
        return patches * own.deviation + own.mean, scale

    monkeypatch.setattr(model, "normalise", without_normalisation)
    before, after = model(context).mean, model(changed).mean
    torch.testing.assert_close(before[:, :16], after[:, :16], rtol=0, atol=1e-10)
    # Tokens of the same time see each other across variables.
    assert not torch.allclose(before[:, 16:, 0], after[:, 16:, 0], atol=1e-3)


def test_forecast_follows_level_and_scale_of_the_context() -> None:
    model = FrozenTimerXL(network(TimerXLConfig(4, 16, 2, 32, 1, stochastic=True)).double())
    context = contexts().double()
    mean, variance = model.predict(context)
    scaled_mean, scaled_variance = model.predict(1000 * context - 7)
    assert variance is not None
    assert scaled_variance is not None
    torch.testing.assert_close(scaled_mean, 1000 * mean - 7, rtol=1e-3, atol=0.1)
    torch.testing.assert_close(scaled_variance, 1e6 * variance, rtol=1e-3, atol=0)


def test_constant_context_is_finite() -> None:
    mean, variance = frozen(TimerXLConfig(4, 16, 2, 32, 1, stochastic=True)).predict(
        torch.full((2, 8, 3), 5.0)
    )
    assert variance is not None
    assert torch.allclose(mean, torch.tensor(5.0), atol=0.1)
    assert variance.isfinite().all()
    assert (variance < 1e-2).all()


def test_order_of_channels_matters() -> None:
    model, context = FrozenTimerXL(network().double()), contexts(channels=3).double()
    order = [2, 0, 1]
    permuted = model.predict(context[:, :, order]).mean
    assert not torch.allclose(permuted, model.predict(context).mean[:, :, order], atol=1e-6)


def test_log_variance_is_bounded_before_scaling() -> None:
    model = network(TimerXLConfig(4, 16, 2, 32, 1, stochastic=True))
    head = model.log_variance_head
    assert head is not None
    context = contexts()
    spread = context.var(dim=1, correction=0, keepdim=True) + 1e-5
    for bias, limit in ((1e6, 10.0), (-1e6, -10.0)):
        nn.init.constant_(head.bias, bias)
        variance = FrozenTimerXL(model).predict(context).variance
        assert variance is not None
        expected = (spread * torch.tensor(limit).exp()).expand_as(variance)
        torch.testing.assert_close(variance, expected)


@pytest.mark.parametrize(
    ("dtype", "result", "tolerance"),
    [(torch.float64, torch.float64, 1e-3), (torch.bfloat16, torch.float32, 0.1)],
)
def test_precision(dtype: torch.dtype, result: torch.dtype, tolerance: float) -> None:
    model = frozen(TimerXLConfig(4, 16, 2, 32, 2, stochastic=True))
    context = 1000 + contexts()  # a level that bfloat16 statistics would lose
    expected = model.predict(context)
    other = model.to(dtype=dtype)
    found = other.predict(context)
    assert found.mean.dtype == result
    spread = context.std(dim=1, keepdim=True)
    assert ((found.mean - expected.mean) / spread).abs().max() < tolerance
    plain = every_position(other.network, context)
    assert ((found.mean - plain.mean) / spread).abs().max() < tolerance
    assert found.variance is not None
    assert found.variance.dtype == result


def test_no_gradients_in_a_forecast_and_none_lost_in_training() -> None:
    model = network(TimerXLConfig(4, 16, 2, 32, 2, stochastic=True))
    assert not FrozenTimerXL(model).predict(contexts()).mean.requires_grad
    mean, variance = model.train()(contexts())
    assert variance is not None
    (mean.sum() + variance.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # The bias of the keys shifts all logits of a query alike: softmax does not see it.
        assert parameter.grad.abs().sum() > 0 or name.endswith("key.bias"), name


def test_dropout_only_in_training() -> None:
    model, context = network(), contexts()
    torch.manual_seed(0)
    assert torch.equal(model(context).mean, model(context).mean)
    assert not torch.equal(model(context, dropout=0.3).mean, model(context).mean)
    model.train()
    assert not torch.equal(model(context).mean, model(context).mean)
    assert torch.equal(model(context, dropout=0.0).mean, model(context, dropout=0.0).mean)
    predict = FrozenTimerXL(model).predict
    assert torch.equal(predict(context).mean, predict(context).mean)


def test_a_frozen_model_keeps_the_weights_that_it_was_made_from() -> None:
    trained, context = network(), contexts()
    model = FrozenTimerXL(trained)
    before, fingerprint = model.predict(context), model.fingerprint
    with torch.no_grad():
        trained.layers[0].get_parameter("key.weight").mul_(2)
    again = FrozenTimerXL(trained)
    assert_close(again.predict(context), every_position(trained, context), 1e-4)
    assert again.fingerprint != fingerprint
    assert_close(model.predict(context), before, 0.0)
    assert model.fingerprint == fingerprint
    other = network(seed=5)
    trained.load_state_dict(other.state_dict())
    again = FrozenTimerXL(trained)
    assert_close(again.predict(context), frozen(seed=5).predict(context), 0.0)
    assert again.fingerprint == FrozenTimerXL(other).fingerprint


def test_freezing_leaves_the_network_in_training() -> None:
    trained, context = network().train(), contexts()
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.1, fused=True)
    before = FrozenTimerXL(trained)
    assert trained.training
    trained(context).mean.sum().backward()
    optimizer.step()
    after = FrozenTimerXL(trained)
    assert_close(after.predict(context), every_position(trained.eval(), context), 1e-4)
    assert after.fingerprint != before.fingerprint


def test_forecasts_of_several_shapes() -> None:
    model = frozen()
    for length, channels in ((8, 2), (12, 2), (8, 3), (8, 2)):
        context = contexts(length=length, channels=channels)
        assert_close(model.predict(context), every_position(model.network, context), 1e-4)


def test_a_copy_forecasts_the_same() -> None:
    model, context = frozen(), contexts()
    model.predict(context)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.fingerprint == model.fingerprint
        assert_close(twin.predict(context), model.predict(context), 0.0)


def test_moving_makes_another_model() -> None:
    model = frozen()
    assert model.to("cpu", torch.float32) is model
    double = model.to(dtype=torch.float64)
    assert double.network.embedding.weight.dtype == torch.float64
    assert model.network.embedding.weight.dtype == torch.float32
    assert double.fingerprint == FrozenTimerXL(network().double()).fingerprint


def test_fingerprint() -> None:
    model = frozen()
    assert model.fingerprint == frozen().fingerprint
    prints = {
        model.fingerprint,
        frozen(seed=1).fingerprint,
        frozen().to(dtype=torch.float64).fingerprint,
        frozen(TimerXLConfig(4, 16, 4, 32, 2)).fingerprint,
        frozen(TimerXLConfig(4, 16, 2, 32, 2, activation="gelu")).fingerprint,
    }
    assert len(prints) == 5
    assert all(len(p) == 64 for p in prints)
    assert model.fingerprint == frozen(TimerXLConfig(4, 16, 2, 32, 2, dropout=0.5)).fingerprint


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((24, 2), r"context of shape \[24, 2\]: must be \[windows, points, channels\]"),
        ((1, 25, 2), "context of 25 points: must be a multiple of the model's patch, 4 points"),
        ((1, 3, 2), "context of 3 points: must be"),
        ((1, 0, 2), "context of 0 points: must be"),
    ],
)
def test_context_that_does_not_fit(shape: tuple[int, ...], message: str) -> None:
    model = network()
    for call in (model, FrozenTimerXL(model).predict):
        with pytest.raises(InputError, match=message):
            call(torch.zeros(shape))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((4, 18, 2, 32, 1), r"d_model = 18: must be a multiple of 4 \* heads = 8"),
        ((4, 16, 2, 32, 0), "layers = 0: must be at least 1"),
        ((0, 16, 2, 32, 1), "patch = 0: must be at least 1"),
    ],
)
def test_impossible_sizes(sizes: tuple[int, int, int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TimerXLConfig(*sizes)


def sizes_of(config: TimerXLConfig) -> tuple[int, int, int, int]:
    return config.d_model, config.heads, config.feedforward, config.layers


def parameters(config: TimerXLConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in TimerXL(config).parameters())


SCALES = (0.01, 0.05, 0.1, 0.25, 0.38, 0.5, 0.7, 1.0)
# Sizes of the stochastic drafts of each target at these scales, as the reference system makes them.
DRAFTS = {
    (96, 1024, 8, 2048, 1): "16/1/64/1 48/1/102/1 100/1/205/1 256/2/512/1 384/3/778/1 512/4/1024/1 "
    "696/6/1434/1 1024/8/2048/1",
    (96, 1024, 16, 4096, 8): "16/1/64/1 48/1/205/1 96/2/410/1 256/4/1024/2 384/6/1556/3 "
    "512/8/2048/4 704/11/2867/6 1024/16/4096/8",
    (96, 1024, 8, 2048, 8): "16/1/64/1 48/1/102/1 100/1/205/1 256/2/512/2 384/3/778/3 "
    "512/4/1024/4 696/6/1434/6 1024/8/2048/8",
    (96, 512, 8, 2048, 2): "16/1/64/1 24/1/102/1 48/1/205/1 128/2/512/1 192/3/778/1 256/4/1024/1 "
    "336/6/1434/1 512/8/2048/2",
    (96, 256, 8, 512, 2): "16/1/64/1 16/1/64/1 24/1/64/1 64/2/128/1 96/3/195/1 128/4/256/1 "
    "168/6/358/1 256/8/512/2",
    (16, 48, 4, 96, 3): "16/1/64/1 16/1/64/1 16/1/64/1 16/1/64/1 16/2/64/1 24/2/64/2 24/3/67/2 "
    "48/4/96/3",
    # At 0.7 the rule that is followed elsewhere gives 16/3, which no network can have.
    (24, 32, 4, 64, 2): "16/1/64/1 16/1/64/1 16/1/64/1 16/1/64/1 16/2/64/1 16/2/64/1 24/3/64/1 "
    "32/4/64/2",
}
PARAMETERS = {
    (96, 1024, 8, 2048, 1): (8130, 33704, 111399, 601796, 1303504, 2251976, 4144230, 8698064),
    (96, 256, 8, 512, 2): (8130, 8130, 12834, 52292, 103497, 169928, 284146, 1128928),
}


@pytest.mark.parametrize("target", DRAFTS)
def test_scaled_sizes(target: tuple[int, int, int, int, int]) -> None:
    found = [
        scaled_config(
            TimerXLConfig(*target),
            ScaleConfig(d_model=scale, heads=scale, feedforward=scale, layers=scale),
        )
        for scale in SCALES
    ]
    text = ["/".join(map(str, sizes_of(config))) for config in found]
    assert text == DRAFTS[target].split()
    assert all(config.stochastic and config.patch == target[0] for config in found)
    if target in PARAMETERS:
        assert tuple(map(parameters, found)) == PARAMETERS[target]


def test_scaled_sizes_with_mixed_factors() -> None:
    scale = ScaleConfig(d_model=0.328125, heads=0.375, feedforward=0.35, layers=0.25)
    target = TimerXLConfig(96, 1024, 16, 4096, 8, dropout=0.2, activation="gelu")
    draft = scaled_config(target, scale)
    assert sizes_of(draft) == (336, 6, 1434, 2)
    assert (draft.dropout, draft.activation) == (0.2, "gelu")


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 7, 8])
def test_every_scale_makes_a_network(heads: int) -> None:
    """Also where the reference system's rule fails."""
    target = TimerXLConfig(8, 8 * heads, heads, 64, 3)
    widths = []
    for percent in range(1, 101):
        factor = percent / 100
        draft = scaled_config(
            target, ScaleConfig(d_model=factor, heads=factor, feedforward=factor, layers=factor)
        )
        assert draft.d_model >= 16
        widths.append(draft.d_model)
    assert all(later >= earlier - 16 for earlier, later in pairwise(widths))
