"""Out of memory: smaller batches, one warning, the same numbers."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spec_opt.config.study_file import DecodingConfig, Setting
from spec_opt.decoding.speculative import Batches
from spec_opt.errors import DecodingError
from spec_opt.measure.evaluator import Evaluator
from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.forecaster import Gaussian
from spec_opt.models.frozen import FrozenTimerXL

from .stubs import random_windows


def scarce(limit: int) -> list[int]:
    """Sizes of the batches when only `limit` items fit; failed ones are negative."""
    seen: list[int] = []

    def work(batch: Tensor) -> Tensor:
        if len(batch) > limit:
            seen.append(-len(batch))
            raise torch.cuda.OutOfMemoryError("out of memory")
        seen.append(len(batch))
        return batch * 2

    items = torch.arange(20)
    done = list(Batches(8).run(items, work))
    assert torch.equal(torch.cat([batch for batch, _ in done]), items)
    assert torch.equal(torch.cat([answer for _, answer in done]), items * 2)
    return seen


def test_batches() -> None:
    assert scarce(limit=8) == [8, 8, 4]
    assert scarce(limit=5) == [-8, 4, 4, 4, 4, 4]
    assert scarce(limit=1) == [-8, -4, -2] + [1] * 20
    assert not list(Batches(8).run(torch.arange(0), lambda batch: batch))


def test_a_single_item_that_does_not_fit() -> None:
    def work(batch: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(DecodingError, match="too little memory for a single window"):
        list(Batches(4).run(torch.arange(2), work))


def test_other_errors_pass() -> None:
    def work(batch: Tensor) -> Tensor:
        raise ValueError("not memory")

    with pytest.raises(ValueError, match="not memory"):
        list(Batches(4).run(torch.arange(2), work))


@pytest.mark.parametrize("plainly", [False, True])
def test_measuring_goes_on_with_the_same_numbers(
    reference_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    plainly: bool,
) -> None:
    windows = random_windows(30, 96, 100, 2, stride=3)
    setting = Setting(sigma=1.9, bias=1.0, k=2)

    def measure() -> tuple[object, ...]:
        target = load_timer_xl(reference_dir / "tiny_target.pth").to(dtype=torch.float64)
        draft = load_timer_xl(reference_dir / "tiny_draft.pth").to(dtype=torch.float64)
        evaluator = Evaluator(target, draft, windows, DecodingConfig(device="cpu", batch_size=16))
        found = (evaluator.measure_plainly if plainly else evaluator.measure)(setting)
        counters = (found.accepted_by_position, found.tested_by_position, found.rounds)
        return (*counters, pytest.approx(found.mse, rel=1e-5))

    plenty = measure()
    predict = FrozenTimerXL.predict
    largest = 0

    def tight(self: FrozenTimerXL, context: Tensor) -> Gaussian:
        nonlocal largest
        if len(context) > 6:
            raise torch.cuda.OutOfMemoryError("out of memory")
        largest = max(largest, len(context))
        return predict(self, context)

    monkeypatch.setattr(FrozenTimerXL, "predict", tight)
    with caplog.at_level(logging.WARNING):
        assert measure() == plenty
    assert largest <= 6
    assert [r.getMessage() for r in caplog.records if "memory" in r.getMessage()] == [
        "the device's memory does not suffice for batches of 16 windows: going on with 8"
    ]
