"""Where and when a benchmark ran: machine, versions, commit, date."""

import os
import platform
import subprocess
from datetime import UTC, datetime

import torch


def describe() -> str:
    """One line for the head of a result table."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    # How threads wait decides what a small batch costs: see docs/performance.md.
    waiting = [os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")]
    threads = f"{torch.get_num_threads()} threads, {' '.join(filter(None, waiting)) or 'spinning'}"
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {_commit()}, {device}, {os.cpu_count()} cores, "
        f"torch {torch.__version__} ({threads}), "
        f"Python {platform.python_version()}"
    )


def _commit() -> str:
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            named = (line for line in lines if line.startswith("model name"))
            return next(named).split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
