"""Model files: save and load our own, and load those of OpenLTM and STRIDE.

Two kinds are read, recognised by their content and not by their name:

- our own: safetensors whose metadata holds format version, configuration, content hash and
  provenance, so that a damaged or edited file is noticed;
- Timer-XL state dicts of OpenLTM and STRIDE, as a torch file (`weights_only`: nothing in it is
  executed) or as safetensors, however a training framework wrapped them. All sizes follow from
  the shapes of their tensors.

Reading is strict: a missing tensor, a surplus one or one of another shape is an error that names
it.
"""

import json
import logging
import re
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from torch import Tensor

from spec_opt.errors import CheckpointError, InputError
from spec_opt.models.forecaster import MovableForecaster
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.layers import Activation
from spec_opt.models.linear import LinearForecaster
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

logger = logging.getLogger(__name__)

FORMAT = "1"
"""Version of our own files' metadata."""

Tensors = Mapping[str, Tensor]


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
    """The table of the study file that describes it."""


@dataclass(frozen=True)
class Provenance:
    """Where a trained model comes from: kept in its file for people, not needed to load it."""

    origin: Origin
    spec_opt_version: str
    best_epoch: int | None = None
    """None for a model that was fitted in closed form."""
    validation_losses: tuple[float, ...] = ()
    """After each epoch: mean squared error of a target, negative log-likelihood of a draft."""


class StoredModel(MovableForecaster, Protocol):
    """A model that has a file of our own."""

    @property
    def kind(self) -> str:
        """Which kind of model it is, for its reader."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What describes it besides its tensors."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Its weights, by name."""


# --- our own files --------------------------------------------------------------------------------


def save_model(model: StoredModel, path: Path, provenance: Provenance) -> None:
    """Write a file of our own kind, completely or not at all, even when interrupted.

    Raises:
        CheckpointError: the file cannot be written.
    """
    metadata = {
        "spec_opt_format": FORMAT,
        "kind": model.kind,
        "config": json.dumps(dict(model.settings)),
        "fingerprint": model.fingerprint,
        "provenance": json.dumps(asdict(provenance)),
    }
    tensors = {name: part.detach().cpu().contiguous() for name, part in model.tensors.items()}
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
        raise CheckpointError(f"{path}: cannot write the model: {error.strerror}") from error


def load_model(path: str | Path, *, activation: Activation = "relu") -> FrozenTimerXL:
    """A Timer-XL from a file of our own or another checkpoint, in float32 on the CPU.

    Args:
        path: the file; its content decides how it is read, not its name.
        activation: of an OpenLTM or STRIDE checkpoint, which does not record it. Our own files do.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that does not fit its network:
            the message names the tensor, the shape that was expected and the one that was found.
    """
    model = load_any_model(path, activation=activation)
    if not isinstance(model, FrozenTimerXL):
        raise CheckpointError(f"{path}: it holds a {model.description} draft, not a Timer-XL")
    return model


def load_any_model(
    path: str | Path, *, activation: Activation = "relu"
) -> FrozenTimerXL | LinearForecaster:
    """A model of any kind that has files, as `load_model`."""
    try:
        tensors, metadata = _read(Path(path))
        if "spec_opt_format" in metadata:
            return _own_model(tensors, metadata)
        return FrozenTimerXL(_foreign_network(_without_prefix(tensors), activation))
    except InputError as error:
        # On one line, whatever names the file gives to its tensors.
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error


def _own_model(tensors: Tensors, metadata: Mapping[str, str]) -> FrozenTimerXL | LinearForecaster:
    if (found := metadata["spec_opt_format"]) != FORMAT:
        raise CheckpointError(f"spec_opt_format = {found!r}: this version reads {FORMAT!r}")
    model: FrozenTimerXL | LinearForecaster
    try:
        fingerprint = metadata["fingerprint"]
        if metadata.get("kind") == LinearForecaster.kind:
            parts: dict[str, Any] = {**tensors, **json.loads(metadata["config"])}
            model = LinearForecaster(**parts)
        else:
            config = TypeAdapter(TimerXLConfig).validate_json(metadata["config"], strict=True)
            model = FrozenTimerXL(_network(config, tensors, {}))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError("its metadata is damaged") from error
    if model.fingerprint != fingerprint:
        raise CheckpointError("the weights do not match their content hash: the file was altered")
    return model


# --- reading tensors ------------------------------------------------------------------------------

OTHER_KINDS = {
    rb"version https://git-lfs": (
        "a Git LFS pointer, not the weights: fetch them with `git lfs pull`"
    ),
    rb"\s*(<!doctype|<html|<\?xml|<head)": (
        "a web page, not the weights: its site answered a download with it; fetch the file itself"
    ),
    rb"\x1f\x8b|BZh|7z\xbc\xaf|\xfd7zXZ|\x28\xb5\x2f\xfd": "a compressed file: unpack it first",
    rb"\x89HDF": "an HDF5 file: save the weights with torch.save or as safetensors",
}
"""How files begin that are often found in a checkpoint's place, and what to do about them."""
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")
"""Where torch says which class of a pickle it does not load."""


