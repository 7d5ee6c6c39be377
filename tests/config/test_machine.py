"""Cores and threads: a container's limit counts, and so does what the user has set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spec_opt.config import machine

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")


def chosen() -> list[str | None]:
    return [os.environ.get(name) for name in VARIABLES]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hierarchy of control groups, on a machine of eight cores."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "allowed_cores", lambda: 8)
    for name in VARIABLES:
        monkeypatch.setenv(name, "to be undone")
        monkeypatch.delenv(name)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def inside(monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """This process's /proc/self/cgroup."""
    read = machine._read
    own = Path("/proc/self/cgroup")
    monkeypatch.setattr(machine, "_read", lambda path: lines if path == own else read(path))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1)],
)
def test_a_container_s_limit_counts(
    groups: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    inside(monkeypatch, "0::/")
    write(groups / "cpu.max", limit)

    assert machine.usable_cores() == cores


def test_the_narrowest_group_around_counts(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside(monkeypatch, "0::/pod/container")
    write(groups / "pod" / "cpu.max", "300000 100000")
    write(groups / "pod" / "container" / "cpu.max", "max 100000")

    assert machine.usable_cores() == 3


def test_the_first_version_of_control_groups(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside(monkeypatch, "4:cpu,cpuacct:/job\n1:name=systemd:/x")
    write(groups / "cpu" / "job" / "cpu.cfs_quota_us", "250000")
    write(groups / "cpu" / "job" / "cpu.cfs_period_us", "100000")

    assert machine.usable_cores() == 2


def test_without_control_groups_all_cores_count(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, "")

    assert machine.usable_cores() == 8


def test_threads_spin_briefly_before_they_sleep_and_follow_the_limit(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, "0::/")
    write(groups / "cpu.max", "200000 100000")

    machine.set_up_threads()

    assert chosen() == ["PASSIVE", "1000", "2"]


def test_without_a_limit_the_number_of_threads_is_left_to_torch(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, "0::/")

    machine.set_up_threads()

    assert "OMP_NUM_THREADS" not in os.environ


def test_what_the_user_has_set_stays(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside(monkeypatch, "0::/")
    write(groups / "cpu.max", "200000 100000")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")

    machine.set_up_threads()

    assert chosen() == ["ACTIVE", None, "5"]


def test_a_spin_count_that_the_user_has_set_stays(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(monkeypatch, "0::/")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")

    machine.set_up_threads()

    assert chosen() == ["PASSIVE", "7", None]


def test_the_command_line_sets_threads_up_before_torch_is_there() -> None:
    program = (
        "import os, sys; from spec_opt.cli import main; main(['--help']); "
        "sys.exit(os.environ['OMP_WAIT_POLICY'] != 'PASSIVE' or 'torch' in sys.modules)"
    )
    environment = {name: v for name, v in os.environ.items() if name != "OMP_WAIT_POLICY"}

    command = [sys.executable, "-c", program]

    assert subprocess.run(command, env=environment, check=False).returncode == 0
