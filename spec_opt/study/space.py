"""The search space: `[search]` of a study file as distributions and grid points."""

import itertools
from collections.abc import Mapping
from typing import Any, Final, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from spec_opt.config.study_file import SearchConfig, Setting
from spec_opt.config.values import ContinuousRange, DraftKind, FloatRange, IntRange, Rule
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
    total = 1
    for space in spaces_of(search).values():
        if isinstance(space, FloatRange):
            return None
        total *= space.high - space.low + 1 if isinstance(space, IntRange) else len(space)
    return total


def asks_for(search: SearchConfig, setting: Setting) -> bool:
    """Whether a setting is in the space."""
    values = params_of(setting)
    return all(
        space.low <= values[name] <= space.high
        if isinstance(space, (FloatRange, IntRange))
        else values[name] in space
        for name, space in spaces_of(search).items()
    )


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
