"""Worker processes: started, restarted, stopped; with small programs in place of workers."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spec_opt.cli.interrupts import stop_on_signals
from spec_opt.config.machine import usable_cores
from spec_opt.errors import InputError
from spec_opt.study.launch import (
    LaunchSummary,
    Restarts,
    cpu_environments,
    gpu_environments,
    launch,
    parse_gpus,
)

QUICK = Restarts(at_most=3, first_wait=0.05, longest_wait=0.2, kill_after=2.0)
LONGEST = 60.0
"""Seconds after which a test gives up."""


def run(code: str, folder: Path, workers: int = 1, stop: threading.Event | None = None,
        restarts: Restarts = QUICK, on_tick: Callable[[], None] = lambda: None
        ) -> LaunchSummary:  # fmt: skip
    environments = [{"PLACE": str(i)} for i in range(workers)]
    command = [sys.executable, "-c", code]
    return launch(command, environments, folder, stop or threading.Event(), on_tick, restarts)


def said(folder: Path, text: str, workers: int = 1) -> bool:
    """Whether each worker's log has the text by now."""
    logs = list(folder.glob("worker-*.log"))
    return len(logs) == workers and all(text in log.read_text() for log in logs)


def stop_when(condition: Callable[[], bool]) -> tuple[threading.Event, Callable[[], None]]:
    """`stop` and `on_tick` of a launch that is stopped as soon as the condition holds."""
    stop, deadline = threading.Event(), time.monotonic() + LONGEST

    def on_tick() -> None:
        if condition():
            stop.set()
        assert time.monotonic() < deadline

    return stop, on_tick


def test_workers_that_finish(tmp_path: Path) -> None:
    summary = run("import os; print('place', os.environ['PLACE'])", tmp_path, workers=3)
    assert summary == LaunchSummary(False, 0, (), False)
    for index in range(3):
        assert f"place {index}" in (tmp_path / f"worker-{index}.log").read_text()


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    flag = tmp_path / "died"
    code = (
        "import os, pathlib, signal\n"
        f"flag = pathlib.Path({str(flag)!r})\n"
        "if not flag.exists():\n"
        "    flag.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    summary = run(code, tmp_path)
    assert summary.restarts == 1
    assert not summary.given_up
    assert (tmp_path / "worker-0.log").read_text().count("worker starts") == 2


def test_a_worker_that_always_fails_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = run("raise SystemExit(1)", tmp_path)
    assert summary.restarts == QUICK.at_most
    assert summary.given_up == (tmp_path / "worker-0.log",)
    assert "too often" in caplog.text
    assert str(tmp_path / "worker-0.log") in caplog.text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('spec-opt: error: no such host'); raise SystemExit(1)", "no such host"),
        ("raise ZeroDivisionError('in the middle')", "ZeroDivisionError: in the middle"),
    ],
)
def test_why_a_worker_failed_is_said_by_the_launcher(
    code: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = run(code, tmp_path)
    assert summary.reason == said
    assert f"(last line of its log: {said}), is started again" in caplog.text


def test_what_a_killed_worker_said_last_is_not_its_reason(tmp_path: Path) -> None:
    code = "import os; print('all is well', flush=True); os.kill(os.getpid(), 9)"
    assert run(code, tmp_path, restarts=Restarts(at_most=0)).reason == "signal SIGKILL"


def test_a_worker_that_said_nothing_gives_no_reason(tmp_path: Path) -> None:
    assert run("raise SystemExit(2)", tmp_path).reason == ""


def test_a_worker_that_always_fails_late_is_given_up_too(tmp_path: Path) -> None:
    """Each of its failures begins a new row."""
    late = Restarts(at_most=3, in_all=5, first_wait=0.0, steady_seconds=0.0)
    summary = run("raise SystemExit(1)", tmp_path, restarts=late)
    assert summary.restarts == 5
    assert summary.given_up


@pytest.mark.parametrize("fault", ["a file in place of the folder", "a full disk", "a pipe"])
def test_logs_that_cannot_be_written_do_not_keep_workers_from_their_work(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    if fault == "a file in place of the folder":
        logs.touch()
    else:
        logs.mkdir()
        log = logs / "worker-0.log"
        log.symlink_to("/dev/full") if fault == "a full disk" else os.mkfifo(log)
    done = tmp_path / "done"
    speaks = fault != "a full disk"
    lines = ["import os, pathlib, sys", f"pathlib.Path({str(done)!r}).touch()"]
    lines += ["sys.stderr.write('said')"] if speaks else ["os._exit(0)"]
    code = "; ".join(lines)
    assert run(code, logs).given_up == ()
    assert done.exists()
    assert ("cannot be written" in caplog.text) == speaks
    assert ("said" in capfd.readouterr().err) == speaks


def test_the_reason_is_that_of_bad_input_if_there_is_any(tmp_path: Path) -> None:
    """Whoever reads it can mend that."""
    code = "import os; place = int(os.environ['PLACE']); print(place); raise SystemExit(1 + place)"
    summary = run(code, tmp_path, workers=2, restarts=Restarts(at_most=0))
    assert (summary.bad_input, summary.reason) == (True, "1")


def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    summary = run("raise SystemExit(2)", tmp_path)
    assert (summary.restarts, summary.bad_input) == (0, True)


def test_told_to_stop_workers_leave_in_good_order(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('good night'), sys.exit(130)))\n"
        "print('good morning', flush=True)\n"
        "time.sleep(30)\n"
    )
    stop, on_tick = stop_when(lambda: said(tmp_path, "good morning", workers=2))
    summary = run(code, tmp_path, workers=2, stop=stop, on_tick=on_tick)
    assert summary == LaunchSummary(True, 0, (), False)
    assert said(tmp_path, "good night", workers=2)


