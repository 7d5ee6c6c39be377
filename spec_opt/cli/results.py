"""Commands about results: recommend, export, report, bench, confirm, import, dashboard."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from spec_opt.cli.common import (
    command_line,
    json_option,
    print_json,
    say,
    storage_option,
    study_argument,
)


@click.command()
@study_argument
@storage_option
@click.option("--all", "all_trials", is_flag=True, help="All trials, not the Pareto front only.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["csv", "json", "parquet"]),
    default="csv",
    show_default=True,
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file; else stdout.")
def export(
    study: str,
    storage: str | None,
    all_trials: bool,
    style: Literal["csv", "json", "parquet"],
    output: Path | None,
) -> int:
    """The Pareto trials (or all) as a table to take away."""
    from spec_opt.cli import service
    from spec_opt.config.study_file import read_study
    from spec_opt.results.export import export as exported
    from spec_opt.results.export import write_atomically

    url = service.storage_url(storage)
    table = service.results_of(read_study(study), url)
    content = exported(table, style, all_trials=all_trials, storage=url, command=command_line())
    if output is not None:
        write_atomically(output, content)
        say(f"wrote {output}")
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    return 0


@click.command()
@study_argument
@storage_option
@click.option("--scenario", type=click.Choice(["speed", "quality", "balanced"]))
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "toml", "flags"]),
    default="text",
    show_default=True,
)
def recommend(
    study: str,
    storage: str | None,
    scenario: Literal["speed", "quality", "balanced"] | None,
    style: Literal["text", "json", "toml", "flags"],
) -> int:
    """The setting to use, and why, for one scenario or for all three."""
    from spec_opt.cli import service
    from spec_opt.config.study_file import read_study
    from spec_opt.results.recommend import recommend as recommended
    from spec_opt.results.recommend import recommend_all
    from spec_opt.results.render import render

    config = read_study(study)
    table = service.results_of(config, service.storage_url(storage))
    choices = (
        recommend_all(table, config.recommend)
        if scenario is None
        else (recommended(table, scenario, config.recommend),)
    )
    click.echo(render(choices, style))
    return 0


@click.command()
@study_argument
@storage_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A folder; by default reports/<study>.",
)
@click.option("--png", is_flag=True, help="The plots as files too (needs Chrome or Chromium).")
def report(study: str, storage: str | None, output: Path | None, png: bool) -> int:
    """Write report.html, results.csv and .parquet, summary.md."""
    from spec_opt.cli import service
    from spec_opt.config.study_file import read_study

    config = read_study(study)
    url = service.storage_url(storage)
    table = service.results_of(config, url)
    written = service.write_report(config, table, url, command_line(), folder=output, png=png)
    for path in written.files:
        click.echo(path)
    if written.png_problem is not None:
        say(f"no plots as files: {written.png_problem}")
        return 1
    return 0


@click.command()
@study_argument
@storage_option
@json_option
@click.option(
    "--split", type=click.Choice(["validation", "test"]), default="test", show_default=True
)
@click.option(
    "--trial",
    type=click.IntRange(0),
    metavar="N",
    help="This trial instead; on the split that it was tuned on, a replay.",
)
def confirm(
    study: str,
    storage: str | None,
    as_json: bool,
    split: Literal["validation", "test"],
    trial: int | None,
) -> int:
    """The Pareto settings again, on the test split, beside what they were tuned on."""
    from spec_opt.cli import service
    from spec_opt.config.study_file import read_study
    from spec_opt.results.confirmation import (
        confirm_study,
        confirmation_document,
        confirmation_text,
    )

    config = read_study(study)
    table = service.results_of(config, service.storage_url(storage))
    confirmation = confirm_study(config, table, split, trial)
    if as_json:
        print_json(confirmation_document(confirmation))
    else:
        click.echo(confirmation_text(confirmation))
    return 0


@click.command()
@study_argument
@storage_option
@click.option("--trial", type=click.IntRange(0), metavar="N", help="By default the recommended.")
@click.option("--sigma", type=float, help="With --bias and --k: a setting that need be no trial.")
@click.option("--bias", type=float)
@click.option("--k", type=int)
@click.option(
    "--batch-size",
    "batch_sizes",
    type=click.IntRange(1),
    multiple=True,
    metavar="N",
    help="May be given more than once; by default 1, 8, 64 and the study's.",
)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@json_option
def bench(
    study: str,
    storage: str | None,
    trial: int | None,
    sigma: float | None,
    bias: float | None,
    k: int | None,
    batch_sizes: tuple[int, ...],
    repeats: int,
    as_json: bool,
) -> int:
    """Measured speedup of settings over the target alone, beside the predicted one."""
    from spec_opt.cli import service
    from spec_opt.config.study_file import given_setting, read_study
    from spec_opt.results.bench import bench_document, bench_study, bench_text

    setting = given_setting(sigma, bias, k)
    if setting is not None and trial is not None:
        raise click.UsageError("--trial and --sigma, --bias, --k exclude each other")
    config, url = read_study(study), service.storage_url(storage)
    found = bench_study(
        config, url, trial=trial, setting=setting, batch_sizes=batch_sizes, repeats=repeats
    )
    if as_json:
        print_json(bench_document(found))
    else:
        click.echo(bench_text(found))
    return 0


@click.command(name="import")
@study_argument
@click.argument("tables", metavar="CSV…", nargs=-1, required=True, type=click.Path(path_type=Path))
@storage_option
@json_option
def import_(study: str, tables: tuple[Path, ...], storage: str | None, as_json: bool) -> int:
    """Old sweep results become trials of a study of their own, each row once."""
    from spec_opt.cli import service
    from spec_opt.config.study_file import read_study
    from spec_opt.results.importing import rejection_text

    config = read_study(study)
    imported = service.import_old(config, service.storage_url(storage), list(tables))
    if as_json:
        print_json(asdict(imported))
        return 0
    click.echo(
        f"{imported.study}: {imported.added} rows imported, {imported.present} there already, "
        f"{len(imported.rejected)} left out"
    )
    if imported.rejected:
        say(f"left out:\n{rejection_text(imported.rejected)}")
    return 0


@click.command()
@click.argument("study", metavar="[STUDY]", required=False)
@storage_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
def dashboard(study: str | None, storage: str | None, host: str, port: int) -> int:
    """optuna-dashboard on the store, with our figures and the recommendation inside."""
    from spec_opt.cli import service
    from spec_opt.config.study_file import read_study
    from spec_opt.results.dashboard import serve

    config = None if study is None else read_study(study)

    def ready(address: str) -> None:
        say(f"dashboard on {address}; Ctrl-C ends it")

    with suppress(KeyboardInterrupt):  # the usual end, not an interruption
        serve(
            service.storage_url(storage),
            () if config is None else (config.name,),
            thresholds=None if config is None else config.recommend,
            host=host,
            port=port,
            on_ready=ready,
        )
    return 0
