"""Commands on a study's results: all but `run`, `worker`, `status` and `train`."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from spec_opt.cli.common import (
    app,
    artifacts_option,
    as_shown,
    command_line,
    deliver,
    given_reference,
    json_option,
    output_option,
    report_option,
    say,
    scenario_option,
    show,
    storage_option,
    study_command,
    study_settings,
    terminal_width,
)
from spec_opt.cli.completion import STUDY
from spec_opt.config.paths import COPY_VARIABLE
from spec_opt.errors import OutputError

if TYPE_CHECKING:
    from spec_opt.config.study_file import StudyConfig
    from spec_opt.config.values import Split
    from spec_opt.results.export import ExportFormat
    from spec_opt.results.recommend import Scenario
    from spec_opt.results.render import RecommendFormat


@study_command
@click.option("--all", "all_trials", is_flag=True, help="All trials, not only the Pareto front.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["csv", "json", "parquet"]),
    help="By default the output's suffix, or else csv.",
)
@output_option
def export(
    config: StudyConfig, url: str, all_trials: bool, style: ExportFormat | None, output: Path | None
) -> None:
    """Export the Pareto trials, or all of them, as a table."""
    from spec_opt.results.export import detail_of, export, format_of
    from spec_opt.results.table import load_table

    style = style or format_of(output)
    if style == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("parquet is binary: give a file with -o, or send stdout to one")
    table = load_table(url, config, detail_of(style, all_trials=all_trials))
    deliver(
        export(table, style, all_trials=all_trials, storage=url, command=command_line()), output
    )


@study_command
@scenario_option
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "toml", "flags", "schedule"]),
    default="text",
    help="schedule: the fastest setting at each batch size.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON document.")
def recommend(
    config: StudyConfig,
    url: str,
    scenario: Scenario | None,
    style: RecommendFormat | Literal["schedule"],
    as_json: bool,
) -> None:
    """Say whether speculation pays, recommend a setting for each scenario or one, and say why."""
    if style == "schedule":
        _show_schedule(config, url, scenario or "speed", as_json)
        return
    if as_json and style != "json":
        if style != "text":
            raise click.UsageError(f"--json and --format {style} exclude each other")
        style = "json"
    from spec_opt.results.recommend import SCENARIOS, recommend
    from spec_opt.results.render import render
    from spec_opt.results.table import load_table
    from spec_opt.results.verdict import verdict_of

    table = load_table(url, config)
    scenarios = SCENARIOS if scenario is None else (scenario,)
    choices = [recommend(table, name) for name in scenarios]
    verdict = verdict_of(table, given_reference())
    show(render(choices, style, table=table, verdict=verdict, width=terminal_width()))


def _show_schedule(config: StudyConfig, url: str, scenario: Scenario, as_json: bool) -> None:
    from spec_opt.results.document import as_text
    from spec_opt.results.render import schedule_blocks
    from spec_opt.results.schedule import schedule_of
    from spec_opt.results.table import load_table

    table = load_table(url, config)
    schedule = schedule_of(table, scenario, given_reference())
    if as_json and schedule.unknown is not None:
        say(schedule.unknown)
    show(schedule.rows if as_json else as_text(schedule_blocks(schedule), terminal_width()))


@study_command
@report_option
@click.option("--png", is_flag=True, help="The plots as files too (needs Chrome or Chromium).")
@artifacts_option
def report(
    config: StudyConfig, url: str, output: Path | None, png: bool, artifacts: Path | None
) -> int:
    """Write report.html, results.csv and .parquet, summary.md."""
    from spec_opt.results.report import write_report
    from spec_opt.results.table import load_table

    table = load_table(url, config, "columns")
    about = {"storage": url, "command": command_line()}
    try:
        written = write_report(table, output, png=png, **about)
    except OutputError as error:
        raise OutputError(f"{error}; choose another folder with -o") from error
    show("\n".join(map(str, written.files)))
    if artifacts is not None:
        from spec_opt.results.artifacts import keep_artifacts
        from spec_opt.study.store import open_store

        with open_store(url, create=False) as store:
            keep_artifacts(store, config.name, written.files, artifacts)
    if written.png_problem is not None:
        say(f"no plots as files: {written.png_problem}")
        return 1
    return 0


@study_command
@json_option
@click.option("--split", type=click.Choice(["train", "validation", "test"]), default="test")
@click.option("--trial", type=click.IntRange(0), metavar="N", help="Only this trial.")
def confirm(config: StudyConfig, url: str, as_json: bool, split: Split, trial: int | None) -> None:
    """Measure the recommended and the Pareto settings again, on the test split, and judge them.

    A trial measured on the split that it was tuned on is a replay: its numbers must be the same.
    """
    from spec_opt.results import confirmation
    from spec_opt.results.table import load_table
    from spec_opt.study.store import open_store

    also = () if trial is None else (trial,)
    table = load_table(url, config, also=also)
    found = confirmation.confirm_study(config, table, split, trial)
    confirmation.keep_judgements(open_store(url, create=False), found)
    document, text = confirmation.confirmation_document, confirmation.confirmation_text
    show(document(found) if as_json else text(found, terminal_width()))


@study_command
@click.option("--trial", type=click.IntRange(0), metavar="N", help="By default the recommended.")
@click.option("--sigma", type=float, help="With --bias and --k: any setting.")
@click.option("--bias", type=float)
@click.option("--k", type=int)
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(1),
    multiple=True,
    metavar="N",
    help="Repeatable; by default 1, 8, 64 and the study's.",
)
@click.option(
    "--schedule",
    is_flag=True,
    help="The k of each batch size instead (see recommend --format schedule), where it changes.",
)
@click.option("--repeats", type=click.IntRange(1), default=5)
@json_option
def bench(
    config: StudyConfig,
    url: str,
    trial: int | None,
    sigma: float | None,
    bias: float | None,
    k: int | None,
    batch_sizes: tuple[int, ...],
    schedule: bool,
    repeats: int,
    as_json: bool,
) -> None:
    """Measure the speedup of settings over the target alone, and say whether it pays."""
    from spec_opt.config.study_file import given_setting
    from spec_opt.results.bench import bench_document, bench_schedule, bench_study, bench_text

    setting = given_setting(sigma, bias, k)
    if setting is not None and trial is not None:
        raise click.UsageError("--trial and --sigma, --bias, --k exclude each other")
    if schedule and (setting is not None or trial is not None):
        raise click.UsageError("--schedule chooses the settings: it takes none")
    measure = bench_schedule if schedule else partial(bench_study, trial=trial, setting=setting)
    reference = given_reference()
    found = measure(config, url, batch_sizes=batch_sizes, repeats=repeats, reference=reference)
    show(bench_document(found) if as_json else bench_text(found, terminal_width()))


@app.command()
@click.argument("studies", metavar="STUDY STUDY…", nargs=-1, required=True, type=STUDY)
@storage_option
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "html"]),
    help="By default the output's suffix, or else text.",
)
@json_option
@output_option
def compare(
    studies: tuple[str, ...], url: str, style: str | None, as_json: bool, output: Path | None
) -> None:
    """Compare studies: their fronts, what they recommend, and the differences with their noise.

    Each is a study file, the name of one that ships, or the name of a study in the store; NAME@URL
    is one in another store.
    """
    from spec_opt.api import find_settings
    from spec_opt.results import comparison
    from spec_opt.study.database import split_reference

    suffixes = {".html": "html", ".htm": "html", ".json": "json"}
    by_suffix = suffixes.get("" if output is None else output.suffix.lower(), "text")
    style = "json" if as_json else style or by_suffix
    if style == "html" and output is None and sys.stdout.isatty():
        raise click.UsageError("a page is long: give a file with -o, or send stdout to one")
    named = [split_reference(reference, url) for reference in studies]
    found = comparison.compare_studies(
        [(find_settings(name, store), store) for name, store in named]
    )
    if style == "html":
        content = f"{comparison.comparison_page(found)}\n"
    elif style == "json":
        content = as_shown(comparison.comparison_document(found))
    else:
        content = as_shown(comparison.comparison_text(found, None if output else terminal_width()))
    deliver(content, output)


@study_command
@click.option(
    "--to",
    "target",
    metavar="URL",
    envvar=COPY_VARIABLE,
    show_envvar=True,
    required=True,
    help="The other store.",
)
@json_option
def copy(config: StudyConfig, url: str, target: str, as_json: bool) -> None:
    """Copy a study to another store, SQLite or Postgres: all of it, or nothing."""
    from spec_opt.results.statistics import quiet_optuna
    from spec_opt.study.store import open_store

    with open_store(url, create=False) as source:
        source.optuna_study(config.name)  # before a store is made
        with open_store(target) as copied, quiet_optuna():
            trials, where = source.copy_study(config.name, copied), copied.masked_url
    found = {"study": config.name, "trials": trials, "storage": where}
    show(found if as_json else f"{config.name}: {trials} trials copied to {where}")


@partial(study_command, name="import")
@click.argument("tables", metavar="CSV…", nargs=-1, required=True, type=Path)
@json_option
def import_(config: StudyConfig, url: str, tables: tuple[Path, ...], as_json: bool) -> None:
    """Import tables of old sweeps as trials, each row once."""
    from spec_opt.results.importing import import_tables, read_tables, rejection_text
    from spec_opt.study.store import open_store

    results, rejected = read_tables(tables)  # before a store is made
    limits = config.search.constraints
    imported = import_tables(open_store(url), config.name, results, rejected, limits)
    text = (
        f"{imported.study}: {imported.added} rows imported, {imported.present} there already, "
        f"{len(rejected)} left out"
    )
    show(imported if as_json else text)
    if rejected and not as_json:
        say(f"left out:\n{rejection_text(rejected)}")


@app.command()
@click.argument("reference", metavar="[STUDY]", required=False, type=STUDY)
@storage_option
@artifacts_option
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=click.IntRange(0, 65535), default=8080)
def dashboard(
    reference: str | None, url: str, artifacts: Path | None, host: str, port: int
) -> None:
    """Serve optuna-dashboard on the store, with our figures in it."""
    from spec_opt.results.dashboard import serve

    config = None if reference is None else study_settings(reference, url)
    with suppress(KeyboardInterrupt):  # the usual way to end it
        serve(
            url,
            () if config is None else (config.name,),
            thresholds=None if config is None else config.recommend,
            artifacts=artifacts,
            host=host,
            port=port,
            on_ready=lambda address: say(f"dashboard on {address}; Ctrl-C ends it"),
        )
