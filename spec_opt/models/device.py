"""The hardware that models run on."""

import ctypes
import os
import sys
from functools import cache
from typing import Final

import torch
from torch import Tensor

from spec_opt.errors import ConfigError

DTYPES: Final = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
"""What models compute in, by `[decoding] precision`."""
MATMUL_PRECISIONS: Final = {"float32": "highest", "tf32": "high", "bfloat16": "highest"}
"""The same as `torch.set_float32_matmul_precision` calls it."""

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_LARGEST_MMAP_THRESHOLD: Final = 32 * 2**20
"""Parameters of mallopt, from glibc's malloc.h, and the largest value of the second."""

_NO_MEMORY: Final = ("can't allocate memory", "not enough memory")


def resolve_device(name: str) -> torch.device:
    """The device that `[decoding] device` names; prepares this process for it.

    Raises:
        ConfigError: the GPU that it names does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        _keep_freed_memory()
    elif (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"decoding.device = '{name}': {torch.cuda.device_count()} CUDA devices are visible; "
            "use 'cpu', or 'auto' to take a GPU only if there is one"
        )
    return device


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device` without blocking on CUDA."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


def memory_to_spare(device: torch.device) -> int:
    """Bytes that one worker may keep on a device beside its models.

    A quarter of a GPU's free memory, or an eighth of the machine's, which several workers share.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 4
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory or the machine's did not suffice.

    Torch has a class of errors for a GPU's; of the machine's it says so in words only.
    """
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


@cache
def _keep_freed_memory() -> None:
    """Make the C library keep freed memory for later tensors.

    By default glibc returns large blocks to the system and fetches them again, page by page, for
    every layer of every batch. That is a quarter of the time of a large batch
    (`benchmarks/forward.py`). Other C libraries have no such setting.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)


def device_name(device: torch.device) -> str:
    """A GPU's model, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def gpu_count() -> int:
    """Number of CUDA devices that this process may use."""
    return torch.cuda.device_count()
