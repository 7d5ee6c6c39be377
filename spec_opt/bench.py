"""Speculative against target-only decoding on the same windows: measured, and predicted."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from spec_opt.config import Setting, StudyConfig, check_setting
from spec_opt.cost_learning import learn_costs
from spec_opt.decoding.speculative import Decoded
from spec_opt.decoding.workload import Workload
from spec_opt.errors import InputError, StudyError
from spec_opt.results.benchmark import Bench, BenchRow, Shares, merged
from spec_opt.results.recommend import recommend_all
from spec_opt.results.table import Point, StudyTable, read_table
from spec_opt.speed import acceptance_by_position, predicted_speedup
from spec_opt.timing import Stopwatch, interleave, watched
from spec_opt.tuning.objective import Objective
from spec_opt.tuning.store import Store, open_store

logger = logging.getLogger(__name__)

WINDOWS: Final = 64
"""Forecasts per run, evenly spaced over the study's windows: the same at every batch size."""
LEARNING_SECONDS: Final = 2.0
"""How long costs are learnt, at each batch size."""
LEARNING_REPEATS: Final = 5
BATCH_SIZES: Final = (1, 8, 64)
"""Besides the study's own."""


@dataclass(frozen=True)
class Case:
    """A setting to time, and what is known of it from all of the study's windows."""

    trial: int | None
    setting: Setting
    acceptance: tuple[float, ...]
    """By position in the round."""
    acceptance_rate: float
    mse: float


def bench_study(
    config: StudyConfig,
    url: str,
    *,
    trial: int | None,
    setting: Setting | None,
    batch_sizes: Sequence[int],
    repeats: int,
) -> Bench:
    """Bench a trial, a given setting, or (with neither) the recommended ones.

    What is found of trials is kept with the study, for its report.

    Raises:
        StudyError: no such study or trial, or it was measured with other models, data or decoding.
        InputError: series, checkpoints or device do not fit, or the rule takes no such setting.
        DecodingError: a forecast is not finite.
    """
    store, points = None, []
    if setting is not None:
        check_setting(setting, config.decoding.rule)
    else:
        store = open_store(url, create=False)
        table = read_table(store.optuna_study(config.name))
        points = [table.point(trial)] if trial is not None else _recommended(table, config)
    objective = Objective.prepare(config)
    if store is not None and table.fingerprints not in (None, objective.fingerprints):
        raise StudyError(
            f"study {config.name}: its trials were measured with other models, data or decoding "
            "than the study file gives now"
        )
    cases = [_case_of(point, objective) for point in points]
    if setting is not None:
        cases = [_measured(None, setting, objective)]
    workload = objective.evaluator.workload
    sizes = batch_sizes or (*BATCH_SIZES, config.decoding.batch_size)
    result = Bench(
        study=config.name,
        device=device_name(workload.device),
        precision=config.decoding.precision,
        rule=config.decoding.rule,
        threads=torch.get_num_threads(),
        repeats=repeats,
        rows=bench(
            workload,
            config.decoding.context,
            cases,
            sorted({min(size, len(workload.windows)) for size in sizes}),
            repeats,
        ),
        baseline=objective.baseline,
    )
    if store is not None:
        _keep(store, config.name, result)
    return result