def _read(path: Path) -> tuple[Tensors, Mapping[str, str]]:
    """All tensors of a file, on the CPU, and its metadata if it has any."""
    kind = _kind(path)
    try:
        if kind == "safetensors":
            with safe_open(path, framework="pt") as tensors:
                named = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
                return named, tensors.metadata() or {}
        # From an open file: given a path, torch.load would go by its name.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about archives of other kinds, which fail just after
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damage can make the readers raise nearly anything
        raise CheckpointError(_why_not_read(kind, str(error))) from error
    return _state_dict(loaded), {}


def _kind(path: Path) -> Literal["safetensors", "torch"]:
    """How to read a file, by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot be read: {reason}") from error
    if not start:
        raise CheckpointError("the file is empty")
    # Safetensors: the length of the header in 8 bytes, then the header, which is JSON. This is
    # tested first, because the length may look like the start of a torch file: a zip, or a pickle.
    if start[8:9] == b"{":
        return "safetensors"
    if start.startswith((b"PK", b"\x80")):
        return "torch"
    for pattern, what in OTHER_KINDS.items():
        if re.match(pattern, start, re.IGNORECASE):
            raise CheckpointError(f"it is {what}")
    raise CheckpointError("neither a torch nor a safetensors file")


def _why_not_read(kind: str, reason: str) -> str:
    """What a reader of tensors complains about, and the remedy."""
    if "TorchScript" in reason:
        return "it is a TorchScript archive: save torch.jit.load(FILE).state_dict() instead"
    refused = _REFUSED.search(reason)
    if refused is not None:
        return (
            f"it holds a pickled {refused[1]}, and from a pickle only tensors are read, because "
            "the rest could run code; if you trust the file, load it once with torch.load(FILE, "
            "weights_only=False) and save only the model's state_dict()"
        )
    return f"not a readable {kind} file: damaged, or it holds more than tensors"


def _state_dict(loaded: object) -> Tensors:
    """The state dict of a Timer-XL in a loaded object: itself, or somewhere in its mappings.

    Other mappings of tensors, as those of an optimiser, are passed over.
    """
    found: list[Tensors] = []
    pending, seen = [loaded], set[int]()
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(value.values())
            tensors = {k: v for k, v in value.items() if isinstance(v, Tensor)}
            if tensors and all(isinstance(name, str) for name in value):
                found.append(tensors)
    of_timer_xl = [tensors for tensors in found if _prefixes(tensors)]
    if len(of_timer_xl) == 1:
        return of_timer_xl[0]
    if of_timer_xl or not found:
        remedy = "save the one to use alone" if of_timer_xl else "save a model's state_dict()"
        raise CheckpointError(
            f"it holds a {type(loaded).__name__} with {len(of_timer_xl)} state dicts, not one: "
            f"{remedy}"
        )
    return max(found, key=len)  # its names say what it is instead


# --- checkpoints of OpenLTM and STRIDE ------------------------------------------------------------

LAYER = "blocks.attn_layers.{i}"
NAMES = {
    "embedding": "embedding",
    "layers.{i}.attention_bias": f"{LAYER}.attention.inner_attention.attn_bias.emb",
    "layers.{i}.query": f"{LAYER}.attention.query_projection",
    "layers.{i}.key": f"{LAYER}.attention.key_projection",
    "layers.{i}.value": f"{LAYER}.attention.value_projection",
    "layers.{i}.out": f"{LAYER}.attention.out_projection",
    "layers.{i}.attention_norm": f"{LAYER}.norm1",
    "layers.{i}.expand": f"{LAYER}.conv1",
    "layers.{i}.contract": f"{LAYER}.conv2",
    "layers.{i}.feedforward_norm": f"{LAYER}.norm2",
    "norm": "blocks.norm",
    "mean_head": "head",
}
"""Our names of the network's parts, and theirs."""
STOCHASTIC_HEADS = {"mean_head": "head_mean", "log_variance_head": "head_logvar"}
"""The parts that a stochastic draft has in place of `head`."""
UNUSED = "adapter_to_target."
"""A STRIDE draft may contain this map to the target's width; no output depends on it."""
WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch adds to the names of modules that it compiles, shards or recomputes, at any depth."""
MARKS = (
    re.compile(r"(?P<prefix>|.*?\.)blocks\.attn_layers\.(?P<layer>\d{1,4})\."),
    re.compile(r"(?P<prefix>|.*?\.)layers\.(?P<layer>\d{1,4})\.attention_bias$"),
)
"""The names of layers by which a Timer-XL is known: theirs, and ours."""


def _prefixes(tensors: Tensors) -> set[str]:
    """What comes before the names of a Timer-XL's tensors; empty if there is no Timer-XL."""
    matches = (mark.match(WRAPPERS.sub("", name)) for name in tensors for mark in MARKS)
    return {match["prefix"] for match in matches if match is not None}


