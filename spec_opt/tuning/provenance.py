"""Which software gave a number: package versions and, in a checkout, the commit."""

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

import spec_opt

PACKAGES = ("torch", "numpy", "optuna")


@cache
def package_versions() -> dict[str, str]:
    """Name to version of what a number may depend on; nothing is imported for it."""
    versions = {"spec-opt": spec_opt.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def source_commit() -> str | None:
    """The commit of the checkout that spec-opt runs from; None for an installed package."""
    checkout = Path(spec_opt.__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
