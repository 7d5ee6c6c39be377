"""When a trial began and ended, in UTC.

Optuna keeps the times of a trial as naive local time, and not in which zone: only who knows where
they were written can read them. So our trials also carry them in UTC. Those of older versions and
of other clients are read by the zone of whoever reads them, which is right where that is one zone.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from optuna.trial import FrozenTrial

from spec_opt.study.store import TIMES_ARE_UTC

STARTED_KEY: Final = "spec_opt:started"
FINISHED_KEY: Final = "spec_opt:finished"
"""System attributes of a trial: naive UTC, as ISO 8601."""


def clock() -> datetime:
    """Now, as Optuna keeps the times of a trial: naive UTC (or local), by the worker's clock."""
    return _now() if TIMES_ARE_UTC else datetime.now()


def stamp() -> str:
    """Now, for `STARTED_KEY` and `FINISHED_KEY`."""
    return _now().isoformat()


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def as_utc(stored: datetime) -> datetime:
    """A time from Optuna's columns as naive UTC, if it was written in this process's zone."""
    return stored if TIMES_ARE_UTC else stored.astimezone(UTC).replace(tzinfo=None)


def utc_times(trial: FrozenTrial) -> dict[str, datetime | None]:
    """When a trial `started` and `finished`, naive UTC; None for what it has not done yet."""
    return {
        "started": _time(trial.system_attrs, STARTED_KEY, trial.datetime_start),
        "finished": _time(trial.system_attrs, FINISHED_KEY, trial.datetime_complete),
    }


def _time(attributes: Mapping[str, Any], key: str, stored: datetime | None) -> datetime | None:
    if stored is None:
        return None
    try:
        return datetime.fromisoformat(attributes[key])
    except (KeyError, TypeError, ValueError):
        return as_utc(stored)
