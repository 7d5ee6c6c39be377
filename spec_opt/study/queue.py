"""The queue of a study: which waiting trial a worker takes next, and how a trial begins.

Each function is part of a transaction of its caller.
"""

from typing import Any, NamedTuple

from optuna.trial import TrialState
from sqlalchemy import (
    Connection,
    Float,
    ScalarSelect,
    Select,
    String,
    and_,
    bindparam,
    case,
    func,
    insert,
    select,
    update,
)

from spec_opt.study.silence import next_beat
from spec_opt.study.store import (
    trial_heartbeats,
    trial_params,
    trial_system_attributes,
    trial_user_attributes,
    trials,
)
from spec_opt.study.times import STARTED_KEY, clock, stamps
from spec_opt.study.trials import (
    CLAIM_KEY,
    VARIANT_KEY,
    WORKER_KEY,
    Claimant,
    NewTrial,
    Trial,
    add_trials,
    claimed,
    put_attributes,
)


class Last(NamedTuple):
    """What a worker worked on: it has most results for more of that at hand already."""

    variant: str | None = None
    """As stored; empty for the study file as written."""
    sigma: float | None = None


def _select_next_waiting(*, by_variant: bool) -> Select[Any]:
    running, theirs, mine = trials.alias(), trial_params.alias(), trial_params
    busy = (
        select(theirs.c.param_value.label("sigma"), func.count().label("workers"))
        .join(running, running.c.trial_id == theirs.c.trial_id)
        .where(running.c.study_id == bindparam("study_id"))
        .where(running.c.state == TrialState.RUNNING, theirs.c.param_name == "sigma")
        .group_by(theirs.c.param_value)
        .subquery()
    )
    is_sigma = and_(mine.c.trial_id == trials.c.trial_id, mine.c.param_name == "sigma")
    same_sigma = mine.c.param_value == bindparam("sigma", type_=Float)
    return (
        select(trials.c.trial_id, trials.c.number, _variant_of(trials))
        .outerjoin(mine, is_sigma)
        .outerjoin(busy, busy.c.sigma == mine.c.param_value)
        .where(trials.c.study_id == bindparam("study_id"), trials.c.state == TrialState.WAITING)
        .order_by(*(_by_variant() if by_variant else ()))
        .order_by(case((same_sigma, 0), else_=1), func.coalesce(busy.c.workers, 0))
        .order_by(trials.c.trial_id)
        .limit(1)
        # On Postgres, workers pass over what another one is just taking.
        .with_for_update(of=trials, skip_locked=True)
    )


def _by_variant() -> tuple[Any, ...]:
    """The worker's own variant first, then the one that the fewest others work on."""
    running = trials.alias()
    workers = (
        select(func.count())
        .where(running.c.study_id == bindparam("study_id"))
        .where(running.c.state == TrialState.RUNNING, _variant_of(running) == _variant_of(trials))
        .correlate(trials)
        .scalar_subquery()
    )
    own = _variant_of(trials) == bindparam("variant", type_=String)
    return case((own, 0), else_=1), workers


def _variant_of(table: Any) -> Any:
    attribute = trial_user_attributes.alias()
    stored: ScalarSelect[Any] = (
        select(attribute.c.value_json)
        .where(attribute.c.trial_id == table.c.trial_id, attribute.c.key == VARIANT_KEY)
        .correlate(table)
        .scalar_subquery()
    )
    return func.coalesce(stored, "")


# Built once: that takes longer than most statements.
NEXT = _select_next_waiting(by_variant=False)
NEXT_OF_VARIANTS = _select_next_waiting(by_variant=True)


def take_next(
    connection: Connection, study_id: int, last: Last, claimant: Claimant, *, by_variant: bool
) -> Trial | None:
    """Claim the waiting trial that is to run next; None if none waits.

    A worker keeps to the variant and the sigma that it worked on; else it takes those that the
    fewest others work on, and of them the oldest trial.

    Args:
        by_variant: whether the study searches variants.
    """
    about: dict[str, Any] = {"study_id": study_id, "sigma": last.sigma}
    about |= {"variant": last.variant} if by_variant else {}
    found = connection.execute(NEXT_OF_VARIANTS if by_variant else NEXT, about).first()
    if found is None:
        return None
    begin = {"state": TrialState.RUNNING, "datetime_start": clock()}
    connection.execute(update(trials).where(trials.c.trial_id == found[0]).values(begin))
    _sign(connection, found[0], claimant)
    return claimed(connection, *found)


def start_new(connection: Connection, study_id: int, claimant: Claimant, number: int) -> Trial:
    """Add a running trial without parameters, for a sampler to choose; the study must be locked."""
    (trial_id,) = add_trials(connection, study_id, [NewTrial({}, {})], {}, TrialState.RUNNING)
    _sign(connection, trial_id, claimant)
    return Trial(trial_id, number, TrialState.RUNNING, {})


def _sign(connection: Connection, trial_id: int, claimant: Claimant) -> None:
    """Put the claimant's name, token and first heartbeat on a trial that begins."""
    mark = {CLAIM_KEY: claimant.token} | stamps(STARTED_KEY)
    put_attributes(connection, trial_system_attributes, {trial_id: mark})
    put_attributes(connection, trial_user_attributes, {trial_id: {WORKER_KEY: claimant.name}})
    beats = insert(trial_heartbeats).values(trial_id=trial_id, heartbeat=next_beat(connection))
    connection.execute(beats)
