"""Checkpoints that others publish: a table of formats, each recognised by its tensors' names."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spec_opt.errors import CheckpointError
from spec_opt.models import openltm, timer, timesfm
from spec_opt.models.forecaster import MovableForecaster
from spec_opt.models.layers import Activation
from spec_opt.models.weights import Tensors, more

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Format:
    """One kind of checkpoint."""

    name: str
    marks: tuple[re.Pattern[str], ...]
    """Names by which it is recognised. `prefix` is what may come before the names of all tensors,
    `layer` the number of a layer."""
    load: Callable[[Tensors, Path, Activation], MovableForecaster]
    """From its tensors without prefix, the file's path, and the activation that was asked for."""


FORMATS: Final = (
    Format("Timer-XL", openltm.MARKS, lambda tensors, _, act: openltm.timer_xl_from(tensors, act)),
    Format("Timer", timer.MARKS, lambda tensors, path, _: timer.load_timer(tensors, path)),
    Format("TimesFM 2.5", timesfm.MARKS, lambda tensors, *_: timesfm.load_timesfm(tensors)),
)

WRAPPERS: Final = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch adds to the names of modules that it compiles, shards or recomputes, at any depth."""


def models_in(tensors: Tensors) -> set[tuple[Format, str]]:
    """The models of a state dict: the format of each, and the prefix of its tensors' names."""
    names = [WRAPPERS.sub("", name) for name in tensors]
    return {
        (known, match["prefix"])
        for known in FORMATS
        for mark in known.marks
        for match in map(mark.match, names)
        if match is not None
    }


def load_published(tensors: Tensors, path: Path, activation: Activation) -> MovableForecaster:
    """The model in a state dict, which data-parallel, averaged, compiled or training modules may
    have put below a prefix.

    What is not below that prefix (a counter of averages, a metric) belongs to such a module.

    Raises:
        InputError: there is no model of a known format, there are several, or its tensors are not
            what its network needs.
    """
    found = sorted(models_in(tensors), key=lambda model: model[1])
    if not found:
        names = sorted(tensors) or ["no tensor"]
        known = " or ".join(known.name for known in FORMATS)
        raise CheckpointError(f"not a {known} checkpoint: it holds {names[0]}{more(names)}")
    if len(found) > 1:
        shown = " and ".join(repr(prefix) for _, prefix in found[:2])
        raise CheckpointError(
            f"it holds {len(found)} models, below {shown}: save the one to use alone"
        )
    format, prefix = found[0]
    plain = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    beside = sorted(name for name in plain if not name.startswith(prefix))
    if beside:
        logger.info("ignoring tensors beside the model's: %s%s", beside[0], more(beside))
    own = {name.removeprefix(prefix): plain[name] for name in plain if name.startswith(prefix)}
    return format.load(own, path, activation)