def _without_prefix(tensors: Tensors) -> Tensors:
    """Remove what data-parallel, averaged, compiled or training modules put before all names.

    What is not below that prefix (a counter of averages, a metric) belongs to such a module.

    Raises:
        CheckpointError: there is no Timer-XL, or there are several.
    """
    prefixes = sorted(_prefixes(tensors))
    if not prefixes:
        names = sorted(tensors) or ["no tensor"]
        raise CheckpointError(f"not a Timer-XL checkpoint: it holds {names[0]}{_more(names)}")
    if len(prefixes) > 1:
        shown = " and ".join(repr(prefix) for prefix in prefixes[:2])
        raise CheckpointError(
            f"it holds {len(prefixes)} models, below {shown}: save the one to use alone"
        )
    prefix = prefixes[0]
    plain = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    beside = sorted(name for name in plain if not name.startswith(prefix))
    if beside:
        logger.info("ignoring tensors beside the model's: %s%s", beside[0], _more(beside))
    return {name.removeprefix(prefix): plain[name] for name in plain if name.startswith(prefix)}


def _foreign_network(tensors: Tensors, activation: Activation) -> TimerXL:
    unused = sorted(name for name in tensors if name.startswith(UNUSED))
    if unused:
        logger.info("ignoring tensors that no output depends on: %s", ", ".join(unused))
        tensors = {name: tensor for name, tensor in tensors.items() if name not in unused}
    theirs, ours = MARKS
    if any(theirs.match(name) for name in tensors):
        config = _sizes_of(tensors, theirs, _names(layers=1, stochastic=False), activation)
        stochastic = "head_logvar.weight" in tensors
        config = replace(config, stochastic=stochastic)
        return _network(config, tensors, _names(config.layers, stochastic))
    config = _sizes_of(tensors, ours, {}, activation)
    return _network(replace(config, stochastic="log_variance_head.weight" in tensors), tensors, {})


def _sizes_of(
    tensors: Tensors, mark: re.Pattern[str], names: Mapping[str, str], activation: Activation
) -> TimerXLConfig:
    """The sizes of a network, from the shapes of its tensors."""

    def shape(name: str, expected: str) -> tuple[int, ...]:
        return _shape(tensors, names.get(name, name), expected)

    width, patch = shape("embedding.weight", "[D, P]")
    _, heads = shape("layers.0.attention_bias", "[2, H]")
    expand = "layers.0.expand.weight"
    feedforward, *_ = shape(expand, "[F, D, 1]" if expand in names else "[F, D]")
    return TimerXLConfig(
        patch=patch,
        d_model=width,
        heads=heads,
        feedforward=feedforward,
        # With a gap in the numbering, the last layers come out as missing or surplus.
        layers=len({int(match["layer"]) for match in map(mark.match, tensors) if match}),
        activation=activation,
    )


def _shape(tensors: Tensors, name: str, expected: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"tensor {name} is missing, expected {expected}")
    found = tuple(tensors[name].shape)
    if len(found) != len(expected.split(",")):
        raise CheckpointError(f"tensor {name} has shape {list(found)}, expected {expected}")
    return found


def _names(layers: int, stochastic: bool) -> dict[str, str]:
    """Our name of every tensor -> theirs."""
    names: dict[str, str] = {}
    for ours, theirs in (NAMES | (STOCHASTIC_HEADS if stochastic else {})).items():
        for i in range(layers if "{i}" in ours else 1):
            own, foreign = ours.format(i=i), theirs.format(i=i)
            if own.endswith(".attention_bias"):
                names[own] = f"{foreign}.weight"
            else:
                names |= {f"{own}.{kind}": f"{foreign}.{kind}" for kind in ("weight", "bias")}
    return names


# --- tensors into a network -----------------------------------------------------------------------


def _network(config: TimerXLConfig, tensors: Tensors, names: Mapping[str, str]) -> TimerXL:
    """The network of this configuration with these weights, each of them checked.

    `names` maps our names to those in `tensors`, where they differ.
    """
    if config.layers > len(tensors):
        raise CheckpointError(f"{len(tensors)} tensors cannot make {config.layers} layers")
    with torch.device("meta"):
        network = TimerXL(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected = {names.get(own, own): own for own in shapes}
    missing = [name for name in expected if name not in tensors]
    if missing:
        shape = _shape_in_file(missing[0], shapes[expected[missing[0]]])
        raise CheckpointError(f"tensor {missing[0]} is missing, expected {shape}{_more(missing)}")
    surplus = sorted(name for name in tensors if name not in expected)
    if surplus:
        found = list(tensors[surplus[0]].shape)
        raise CheckpointError(f"tensor {surplus[0]} {found} is surplus{_more(surplus)}")
    weights = {own: _checked(name, tensors[name], shapes[own]) for name, own in expected.items()}
    network.load_state_dict(weights, assign=True)
    return network


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


def _more(names: list[str]) -> str:
    """The end of a message that names the first of these."""
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
