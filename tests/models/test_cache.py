"""Models that are kept: found again, and only taken for what they were made from."""

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spec_opt.errors import CheckpointError
from spec_opt.models.cache import cached_model
from spec_opt.models.checkpoint import Origin, OwnModel, Provenance
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

ORIGINS = {
    "one": Origin("target", 24, "data", None, {"d_model": 16, "factors": (1.0, 2.0)}),
    "two": Origin("target", 24, "data", None, {"d_model": 16, "factors": (1.0, 3.0)}),
    "draft": Origin("draft", 24, "data", "teacher", {"d_model": 16}),
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path))
    return tmp_path / "models"


def get(name: str) -> tuple[OwnModel, bool]:
    """The model of that name, and whether it was made."""
    made = []

    def make() -> tuple[OwnModel, Provenance]:
        made.append(name)
        torch.manual_seed(len(name) + ord(name[0]))
        model = FrozenTimerXL(TimerXL(TimerXLConfig(8, 16, 2, 64, 1)))
        return model, Provenance(ORIGINS[name], "0")

    return cached_model(name, ORIGINS[name], make)[0], bool(made)


@pytest.mark.parametrize("other", ["two", "draft"])
def test_models_that_were_swapped_are_made_again(
    cache: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    prints = {name: get(name)[0].fingerprint for name in ("one", other)}
    assert not get("one")[1]
    first, second = (cache / f"{name}.safetensors" for name in ("one", other))
    shutil.copy(first, cache / "spare")
    shutil.copy(second, first)
    shutil.copy(cache / "spare", second)
    with caplog.at_level(logging.WARNING):
        for name, fingerprint in prints.items():
            model, made = get(name)
            assert (model.fingerprint, made) == (fingerprint, True)
    assert caplog.text.count("made from something else; it is made again") == 2
    assert not get("one")[1]


def test_every_part_of_the_origin_counts(cache: Path) -> None:
    get("one")
    changes: tuple[dict[str, Any], ...] = (
        {"role": "draft"},
        {"context": 48},
        {"data": "other"},
        {"teacher": "t"},
        {"settings": {}},
    )
    for change in changes:
        with pytest.raises(NotImplementedError):
            cached_model("one", replace(ORIGINS["one"], **change), _not_made)


def _not_made() -> tuple[OwnModel, Provenance]:
    raise NotImplementedError


def test_a_lock_that_is_a_link_harms_nothing(cache: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    cache.mkdir()
    (cache / "one.lock").symlink_to(victim)
    os.mkfifo(cache / "two.lock")
    for name in ("one", "two"):
        with pytest.raises(CheckpointError, match="no lock: remove it"):
            get(name)
    assert victim.read_text() == "precious"
