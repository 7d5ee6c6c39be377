"""Timer: against a reference that is written from its formulas, and as a model."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import spec_opt
from spec_opt.config.models import TargetConfig
from spec_opt.errors import CheckpointError, ConfigError, InputError
from spec_opt.models.checkpoint import load_model, load_timer_xl
from spec_opt.models.conformance import check_model
from spec_opt.models.forecaster import PositionForecaster, RememberingForecaster
from spec_opt.models.summary import summarise_model
from spec_opt.models.timer import Timer, TimerConfig
from spec_opt.models.univariate import UnivariateForecaster

from .published import State, timer_folder, timer_state

HEADS = 2


def loaded(path: Path) -> UnivariateForecaster:
    model = load_model(path)
    assert isinstance(model, UnivariateForecaster)
    return model


@pytest.fixture
def model(tmp_path: Path) -> UnivariateForecaster:
    return loaded(timer_folder(tmp_path / "timer", heads=HEADS))


def contexts(length: int = 96) -> Tensor:
    series = torch.randn(4, length, 2, generator=torch.Generator().manual_seed(1))
    return series.cumsum(dim=1) + torch.tensor([0.0, 5.0])


def norm(x: Tensor, state: State, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(x: Tensor, state: State, layer: str) -> Tensor:
    """Causal, for one series `[N, D]`: head by head, query by query."""
    count, width = x.shape
    half = width // HEADS // 2

    def rotated(vectors: Tensor) -> Tensor:
        answer = torch.empty_like(vectors)
        for n in range(count):
            for j in range(half):
                angle = n / 10_000 ** (j / half)
                a, b = vectors[n, j], vectors[n, j + half]
                answer[n, j] = a * math.cos(angle) - b * math.sin(angle)
                answer[n, j + half] = b * math.cos(angle) + a * math.sin(angle)
        return answer

    q, k, v = (
        (x @ state[f"{layer}.{p}_proj.weight"].T + state[f"{layer}.{p}_proj.bias"]).chunk(HEADS, 1)
        for p in "qkv"
    )
    heads = []
    for qh, kh, vh in zip(map(rotated, q), map(rotated, k), v, strict=True):
        rows = [
            torch.softmax(qh[n] @ kh[: n + 1].T / math.sqrt(2 * half), 0) @ vh[: n + 1]
            for n in range(count)
        ]
        heads.append(torch.stack(rows))
    return torch.cat(heads, 1) @ state[f"{layer}.o_proj.weight"].T


def reference(state: State, series: Tensor, scaled_by: Tensor) -> Tensor:
    """The patch after every patch of one series `[N·P]`: `[N, P]`, in float64."""
    state = {name: tensor.double() for name, tensor in state.items()}
    mean, deviation = scaled_by.mean(), scaled_by.std(unbiased=True)
    patch = state["lm_heads.0.weight"].shape[0]
    x = ((series - mean) / deviation).reshape(-1, patch) @ state["model.embed_layer.emb.weight"].T
    for i in range(2):
        layer = f"model.layers.{i}"
        x = norm(x + attention(x, state, f"{layer}.self_attn"), state, f"{layer}.norm1")
        gate, up, down = (
            state[f"{layer}.ffn_layer.{p}_proj.weight"] for p in ("gate", "up", "down")
        )
        gated = x @ gate.T
        fed = (gated * torch.sigmoid(gated) * (x @ up.T)) @ down.T
        x = norm(x + fed, state, f"{layer}.norm2")
    outputs = norm(x, state, "model.norm") @ state["lm_heads.0.weight"].T
    return outputs * deviation + mean


def test_every_position_is_the_references(model: UnivariateForecaster) -> None:
    series = contexts().double()
    found = model.to(torch.device("cpu"), torch.float64)
    positions, last = found.predict_positions(series).mean, found.predict(series).mean
    for row in range(len(series)):
        for channel in range(2):
            one = series[row, :, channel]
            expected = reference(timer_state(), one, one)
            torch.testing.assert_close(
                positions[row, :, channel], expected.flatten(), rtol=1e-9, atol=1e-9
            )
            torch.testing.assert_close(last[row, :, channel], expected[-1], rtol=1e-9, atol=1e-9)


def test_a_memory_is_the_references_pass(model: UnivariateForecaster) -> None:
    series = contexts(144).double()
    found = model.to(torch.device("cpu"), torch.float64)
    memory = found.remember(series[:, :96], 2)
    rows = torch.arange(4)
    memory.read(rows, torch.zeros(4, dtype=torch.int64), series[:, :96], 1)
    outputs = memory.read(rows, torch.full((4,), 4), series[:, 96:], 2).mean
    for row in range(4):
        one = series[row, :, 1]
        expected = reference(timer_state(), one, one[:96])
        torch.testing.assert_close(outputs[row, :, :, 1], expected[-2:], rtol=1e-9, atol=1e-9)


def test_it_conforms(model: UnivariateForecaster, tmp_path: Path) -> None:
    changed = timer_state()
    changed["lm_heads.0.weight"][0, 0] += 1.0
    other = loaded(timer_folder(tmp_path / "changed", changed, heads=HEADS))
    check_model(model, contexts(), changed=other)
    assert isinstance(model, RememberingForecaster)
    assert isinstance(model, PositionForecaster)
    assert model.description == "Timer 16/2/24/2"
    assert model.parameters == sum(tensor.numel() for tensor in timer_state().values())


def test_a_constant_series_stays_constant(model: UnivariateForecaster) -> None:
    assert torch.equal(model.predict(torch.full((1, 48, 1), 7.0)).mean, torch.full((1, 24, 1), 7.0))


def test_heads_and_rotary_base_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    prints = {
        loaded(timer_folder(tmp_path / str(i), **options)).fingerprint  # type: ignore[arg-type]
        for i, options in enumerate(({"heads": 2}, {"heads": 4}, {"heads": 2, "rope_theta": 500}))
    }
    assert len(prints) == 3


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        network = Timer(TimerConfig(patch=96, width=1024, heads=8, feedforward=2048, layers=8))
    assert UnivariateForecaster(network).parameters == 84_142_080


def test_a_torch_file_and_a_wrapped_one(model: UnivariateForecaster, tmp_path: Path) -> None:
    folder = timer_folder(tmp_path / "torch")
    (folder / "model.safetensors").unlink()
    wrapped = {"model": {f"module.{name}": tensor for name, tensor in timer_state().items()}}
    torch.save(wrapped, folder / "weights.pth")
    assert loaded(folder).fingerprint == model.fingerprint
    assert loaded(folder / "weights.pth").fingerprint == model.fingerprint


def test_an_activation_that_it_does_not_have_is_refused(tmp_path: Path) -> None:
    path = timer_folder(tmp_path / "timer", heads=HEADS)
    given = TargetConfig(checkpoint=path, activation="gelu")
    with pytest.raises(CheckpointError, match="activation = 'gelu': a Timer 16/2/24/2 model does"):
        load_model(path, activation=given.activation)
    assert "activation" not in TargetConfig(checkpoint=path).model_dump()
    assert TargetConfig(**given.model_dump()).model_fields_set == {"checkpoint", "activation"}


def test_the_published_width_needs_no_config(tmp_path: Path) -> None:
    state = timer_state(width=1024, feedforward=8, layers=1)
    torch.save(state, tmp_path / "timer.pth")
    model = spec_opt.load_model(tmp_path / "timer.pth")
    assert summarise_model("target", model, "timer.pth").description == "Timer 1024/8/8/1"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "a Timer of width 16 needs its config.json in the same folder"),
        ("{", "config.json: the file: Invalid JSON"),
        ({}, "config.json: num_attention_heads: Field required"),
        ({"num_attention_heads": 3}, "config.json: num_attention_heads = 3: a width of 16 does"),
        ({"num_attention_heads": 2, "hidden_act": "gelu"}, "config.json: hidden_act: Input should"),
    ],
)
def test_what_a_folder_lacks(tmp_path: Path, config: object, message: str) -> None:
    folder = timer_folder(tmp_path / "timer")
    (folder / "config.json").unlink()
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert f"{folder}: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_are_checked(tmp_path: Path) -> None:
    state = timer_state()
    del state["model.layers.1.norm2.bias"]
    with pytest.raises(CheckpointError, match=r"tensor model.layers.1.norm2.bias is missing"):
        load_model(timer_folder(tmp_path / "missing", state))
    surplus = timer_state() | {"lm_heads.1.weight": torch.ones(48, 16)}
    with pytest.raises(CheckpointError, match=r"tensor lm_heads.1.weight \[48, 16\] is surplus"):
        load_model(timer_folder(tmp_path / "surplus", surplus))
    with pytest.raises(CheckpointError, match="it holds a Timer 16/2/24/2 model, not a Timer-XL"):
        load_timer_xl(timer_folder(tmp_path / "good"))


def test_what_it_cannot_read(model: UnivariateForecaster) -> None:
    with pytest.raises(InputError, match="context of 50 points: must be a multiple of the model's"):
        model.predict(torch.ones(1, 50, 1))
    with pytest.raises(ConfigError, match=r"teacher_dropout = 0.1: Timer 16/2/24/2 has no dropout"):
        model.predict_positions(torch.ones(1, 48, 1), 0.1)