def test_a_worker_waiting_to_be_started_again_is_not_once_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patient = Restarts(at_most=3, first_wait=30.0)
    stop, on_tick = stop_when(lambda: "is started again" in caplog.text)
    summary = run("raise SystemExit(1)", tmp_path, stop=stop, restarts=patient, on_tick=on_tick)
    assert summary.interrupted
    assert (tmp_path / "worker-0.log").read_text().count("worker starts") == 1


@pytest.mark.parametrize("told_before", [True, False])
def test_to_leave_at_once_is_told_in_two_signals(told_before: bool, tmp_path: Path) -> None:
    """Two at the same moment would be one to the worker, and a third would disturb its leaving."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
        "print('ready', flush=True)\n"
        "deadline = time.monotonic() + 1.5\n"
        "while time.monotonic() < deadline:\n"
        "    time.sleep(0.1)\n"
    )
    stop = threading.Event()

    def on_tick() -> None:
        if told_before and said(tmp_path, "ready"):
            stop.set()
        if said(tmp_path, "told" if told_before else "ready"):
            raise KeyboardInterrupt

    assert run(code, tmp_path, stop=stop, on_tick=on_tick).interrupted
    assert (tmp_path / "worker-0.log").read_text().count("told") == 2


def test_only_the_second_signal_raises() -> None:
    """A later one would disturb what gives the trial back."""
    first: list[str] = []

    def interrupt() -> None:
        with stop_on_signals(lambda: first.append("first")) as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set()
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)
                first.append("given back")

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert first == ["first", "given back"]


def test_the_second_signal_ends_everything(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time, os\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    script = (
        "import sys, pathlib\n"
        "from spec_opt.cli.interrupts import stop_on_signals\n"
        "from spec_opt.study.launch import launch, Restarts\n"
        "with stop_on_signals(lambda: print('first', flush=True)) as stop:\n"
        f"    summary = launch([sys.executable, '-c', {stubborn!r}], [{{}}],\n"
        f"                     pathlib.Path({str(tmp_path)!r}), stop,\n"
        "                     restarts=Restarts(kill_after=0.5))\n"
        "print(summary.interrupted)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    log = tmp_path / "worker-0.log"
    deadline = time.monotonic() + LONGEST
    while not log.exists() or log.read_text().count("\n") < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out == "True\n"
    pid = int(log.read_text().splitlines()[1])
    assert not Path(f"/proc/{pid}").exists()


def test_cores_are_shared_out() -> None:
    environments = cpu_environments(2)
    assert len(environments) == 2
    assert int(environments[0]["OMP_NUM_THREADS"]) == max(1, usable_cores() // 2)
    assert cpu_environments(1000)[0]["OMP_NUM_THREADS"] == "1"


def test_workers_on_the_cpu_see_no_gpu() -> None:
    assert [e["CUDA_VISIBLE_DEVICES"] for e in cpu_environments(2)] == ["", ""]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0", "2"]),
        ("4,5,6,7", ["4", "6"]),
        ("GPU-aa, GPU-bb, GPU-cc", ["GPU-aa", "GPU-cc"]),
    ],
)
def test_each_worker_sees_its_own_gpu(
    visible: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that this process was given."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    names = parse_gpus("0,2", lambda: 4)
    assert gpu_environments(names) == [{"CUDA_VISIBLE_DEVICES": name} for name in expected]
    assert parse_gpus("all", lambda: 3) == ["0", "1", "2"]


@pytest.mark.parametrize("text", ["4", "0,0", "a", "", "-1", "0,", "all"])
def test_gpus_that_are_not_there(text: str) -> None:
    with pytest.raises(InputError, match="--gpus"):
        parse_gpus(text, lambda: 0 if text == "all" else 4)
