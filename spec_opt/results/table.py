"""A study's trials as typed records, with the Pareto front marked, and as a pandas frame.

Everything else in `spec_opt.results` works from a `StudyTable`, so a study is read once. User
attributes are read leniently: one that is absent, or is not of its field's type, is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from itertools import compress, groupby
from typing import Annotated, Any, Literal

import numpy as np
from optuna.study import Study
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from sqlalchemy import Connection

from spec_opt.config.study_file import RecommendConfig, SearchConfig, Setting, StudyConfig
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.errors import StudyError
from spec_opt.measure.cost_model import BatchCosts, LearntCosts
from spec_opt.measure.measurement import Baseline, Blocks, Fingerprints
from spec_opt.results.judgement import Judgement
from spec_opt.results.speedup import Speedup
from spec_opt.results.stored import (
    Completed,
    read_config,
    read_leniently,
    read_setting,
    signs_of,
    state_of,
)
from spec_opt.study.ending import Ending
from spec_opt.study.fingerprints import difference
from spec_opt.study.reading import (
    Keys,
    StoredTrial,
    add_attributes,
    count_trials,
    read_trials,
    without_collection,
)
from spec_opt.study.store import CONSTRAINTS_KEY, Store, look_at_store
from spec_opt.study.times import FINISHED_KEY, STARTED_KEY, utc_time
from spec_opt.study.trials import IMPORTED, LONG_KEYS, Trial, all_attributes

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a completed trial measured, in the order of the frame's columns.

    `Measurement` says what each field means. None is what the trial does not hold; imported trials
    lack most of it. Slots: a study may have 100,000 of them.
    """

    acceptance_rate: float
    """As stored, save for differences by rounding: see `without_rounding`."""
    mse: float
    pareto: bool
    """Whether no other feasible trial is at least as good in all objectives and better in one."""
    feasible: bool = True
    """Whether it keeps the constraints of the search."""
    mae: Number | None = None
    acceptance_se: Number | None = None
    acceptance_ci95: Number | None = None
    mse_se: Number | None = None
    mse_ci95: Number | None = None
    acceptance_seed_se: Number | None = None
    mse_seed_se: Number | None = None
    mse_baseline: Number | None = None
    """The target's own MSE on the same windows."""
    mse_ratio: Number | None = None
    """mse / mse_baseline."""
    draft_mse: Number | None = None
    """Of its draft alone, in a study that searches variants."""
    predicted_speedup: Number | None = None
    patches_per_round: Number | None = None
    windows: Count | None = None
    seeds: Count | None = None
    patches: Count | None = None
    rounds: Count | None = None
    accepted: Count | None = None
    tested: Count | None = None
    proposed: Count | None = None
    bonus: Count | None = None
    accepted_by_position: tuple[Count, ...] | None = None
    tested_by_position: tuple[Count, ...] | None = None
    target_evaluations: Count | None = None
    draft_evaluations: Count | None = None
    thinning_exhausted: Count | None = None
    evaluation_seconds: Number | None = None
    total_time_s: Number | None = None
    """Imported trials only: seconds of the whole process in the old table."""
    source: str | None = None
    """measured, imported, or repeated (copied from an earlier trial of the same setting)."""
    blocks: Blocks | None = None
    """The windows in runs, from which the noise of differences between trials follows."""

    @property
    def imported(self) -> bool:
        return self.source == IMPORTED


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """One trial in any state, in the order of the frame's columns."""

    number: int
    state: str
    setting: Setting | None
    """None for a trial that has not drawn its setting yet."""
    result: Result | None
    """None unless the trial is complete."""
    variant: Variant = AS_WRITTEN
    """What it changed in the study file besides the setting."""
    draft_path: str | None = None
    """Where its draft comes from, in a study that searches variants."""
    grid_point: Count | None = None
    device: str | None = None
    worker: str | None = None
    commit: str | None = None
    target_fingerprint: str | None = None
    draft_fingerprint: str | None = None
    data_fingerprint: str | None = None
    decoding_fingerprint: str | None = None
    started: datetime | None = None
    finished: datetime | None = None
    error: str | None = None
    attributes: Mapping[str, Any]
    """The user attributes that were read, and the long ones that are stored apart from them."""

    @property
    def label(self) -> str:
        """Its setting, and its variant if that is not the study file as written."""
        return f"{self.setting} {self.variant}".rstrip() if self.setting else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(TrialRow):
    """A completed trial."""

    setting: Setting
    result: Result


