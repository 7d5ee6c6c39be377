"""The search space: `[search]` of a study file as distributions, settings and variants.

A variant is stored in its shortest form (`StudyConfig.changes`), by which trials are compared: two
trials of equal setting and variant would have the same models and numbers. A study that searches no
variants has one, the study file as written.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from spec_opt.config.study_file import SearchConfig, Setting, StudyConfig
from spec_opt.config.values import ContinuousRange, DraftKind, IntRange, Rule
from spec_opt.config.variants import AS_WRITTEN, Variant

PARAMETERS = ("sigma", "bias", "k")
"""The names of a setting's parameters, in the order in which they are stored."""
_CHOICES: Final = {"draft_kind": get_args(DraftKind), "rule": get_args(Rule)}
"""The words of a grid: all that there are, so that its lists may grow."""


def distributions(
    search: SearchConfig, written: Variant = AS_WRITTEN
) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each parameter: of the settings, then of the variants.

    A range is a numeric distribution. A list is categorical for the samplers that draw from it;
    for a grid, whose points are enumerated, it is numeric too, so that the dashboard draws numbers
    and the grid may grow later (Optuna lets a numeric range change, a list of choices never).

    Args:
        search: the space.
        written: the study file's own values, which a grid of variants can hold besides its lists.
    """
    spaces = spaces_of(search) | search.varied
    is_grid = search.sampler == "grid"
    return {
        name: _of_list(name, space, getattr(written, name, None))
        if is_grid and isinstance(space, tuple)
        else _distribution(space)
        for name, space in spaces.items()
    }


def _distribution(space: Any) -> BaseDistribution:
    if isinstance(space, ContinuousRange):
        return FloatDistribution(space.low, space.high, log=space.log)
    if isinstance(space, IntRange):
        return IntDistribution(space.low, space.high)
    return CategoricalDistribution(space)


def _of_list(name: str, values: tuple[Any, ...], own: Any) -> BaseDistribution:
    """Of a list that is enumerated, with the study file's own value."""
    if name in _CHOICES:
        return CategoricalDistribution(_CHOICES[name])
    every = (*values, *(() if own is None else (own,)))
    if name in ("k", "draft_epochs"):
        return IntDistribution(int(min(every)), int(max(every)))
    return FloatDistribution(float(min(every)), float(max(every)))


def spaces_of(search: SearchConfig) -> dict[str, Any]:
    """The list or range of each parameter."""
    return {"sigma": search.sigma, "bias": search.bias, "k": search.k}


def grid_points(search: SearchConfig) -> tuple[Setting, ...]:
    """Every setting of a grid: sigma outermost, then bias, k innermost; empty for other samplers.

    Settings of one sigma share most of what the models compute, so they come together.
    """
    if search.sampler != "grid":
        return ()
    spaces = spaces_of(search)
    points = itertools.product(*(spaces[name] for name in PARAMETERS))
    return tuple(Setting(sigma=sigma, bias=bias, k=k) for sigma, bias, k in points)


def setting_count(search: SearchConfig) -> int | None:
    """How many distinct settings the space holds; None if a parameter is continuous."""
    lists = [*filter(None, map(_values_of, spaces_of(search).values()))]
    return math.prod(map(len, lists)) if len(lists) == len(PARAMETERS) else None


def _values_of(space: Any) -> Sequence[Any] | None:
    """The values of a list or range; None of a continuous range."""
    if isinstance(space, ContinuousRange):
        return None
    return range(space.low, space.high + 1) if isinstance(space, IntRange) else space


def asks_for(search: SearchConfig, setting: Setting) -> bool:
    """Whether a setting is in the space."""
    return all(getattr(setting, name) in space for name, space in spaces_of(search).items())


def params_of(setting: Setting) -> dict[str, float | int]:
    """A setting as the parameters of a trial."""
    return {"sigma": setting.sigma, "bias": setting.bias, "k": setting.k}


def setting_of(params: Mapping[str, Any]) -> Setting:
    """A trial's parameters as a setting.

    Raises:
        KeyError: a parameter is missing.
        ValueError: a parameter is not allowed (pydantic's ValidationError).
    """
    return Setting(sigma=float(params["sigma"]), bias=float(params["bias"]), k=int(params["k"]))


# --- variants -------------------------------------------------------------------------------------


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
    return all(value in search.varied[name] for name, value in params.items())


def point_count(config: StudyConfig) -> int | None:
    """How many different pairs of variant and setting there are; None if a key is continuous."""
    search, settings = config.search, setting_count(config.search)
    whole = {name: _values_of(space) for name, space in search.varied.items()}
    if settings is None or None in whole.values():
        return None
    lists = config.model_copy(update={"search": search.model_copy(update=whole)})
    return settings * len(grid_variants(lists))


def parameters(search: SearchConfig) -> tuple[str, ...]:
    """The names of all parameters of a study's trials, in the order in which they are chosen."""
    return (*PARAMETERS, *search.varied)
