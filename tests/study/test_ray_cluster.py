"""The program on a Ray cluster of two nodes, both simulated on this machine."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spec_opt.cli import main
from spec_opt.errors import InputError, StudyError, WorkError
from spec_opt.study.ray_cluster import cluster, run_tasks
from tests.study.kills import Study

TINY = 'name = "tiny"\n[data]\nsource = "synthetic"\ncontext = 96\nhorizon = 48\n'
POSTGRES = "postgresql://nobody@localhost:1/none"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of one node with two slots, to which tests may add."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'spec-opt[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # That a node is lost is seen after five looks in vain; by default one in three seconds.
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_initial_delay_ms", "500")
        # Tasks run in processes of the nodes, which must find the stand-in.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
        quiet = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        head = Cluster(initialize_head=True, head_node_args=quiet)
        yield head
        head.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def study(tmp_path: Path, new_database: Callable[[], str]) -> Iterator[Study]:
    study = Study(tmp_path / "study", new_database())
    yield study
    study.clean_up()


def states(study: Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials())


def workers(study: Study) -> set[str]:
    """The names of those that have claimed a trial so far."""
    if not study.evaluations():  # perhaps there is no store yet
        return set()
    return {trial.user_attrs["worker"] for trial in study.trials() if trial.state.name != "WAITING"}


@pytest.mark.postgres
def test_a_node_lost_in_the_middle(nodes: Any, study: Study) -> None:
    lost = nodes.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    run = study.start("run", "--ray", nodes.address)
    study.wait_for(lambda: len(workers(study)) == 4 or run.poll() is not None, "four workers")
    nodes.remove_node(lost, allow_graceful=False)
    study.wait_for(lambda: run.poll() is not None, "the end")
    assert run.returncode == 0, study.text()
    assert "Traceback" not in study.text()
    assert states(study)["COMPLETE"] == 80
    assert states(study).keys() <= {"COMPLETE", "FAIL"}
    complete = [trial for trial in study.trials() if trial.state.name == "COMPLETE"]
    assert len({tuple(trial.params.values()) for trial in complete}) == 80


@pytest.mark.postgres
def test_told_to_stop_tasks_give_their_trials_back(nodes: Any, study: Study) -> None:
    run = study.start("run", "--ray", nodes.address)
    study.wait_for(lambda: study.evaluations() >= 6 or run.poll() is not None, "6 evaluations")
    run.send_signal(signal.SIGINT)
    study.wait_for(lambda: run.poll() is not None, "the end")
    assert run.returncode == 130, study.text()
    assert "Traceback" not in study.text()
    assert states(study)["RUNNING"] == 0
    assert 0 < states(study)["COMPLETE"] < 80


def test_why_tasks_failed(nodes: Any) -> None:
    def work() -> None:
        raise StudyError("study x: was measured with another target")

    def broken() -> None:
        raise ZeroDivisionError("division by zero")

    with cluster(nodes.address):
        summary = run_tasks(work, 2, False, threading.Event())
        (other,) = run_tasks(broken, 1, False, threading.Event()).errors
    assert (summary.tasks, summary.interrupted) == (2, False)
    assert [str(error) for error in summary.errors] == [
        "study x: was measured with another target"
    ] * 2
    assert all(isinstance(error, StudyError) for error in summary.errors)
    assert isinstance(other, WorkError)
    assert str(other) == "ZeroDivisionError: division by zero"


def test_a_task_whose_process_dies_is_started_again(nodes: Any, tmp_path: Path) -> None:
    def work() -> None:
        flag = tmp_path / "died"
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (tmp_path / "worked").touch()

    with cluster(nodes.address):
        assert run_tasks(work, 1, False, threading.Event()).errors == ()
    assert (tmp_path / "worked").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "etth1_grid", "host:", ":6379", "host:x"])
def test_no_cluster_there(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'spec-opt[ray]'")
    with pytest.raises(InputError, match=f"--ray {address}: no Ray cluster"), cluster(address):
        pass


def test_without_the_extra_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    arguments = ["run", str(tmp_path / "tiny.toml"), "--storage", POSTGRES, "--ray"]
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.err == (
        "spec-opt: error: --ray: Ray is not installed; pip install 'spec-opt[ray]'\n"
    )
    assert captured.out == ""


def test_a_file_is_no_store_for_many_machines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    arguments = ["run", str(tmp_path / "tiny.toml"), "--ray", "auto"]
    assert main([*arguments, "--storage", f"sqlite:///{tmp_path}/x.db"]) == 2
    assert "give --storage postgresql://" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny.toml"]


def test_the_package_is_not_imported_unasked() -> None:
    code = "import sys, spec_opt.cli.service; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