class StudyTable(BaseModel):
    """All trials of a study, and what the study holds about itself."""

    model_config = ConfigDict(frozen=True)

    name: str
    trials: tuple[TrialRow, ...]
    """By number; the completed ones are `Point`s. Of a large study only those that were asked for:
    see `Detail`."""
    config: StudyConfig | None
    baseline: Baseline | None = None
    fingerprints: Fingerprints | None = None
    versions: dict[str, str] = {}
    costs: dict[str, LearntCosts] = {}
    """By device, precision, context, batch size and threads: what `predicted_speedup` rests on."""
    batch_costs: tuple[BatchCosts, ...] = ()
    """What benches learnt at single batch sizes."""
    series: dict[str, Any] = {}
    """What was read, as `SeriesSummary` says it."""
    models: dict[str, Any] = {}
    """What is known of target and draft."""
    speedups: tuple[Speedup, ...] = ()
    """What `spec-opt bench` stored."""
    ended: Ending | None = None
    """Why the last workers left, as they stored it."""
    timing_until: AwareDatetime | None = None
    """When the bench that ends a run, at work now, has ended at the latest."""
    not_asked: frozenset[int] = frozenset()
    """Completed trials whose settings the study file no longer asks for; not among `points`."""
    in_detail: bool = True
    """Whether every trial was read with its blocks; of a large study only notable ones are."""
    judgements: tuple[Judgement, ...] = ()
    """What `spec-opt confirm` stored: one a scenario and split."""
    limits: RecommendConfig = RecommendConfig()
    """`[recommend]` of the study file at hand, else that which the study was made with."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the study optimises, in the order of its trials' values."""
        return SearchConfig().objectives if self.config is None else self.config.search.objectives

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """The completed trials by number, with settings that the study asks for."""
        return tuple(p for p in self.completed if p.number not in self.not_asked)

    @property
    def completed(self) -> tuple[Point, ...]:
        """The completed trials by number."""
        return tuple(row for row in self.trials if isinstance(row, Point))

    @property
    def comparable(self) -> tuple[Point, ...]:
        """The trials whose noise counts in a comparison: of a large study those on the front."""
        return self.points if self.in_detail else self.front

    @property
    def of_others(self) -> int:
        """Completed trials of another program, whose parameters are no setting."""
        return sum(row.state == "complete" and row.setting is None for row in self.trials)

    @cached_property
    def front(self) -> tuple[Point, ...]:
        """The Pareto front from the highest acceptance down; among equals the mildest first."""
        return tuple(sorted((p for p in self.points if p.result.pareto), key=by_acceptance))

    @cached_property
    def distinct_front(self) -> tuple[tuple[Point, ...], ...]:
        """The front grouped by equal results, in its order."""
        return tuple(tuple(block) for _, block in groupby(self.front, key=outcome_of))

    @cached_property
    def states(self) -> Mapping[str, int]:
        """The number of trials in each state."""
        return Counter(row.state for row in self.trials)

    @cached_property
    def target_mse(self) -> float | None:
        """The target's own MSE, from the study or else from its trials; None if not known."""
        if self.baseline is not None:
            return self.baseline.target_mse
        known = {p.result.mse_baseline for p in self.points} - {None}
        return known.pop() if len(known) == 1 else None

    @property
    def levels(self) -> dict[str, float]:
        """The MSE of target, draft and a linear model alone, where known."""
        if self.baseline is not None:
            return self.baseline.levels
        return {} if self.target_mse is None else {"target alone": self.target_mse}

    @cached_property
    def imported(self) -> int:
        """The number of completed trials that were imported."""
        return sum(point.result.imported for point in self.points)

    def point(self, number: int) -> Point:
        """A completed trial by its number.

        Raises:
            StudyError: there is no such trial.
        """
        for point in self.completed:
            if point.number == number:
                return point
        raise StudyError(
            f"study {self.name}: it has no completed trial {number}; `spec-opt export --all` "
            "lists them"
        )

    def check_fingerprints(self, found: Fingerprints, config: StudyConfig) -> None:
        """Raise unless the study was measured with what `config` gives now.

        Raises:
            StudyError: it was measured with other models, data or decoding.
        """
        if self.fingerprints is None:
            return
        made = (self.fingerprints, self.config or config), (found, config)
        made_with = ((asdict(prints), of.model_dump(mode="json")) for prints, of in made)
        if differs := difference(*made_with):
            raise StudyError(f"study {self.name}: {differs}; change that back")

    @property
    def bench_device(self) -> str | None:
        """The device that was benched last; speedups on others are not compared with it."""
        return self.speedups[-1].device if self.speedups else None

    def measured_speedups(self, number: int | None) -> tuple[Speedup, ...]:
        """Those of a trial, or of the draft alone (None), on the device benched last."""
        device = self.bench_device
        return tuple(
            s for s in self.speedups if s.trial == number and s.device == device and s.measured
        )

    def measured_speedup(self, number: int) -> Speedup | None:
        """The best measured speedup of a trial; one above 1 in every run goes first."""
        return max(
            self.measured_speedups(number), key=lambda s: (s.is_faster, s.value), default=None
        )

    def speedup_of(self, point: Point) -> float | None:
        """The best measured speedup of a trial, else the predicted one."""
        measured = self.measured_speedup(point.number)
        return point.result.predicted_speedup if measured is None else measured.value


