"""What this process may use of its machine's cores, and how its threads wait.

Free of heavy imports: `set_up_threads` has to run before torch is imported.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

SPIN_COUNT: Final = 1_000
"""How often a waiting OpenMP thread looks again before it sleeps: some microseconds."""

CGROUPS = Path("/sys/fs/cgroup")


def set_up_threads() -> None:
    """Choose how torch's threads behave; whatever the user's environment says already stays.

    OpenMP's threads spin by default while they wait for each other. Beside another busy process
    they spin on cores that the thread they wait for needs: training took eight times as long.
    Threads that sleep at once make a small forward pass twice as slow on a quiet machine. So they
    spin for some microseconds and sleep then: as GNU's OpenMP, which torch brings on Linux, can be
    told; another one sleeps at once. And in a container whose CPU time is limited, torch counts
    the host's cores: more threads than the limit only wait for their next slice.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    if (cores := usable_cores()) < allowed_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def usable_cores() -> int:
    """Cores whose time this process may use: those it may run on, or the container's limit."""
    return max(1, min([allowed_cores(), *map(int, _quotas())]))


def allowed_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """CPU limits, in cores, of this process's control group and of those around it."""
    for group in _groups("0::"):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal():
            yield int(quota) / int(period)
    for group in _groups("cpu"):  # version 1
        quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():
            yield int(quota) / int(period)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's group in a hierarchy, from the inside out."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, names, path = line.split(":", 2)
        if controller == "0::" and number == "0" and not names:
            root = CGROUPS
        elif controller in names.split(","):
            root = CGROUPS / controller
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        yield from (root / part for part in (inside, *inside.parents))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
