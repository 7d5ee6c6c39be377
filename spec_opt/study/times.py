"""When a trial began and ended, in UTC.

Optuna 5 keeps the times of a trial as naive UTC and gives them as naive local time. Optuna 4 keeps
naive local time, and not in which zone: nobody elsewhere can tell what it means. There, our trials
also carry their times in UTC. What other clients of Optuna 4 wrote, or older versions of spec-opt,
is read by the zone of whoever reads it, which is right where that is one zone.
"""

from datetime import UTC, datetime
from typing import Any, Final

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


def as_stored(local: datetime | None) -> datetime | None:
    """A time as Optuna gives it, naive local time, as its columns keep it."""
    return _from_local(local) if local is not None and TIMES_ARE_UTC else local


def _from_local(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)


def utc_time(stored: datetime | None, stamp: Any) -> datetime | None:
    """A time from Optuna's columns as naive UTC; `stamp` is our own, where the trial has one."""
    if stored is None or stamp is None:
        return stored and as_utc(stored)
    try:
        return datetime.fromisoformat(stamp)
    except (TypeError, ValueError):
        return as_utc(stored)