def outcome_of(point: Point) -> tuple[float, float]:
    """Equal for trials with equal results; on a front of three objectives the third agrees too."""
    return point.result.acceptance_rate, point.result.mse


def by_acceptance(point: Point) -> tuple[float, ...]:
    """Sort key: highest acceptance, then lowest MSE, then the mildest setting."""
    return (-point.result.acceptance_rate, point.result.mse, *mildness(point))


def by_mse(point: Point) -> tuple[float, ...]:
    """Sort key: lowest MSE, then highest acceptance, then the mildest setting."""
    return (point.result.mse, -point.result.acceptance_rate, *mildness(point))


def mildness(point: Point) -> tuple[float, ...]:
    """Sort key among equal results: lowest bias, lowest sigma, smallest k, oldest trial.

    At 100 % acceptance whole blocks of a grid give the same forecasts; the mildest setting is the
    one that changes the target's distribution least.
    """
    setting = point.setting
    return (setting.bias, setting.sigma, setting.k, point.number)


Detail = Literal["front", "brief", "columns", "all"]
"""What is read of a large study: what a choice needs (of the trials that may be chosen, or of all),
the columns of the exports, or everything.
"""

MOST_IN_DETAIL = 2000
"""Of a study of more trials, all that is stored is read for the notable ones only."""

_KEYS: Mapping[Detail, Keys | None] = {
    "front": Keys(("predicted_speedup",), (CONSTRAINTS_KEY,)),
    "brief": Keys(("predicted_speedup", "mse_baseline"), (CONSTRAINTS_KEY,)),
    "columns": Keys(
        None,
        {key for name, key in LONG_KEYS.items() if name != "blocks"}
        | {CONSTRAINTS_KEY, STARTED_KEY, FINISHED_KEY},
    ),
    "all": None,
}


def load_table(
    url: str, config: StudyConfig, detail: Detail = "brief", also: Collection[int] = ()
) -> StudyTable:
    """The trials of a study in a store, measured or imported; see `table_of`.

    Raises:
        StudyError: there is no such store or study; neither is made.
    """
    with look_at_store(url) as store:
        return table_of(store, config, detail, also)


def table_of(
    store: Store, config: StudyConfig, detail: Detail = "brief", also: Collection[int] = ()
) -> StudyTable:
    """The trials of a study in an opened store, of whose settings `config` asks for some.

    Args:
        detail: how much to read of a study of more than `MOST_IN_DETAIL` trials.
        also: numbers of trials of which to read everything.

    Raises:
        StudyError: the store does not hold the study.
        StoreError: the store was out of reach for long.
    """
    study = store.optuna_study(config.name)
    table, _ = table_and_rows(store, study, config.search, detail, also)
    return table.model_copy(update={"limits": config.recommend})


