"""`spec-opt forecast`: a series of the user's, forecast in its own units as a study advises."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from spec_opt.config.study_file import DataConfig, Setting, StudyConfig
from spec_opt.config.user_code import naming_factories
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.errors import DataError, StudyError
from spec_opt.results.export import ExportFormat, csv_of, parquet_of
from spec_opt.results.recommend import Scenario, closing_choice, recommend, recommend_all
from spec_opt.results.table import Point, StudyTable
from spec_opt.results.verdict import Decision, verdict_of

if TYPE_CHECKING:
    import pandas as pd

    from spec_opt.data.reader import Series
    from spec_opt.data.windows import Dataset, Scaler
    from spec_opt.models.forecaster import MovableForecaster
    from spec_opt.models.preparation import Models

Way = Decision | Literal["linear_alone"]
Alone = Literal["target", "draft", "linear"]
ALONE: Final[dict[Alone, Way]] = {
    "target": "target_alone", "draft": "draft_alone", "linear": "linear_alone",
}  # fmt: skip
"""The models that can forecast alone; the linear one is fitted to the study's series."""


@dataclass(frozen=True)
class Plan:
    """How to forecast, and why."""

    decision: Way
    """speculate, draft_alone, target_alone or linear_alone."""
    setting: Setting | None
    """To speculate with."""
    trial: int | None
    reason: str
    variant: Variant = AS_WRITTEN

    @classmethod
    def speculate(cls, point: Point, why: str = "") -> Plan:
        why = why or f"trial {point.number}"
        return cls("speculate", point.setting, point.number, why, point.variant)

    def __str__(self) -> str:
        if self.setting is None:
            model = self.decision.replace("linear", "linear_model").replace("_", " ")
            return f"forecasting with the {model}: {self.reason}"
        return f"speculating with {f'{self.setting} {self.variant}'.rstrip()}: {self.reason}"


@dataclass(frozen=True)
class Forecast:
    """What was forecast, how, and from what."""

    study: str
    plan: Plan
    source: str
    """The file's name, or the series'."""
    window: int
    """The row of the series where the context begins; it keys the random numbers."""
    frame: pd.DataFrame
    """[H, 1 + C]: the time or the row number, then the channels in the series' own units."""
    remarks: tuple[str, ...]
    """What a reader may not expect of the input."""

    def as_document(self) -> dict[str, Any]:
        """For `--json`."""
        rows = self.frame.astype({self.frame.columns[0]: str}) if self.has_times else self.frame
        return {
            "study": self.study,
            "decision": self.plan.decision,
            "setting": None if self.plan.setting is None else self.plan.setting.model_dump(),
            "trial": self.plan.trial,
            "reason": self.plan.reason,
            "source": self.source,
            "window": self.window,
            "remarks": list(self.remarks),
            "forecast": rows.to_dict("records"),
        }

    @property
    def has_times(self) -> bool:
        """Whether the first column has times; else it has whole numbers, or a counter's."""
        return self.frame.dtypes.iloc[0].kind not in "iuf"

    def written(self, style: ExportFormat) -> bytes:
        """As a file: csv and json are UTF-8 text."""
        match style:
            case "csv":
                return csv_of(self.frame)
            case "json":
                text = json.dumps(self.as_document(), indent=2, ensure_ascii=False)
                return f"{text}\n".encode()
            case "parquet":
                return parquet_of(self.frame)


def plan_of(
    table: StudyTable,
    reference: str,
    trial: int | None = None,
    scenario: Scenario | None = None,
    alone: Alone | None = None,
) -> Plan:
    """How to forecast: as asked, else as the verdict says, else with the balanced recommendation.

    Args:
        reference: the study as it was named, for commands to paste.
        alone: a model to forecast with, without speculation.

    Raises:
        StudyError: there is no such trial, none that meets the scenario, or none at all.
    """
    if alone is not None:
        return Plan(ALONE[alone], None, None, f"--with {alone}")
    if trial is not None:
        return Plan.speculate(table.point(trial))
    if scenario is not None:
        asked = recommend(table, scenario)
        if asked.point is None:
            raise StudyError(f"{scenario}: {asked.why}")
        return Plan.speculate(asked.point, f"{scenario}, trial {asked.trial}")
    if not table.points:
        raise StudyError(
            f"study {table.name}: no trial has completed yet; `spec-opt run {reference}` makes them"
        )
    verdict = verdict_of(table, reference)
    if verdict.decision in ("draft_alone", "target_alone"):
        why = "this is the study's verdict; --scenario or --trial speculates"
        return Plan(verdict.decision, None, None, why)
    if verdict.trial is not None:
        why = f"this is the study's verdict, trial {verdict.trial}"
        return Plan.speculate(table.point(verdict.trial), why)
    if verdict.dissuades:
        why = (
            "by the study's verdict speculation does not pay, and whether the draft alone will do "
            "is not known; --scenario or --trial speculates, --with draft takes the draft"
        )
        return Plan("target_alone", None, None, why)
    chosen = closing_choice(recommend_all(table))
    if chosen is None or chosen.point is None:
        why = "no trial meets any of the scenarios; --trial speculates"
        return Plan("target_alone", None, None, why)
    why = (
        f"the {chosen.scenario} recommendation, trial {chosen.trial}, as the verdict is not "
        "settled; --with target does without speculation"
    )
    return Plan.speculate(chosen.point, why)


