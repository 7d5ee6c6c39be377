"""Why a study ended: a word that stays in its store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, select

from spec_opt.config.limits import Constraints, StopConfig
from spec_opt.config.study_file import SearchConfig
from spec_opt.study.constraints import values_of, violations
from spec_opt.study.hypervolume import course, gains
from spec_opt.study.store import study_user_attributes
from spec_opt.study.trials import IMPORTED, Key, Trial, put_attributes

Reason = Literal["complete", "plateau", "interrupted", "failed"]
ENDED_KEY = "ended"
"""User attribute of a study whose last workers have left."""


@dataclass(frozen=True)
class Ending:
    """Why nobody works on a study any more."""

    reason: Reason
    """complete: all was measured. plateau: nothing more came (`[search] stop`). interrupted:
    somebody stopped the work, and the same command resumes it. failed: what is missing failed for
    good, or the last worker did."""
    stop: StopConfig | None = None
    """By which a plateau was found."""
    settings: int | None = None
    """Distinct settings measured when it was found."""
    hypervolume: float | None = None

    @property
    def is_passing(self) -> bool:
        """Whether there is work left, which the same command takes up."""
        return self.reason in ("interrupted", "failed")

    def is_plateau_of(self, search: SearchConfig) -> bool:
        """Whether it is a plateau, by what the search asks for now."""
        return self.stop is not None and self.stop == search.stop

    def __str__(self) -> str:
        if self.stop is None:
            return self.reason
        share, patience = 100 * self.stop.hypervolume, self.stop.patience
        return (
            f"{self.reason}: the hypervolume rose by less than {share:g}% over the last {patience} "
            f"of {self.settings} distinct settings"
        )


_STORED = TypeAdapter(Ending)


def read_ending(attributes: Mapping[str, Any]) -> Ending | None:
    """The ending that a study's user attributes hold; None if it has not ended."""
    try:
        return _STORED.validate_python(attributes.get(ENDED_KEY), strict=False)
    except ValidationError:
        return None


def stored_ending(connection: Connection, study_id: int) -> Ending | None:
    """The ending that the store holds of a study."""
    return read_ending(_attributes(connection, study_id, ENDED_KEY))


def note(connection: Connection, study_id: int, ending: Ending | None) -> None:
    """Store why a study ended, or with None that it goes on."""
    document = None if ending is None else _STORED.dump_python(ending, mode="json")
    put_attributes(connection, study_user_attributes, {study_id: {ENDED_KEY: document}})


def is_on_plateau(
    connection: Connection, study_id: int, search: SearchConfig, rows: Sequence[Trial]
) -> bool:
    """Whether nothing more comes, by `search.stop`; noted in the store when it is found.

    What trials that were running then still add does not revive the search: a change of
    `search.stop` does. The study must be locked.
    """
    if search.stop is None:
        return False
    ending = stored_ending(connection, study_id)
    if ending is not None and ending.is_plateau_of(search):
        return True
    baseline = _attributes(connection, study_id, "baseline")["baseline"]
    values = values_of(connection, study_id)
    volumes = course_of(rows, values, search.constraints, baseline["target_mse"])
    if not rests(volumes, search.stop):
        return False
    note(connection, study_id, Ending("plateau", search.stop, len(volumes), volumes[-1]))
    return True


def rests(volumes: Sequence[float], stop: StopConfig) -> bool:
    """Whether the hypervolume has risen by less than the share over the last distinct settings."""
    if len(volumes) <= stop.patience:
        return False
    before = volumes[-1 - stop.patience]
    return before > 0 and volumes[-1] < before * (1 + stop.hypervolume)


def course_of(
    rows: Sequence[Trial],
    values: Mapping[int, Sequence[float | None]],
    constraints: Constraints,
    target_mse: float,
) -> list[float]:
    """The hypervolume after each distinct setting of this study's own, in the order of their ends.

    A setting that breaks a constraint counts as a setting and adds nothing.
    """
    keys = {row.trial_id: row.key for row in rows if row.source != IMPORTED}
    distinct: dict[Key, Sequence[float]] = {}
    for trial_id, of_trial in values.items():
        key = keys.get(trial_id)
        if key is None or key in distinct or None in of_trial:
            continue
        known = [value for value in of_trial if value is not None]
        missed = violations(constraints, known, target_mse)
        distinct[key] = [0.0] * len(known) if any(v > 0 for v in missed) else known
    return course(gains(list(distinct.values()), target_mse)) if distinct else []


def _attributes(connection: Connection, study_id: int, key: str) -> dict[str, Any]:
    """One user attribute of a study by its name, if it has it: others may be long."""
    table = study_user_attributes
    query = select(table.c.value_json).where(table.c.study_id == study_id, table.c.key == key)
    text = connection.execute(query).scalar()
    return {} if text is None else {key: json.loads(text)}
