"""The hardware that models run on."""

import torch

from spec_opt.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device that `[decoding] device` means on this machine.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"decoding.device = '{name}': {torch.cuda.device_count()} CUDA devices are visible; "
            "use 'cpu', or 'auto' for whatever there is"
        )
    return device
