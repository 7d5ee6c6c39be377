"""Tensors of a file, put into a network strictly: none missing, none left over, each checked."""

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from spec_opt.errors import CheckpointError

Tensors = Mapping[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)


def filled(network: Network, tensors: Tensors, names: Mapping[str, str] | None = None) -> Network:
    """The network with the weights of a file, in float32 on the CPU.

    Args:
        network: on any device, "meta" for example.
        names: our names of its parts to the file's, where they differ: see `name_in_file`.

    Raises:
        CheckpointError: a tensor is missing, surplus, or not what the network needs.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = {name_in_file(own, names or {}): own for own in shapes}
    missing = [name for name in expected if name not in tensors]
    if missing:
        shape = _shape_in_file(missing[0], shapes[expected[missing[0]]])
        raise CheckpointError(f"tensor {missing[0]} is missing, expected {shape}{more(missing)}")
    surplus = sorted(name for name in tensors if name not in expected)
    if surplus:
        found = list(tensors[surplus[0]].shape)
        raise CheckpointError(f"tensor {surplus[0]} {found} is surplus{more(surplus)}")
    weights = {own: _checked(name, tensors[name], shapes[own]) for name, own in expected.items()}
    network.load_state_dict(weights, assign=True)
    return network


def name_in_file(own: str, names: Mapping[str, str]) -> str:
    """The file's name of one of our tensors.

    Args:
        names: our name of a part of the network, or of a single tensor, to the file's; `{i}` is the
            number of a layer. What is not among them has the same name there.
    """
    number = re.search(r"\.(\d+)\.", own)
    pattern = own if number is None else own.replace(number[0], ".{i}.", 1)
    part, _, kind = pattern.rpartition(".")
    theirs = names.get(pattern) or (f"{names[part]}.{kind}" if part in names else pattern)
    return theirs if number is None else theirs.replace("{i}", number[1])


def shape_of(tensors: Tensors, name: str, expected: str) -> tuple[int, ...]:
    """The shape of a tensor from which sizes are read.

    Args:
        expected: as a person writes it, "[D, P]".

    Raises:
        CheckpointError: it is missing, or has another number of dimensions.
    """
    if name not in tensors:
        raise CheckpointError(f"tensor {name} is missing, expected {expected}")
    found = tuple(tensors[name].shape)
    if len(found) != len(expected.split(",")):
        raise CheckpointError(f"tensor {name} has shape {list(found)}, expected {expected}")
    return found


def _checked(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A float32 copy of a tensor, in the shape that our network gives it."""
    expected, found = _shape_in_file(name, shape), list(tensor.shape)
    if found != expected:
        raise CheckpointError(f"tensor {name} has shape {found}, expected {expected}")
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise CheckpointError(f"tensor {name} is of type {tensor.dtype}, expected float32")
    # A copy, because two names may share memory and a mapped file may be replaced.
    copy = tensor.to(torch.float32, copy=True).reshape(shape)
    if not copy.isfinite().all():
        raise CheckpointError(f"tensor {name} holds a value that is not finite")
    return copy


def _shape_in_file(name: str, shape: tuple[int, ...]) -> list[int]:
    """OpenLTM and STRIDE store the feedforward as convolutions of width 1."""
    return [*shape, 1] if name.endswith(("conv1.weight", "conv2.weight")) else [*shape]


def more(names: list[str]) -> str:
    """The end of a message that names the first of these."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
