"""Fixtures that every test may use."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The machine that tests run on may be busy: an example that takes long is no failure.
settings.register_profile("spec-opt", deadline=None, derandomize=True)
settings.load_profile("spec-opt")

DATA = Path(__file__).parent / "files"


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No test reads or writes the user's caches, stores or settings, or others' passwords."""
    for name in [name for name in os.environ if name.startswith("SPEC_OPT_")]:
        if name != "SPEC_OPT_SHARED":
            monkeypatch.delenv(name)
    monkeypatch.setattr("spec_opt.config.outgoing._secrets", set())
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real data and a trained pair, kept outside the repository."""
    folder = os.environ.get("SPEC_OPT_SHARED")
    if not folder:
        pytest.skip("SPEC_OPT_SHARED is not set: no real data or checkpoints at hand")
    return Path(folder)


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The small parity vectors that are committed."""
    return DATA


@pytest.fixture(autouse=True)
def same_log_handlers() -> Iterator[None]:
    """A command line sets up logging for its process; no later test shall log to its streams."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.setLevel(level)
    root.handlers[:] = [handler for handler in root.handlers if handler in before]
