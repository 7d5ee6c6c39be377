"""Model files: save, load, and recognise those of others.

Two kinds are read, told apart by their content and not by their name:

- our own: safetensors whose metadata carries format version, configuration, content hash and
  provenance, so that a damaged or edited file is noticed;
- Timer-XL state dicts of OpenLTM and STRIDE, as a torch file (`weights_only`: nothing in it is
  executed) or as safetensors. All sizes follow from the shapes of their tensors.

Reading is strict: a tensor that is missing, surplus or of another shape is an error that names it.

Timer-XL state dicts of OpenLTM and STRIDE: their names, and their sizes from their shapes.

Trained models are kept in `<cache>/models`, one file per origin.
"""

import json
import logging
import pickle
import re
import struct
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal, TypeGuard

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spec_opt.data.series import cache_folder
from spec_opt.errors import CheckpointError, InputError
from spec_opt.models.layers import Activation
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

NAMES = {
    "embedding": "embedding",
    "layers.{i}.attention_bias": "blocks.attn_layers.{i}.attention.inner_attention.attn_bias.emb",
    "layers.{i}.query": "blocks.attn_layers.{i}.attention.query_projection",
    "layers.{i}.key": "blocks.attn_layers.{i}.attention.key_projection",
    "layers.{i}.value": "blocks.attn_layers.{i}.attention.value_projection",
    "layers.{i}.out": "blocks.attn_layers.{i}.attention.out_projection",
    "layers.{i}.attention_norm": "blocks.attn_layers.{i}.norm1",
    "layers.{i}.expand": "blocks.attn_layers.{i}.conv1",
    "layers.{i}.contract": "blocks.attn_layers.{i}.conv2",
    "layers.{i}.feedforward_norm": "blocks.attn_layers.{i}.norm2",
    "norm": "blocks.norm",
    "mean_head": "head",
}
"""Our names of the network's parts, and those of OpenLTM and STRIDE."""
STOCHASTIC_HEADS = {"mean_head": "head_mean", "log_variance_head": "head_logvar"}
"""What a stochastic draft of STRIDE has in place of `head`."""
UNUSED = "adapter_to_target."
"""A STRIDE draft may carry this map to the target's width; no output depends on it."""
_LAYER = re.compile(r"blocks\.attn_layers\.(\d{1,4})\.")


def without_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without the prefix that a data-parallel or compiled module puts before all names."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def sizes_of(tensors: Mapping[str, Tensor], activation: Activation) -> TimerXLConfig:
    """The sizes of a foreign network, from the shapes of its tensors.

    Raises:
        CheckpointError: it is no Timer-XL, or a tensor that tells a size is missing or misshapen.
        InputError: sizes that no network can have.
    """
    indices = {int(m[1]) for m in map(_LAYER.match, tensors) if m is not None}
    if not indices:
        names = sorted(tensors)
        some = f"{names[0]}{more_of(names)}" if names else "no tensor"
        raise CheckpointError(f"not a Timer-XL checkpoint: it holds {some}")
    layer = "blocks.attn_layers.0"
    width, patch = _shape(tensors, "embedding.weight", "[D, P]")
    _, heads = _shape(tensors, f"{layer}.attention.inner_attention.attn_bias.emb.weight", "[2, H]")
    feedforward, _, _ = _shape(tensors, f"{layer}.conv1.weight", "[F, D, 1]")
    return TimerXLConfig(
        patch=patch,
        d_model=width,
        heads=heads,
        feedforward=feedforward,
        # A gap in the numbering makes the last layers of this many come out as missing or surplus.
        layers=len(indices),
        activation=activation,
        stochastic="head_logvar.weight" in tensors,
    )


def _shape(tensors: Mapping[str, Tensor], name: str, expected: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"tensor {name} is missing, expected {expected}")
    found = tuple(tensors[name].shape)
    if len(found) != len(expected.split(",")):
        raise CheckpointError(f"tensor {name} has shape {list(found)}, expected {expected}")
    return found


def names_of(config: TimerXLConfig) -> dict[str, str]:
    """Our name of every tensor -> its foreign name."""
    parts = NAMES | (STOCHASTIC_HEADS if config.stochastic else {})
    names: dict[str, str] = {}
    for ours, theirs in parts.items():
        for i in range(config.layers if "{i}" in ours else 1):
            own, foreign = ours.format(i=i), theirs.format(i=i)
            if own.endswith(".attention_bias"):
                names[own] = f"{foreign}.weight"
            else:
                names |= {f"{own}.{kind}": f"{foreign}.{kind}" for kind in ("weight", "bias")}
    return names


