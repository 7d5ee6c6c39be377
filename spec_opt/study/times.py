"""When a trial began and ended, in UTC.

Optuna 5 keeps the times of a trial as naive UTC and gives them as naive local time. Optuna 4 keeps
naive local time, and not in which zone: nobody elsewhere can tell what it means. There, our trials
also carry their times in UTC. What other clients of Optuna 4 wrote, or older versions of spec-opt,
is read by the zone of whoever reads it, which is right where that is one zone.
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


def stamps(*keys: str) -> dict[str, str]:
    """Now, as system attributes of these names; none where Optuna's own times will do."""
    return {} if TIMES_ARE_UTC else dict.fromkeys(keys, _now().isoformat())


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def as_utc(stored: datetime) -> datetime:
    """A time from Optuna's columns as naive UTC."""
    return stored if TIMES_ARE_UTC else _from_local(stored)


def _from_local(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)


def utc_times(trial: FrozenTrial) -> dict[str, datetime | None]:
    """When a trial `started` and `finished`, naive UTC; None for what it has not done yet."""
    return {
        "started": _time(trial.system_attrs, STARTED_KEY, trial.datetime_start),
        "finished": _time(trial.system_attrs, FINISHED_KEY, trial.datetime_complete),
    }


def _time(attributes: Mapping[str, Any], key: str, local: datetime | None) -> datetime | None:
    if local is None:
        return None
    try:
        return datetime.fromisoformat(attributes[key])
    except (KeyError, TypeError, ValueError):
        return _from_local(local)
