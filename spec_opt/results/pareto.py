"""Which of many points are on the Pareto front."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spec_opt.measure.uncertainty import ROUNDING


def without_rounding(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give values `[n]` that differ by rounding alone one value, the smallest of them: `[n]`.

    Settings that decode alike (k = 4, 5 and 6 with 4 patches) have equal results, but processes
    that batch windows otherwise sum them otherwise. Such differences must decide neither the front
    nor a choice. Sorted values belong together while each is within `ROUNDING` of the one before,
    relatively: a fixed grid of digits could part two neighbours.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = np.diff(ordered, prepend=-np.inf) > ROUNDING * np.abs(ordered)
    merged = np.empty_like(values)
    merged[order] = ordered[new][np.cumsum(new) - 1]
    return merged


def pareto_mask(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which points, `[n, objectives]` to be minimised, are on the Pareto front: `[n]`.

    Equal points are all on it, or all off it. The same front as Optuna's `best_trials`, without
    copying every trial of the study.
    """
    if len(losses) == 0:
        return np.zeros(0, dtype=np.bool_)
    unique, inverse = np.unique(losses, axis=0, return_inverse=True)
    on_front = np.ones(len(unique), dtype=np.bool_)
    if unique.shape[1] == 2:
        # Sorted by the first objective, a point is on the front if its second is below all before.
        lowest = np.minimum.accumulate(unique[:, 1])
        on_front[1:] = lowest[1:] < lowest[:-1]
    else:
        front = unique[:0]
        for index, point in enumerate(unique):
            # Whatever dominates a point comes before it in this order, and so does the front.
            on_front[index] = not (front <= point).all(axis=1).any()
            if on_front[index]:
                front = np.vstack([front, point])
    return on_front[inverse.reshape(-1)]


def fastest_for_their_mse(
    speeds: Sequence[Any], values: npt.NDArray[np.float64], fit: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which trials no other one beats in both predicted speedup and MSE.

    Among equal speedups a higher acceptance is better.

    Args:
        values: acceptance rate, MSE and perhaps more of each: `[n, 2 or more]`.
        fit: which of them count.
    """
    numbers = [s if isinstance(s, float) else math.nan for s in speeds]
    speed = np.array(numbers, dtype=np.float64)
    known = np.flatnonzero(fit & np.isfinite(speed))
    found = np.zeros(len(values), dtype=np.bool_)
    if len(known):
        first = np.stack([-speed[known], -values[known, 0]], axis=1)
        _, rank = np.unique(first, axis=0, return_inverse=True)
        found[known] = pareto_mask(np.stack([rank.reshape(-1), values[known, 1]], axis=1))
    return found
