"""The command that uses a study's result: forecast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spec_opt.cli.common import deliver, given_reference, json_option, say, study_command

if TYPE_CHECKING:
    from spec_opt.config.study_file import StudyConfig
    from spec_opt.results.forecasting import Alone
    from spec_opt.results.recommend import Scenario


@study_command
@click.option(
    "--input",
    "source",
    type=Path,
    metavar="CSV",
    help="The series to forecast, CSV or Parquet; by default the study's own.",
)
@click.option("--trial", type=click.IntRange(0), metavar="N", help="Use this trial's setting.")
@click.option("--scenario", type=click.Choice(["speed", "quality", "balanced"]))
@click.option(
    "--with",
    "alone",
    type=click.Choice(["target", "draft", "linear"]),
    help="Use this model alone; linear: one fitted to the study's series.",
)
@click.option(
    "--horizon", type=click.IntRange(1, 10**6), metavar="H", help="Points; by default the study's."
)
@click.option("-o", "--output", type=Path, help="A .csv, .json or .parquet file, not stdout.")
@json_option
def forecast(
    config: StudyConfig,
    url: str,
    source: Path | None,
    trial: int | None,
    scenario: Scenario | None,
    alone: Alone | None,
    horizon: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Forecast what follows a series, in its own units, as the study advises.

    Without --trial, --scenario or --with: as the verdict says, else by the balanced recommendation.
    A line on stderr says which it is, and why.
    """
    from spec_opt.results.export import format_of
    from spec_opt.results.forecasting import forecast_study, plan_of
    from spec_opt.results.table import load_table

    if sum(given is not None for given in (trial, scenario, alone)) > 1:
        raise click.UsageError("--trial, --scenario and --with exclude each other")
    table = load_table(url, config, also=() if trial is None else (trial,))
    plan = plan_of(table, given_reference(), trial, scenario, alone)
    found = forecast_study(config, table, plan, source, horizon)
    for line in (str(plan), *found.remarks):
        say(line)
    deliver(found.written("json" if as_json else format_of(output)), output)