def shape_in_file(name: str, shape: tuple[int, ...]) -> list[int]:
    """A foreign feedforward stands in its file as a convolution of width 1."""
    return [*shape, 1] if name.endswith(("conv1.weight", "conv2.weight")) else [*shape]


def more_of(names: list[str]) -> str:
    """What follows the first of some names in a message."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


logger = logging.getLogger(__name__)

FORMAT = "1"
"""Version of our own files' metadata."""

# What torch.load raises on files that are none of its own, or damaged.
_UNREADABLE = (
    struct.error,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    ArithmeticError,
    AssertionError,
    ImportError,
    MemoryError,
    SafetensorError,
)


@dataclass(frozen=True)
class Origin:
    """What a trained model was made from: equal origins, equal models."""

    role: Literal["target", "draft"]
    context: int
    """Points of the contexts that it was trained on."""
    data: str
    """Fingerprint of the training and validation windows."""
    teacher: str | None
    """Fingerprint of the target that a draft was distilled from."""
    settings: Mapping[str, object]
    """The table of the study file that it was made by."""


@dataclass(frozen=True)
class Provenance:
    """Where a trained model comes from; it travels in the file and plays no part in loading."""

    origin: Origin
    spec_opt_version: str
    best_epoch: int
    validation_losses: tuple[float, ...]
    """After each epoch: mean squared error of a target, negative log-likelihood of a draft."""


