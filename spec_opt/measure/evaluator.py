"""Measures settings: models, windows and a setting give a `Measurement`; and the baselines."""

import hashlib
import logging
import time
from dataclasses import replace
from functools import cached_property, partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from spec_opt.config.study_file import DecodingConfig, Setting
from spec_opt.data.windows import Windows
from spec_opt.decoding.contexts import CONTEXTS, ROLLING, require_growing
from spec_opt.decoding.prefix_cache import CacheStatistics, PrefixCache
from spec_opt.decoding.rules import RULES, THINNING_BOUND
from spec_opt.decoding.speculative import Batches, Counters, Workload
from spec_opt.errors import InputError
from spec_opt.measure.measurement import Baseline, Blocks, Measurement
from spec_opt.measure.uncertainty import (
    ACCEPTANCE,
    MSE,
    Floats,
    Interval,
    difference,
    interval,
    seed_error,
    split,
)
from spec_opt.models.device import DTYPES, MATMUL_PRECISIONS, resolve_device
from spec_opt.models.forecaster import MovableForecaster

logger = logging.getLogger(__name__)

DECODING_VERSION: Final = 1
"""Increased whenever the same models, windows, setting and seed give other numbers than before."""


def decoding_fingerprint(config: DecodingConfig) -> str:
    """Hash of what a measurement's numbers depend on besides models and data."""
    parts: tuple[object, ...] = (DECODING_VERSION, config.rule, config.precision, config.seed)
    if config.context != "rolling":  # older than this option: their hash must not change
        parts += (config.context,)
    if config.seeds != 1:
        parts += (("seeds", config.seeds),)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class Evaluator:
    """Measures settings on one set of windows; keeps models, windows and prefixes in memory.

    Args:
        target, draft: of one patch length; moved to the device and precision of `config`.
        windows: what to forecast, and the truth.
        config: rule, context mode, device, precision, batch size, seeds.
        cache_limit_bytes: memory for decoded prefixes; by default as in `PrefixCache`.

    Raises:
        InputError: target and draft differ in patch length; or contexts are to grow, but the target
            does not remember, or the context is not whole patches.
        ConfigError: the device does not exist.
    """

    def __init__(
        self,
        target: MovableForecaster,
        draft: MovableForecaster,
        windows: Windows,
        config: DecodingConfig,
        *,
        cache_limit_bytes: int | None = None,
    ) -> None:
        if target.patch != draft.patch:
            raise InputError(
                f"the target's patch is {target.patch} points and the draft's {draft.patch}: "
                "a draft must be distilled from its target"
            )
        if config.context == "growing":
            require_growing(target, windows.context)
        # Torch keeps this for the whole process, so an earlier evaluator may have set it.
        torch.set_float32_matmul_precision(MATMUL_PRECISIONS[config.precision])
        self.device = resolve_device(config.device)
        dtype = DTYPES[config.precision]
        self.workload = Workload(
            target=target.to(self.device, dtype),
            draft=draft.to(self.device, dtype),
            rule=RULES[config.rule],
            contexts=CONTEXTS[config.context],
            windows=windows,
            seed=config.seed,
            device=self.device,
        )
        self._windows = windows
        self._seeds = range(config.seed, config.seed + config.seeds)
        self._batches = Batches(config.batch_size)
        self._values_per_forecast = windows.horizon * windows.values.shape[1]
        self._cache = PrefixCache(
            self.workload, batch_size=config.batch_size, limit_bytes=cache_limit_bytes
        )

    @property
    def cache_statistics(self) -> CacheStatistics:
        """How often the models were needed so far, and how often the cache had the answer."""
        return self._cache.statistics

    def measure(self, setting: Setting) -> Measurement:
        """Measure a setting through the prefix cache: all windows with each seed.

        Raises:
            DecodingError: a forecast is not finite.
        """
        began = time.perf_counter()
        before = self._cache.statistics
        walks = [self._cache.walk(setting, seed) for seed in self._seeds]
        after = self._cache.statistics
        return self._measurement(
            Counters.concatenate([walk.counters for walk in walks]),
            _floats(torch.cat([walk.errors for walk in walks])),
            target_evaluations=after.target_evaluations - before.target_evaluations,
            draft_evaluations=after.draft_evaluations - before.draft_evaluations,
            began=began,
        )

    def measure_plainly(self, setting: Setting) -> Measurement:
        """Measure a setting with the plain decoder, without the cache: the reference.

        Raises:
            DecodingError: a forecast is not finite.
        """
        began = time.perf_counter()
        counters, errors = [], []
        target_evaluations = draft_evaluations = 0
        every = torch.arange(len(self._windows))
        for seed in self._seeds:
            decode = partial(replace(self.workload, seed=seed).speculatively, setting=setting)
            for index, decoded in self._batches.run(every, decode):
                error = decoded.forecast.cpu().double() - self._windows.futures(index)
                sums = [part.sum(dim=(1, 2)) for part in (error.square(), error.abs())]
                errors.append(torch.stack(sums, dim=1))
                counters.append(decoded.counters)
                target_evaluations += decoded.target_evaluations
                draft_evaluations += decoded.draft_evaluations
        return self._measurement(
            Counters.concatenate(counters),
            _floats(torch.cat(errors)),
            target_evaluations=target_evaluations,
            draft_evaluations=draft_evaluations,
            began=began,
        )

    @cached_property
    def target_alone(self) -> Floats:
        """[W, 2]: the squared and absolute error of each window, by the target's means."""
        return _floats(self._cache.alone("target")) / self._values_per_forecast

    def baseline(
        self, linear: MovableForecaster | None = None, target_alone: Floats | None = None
    ) -> Baseline:
        """Target alone and draft alone, each by its means; and a linear model, if given.

        Args:
            linear: fitted to the series itself.
            target_alone: of an evaluator with the same target, windows and context mode.

        Raises:
            DecodingError: a forecast is not finite.
        """
        target = self.target_alone if target_alone is None else target_alone
        draft = _floats(self._cache.alone("draft")) / self._values_per_forecast  # [W, 2]
        target_blocks, draft_blocks = (self._blocks(errors[:, 0]) for errors in (target, draft))
        target_se, target_ci95 = _widths(interval(MSE, target_blocks))
        draft_se, draft_ci95 = _widths(interval(MSE, draft_blocks))
        paired_se, paired_ci95 = _widths(difference(MSE, draft_blocks, target_blocks))
        return Baseline(
            target_mse=float(target[:, 0].mean()),
            target_mae=float(target[:, 1].mean()),
            target_mse_se=target_se,
            draft_mse=float(draft[:, 0].mean()),
            draft_mae=float(draft[:, 1].mean()),
            draft_mse_se=draft_se,
            draft_minus_target_mse_se=paired_se,
            target_mse_ci95=target_ci95,
            draft_mse_ci95=draft_ci95,
            draft_minus_target_mse_ci95=paired_ci95,
            target_blocks=target_blocks.mse,
            draft_blocks=draft_blocks.mse,
            **({} if linear is None else self._linear_alone(linear, target_blocks)),
        )

    def _linear_alone(self, linear: MovableForecaster, target: Blocks) -> dict[str, float | None]:
        """The fields of a baseline that are about the linear model, in rolling contexts."""
        model = linear.to(self.device, torch.float32)
        alone = replace(self.workload, target=model, contexts=ROLLING, rule=RULES["point"])
        decode = partial(alone.target_only, setting=Setting(sigma=1.0, bias=1.0, k=1))
        errors = [
            (forecast.cpu().double() - self._windows.futures(index)).square().mean(dim=(1, 2))
            for index, forecast in self._batches.run(torch.arange(len(self._windows)), decode)
        ]
        blocks = self._blocks(_floats(torch.cat(errors)))
        return {
            "linear_mse": float(torch.cat(errors).mean()),
            "linear_mse_ci95": _widths(interval(MSE, blocks))[1],
            "linear_minus_target_mse_ci95": _widths(difference(MSE, blocks, target))[1],
        }

    def _blocks(self, mse: Floats, counts: Floats | None = None) -> Blocks:
        windows = self._windows
        return split(windows.starts.numpy(), windows.context, windows.horizon, mse, counts)

    def _measurement(
        self,
        counters: Counters,
        errors: Floats,
        *,
        target_evaluations: int,
        draft_evaluations: int,
        began: float,
    ) -> Measurement:
        """Summarise S seeds of W windows each.

        `counters` and `errors` [S * W, 2] (squared and absolute, summed over H and C) hold the
        windows of the first seed, then those of the second.
        """
        seeds = len(self._seeds)
        squared, absolute = errors.T.reshape(2, seeds, -1) / self._values_per_forecast  # [S, W]
        by_window = [_floats(c.sum(dim=1)) for c in (counters.accepted, counters.tested)]
        accepted, tested = (counts.reshape(seeds, -1) for counts in by_window)  # [S, W]
        counts = np.stack([accepted.sum(axis=0), tested.sum(axis=0)], axis=1)  # [W, 2]
        blocks = self._blocks(squared.mean(axis=0), counts)
        acceptance_se, acceptance_ci95 = _widths(interval(ACCEPTANCE, blocks))
        mse_se, mse_ci95 = _widths(interval(MSE, blocks))
        rounds = int(counters.rounds.sum())
        thinning_exhausted = int(counters.thinning_exhausted.sum())
        if thinning_exhausted:
            logger.warning(
                "%d replacements used up their %d tries: rule 'exact' is not exact there",
                thinning_exhausted,
                THINNING_BOUND,
            )
        patches = len(errors) * self.workload.patches
        return Measurement(
            acceptance_rate=float(accepted.sum() / tested.sum()),
            mse=float(squared.mean()),
            mae=float(absolute.mean()),
            acceptance_se=acceptance_se,
            acceptance_ci95=acceptance_ci95,
            mse_se=mse_se,
            mse_ci95=mse_ci95,
            windows=len(self._windows),
            accepted=int(accepted.sum()),
            tested=int(tested.sum()),
            proposed=int(counters.proposed.sum()),
            rounds=rounds,
            bonus=int(counters.bonus.sum()),
            patches=patches,
            patches_per_round=patches / rounds,
            accepted_by_position=tuple(counters.accepted.sum(dim=0).tolist()),
            tested_by_position=tuple(counters.tested.sum(dim=0).tolist()),
            target_evaluations=target_evaluations,
            draft_evaluations=draft_evaluations,
            thinning_exhausted=thinning_exhausted,
            evaluation_seconds=time.perf_counter() - began,
            blocks=blocks,
            seeds=seeds,
            acceptance_seed_se=seed_error(accepted, tested),
            mse_seed_se=seed_error(squared, np.ones_like(squared)),
        )


def _widths(found: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if found is None else (found.standard_error, found.half_width)


def _floats(tensor: Tensor) -> Floats:
    values: Floats = tensor.cpu().numpy().astype(np.float64)
    return values
