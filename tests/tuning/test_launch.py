"""Worker processes: started, restarted, stopped; with small programs in place of workers."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spec_opt.errors import InputError
from spec_opt.tuning.launch import (
    LaunchSummary,
    Restarts,
    cpu_environments,
    gpu_environments,
    launch,
    parse_gpus,
    usable_cores,
)

QUICK = Restarts(at_most=3, first_wait=0.05, longest_wait=0.2, kill_after=2.0)


def run(code: str, folder: Path, workers: int = 1, stop: threading.Event | None = None,
        restarts: Restarts = QUICK) -> LaunchSummary:  # fmt: skip
    environments = [{"PLACE": str(i)} for i in range(workers)]
    command = [sys.executable, "-c", code]
    return launch(command, environments, folder, stop or threading.Event(), restarts=restarts)


def stop_after(seconds: float) -> threading.Event:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    return stop


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


def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    summary = run("raise SystemExit(2)", tmp_path)
    assert (summary.restarts, summary.bad_input) == (0, True)


def test_told_to_stop_workers_leave_in_good_order(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('good night'), sys.exit(130)))\n"
        "time.sleep(30)\n"
    )
    summary = run(code, tmp_path, workers=2, stop=stop_after(1.0))
    assert summary == LaunchSummary(True, 0, (), False)
    assert "good night" in (tmp_path / "worker-1.log").read_text()


def test_a_worker_waiting_to_be_started_again_is_not_once_told(tmp_path: Path) -> None:
    patient = Restarts(at_most=3, first_wait=30.0)
    summary = run("raise SystemExit(1)", tmp_path, stop=stop_after(1.0), restarts=patient)
    assert summary.interrupted


def test_the_second_signal_ends_everything(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time, os\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    script = (
        "import sys, pathlib\n"
        "from spec_opt.interrupts import stop_on_signals\n"
        "from spec_opt.tuning.launch import launch, Restarts\n"
        "with stop_on_signals(lambda: print('first', flush=True)) as stop:\n"
        f"    summary = launch([sys.executable, '-c', {stubborn!r}], [{{}}],\n"
        f"                     pathlib.Path({str(tmp_path)!r}), stop,\n"
        "                     restarts=Restarts(kill_after=0.5))\n"
        "print(summary.interrupted)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    log = tmp_path / "worker-0.log"
    while not log.exists() or log.read_text().count("\n") < 2:
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


def test_each_worker_sees_its_own_gpu() -> None:
    names = parse_gpus("0,2", lambda: 4)
    assert gpu_environments(names) == [{"CUDA_VISIBLE_DEVICES": n} for n in ("0", "2")]
    assert parse_gpus("all", lambda: 3) == ["0", "1", "2"]


@pytest.mark.parametrize("text", ["4", "0,0", "a", "", "-1", "0,", "all"])
def test_gpus_that_are_not_there(text: str) -> None:
    with pytest.raises(InputError, match="--gpus"):
        parse_gpus(text, lambda: 0 if text == "all" else 4)