@dataclass(frozen=True)
class _Contents:
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def save_model(model: TimerXL, path: Path, provenance: Provenance) -> None:
    """Write our own kind of file: whole or not at all, also when interrupted.

    Raises:
        CheckpointError: the file cannot be written.
    """
    metadata = {
        "spec_opt_format": FORMAT,
        "config": json.dumps(asdict(model.config)),
        "fingerprint": model.fingerprint,
        "provenance": json.dumps(asdict(provenance)),
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    content = safetensors.torch.save(tensors, metadata)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot write the model: {_first_line(error)}") from error


def load_model(path: str | Path, *, activation: Activation = "relu") -> TimerXL:
    """A model from our own file or a foreign Timer-XL checkpoint: float32, on the CPU, evaluation.

    Args:
        path: the file; its content decides how it is read, not its name.
        activation: of a foreign checkpoint, whose tensors do not tell. Our own files do.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that does not fit its network:
            the tensor is named, with the shape that was expected and the one that was found.
    """
    path = Path(path)
    contents = _read(path)
    try:
        if "spec_opt_format" in contents.metadata:
            model = _own_model(contents)
        else:
            model = _foreign_model(without_prefix(contents.tensors), activation)
    except InputError as error:
        # In one line, whatever names the file gives to its tensors.
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error
    return model


def _read(path: Path) -> _Contents:
    """All tensors of a file, on the CPU, and its metadata if it has any."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}") from error
    if not start:
        raise CheckpointError(f"{path}: the file is empty")
    # Safetensors: the length of the header in 8 bytes, then the header, which is JSON. This comes
    # first, because the length may look like the start of a torch file: a zip, or of old a pickle.
    if start[8:] == b"{":
        kind, read = "safetensors", _read_safetensors
    elif start.startswith((b"PK", b"\x80")):
        kind, read = "torch", _read_torch
    else:
        raise CheckpointError(f"{path}: neither a torch nor a safetensors file")
    try:
        return read(path)
    except pickle.UnpicklingError as error:  # torch's words on it advise to trust the file
        raise CheckpointError(
            f"{path}: not a readable torch file: damaged, or it holds more than tensors"
        ) from error
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path}: not a readable {kind} file of tensors: {_first_line(error)}"
        ) from error


def _read_safetensors(path: Path) -> _Contents:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _Contents(tensors, file.metadata() or {})


def _read_torch(path: Path) -> _Contents:
    # By way of an open file: given a path, torch.load would go by its name.
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about archives of other kinds, which fail just after
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    return _Contents(_state_dict(loaded), {})


def _state_dict(loaded: object) -> Mapping[str, Tensor]:
    """The one mapping of names to tensors in what was loaded: itself, or one of its values."""
    if _is_state_dict(loaded):
        return loaded
    inner = loaded.values() if isinstance(loaded, Mapping) else ()
    candidates = [value for value in inner if _is_state_dict(value)]
    if len(candidates) != 1:
        raise ValueError(
            f"it holds a {type(loaded).__name__} with {len(candidates)} state dicts, not one"
        )
    return candidates[0]


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _own_model(contents: _Contents) -> TimerXL:
    metadata = contents.metadata
    if metadata["spec_opt_format"] != FORMAT:
        found = metadata["spec_opt_format"]
        raise CheckpointError(f"spec_opt_format = {found!r}: this version reads {FORMAT!r}")
    try:
        config = TypeAdapter(TimerXLConfig).validate_json(metadata["config"], strict=True)
        fingerprint = metadata["fingerprint"]
    except (KeyError, ValidationError) as error:
        raise CheckpointError(f"its metadata is damaged: {_first_line(error)}") from error
    model = _filled(config, contents.tensors, {})
    if model.fingerprint != fingerprint:
        raise CheckpointError("the weights do not match their content hash: the file was altered")
    return model


def _foreign_model(tensors: Mapping[str, Tensor], activation: Activation) -> TimerXL:
    unused = sorted(name for name in tensors if name.startswith(UNUSED))
    if unused:
        logger.info("left out, no output depends on it: %s", ", ".join(unused))
        tensors = {name: tensor for name, tensor in tensors.items() if name not in unused}
    config = sizes_of(tensors, activation)
    return _filled(config, tensors, names_of(config))


def _filled(
    config: TimerXLConfig, tensors: Mapping[str, Tensor], names: Mapping[str, str]
) -> TimerXL:
    """The network of this configuration with these weights, every one of them checked.

    `names` maps our names to those in `tensors`, where they differ.
    """
    if config.layers > len(tensors):
        raise CheckpointError(f"{len(tensors)} tensors cannot make {config.layers} layers")
    with torch.device("meta"):
        model = TimerXL(config)
    own_shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {names.get(name, name): name for name in own_shapes}
    missing = [name for name in expected if name not in tensors]
    if missing:
        shape = shape_in_file(missing[0], own_shapes[expected[missing[0]]])
        raise CheckpointError(f"tensor {missing[0]} is missing, expected {shape}{more_of(missing)}")
    surplus = sorted(name for name in tensors if name not in expected)
    if surplus:
        found = list(tensors[surplus[0]].shape)
        raise CheckpointError(f"tensor {surplus[0]} {found} is surplus{more_of(surplus)}")
    weights = {
        own: _checked(name, tensors[name], own_shapes[own]) for name, own in expected.items()
    }
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _checked(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A float32 copy of a tensor, in the shape that our network gives it."""
    expected, found = shape_in_file(name, shape), list(tensor.shape)
    if found != expected:
        raise CheckpointError(f"tensor {name} has shape {found}, expected {expected}")
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise CheckpointError(f"tensor {name} is of type {tensor.dtype}, expected float32")
    # A copy of its own: two names may share memory, and a mapped file may be replaced.
    copy = tensor.to(torch.float32, copy=True).reshape(shape)
    if not copy.isfinite().all():
        raise CheckpointError(f"tensor {name} holds a value that is not finite")
    return copy


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


logger = logging.getLogger(__name__)


def cached_model(key: str, make: Callable[[], tuple[TimerXL, Provenance]]) -> tuple[TimerXL, Path]:
    """The model kept under a key, else made and kept; and its file.

    Of several processes that ask at once, one makes it and the others wait. A file that is damaged
    is made again, with a warning. An interruption leaves nothing behind.

    Raises:
        CheckpointError: the cache cannot be written.
    """
    folder = cache_folder() / "models"
    path = folder / f"{key}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{key}.lock").open("a")
    except OSError as error:
        raise CheckpointError(
            f"{folder}: trained models cannot be kept here ({error.strerror}): "
            "set SPEC_OPT_CACHE to a folder that can be written"
        ) from error
    with lock, _held(lock):
        if path.exists():
            try:
                return load_model(path), path
            except CheckpointError as error:
                logger.warning("%s; it is made again", error)
        model, provenance = make()
        save_model(model, path, provenance)
    logger.info("kept the %s: %s", provenance.origin.role, path)
    return model, path


@contextmanager
def _held(lock: IO[str]) -> Iterator[None]:
    """While an open file is locked against other processes, where the system can do that.

    Where it cannot, two processes may do the same work; the file is whole in any case.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("another process is making this model: waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:  # a network file system without locks
        logger.debug("%s: no lock: %s", Path(lock.name), error)
    yield  # closing the file lets go of the lock
