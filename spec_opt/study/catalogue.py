"""The studies that a store holds, by name."""

from collections import defaultdict
from dataclasses import dataclass

from optuna.trial import TrialState
from sqlalchemy import Connection, func, select

from spec_opt.errors import StudyError
from spec_opt.study.store import look_at_store, studies, study_user_attributes, trials
from spec_opt.study.study import MADE_WITH


@dataclass(frozen=True)
class StoredStudy:
    """A study of a store, in a line."""

    name: str
    complete: int
    """Trials in that state."""
    trials: int
    """In whatever state."""
    has_settings: bool
    """Whether spec-opt ran it; not so of imported results, and of other programs' studies."""


def stored_studies(url: str) -> tuple[StoredStudy, ...]:
    """The studies in the store at a URL, by name; none where there is no store yet.

    Raises:
        StoreURLError: the URL is malformed or unsupported.
        StoreError: the store cannot be reached.
    """
    try:
        store = look_at_store(url)
    except StudyError:
        return ()
    with store:
        return store.read(_read)


def _read(connection: Connection) -> tuple[StoredStudy, ...]:
    keys = select(study_user_attributes.c.study_id, study_user_attributes.c.key)
    known: dict[int, set[str]] = defaultdict(set)
    for study_id, key in connection.execute(keys):
        known[study_id].add(key)
    count = select(trials.c.study_id, trials.c.state, func.count())
    counts: dict[int, dict[TrialState, int]] = defaultdict(dict)
    for study_id, state, number in connection.execute(
        count.group_by(trials.c.study_id, trials.c.state)
    ):
        counts[study_id][state] = number
    names = select(studies.c.study_id, studies.c.study_name).order_by(studies.c.study_name)
    return tuple(
        StoredStudy(
            name,
            complete=counts[study_id].get(TrialState.COMPLETE, 0),
            trials=sum(counts[study_id].values()),
            has_settings=known[study_id] >= {*MADE_WITH},
        )
        for study_id, name in connection.execute(names)
    )
