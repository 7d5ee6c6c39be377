"""A report kept with its study, as Optuna's artifacts."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import (
    FileSystemArtifactStore,
    download_artifact,
    get_all_artifact_meta,
    upload_artifact,
)

from spec_opt.cli import main
from spec_opt.errors import OutputError
from spec_opt.results.artifacts import keep_artifacts
from spec_opt.study.store import Store
from tests.results import studies
from tests.study.conftest import store_url  # noqa: F401

Open = Callable[..., Store]


def written(folder: Path, content: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = [folder / "report.html", folder / "summary.md"]
    for path in files:
        path.write_text(f"{content} of {path.name}", encoding="utf-8")
    return files


def kept(study: optuna.Study, folder: Path) -> dict[str, str]:
    """What Optuna itself finds, by file name."""
    found = {}
    for meta in get_all_artifact_meta(study):
        target = folder.parent / "downloaded"
        download_artifact(
            artifact_store=FileSystemArtifactStore(folder),
            artifact_id=meta.artifact_id,
            file_path=str(target),
        )
        assert meta.filename not in found
        found[meta.filename] = target.read_text(encoding="utf-8")
        target.unlink()
    return found


def test_a_report_replaces_the_one_before_and_nothing_else(
    store_url: str,  # noqa: F811
    tmp_path: Path,
    opened: Open,
) -> None:
    store, folder = opened(store_url), tmp_path / "a" / "artifacts"
    study = studies.study_of((0.2, 1.0, 2, 0.8, 0.45), storage=store.storage)
    keep_artifacts(store, "given", written(tmp_path / "one", "first"), folder)
    first = {name: f"first of {name}" for name in ("report.html", "summary.md")}
    assert kept(study, folder) == first

    own = tmp_path / "notes.txt"
    own.write_text("mine", encoding="utf-8")
    artifacts = FileSystemArtifactStore(folder)
    upload_artifact(artifact_store=artifacts, file_path=str(own), study_or_trial=study)
    keep_artifacts(store, "given", written(tmp_path / "two", "second"), folder)
    second = {name: f"second of {name}" for name in first}
    assert kept(study, folder) == second | {"notes.txt": "mine"}
    assert len(list(folder.iterdir())) == 3
    # What a person has deleted is no hindrance.
    for path in folder.iterdir():
        path.unlink()
    keep_artifacts(store, "given", written(tmp_path / "three", "third"), folder)
    assert len(list(folder.iterdir())) == 2


def test_the_command(
    tmp_path: Path,
    opened: Open,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/store.db"
    study = studies.study_of((0.2, 1.0, 2, 0.8, 0.45), storage=opened(url).storage)
    folder = tmp_path / "artifacts"
    command = ["report", "given", "--storage", url, "--artifacts"]
    assert main([*command, str(folder)]) == 0
    names = {meta.filename for meta in get_all_artifact_meta(study)}
    assert names == {"report.html", "summary.md", "results.csv", "results.parquet"}
    assert kept_page(study, folder) == (tmp_path / "reports/given/report.html").read_bytes()
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main([*command, str(tmp_path / "file" / "artifacts")]) != 0
    assert "artifacts: " in capsys.readouterr().err


def kept_page(study: optuna.Study, folder: Path) -> bytes:
    (page,) = (m for m in get_all_artifact_meta(study) if m.filename == "report.html")
    return (folder / page.artifact_id).read_bytes()


def test_a_store_that_can_only_be_read_is_said(tmp_path: Path, opened: Open) -> None:
    store = opened(f"sqlite:///{tmp_path}/store.db")
    studies.study_of((0.2, 1.0, 2, 0.8, 0.45), storage=store.storage)
    store.read_only = True
    with pytest.raises(OutputError, match="can only be read"):
        keep_artifacts(store, "given", written(tmp_path / "one", "first"), tmp_path / "artifacts")
