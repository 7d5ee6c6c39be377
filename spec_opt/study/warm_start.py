"""A new study begins with the best settings of an old one: `[search] from_study`."""

import logging
from collections.abc import Iterable, Sequence

import optuna
from optuna.trial import FrozenTrial

from spec_opt.config.study_file import SearchConfig, Setting
from spec_opt.errors import StudyError
from spec_opt.study.database import split_reference
from spec_opt.study.space import asks_for, grid_points, params_of, setting_of
from spec_opt.study.store import Store, look_at_store
from spec_opt.study.trials import NewTrial

log = logging.getLogger(__name__)

WARM_KEY = "warm_started_from"
"""User attribute of a trial whose setting another study found: that study's name and its trial."""


def first_trials(store: Store | None, search: SearchConfig) -> list[NewTrial]:
    """The trials that a new study begins with: the best of `search.from_study`, as far as they fit.

    Of a sampler's `n_trials` they are at most half, evenly spread over the old front. Settings
    outside the new search space are left out.

    Args:
        store: that of the new study, where a name without a URL is looked for; None if it has yet
            to be made.

    Raises:
        StudyError: there is no such store or study, or it has no best trials.
        StoreURLError, StoreError: its store cannot be read.
    """
    if search.from_study is None:
        return []
    name, url = split_reference(search.from_study, "")
    what = f"search.from_study = '{name}'"
    if url:
        with look_at_store(url) as other:
            best = _best_trials(other.optuna_study(name), what)
    elif store is not None:
        best = _best_trials(store.optuna_study(name), what)
    else:
        raise StudyError(f"{what}: there is no store yet; for a study elsewhere give NAME@URL")
    found = {setting: trial for setting, trial in _settings(best) if asks_for(search, setting)}
    chosen = _spread(list(found), len(found) if search.n_trials is None else search.n_trials // 2)
    if not chosen:
        log.warning("%s: none of its %d best settings is in this search", what, len(best))
    points = {point: index for index, point in enumerate(grid_points(search))}
    return [
        NewTrial(
            params_of(setting),
            {WARM_KEY: {"study": name, "trial": found[setting]}}
            | ({"grid_point": points[setting]} if setting in points else {}),
        )
        for setting in chosen
    ]


def _best_trials(study: optuna.Study, what: str) -> list[FrozenTrial]:
    """Optuna's best trials, of which none breaks a constraint; the highest acceptance first."""
    best = study.best_trials
    if not best:
        raise StudyError(
            f"{what}: it has no best trials to begin with: none is complete, or feasible"
        )
    return sorted(best, key=lambda trial: (-trial.values[0], trial.number))


def _settings(trials: Iterable[FrozenTrial]) -> Iterable[tuple[Setting, int]]:
    """The settings of trials with their numbers: one for equal results, the mildest."""
    mildest: dict[tuple[float, ...], tuple[Setting, int]] = {}
    for trial in trials:
        try:
            setting = setting_of(trial.params)
        except (KeyError, ValueError, TypeError):
            continue
        known = mildest.setdefault(tuple(trial.values), (setting, trial.number))
        if _mildness(setting) < _mildness(known[0]):
            mildest[tuple(trial.values)] = setting, trial.number
    return mildest.values()


def _mildness(setting: Setting) -> tuple[float, ...]:
    return setting.bias, setting.sigma, setting.k


def _spread(settings: Sequence[Setting], at_most: int) -> list[Setting]:
    """At most so many, evenly spaced, the first and the last among them."""
    count = min(len(settings), at_most)
    if count < 2:
        return list(settings[:count])
    return [settings[round(i * (len(settings) - 1) / (count - 1))] for i in range(count)]
