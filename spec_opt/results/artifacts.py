"""A report kept with its study, as Optuna's artifacts in a folder that a team shares.

The files of the last report replace those of the one before; artifacts of others are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import delete

from spec_opt.errors import OutputError
from spec_opt.study.store import Store, study_system_attributes
from spec_opt.study.study import update_attribute

ARTIFACTS: Final = "artifacts"
"""Key of the user attribute that holds the artifacts of the last report, by file name."""
OF_OPTUNA: Final = "artifacts:"
"""Optuna's prefix of the system attribute that describes an artifact."""


def artifact_store(folder: Path) -> FileSystemArtifactStore:
    """Optuna's artifact store in a folder, which is made if it is missing.

    Raises:
        OutputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"artifacts: {folder} cannot be made: {error.strerror}") from error
    return FileSystemArtifactStore(str(folder))


def keep_artifacts(store: Store, name: str, files: Sequence[Path], folder: Path) -> None:
    """Keep files as artifacts of a study, in place of those that were kept under their names.

    Raises:
        StudyError: there is no study of that name.
        OutputError: the folder or the store cannot be written.
    """
    if store.read_only:
        raise OutputError(f"artifacts: store {store.masked_url} can only be read")
    study, artifacts = store.optuna_study(name), artifact_store(folder)
    try:
        new = {
            path.name: upload_artifact(
                artifact_store=artifacts, file_path=str(path), study_or_trial=study
            )
            for path in files
        }
    except OSError as error:
        raise OutputError(f"artifacts: {folder} cannot be written: {error.strerror}") from error
    replaced: list[str] = []

    def change(held: Any) -> dict[str, str]:
        old = dict(held or {})
        replaced[:] = [old[file] for file in new if file in old]
        return old | new

    update_attribute(store, name, ARTIFACTS, change)
    table = study_system_attributes
    keys = [f"{OF_OPTUNA}{artifact}" for artifact in replaced]
    forget = delete(table).where(table.c.study_id == study._study_id, table.c.key.in_(keys))
    store.transaction(lambda connection: connection.execute(forget))
    for artifact in replaced:
        with suppress(ArtifactNotFound):
            artifacts.remove(artifact)
