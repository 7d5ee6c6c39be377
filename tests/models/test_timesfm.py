"""TimesFM 2.5: held to the forecasts of its own package, with small networks of its classes."""

import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

pytest.importorskip("timesfm", reason="the package timesfm is not installed")

from spec_opt.config.study_file import Setting
from spec_opt.data.windows import Windows
from spec_opt.decoding.contexts import GROWING, ROLLING, Contexts
from spec_opt.decoding.rules import RULES
from spec_opt.decoding.speculative import Workload
from spec_opt.errors import CheckpointError, InputError
from spec_opt.models.checkpoint import load_model
from spec_opt.models.conformance import check_model
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.linear import LinearForecaster
from spec_opt.models.timesfm import TimesFMConfig, module_of, sizes_of
from spec_opt.models.univariate import UnivariateForecaster

from .published import SMALL_TIMESFM, timesfm_module

PATCH, TOKEN = SMALL_TIMESFM.patch, SMALL_TIMESFM.token
CONTEXT, CHANNELS = 72, 2


def saved(module: Any, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(module.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def module() -> Any:
    return timesfm_module()


@pytest.fixture(scope="module")
def model(module: Any, tmp_path_factory: pytest.TempPathFactory) -> UnivariateForecaster:
    loaded = load_model(saved(module, tmp_path_factory.mktemp("timesfm") / "published"))
    assert isinstance(loaded, UnivariateForecaster)
    return loaded


def series(rows: int = 400) -> Tensor:
    noise = torch.randn(rows, CHANNELS, generator=torch.Generator().manual_seed(1))
    return 0.3 * noise.cumsum(dim=0) + torch.tensor([0.0, 5.0])


def contexts(length: int = CONTEXT) -> Tensor:
    return torch.stack([series()[start : start + length] for start in (0, 50, 130, 200)])


def native(module: Any, context: Tensor, patches: int) -> Tensor:
    """The package's own forecast of `[B, L, C]`, all outputs: `[B, patches·P, C, 10]`."""
    folded = context.transpose(1, 2).flatten(0, 1)
    missing = torch.zeros_like(folded, dtype=torch.bool)
    first, _, later = module.decode(patches * PATCH, folded, missing)
    parts = [first[:, -1]] + ([] if later is None else list(later.unbind(dim=1)))
    outputs = torch.cat(parts, dim=1)
    return torch.unflatten(outputs, 0, (len(context), -1)).transpose(1, 2)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_next_patch_is_its_median(module: Any, model: UnivariateForecaster) -> None:
    for length in (TOKEN, CONTEXT, CONTEXT + TOKEN):
        answer, expected = model.predict(contexts(length)), native(module, contexts(length), 1)
        same(answer.mean, expected[..., 5])
        assert answer.variance is not None
        same(answer.variance, ((expected[..., 9] - expected[..., 1]) / 2.563).square())


def test_positions_are_those_of_its_pass(module: Any, model: UnivariateForecaster) -> None:
    context = contexts()
    found = model.predict_positions(context).mean
    assert found.shape == context.shape
    for end in range(PATCH, CONTEXT + 1, PATCH):
        same(found[:, end - PATCH : end], native(module, context[:, :end], 1)[..., 5])


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT - TOKEN, CONTEXT + TOKEN])
def test_a_cached_pass_is_its_native_forecast(
    module: Any, model: UnivariateForecaster, length: int
) -> None:
    context = contexts(length)
    expected = native(module, context, 4)[..., 5]
    memory, rows = model.remember(context, 3), torch.arange(len(context))
    observed, times = context[:, length % PATCH :], length // PATCH
    first = memory.read(rows, torch.zeros_like(rows), observed, 1).mean
    same(first[:, 0], expected[:, :PATCH])
    later = memory.read(rows, torch.full_like(rows, times), expected[:, : 3 * PATCH], 3).mean
    same(later.flatten(1, 2), expected[:, PATCH:])


def workload(model: UnivariateForecaster, how: Contexts, length: int) -> Workload:
    windows = Windows(series(), torch.tensor([3, 40, 111]), length, 4 * PATCH - 5)
    matrix = torch.eye(PATCH)
    draft = LinearForecaster(matrix, torch.ones(PATCH, CHANNELS))
    return Workload(model, draft, RULES["point"], windows, seed=0, contexts=how)


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + TOKEN])
def test_decoding_is_its_native_forecast(
    module: Any, model: UnivariateForecaster, length: int
) -> None:
    index, setting = torch.arange(3), Setting(sigma=0.001, bias=1.0, k=3)
    for how in (GROWING, ROLLING):
        work = workload(model, how, length)
        context = work.windows.contexts(index)
        if how is GROWING:
            expected = native(module, context, 4)[..., 5]
        else:
            whole = context
            for _ in range(4):
                whole = torch.cat([whole, native(module, whole[:, -length:], 1)[..., 5]], dim=1)
            expected = whole[:, length:]
        expected = expected[:, : work.windows.horizon]
        same(work.target_only(index, setting), expected)
        # With so small a sigma, every proposal is rejected: all patches are the target's.
        decoded = work.speculatively(index, setting)
        assert not decoded.counters.accepted.any()
        same(decoded.forecast, expected)


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + TOKEN])
def test_it_conforms(model: UnivariateForecaster, tmp_path: Path, length: int) -> None:
    changed = load_model(saved(timesfm_module(seed=1), tmp_path / "changed"))
    check_model(model, contexts(length), changed=changed)


def test_what_it_is(model: UnivariateForecaster) -> None:
    assert model.description == "TimesFM 2.5 16/2/24/2"
    assert (model.patch, model.input_patch) == (24, 8)


def test_the_published_sizes() -> None:
    from timesfm.timesfm_2p5.timesfm_2p5_torch import TimesFM_2p5_200M_torch_module

    with torch.device("meta"):
        published = TimesFM_2p5_200M_torch_module()
        ours = module_of(TimesFMConfig())
    shapes = {name: tensor.shape for name, tensor in published.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
    assert sizes_of(published.state_dict()) == TimesFMConfig()


def test_a_constant_series_stays_constant(model: UnivariateForecaster) -> None:
    answer = model.predict(torch.full((1, CONTEXT, 1), 7.0))
    assert torch.equal(answer.mean, torch.full((1, PATCH, 1), 7.0))
    assert answer.variance is not None
    assert (answer.variance > 0).all()


def test_what_cannot_be_loaded_or_read(
    model: UnivariateForecaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"context of 20 points: must be a multiple of .* 8 p"):
        model.predict(torch.ones(1, 20, 1))
    module = timesfm_module()
    state = module.state_dict()
    del state["stacked_xf.1.ff1.weight"]
    torch.save(state, tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match=r"tensor stacked_xf.1.ff1.weight is missing"):
        load_model(tmp_path / "missing.pth")
    folder = saved(module, tmp_path / "published")
    monkeypatch.setitem(sys.modules, "timesfm.timesfm_2p5.timesfm_2p5_torch", None)
    with pytest.raises(CheckpointError, match=r"pip install 'timesfm>=2.0'"):
        load_model(folder)


def test_running_statistics_do_not_see_the_future(model: UnivariateForecaster) -> None:
    context = contexts()
    later = context.clone()
    later[:, -PATCH:] += 100.0
    before, after = (model.predict_positions(x).mean[:, :-PATCH] for x in (context, later))
    assert isinstance(model.predict(context), Gaussian)
    same(before, after)
