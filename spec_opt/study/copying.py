"""A study copied from store to store, by Optuna's own `copy_study`."""

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage

from spec_opt.errors import StudyError
from spec_opt.study.store import Store


def copy_study(source: Store, target: Store, name: str) -> int:
    """Copy a study with all its trials and attributes; returns the number of trials.

    The target gets all of it in one transaction, or nothing: a study of that name is never there
    in part. A trial that is running is copied as it is; in the target it counts as abandoned once
    it has been silent for long, and its setting is measured again there.

    Raises:
        StudyError: the source has no study of that name, or the target has one.
        StoreError: a store failed.
    """
    source.optuna_study(name)

    def copy(storage: RDBStorage) -> int:
        optuna.copy_study(from_study_name=name, from_storage=source.storage, to_storage=storage)
        return storage.get_n_trials(storage.get_study_id_from_name(name))

    try:
        return target.through_optuna(copy)
    except DuplicatedStudyError:
        raise StudyError(
            f"store {target.masked_url}: it has a study {name} already, so nothing was copied; "
            "give another store with --to"
        ) from None