def forecast_study(
    config: StudyConfig,
    table: StudyTable,
    plan: Plan,
    source: Path | None = None,
    horizon: int | None = None,
) -> Forecast:
    """Forecast what follows the end of a series, with the models of a study.

    Channels that the study has, by their names, are standardised as the study's; those of another
    series by its own mean and deviation.

    Args:
        source: the series' file; by default the study's own series.
        horizon: points; by default the study's.

    Raises:
        InputError: the series cannot be read, is shorter than `data.context`, or does not fit the
            models.
        StudyError: the study was measured with other models or decoding.
        WorkError: the forecast is not finite, or code of the user's own failed.
    """
    from spec_opt.data.windows import load_dataset, standardised
    from spec_opt.decoding.forecast import forecast
    from spec_opt.models.preparation import prepare_models, with_draft

    dataset = load_dataset(config.data)
    series = dataset.series if source is None else _read(source, dataset, config.data)
    length, points = config.data.context, horizon or config.data.horizon
    window = len(series.values) - length
    if window < 0:
        raise DataError(
            f"{series.label}: {len(series.values)} rows are fewer than the {length} that the "
            "models see (data.context): give a longer series"
        )
    models = prepare_models(config, dataset)
    _check(table, config, models)
    if plan.variant != AS_WRITTEN:
        config = config.with_variant(plan.variant)
        models = with_draft(config, dataset, models.target, models.target_path)
    scaler, remarks = _scaler(dataset, series)
    pair = _pair(plan, config, dataset, models)
    decoding = config.decoding.model_dump(exclude={"seeds"})  # a forecast is one draw, of `seed`
    options = {"context_mode": decoding.pop("context"), "windows": [window], **decoding}
    context = standardised(series, scaler)[window:].numpy()
    with naming_factories(config.target.factory, config.draft.factory):
        answer = forecast(*pair, context, plan.setting, points, **options)
    frame = _frame(series, scaler.restore(answer))
    return Forecast(config.name, plan, series.label, window, frame, remarks)


def _pair(
    plan: Plan, config: StudyConfig, dataset: Dataset, models: Models
) -> tuple[MovableForecaster, MovableForecaster | None]:
    """What forecasts, and the draft that proposes to it."""
    from spec_opt.models.linear import fit_to_series

    match plan.decision:
        case "speculate":
            return models.target, models.draft
        case "draft_alone":
            return models.draft, None
        case "linear_alone":
            return fit_to_series(dataset, config.data.context, models.target.patch), None
    return models.target, None


def _read(path: Path, dataset: Dataset, data: DataConfig) -> Series:
    """The study's channels if the file has them all, else those that it has.

    Gaps are filled as `[data]` says, and its `time` is used for a file that has such a column.
    """
    from spec_opt.data.reader import series_of
    from spec_opt.data.table_file import read_table

    table, names = read_table(path), dataset.series.columns
    is_same = set(names) <= set(table.names)
    use_time = is_same if data.time is False else data.time in table.names
    return series_of(
        table,
        time=data.time if use_time else None,
        channels=names if is_same else None,
        gaps=data.gaps,
    )


def _scaler(dataset: Dataset, series: Series) -> tuple[Scaler, tuple[str, ...]]:
    """How the series is standardised, and what to say of it."""
    from spec_opt.data.table_file import listed
    from spec_opt.data.windows import Scaler

    own, remarks = dataset.series, []
    if set(series.columns) <= set(own.columns):
        index = [own.columns.index(name) for name in series.columns]
        scaler = Scaler(dataset.scaler.mean[index], dataset.scaler.std[index])
    else:
        scaler = Scaler.fit(series.values, series.columns)
        remarks.append(
            f"{series.label} has other channels ({listed(series.columns)}) than the study "
            f"({listed(own.columns)}): they are standardised by their own mean and deviation"
        )
    if series.time and own.time and series.time.step != own.time.step:
        remarks.append(
            f"{series.label} is {series.time.step}, the study's series {own.time.step}: its models "
            "were made and measured for that"
        )
    return scaler, tuple(remarks)


def _check(table: StudyTable, config: StudyConfig, models: Models) -> None:
    """Raise StudyError if the study's trials were measured with other models or decoding."""
    from spec_opt.measure.evaluator import decoding_fingerprint

    if (measured := table.fingerprints) is None:
        return
    pair = {"target": models.target.fingerprint, "draft": models.draft.fingerprint}
    found = replace(measured, **pair)
    before = None if table.config is None else decoding_fingerprint(table.config.decoding)
    if before not in (None, decoding_fingerprint(config.decoding)):
        found = replace(found, decoding="")
    table.check_fingerprints(found, config)


def _frame(series: Series, values: Any) -> pd.DataFrame:
    import pandas as pd

    times = series.following(len(values))
    frame = pd.DataFrame(values, columns=list(series.columns))
    frame.insert(0, times.name, times)
    return frame