def device_name(device: torch.device) -> str:
    """A GPU's model, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _recommended(table: StudyTable, config: StudyConfig) -> list[Point]:
    choices = recommend_all(table, config.recommend)
    points = {choice.point.number: choice.point for choice in choices if choice.point is not None}
    if not points:
        raise InputError(
            f"study {table.name}: no setting is recommended, so there is none to bench; "
            "give --trial, or --sigma, --bias and --k"
        )
    return list(points.values())


def _case_of(point: Point, objective: Objective) -> Case:
    result = point.result
    accepted, tested = result.accepted_by_position, result.tested_by_position
    if accepted is None or tested is None:  # imported
        check_setting(point.setting, objective.config.decoding.rule)
        return _measured(point.number, point.setting, objective)
    acceptance = acceptance_by_position(accepted, tested)
    return Case(point.number, point.setting, acceptance, result.acceptance_rate, result.mse)


def _measured(trial: int | None, setting: Setting, objective: Objective) -> Case:
    found = objective(setting)
    acceptance = acceptance_by_position(found.accepted_by_position, found.tested_by_position)
    return Case(trial, setting, acceptance, found.acceptance_rate, found.mse)


def _keep(store: Store, study: str, result: Bench) -> None:
    kept = store.optuna_study(study)
    speedups = merged(read_table(kept).speedups, result.speedups)
    kept.set_user_attr("speedups", [asdict(one) for one in speedups])


def bench(
    workload: Workload,
    context: str,
    cases: Sequence[Case],
    batch_sizes: Sequence[int],
    repeats: int,
) -> tuple[BenchRow, ...]:
    """Time each case at each batch size; one that does not fit into memory is left out, and said.

    Raises:
        DecodingError: a forecast is not finite.
    """
    rows: list[BenchRow] = []
    for batch_size in batch_sizes:
        try:
            rows += _at_batch_size(workload, context, cases, batch_size, repeats)
        except torch.cuda.OutOfMemoryError:
            logger.warning("batch size %d does not fit into the device's memory", batch_size)
    return tuple(rows)


def _at_batch_size(
    workload: Workload, context: str, cases: Sequence[Case], batch_size: int, repeats: int
) -> list[BenchRow]:
    batches = spaced_batches(len(workload.windows), batch_size)
    costs = learn_costs(
        workload,
        batches[:1],
        sigma=cases[0].setting.sigma,
        ks=(1, max(case.setting.k for case in cases)),
        seconds=LEARNING_SECONDS,
        least_repeats=LEARNING_REPEATS,
    )
    rows = []
    for case in cases:
        logger.info("timing %s at batch size %d", case.setting, batch_size)
        target_only, speculative, draft_only = interleave(
            [
                partial(_each, batches, partial(workload.target_only, setting=case.setting)),
                partial(_each, batches, partial(workload.speculatively, setting=case.setting)),
                partial(_each, batches, workload.draft_only),
            ],
            repeats,
            workload.device,
        )
        decoded, shares = _shares(workload, batches, case.setting)
        windows = sum(map(len, batches))
        rows.append(
            BenchRow(
                trial=case.trial,
                setting=case.setting,
                context=context,
                batch_size=batch_size,
                windows=windows,
                patches=windows * workload.patches,
                rounds=sum(int(one.counters.rounds.sum()) for one in decoded),
                target_only=target_only,
                speculative=speculative,
                draft_only=draft_only,
                predicted_speedup=predicted_speedup(
                    case.acceptance, workload.patches, costs, len(batches[0])
                ),
                target_only_calls=workload.patches * len(batches),
                target_calls=sum(one.target_calls for one in decoded),
                draft_calls=sum(one.draft_calls for one in decoded),
                shares=shares,
                acceptance_rate=case.acceptance_rate,
                mse=case.mse,
            )
        )
    return rows


def spaced_batches(windows: int, batch_size: int) -> list[Tensor]:
    """`WINDOWS` windows or a full batch if that is more, evenly spaced, in batches of one size."""
    size = min(batch_size, windows)
    count = max(1, min(WINDOWS, windows) // size) * size
    index = torch.linspace(0, windows - 1, count).round().to(torch.int64)
    return [index[first : first + size] for first in range(0, count, size)]


def _each(batches: Sequence[Tensor], work: Callable[[Tensor], object]) -> None:
    for index in batches:
        work(index)


def _shares(
    workload: Workload, batches: Sequence[Tensor], setting: Setting
) -> tuple[list[Decoded], Shares]:
    """Decode once more with a stopwatch inside."""
    watch = Stopwatch(workload.device)
    timed = watched(workload, watch)
    decoded: list[Decoded] = []
    total = watch.decode(
        lambda: decoded.extend(timed.speculatively(index, setting) for index in batches)
    )
    draft, verification, acceptance = (
        watch.within[name] / total for name in ("draft", "target", "acceptance")
    )
    overhead = max(0.0, 1.0 - draft - verification - acceptance)
    return decoded, Shares(draft, verification, acceptance, overhead)
