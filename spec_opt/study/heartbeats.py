"""Signs of life of running trials, in Optuna's own table; `silence` judges their age."""

from datetime import datetime, timedelta

from optuna.trial import TrialState
from sqlalchemy import Connection, Select, exists, func, select, update

from spec_opt.study.database import utc_now
from spec_opt.study.store import trial_heartbeats, trials

RECENT = 1000
"""A new heartbeat follows those of so many trials, the ones that began last."""


def _select_last() -> Select[datetime, datetime]:
    beats = trial_heartbeats.c
    recent = select(beats.heartbeat).order_by(beats.trial_heartbeat_id.desc()).limit(RECENT)
    return select(utc_now(), func.max(recent.subquery().c.heartbeat))


LAST = _select_last()


def next_beat(connection: Connection) -> datetime:
    """Now, but after every heartbeat before: one of a clock that is behind must not look old."""
    now: datetime
    last: datetime | None
    now, last = connection.execute(LAST).one()
    return now if last is None else max(now, last + timedelta(milliseconds=1))


def beat(connection: Connection, trial_id: int) -> bool:
    """Renew the heartbeat of a running trial; False if it is running no longer."""
    running = exists().where(trials.c.trial_id == trial_id, trials.c.state == TrialState.RUNNING)
    mine = trial_heartbeats.c.trial_id == trial_id
    renew = update(trial_heartbeats).where(mine, running).values(heartbeat=next_beat(connection))
    return connection.execute(renew).rowcount > 0
