"""What chooses settings: a sampler with a name of its own, or any class of Optuna's kind."""

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from spec_opt.config.study_file import SearchConfig
from spec_opt.config.user_code import load, naming_the_users_line
from spec_opt.errors import ConfigError
from spec_opt.study.constraints import as_stored
from spec_opt.study.space import distributions, spaces_of

NAMED: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    # The liar shows a worker what the others are trying at the moment.
    "tpe": ("optuna.samplers:TPESampler", {"constant_liar": True}),
    "random": ("optuna.samplers:RandomSampler", {}),
    # A small population: a study has some hundred trials, the default of 50 is half of it.
    "nsga2": ("optuna.samplers:NSGAIISampler", {"population_size": 16}),
    # A parameter with a single value is drawn independently; it would warn of that each time.
    "gp": ("optuna.samplers:GPSampler", {"warn_independent_sampling": False}),
}
"""Class and options of the samplers that have a name; a study file's own options go first."""

CONSTRAINTS_ARE_FOUND: Final = hasattr(FrozenTrial, "set_constraint")
"""Whether samplers look for constraints by themselves, as since Optuna 5."""


def make_sampler(search: SearchConfig, seed: int) -> BaseSampler:
    """The sampler that the study file names; `seed` is for one that takes a seed.

    Raises:
        InputError: there is no such class, or it does not take the options.
    """
    if search.sampler == "grid":
        lists = {name: list(space) for name, space in spaces_of(search).items()}
        return optuna.samplers.GridSampler(lists, seed=seed)
    place, defaults = NAMED.get(search.sampler, (search.sampler, {}))
    what = f"search.sampler = '{search.sampler}'"
    kind = load(place, what)
    if not (isinstance(kind, type) and issubclass(kind, BaseSampler)):
        raise ConfigError(f"{what}: is no class of Optuna's kind (optuna.samplers.BaseSampler)")
    taken = inspect.signature(kind).parameters
    _check_options(what, search.options, taken)
    given = {**defaults, **search.options}
    if "seed" in taken:
        given["seed"] = seed
    if search.constraints.are_set and "constraints_func" in taken and not CONSTRAINTS_ARE_FOUND:
        given["constraints_func"] = as_stored
    # Optuna 4 called several samplers and options experimental.
    with (
        naming_the_users_line(ConfigError, what),
        warnings.catch_warnings(action="ignore", category=ExperimentalWarning),
    ):
        return kind(**given)


def _check_options(
    what: str, options: Iterable[str], taken: Mapping[str, inspect.Parameter]
) -> None:
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return
    for name in options:
        if name not in taken:
            known = ", ".join(key for key in taken if key != "seed")
            raise ConfigError(f"search.options.{name}: {what} does not take it; it takes {known}")


def choose(
    sampler: BaseSampler,
    study: optuna.Study,
    trial: FrozenTrial,
    names: Iterable[str],
    spaces: Mapping[str, BaseDistribution],
) -> dict[str, Any]:
    """Let a sampler choose parameters of a running trial, as `Study.ask` would.

    The trial gets each as it is chosen: a sampler may look at those before.
    """
    sampler.before_trial(study, trial)
    space = sampler.infer_relative_search_space(study, trial)
    relative = sampler.sample_relative(study, trial, space)
    chosen = {}
    for name in names:
        if name in relative and space[name] == spaces[name]:
            chosen[name] = relative[name]
        else:
            chosen[name] = sampler.sample_independent(study, trial, name, spaces[name])
        trial.distributions = {**trial.distributions, name: spaces[name]}
        trial.params = {**trial.params, name: chosen[name]}
    return chosen


def check_sampler(search: SearchConfig) -> None:
    """Raise unless the sampler exists and chooses settings: before any model is made.

    Raises:
        InputError: it does not exist, does not take its options, or cannot choose, as for several
            objectives.
    """
    if search.sampler == "grid":
        return
    spaces = distributions(search)
    with naming_the_users_line(ConfigError, f"search.sampler = '{search.sampler}'"), _quiet():
        directions = [StudyDirection.MINIMIZE] * len(search.objectives)
        study = optuna.create_study(directions=directions)
        for value in (0.0, 1.0):
            trial = study.ask()
            frozen = study.get_trials()[trial.number]
            params = choose(make_sampler(search, search.seed), study, frozen, tuple(spaces), spaces)
            values = [value] * len(directions)
            study.add_trial(create_trial(params=params, distributions=spaces, values=values))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from saying that a study was made."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