def table_and_rows(
    store: Store,
    study: Study,
    search: SearchConfig | None = None,
    detail: Detail = "brief",
    also: Collection[int] = (),
) -> tuple[StudyTable, list[Trial]]:
    """As `table_of`, for a study that was found already; also its trials for `progress`."""

    def read(connection: Connection) -> tuple[StudyTable, list[Trial]]:
        many = count_trials(connection, study._study_id) > MOST_IN_DETAIL
        keys = _KEYS[detail] if many else None
        found = read_trials(connection, study._study_id, len(study.directions), keys)

        def add(notable: Sequence[StoredTrial]) -> None:
            others = [trial for trial in found if trial.number in also]
            add_attributes(connection, [*notable, *others])

        few = keys is not None and detail == "front"
        table = read_table(study, search, found, None if keys is None else add, only_notable=few)
        return table, [trial.row for trial in found]

    with without_collection():
        return store.read(read)


def read_table(
    study: Study,
    search: SearchConfig | None = None,
    found: Sequence[StoredTrial] | None = None,
    add_rest: Callable[[Sequence[StoredTrial]], None] | None = None,
    *,
    only_notable: bool = False,
) -> StudyTable:
    """Read a study and all its trials.

    Args:
        study: As Optuna has it.
        search: The settings that are asked for now. Trials measured in another space are kept
            apart; imported ones stay. By default all are asked for.
        found: Its trials, where they were read before, perhaps without all attributes.
        add_rest: Then adds the others to those trials that a choice may name.
        only_notable: Of the completed trials make only these, if they are known to be all that a
            choice may name.

    Raises:
        StudyError: it is not a study of acceptance rate and MSE over sigma, bias and k.
    """
    signs = signs_of(study)
    if found is None:
        found = [StoredTrial.of(trial) for trial in study.get_trials(deepcopy=False)]
    settings = [read_setting(trial, study) for trial in found]
    config = read_config(study.study_name, study.user_attrs.get("config"))
    done = Completed.of(zip(found, settings, strict=True), signs, search, config)
    own = {
        "name": study.study_name,
        "trials": (),
        "config": config,
        "limits": RecommendConfig() if config is None else config.recommend,
        "not_asked": done.numbers(~done.asked),
        "in_detail": add_rest is None,
    }
    table = read_leniently(TypeAdapter(StudyTable), study.user_attrs | own)
    predicted = {s.trial: s.predicted_speedup for s in reversed(table.speedups)}
    made = np.ones_like(done.asked)
    if add_rest is not None:
        fastest = done.fastest(predicted)
        notable = done.on_front | fastest | [t.number in predicted for t in done.trials]
        add_rest([*compress(done.trials, notable)])
        # Without a speed, a choice is by k too; without the baseline, it looks at all trials.
        if only_notable and fastest.any() and done.all_fit and table.baseline is not None:
            made = notable
    left_out, measured = done.numbers(~made), done.results(made)
    trials = tuple(
        _read_row(trial, setting, measured.get(trial.number), predicted.get(trial.number))
        for trial, setting in zip(found, settings, strict=True)
        if trial.number not in left_out
    )
    return table.model_copy(update={"trials": trials})


_RESULTS = TypeAdapter(Result)
_ROWS = TypeAdapter(TrialRow)
_POINTS = TypeAdapter(Point)


def _read_row(
    trial: StoredTrial,
    setting: Setting | None,
    measured: Mapping[str, Any] | None,
    predicted: float | None,
) -> TrialRow:
    """A trial as a row.

    Args:
        measured: what its result holds besides its attributes; None unless it is complete.
        predicted: its speedup, where it does not hold one itself.
    """
    system, attributes = trial.system_attributes, trial.user_attributes
    if any(key in system for key in LONG_KEYS.values()):
        attributes = all_attributes(attributes, system)
    own = {
        "number": trial.number,
        "state": state_of(trial.row),
        "setting": setting,
        "result": None,
        "started": utc_time(trial.started, system.get(STARTED_KEY)),
        "finished": utc_time(trial.row.ended, system.get(FINISHED_KEY)),
        "attributes": attributes,
    }
    if measured is None:
        return read_leniently(_ROWS, attributes | own)
    held = {**attributes, **measured}
    if held.get("predicted_speedup") is None:
        held["predicted_speedup"] = predicted
    base = held.get("mse_baseline")
    if isinstance(base, float) and base > 0.0:
        held["mse_ratio"] = held["mse"] / base
    own["result"] = read_leniently(_RESULTS, held)
    return read_leniently(_POINTS, attributes | own)
