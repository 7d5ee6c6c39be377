"""GPU against CPU: the same random numbers and decisions, and forecasts equal to rounding."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from spec_opt.config.study_file import Setting
from spec_opt.decoding.contexts import CONTEXTS
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.decoding.prefix_cache import PrefixCache
from spec_opt.decoding.rules import RULES
from spec_opt.decoding.speculative import Counters, Workload
from spec_opt.models.checkpoint import load_timer_xl

from .stubs import decode, random_windows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_random_numbers_are_the_same() -> None:
    windows, positions = torch.arange(1000) * 7, torch.arange(1000) % 5
    here = Draws(2**40 + 3, windows, positions)
    there = Draws(2**40 + 3, windows.cuda(), positions.cuda())

    for purpose in Purpose:
        assert torch.equal(here.uniform(purpose, 9), there.uniform(purpose, 9).cpu())
        torch.testing.assert_close(
            here.normal(purpose, (5, 3), 9), there.normal(purpose, (5, 3), 9).cpu()
        )


@pytest.mark.parametrize("rule", ["stride", "exact", "point"])
@pytest.mark.parametrize("contexts", ["rolling", "growing"])
def test_decoding_is_the_same(reference_dir: Path, rule: str, contexts: str) -> None:
    windows = random_windows(40, 96, 130, 2)
    setting = Setting(sigma=1.9, bias=2.0, k=3)
    decoded = []
    for device in ("cpu", "cuda"):
        target = load_timer_xl(reference_dir / "tiny_target.pth").to(device)
        draft = load_timer_xl(reference_dir / "tiny_draft.pth").to(device)
        mode, place = CONTEXTS[contexts], torch.device(device)
        work = Workload(target, draft, RULES[rule], windows, 5, mode, place)
        plain = decode(work, setting)
        walk = PrefixCache(work).walk(setting, forecast=True)
        assert walk.forecast is not None
        decoded += [(plain.forecast, plain.counters), (walk.forecast, walk.counters)]

    forecast, counters = decoded[0]
    for other_forecast, other_counters in decoded[1:]:
        torch.testing.assert_close(other_forecast.cpu(), forecast, rtol=1e-4, atol=1e-4)
        for field in fields(Counters):
            name = field.name
            assert torch.equal(vars(other_counters)[name].cpu(), vars(counters)[name]), name
