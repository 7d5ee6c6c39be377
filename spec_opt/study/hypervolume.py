"""The hypervolume of a study's front: one number for how good the settings found so far are.

It is measured from a fixed point: acceptance 0, an MSE of `WORST_MSE` times the target's, speedup
0. With two objectives 1 stands for a setting that accepts everything at the target's own MSE. What
lies beyond the point in any objective adds nothing. (Zitzler and Thiele 1998.)
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

WORST_MSE = 2.0
"""Over the target's own."""
AT_ONCE = 200
"""Settings that are compared with the front together."""

Gains = npt.NDArray[np.float64]
"""By how much settings are better than the reference point: `[settings, objectives]`."""


def gains(values: Sequence[Sequence[float]], target_mse: float) -> Gains:
    """How far settings are from the reference point, where more is better; never below 0.

    Args:
        values: acceptance rate, MSE and perhaps the speedup of each.
        target_mse: of the target alone.
    """
    found = np.asarray(values, dtype=np.float64)
    found[:, 1] = WORST_MSE - found[:, 1] / target_mse
    return np.maximum(found, 0.0)


def hypervolume(found: Gains) -> float:
    """The volume that lies between the reference point and settings `[settings, objectives]`."""
    ordered = found[np.argsort(-found[:, -1], kind="stable")]
    steps = -np.diff(ordered[:, -1], append=0.0)
    if found.shape[1] == 2:
        return float(steps @ np.maximum.accumulate(ordered[:, 0]))
    slices = (hypervolume(ordered[: i + 1, :-1]) for i in range(len(ordered)))
    return float(sum(step * area for step, area in zip(steps, slices, strict=True) if step > 0))


def course(found: Gains) -> list[float]:
    """The hypervolume of the first setting, of the first two, and so on."""
    volumes: list[float] = []
    front, volume = found[:0], 0.0
    while (done := len(volumes)) < len(found):
        coming = found[done : done + AT_ONCE]
        beaten = np.any(np.all(front >= coming[:, None], axis=2), axis=1)
        # Those that change nothing, up to the first that does.
        same = len(coming) if np.all(beaten) else int(np.argmin(beaten))
        volumes += [volume] * same
        if same < len(coming):
            front = np.vstack([front[~np.all(front <= coming[same], axis=1)], coming[same]])
            volume = hypervolume(front)
            volumes.append(volume)
    return volumes
