"""Variants in a study's space: which there are, and how they are parameters of its trials.

A variant is stored in its shortest form (`StudyConfig.changes`), by which trials are compared: two
trials of equal setting and variant would have the same models and numbers. A study that searches no
variants has one, the study file as written.
"""

import itertools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from spec_opt.config.study_file import SearchConfig, Setting, StudyConfig
from spec_opt.config.values import ContinuousRange, IntRange
from spec_opt.config.variants import Variant
from spec_opt.study.space import PARAMETERS, grid_points, setting_count


class GridPoint(NamedTuple):
    """What one trial of a grid measures."""

    variant: Variant
    setting: Setting

    def __str__(self) -> str:
        return f"{self.setting} {self.variant}".rstrip()


def points_of(config: StudyConfig) -> tuple[GridPoint, ...]:
    """Every point of a grid, those of a variant together; none for other samplers."""
    settings = grid_points(config.search)
    variants = grid_variants(config) if settings else ()
    return tuple(GridPoint(variant, setting) for variant in variants for setting in settings)


def grid_variants(config: StudyConfig) -> tuple[Variant, ...]:
    """The variants of lists, each once, in the order of the lists."""
    lists: dict[str, tuple[Any, ...]] = config.search.varied
    if config.search.combine == "all":
        products = itertools.product(*lists.values())
        found = [dict(zip(lists, values, strict=True)) for values in products]
    else:
        found = [{}, *({name: value} for name, values in lists.items() for value in values)]
    return tuple(dict.fromkeys(config.changes(Variant(**given)) for given in found))


def variant_params(config: StudyConfig, variant: Variant) -> dict[str, Any]:
    """The parameters of a trial of a variant: of the keys searched, those that have an effect."""
    made = config.with_variant(variant).written.given
    return {name: made[name] for name in config.search.varied if name in made}


def variant_of(config: StudyConfig, params: Mapping[str, Any]) -> Variant:
    """The variant that a trial's parameters make.

    Raises:
        ValueError: a parameter is not allowed (pydantic's ValidationError).
    """
    return config.changes(Variant(**{n: params[n] for n in config.search.varied if n in params}))


def text_of(variant: Variant) -> str:
    """A variant as the store holds it, to compare with; empty for the study file as written."""
    return json.dumps(variant.given) if variant.given else ""


def asks_for_variant(config: StudyConfig, variant: Variant) -> bool:
    """Whether a variant is in the space."""
    search = config.search
    if search.sampler == "grid":
        return variant in grid_variants(config)
    if any(name not in search.varied for name in variant.given):
        return False
    params = variant_params(config, variant)
    return all(_admits(search.varied[name], value) for name, value in params.items())


def _admits(space: Any, value: Any) -> bool:
    if isinstance(space, (ContinuousRange, IntRange)):
        return bool(space.low <= value <= space.high)
    return value in space


def point_count(config: StudyConfig) -> int | None:
    """How many different pairs of variant and setting there are; None if a key is continuous."""
    search, settings = config.search, setting_count(config.search)
    if settings is None or any(isinstance(s, ContinuousRange) for s in search.varied.values()):
        return None
    whole = {name: tuple(_whole(space)) for name, space in search.varied.items()}
    lists = config.model_copy(update={"search": search.model_copy(update=whole)})
    return settings * len(grid_variants(lists))


def _whole(space: Any) -> Any:
    return range(space.low, space.high + 1) if isinstance(space, IntRange) else space


def parameters(search: SearchConfig) -> tuple[str, ...]:
    """The names of all parameters of a study's trials, in the order in which they are chosen."""
    return (*PARAMETERS, *search.varied)
