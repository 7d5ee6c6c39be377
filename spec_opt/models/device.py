"""The hardware that models run on."""

import ctypes
import os
import sys
from functools import cache
from typing import Final

import torch
from torch import Tensor

from spec_opt.errors import ConfigError

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_LARGEST_MMAP_THRESHOLD: Final = 32 * 2**20
"""Parameters of mallopt, from glibc's malloc.h, and the most that it takes for the second."""


def resolve_device(name: str) -> torch.device:
    """The device that `[decoding] device` means on this machine, this process made ready for it.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        _keep_freed_memory()
    elif (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"decoding.device = '{name}': {torch.cuda.device_count()} CUDA devices are visible; "
            "use 'cpu', or 'auto' for whatever there is"
        )
    return device


def send(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU where `device` is; the copy does not wait for a GPU's work."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def memory_to_spare(device: torch.device) -> int:
    """Bytes that one worker may keep on a device beside its models: a quarter of a GPU's free
    memory, an eighth of the machine's, which several workers share.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 4
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8


@cache
def _keep_freed_memory() -> None:
    """Have the C library keep the memory of tensors that are gone for those that come.

    By default glibc gives large blocks back to the system and gets them anew, page by page, for
    every layer of every batch: a quarter of the time of a large one (`benchmarks/forward.py`).
    Other C libraries have no such setting.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)


def gpu_count() -> int:
    """CUDA devices that this process may use."""
    return torch.cuda.device_count()
