"""A study that is run once, of which tests get copies."""

import shutil
from pathlib import Path

import pytest

from spec_opt.cli import main


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny study after `spec-opt run`."""
    from tests.cli.test_cli import STUDY

    folder = tmp_path_factory.mktemp("once")
    (folder / "tiny.toml").write_text(STUDY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", "tiny.toml"]) == 0
    return folder


@pytest.fixture
def finished(folder: Path, once: Path) -> Path:
    """The working folder after `spec-opt run tiny.toml`."""
    shutil.copytree(once, folder, dirs_exist_ok=True)
    return folder
