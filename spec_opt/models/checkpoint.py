"""Model files: save and load our own, and load checkpoints that others publish.

Two kinds are read, recognised by their content and not by their name:

- our own: safetensors whose metadata holds format version, configuration, content hash and
  provenance, so that a damaged or edited file is noticed;
- state dicts of the models in `formats.FORMATS`, as a torch file (`weights_only`: nothing in it
  is executed) or as safetensors, however a training framework wrapped them. All sizes follow
  from the shapes of their tensors.

Reading is strict: a missing tensor, a surplus one or one of another shape is an error that names
it.
"""

import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from torch import Tensor

from spec_opt.config.files import check_unpacked, open_plain, write_file
from spec_opt.errors import CheckpointError, InputError, OutputError
from spec_opt.models.forecaster import MovableForecaster
from spec_opt.models.formats import load_published, models_in
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.layers import Activation
from spec_opt.models.linear import LinearForecaster
from spec_opt.models.openltm import timer_xl_of
from spec_opt.models.timer_xl import TimerXLConfig
from spec_opt.models.weights import Tensors

logger = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Of files that are taken for weights in a folder."""
FORMAT = "1"
"""Version of our own files' metadata."""


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
    """Where a trained model comes from, kept in its file."""

    origin: Origin
    spec_opt_version: str
    best_epoch: int | None = None
    """None for a model that was fitted in closed form."""
    validation_losses: tuple[float, ...] = ()
    """After each epoch: mean squared error of a target, negative log-likelihood of a draft."""


OwnModel = FrozenTimerXL | LinearForecaster
"""A model that has a file of our own."""


# --- our own files --------------------------------------------------------------------------------


def save_model(model: OwnModel, path: Path, provenance: Provenance) -> None:
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
    try:
        write_file(path, safetensors.torch.save(tensors, metadata))
    except OutputError as error:
        raise CheckpointError(f"cannot write the model: {error}") from error


def load_model(path: str | Path, *, activation: Activation | None = None) -> MovableForecaster:
    """A model from a file of our own or another checkpoint, in float32 on the CPU.

    Args:
        path: the file, or a folder that holds one; its content decides how it is read, not its
            name.
        activation: of an OpenLTM or STRIDE checkpoint, which does not record it; "relu" if absent.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that does not fit its network:
            the message names the tensor, the shape that was expected and the one that was found.
            Or another activation than the model has.
    """
    with _naming(path):
        file = _weights_of(Path(path))
        tensors, metadata = _read(file)
        model: MovableForecaster
        if "spec_opt_format" in metadata:
            model = _own_model(tensors, metadata)
        else:
            model = load_published(tensors, file, activation or "relu")
        own = model.config.activation if isinstance(model, FrozenTimerXL) else None
        if activation not in (None, own):
            why = f"its file says {own!r}" if own else f"{_kind_of(model)} does not have this key"
            raise CheckpointError(f"activation = {activation!r}: {why}: leave it out")
        return model


def _kind_of(model: MovableForecaster) -> str:
    return f"a {getattr(model, 'description', type(model).__name__)} model"


def load_timer_xl(path: str | Path, *, activation: Activation | None = None) -> FrozenTimerXL:
    """As `load_model`; a model that is no Timer-XL is an error too."""
    model = load_model(path, activation=activation)
    if not isinstance(model, FrozenTimerXL):
        raise CheckpointError(f"{path}: it holds {_kind_of(model)}, not a Timer-XL")
    return model


def _weights_of(path: Path) -> Path:
    """The file of weights: the path itself, or the one in a folder as models are published."""
    if not path.is_dir():
        return path
    found = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
    if "model.safetensors" in found:
        return path / "model.safetensors"
    if len(found) != 1:
        names = f" ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})" if found else ""
        raise CheckpointError(
            f"the folder holds {len(found)} files of weights{names}, not one, and no "
            "model.safetensors: name the file to use"
        )
    return path / found[0]


def load_own_model(path: Path, origin: Origin) -> OwnModel:
    """A model from a file of our own kind, whose name alone proves nothing: files get swapped.

    Raises:
        CheckpointError: it is not such a file, it is damaged, or its model was made from something
            else than `origin`.
    """
    with _naming(path):
        tensors, metadata = _read(path)
        model = _own_model(tensors, metadata)
        try:
            made_from = json.loads(metadata["provenance"])["origin"]
        except (KeyError, ValueError, TypeError):
            made_from = None
        if made_from != json.loads(json.dumps(asdict(origin))):
            raise CheckpointError("it holds a model that was made from something else")
    return model


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Name the file in every error, on one line, whatever names it gives to its tensors."""
    try:
        yield
    except InputError as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error


def _own_model(tensors: Tensors, metadata: Mapping[str, str]) -> OwnModel:
    if "spec_opt_format" not in metadata:
        raise CheckpointError("not a file of spec-opt's own")
    if (found := metadata["spec_opt_format"]) != FORMAT:
        raise CheckpointError(f"spec_opt_format = {found!r}: this version reads {FORMAT!r}")
    model: OwnModel
    try:
        fingerprint = metadata["fingerprint"]
        if metadata.get("kind") == LinearForecaster.kind:
            parts: dict[str, Any] = {**tensors, **json.loads(metadata["config"])}
            model = LinearForecaster(**parts)
        else:
            config = TypeAdapter(TimerXLConfig).validate_json(metadata["config"], strict=True)
            model = timer_xl_of(config, tensors)
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
    if kind == "torch":
        _check_archive(path)
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
    tensors = _state_dict(loaded)
    # A view may show a few numbers as many.
    _check_size(path, sum(t.numel() * t.element_size() for t in tensors.values()))
    return tensors, {}


def _check_archive(path: Path) -> None:
    """Raise if what a torch file unpacks to is out of proportion: torch itself packs nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(path, sum(entry.file_size for entry in archive.infolist()))
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return  # not a zip, as older files are not, or damaged, which torch says


def _check_size(path: Path, unpacked: int) -> None:
    try:
        check_unpacked(path, unpacked)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _kind(path: Path) -> Literal["safetensors", "torch"]:
    """How to read a file, by its first bytes."""
    try:
        with open_plain(path) as file:
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
    """The state dict of a model in a loaded object: itself, or somewhere in its mappings.

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
    known = [tensors for tensors in found if models_in(tensors)]
    if len(known) == 1:
        return known[0]
    if known or not found:
        remedy = "save the one to use alone" if known else "save a model's state_dict()"
        raise CheckpointError(
            f"it holds a {type(loaded).__name__} with {len(known)} state dicts, not one: {remedy}"
        )
    return max(found, key=len)  # its names say what it is instead
