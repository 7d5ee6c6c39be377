"""Behind a pooler in transaction mode, each transaction may be in another session of the server."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from spec_opt.study.store import look_at_store, open_store
from spec_opt.study.worker import run_worker
from tests.study.pooler import PROGRAM, pooler
from tests.study.stand_in import QUICK, StandIn, stand_in_study
from tests.study.test_claims import ONE, SMALL, states

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(PROGRAM is None, reason="no PgBouncer: apt-get install pgbouncer"),
]


@pytest.fixture(params=[1, 3])
def pooled(request: pytest.FixtureRequest, new_database: Callable[[], str]) -> Iterator[str]:
    """An empty database behind a pooler that has so many connections to it."""
    with pooler(new_database(), request.param) as url:
        yield url


def test_workers_that_start_at_once_on_an_empty_database(pooled: str) -> None:
    def work(_: int) -> int:
        with open_store(pooled) as store:
            study = stand_in_study(store, sigma=(0.1, 0.5), bias=(1.0, 2.0), k=(1, 2, 3))
            done = run_worker(study, StandIn(0.02), threading.Event(), heartbeat=QUICK)
            return done.complete

    with ThreadPoolExecutor(6) as workers:
        assert sum(workers.map(work, range(6))) == 12
    with look_at_store(pooled) as store:
        trials = store.optuna_study("stand-in").get_trials(deepcopy=False)
        assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 12}
        assert len({str(trial.params) for trial in trials}) == 12


def test_the_same_statement_many_times(pooled: str) -> None:
    """As often as makes a driver prepare it, over connections that share sessions."""
    with open_store(pooled) as first, open_store(pooled) as second:
        studies = [stand_in_study(store, **SMALL) for store in (first, second)]
        for _ in range(12):
            assert [states(study) for study in studies] == [{"WAITING": 4}] * 2


def test_no_session_keeps_a_setting(pooled: str) -> None:
    """It would hold for other clients of the pooler."""
    with open_store(pooled) as store:
        stand_in_study(store, **ONE)
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as other:
        for _ in range(4):
            found = other.execute("SHOW idle_in_transaction_session_timeout").fetchone()
            assert found == ("0",)
