"""Commands that run a study: run, worker, train, status."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spec_opt.cli.common import (
    INTERRUPTED,
    KEPT,
    app,
    command_line,
    given_reference,
    json_option,
    pasted,
    report_option,
    say,
    show,
    storage_option,
    study_command,
    study_settings,
    terminal_width,
)
from spec_opt.cli.completion import STUDY
from spec_opt.errors import OutputError, SpecOptError, StudyError

if TYPE_CHECKING:
    from spec_opt.config.study_file import StudyConfig
    from spec_opt.study.progress import StudyProgress


@app.command()
@click.argument("study", metavar="[STUDY]", default="quickstart", type=STUDY)
@storage_option
@click.option("--workers", type=click.IntRange(1), metavar="N", help="N processes on the CPU.")
@click.option("--gpus", metavar="LIST", help="One process per GPU: 0,1,… or all.")
@click.option(
    "--ray",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="auto",
    help="One task per GPU (or CPU) of a Ray cluster, N with --workers. ADDRESS is HOST:PORT, by "
    "default that of this machine's cluster.",
)
@report_option
@json_option
def run(
    study: str,
    url: str,
    workers: int | None,
    gpus: str | None,
    ray: str | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """Run a study to its end, time what it recommends, say whether it pays, write the report.

    Makes the models first if need be. Given again, the command resumes the study. Without STUDY:
    the offline quickstart. Without --workers, --gpus and --ray: one worker, in this process.
    """
    from spec_opt.cli import service
    from spec_opt.results.bench import bench_run
    from spec_opt.results.render import study_document, study_text
    from spec_opt.results.report import write_report
    from spec_opt.results.table import table_of
    from spec_opt.study.progress import progress

    if gpus is not None and (workers is not None or ray is not None):
        raise click.UsageError("--gpus goes with neither --workers nor --ray")
    config, reference, objective = study_settings(study, url), pasted(study), None
    if ray is not None:
        opened, interrupted = service.run_on_ray(study, config, url, ray, workers)
    elif workers is None and gpus is None:
        opened, objective, interrupted = service.work(config, url)
    else:
        opened, interrupted = service.run_processes(study, config, url, workers, gpus)
    if not interrupted and ray is None and progress(opened).is_done:
        try:
            bench_run(config, opened.store, objective, reference)
        except SpecOptError as error:
            say(f"no speedup was measured: {error}")
    table = table_of(opened.store, config, "columns")
    try:  # first: stdout may turn out to be full
        command = command_line()
        written = write_report(table, output, storage=url, command=command)
        report = f"report: {written.files[0]}"
    except OutputError as error:
        report = f"no report: {error}; `spec-opt report {reference} -o DIR` writes it elsewhere"
    if as_json:
        show(study_document(table, reference, storage=url, command=command))
    else:
        show(study_text(table, reference, terminal_width()))
    say(f"store: {opened.store.place}")
    say(report)
    if interrupted:
        say(KEPT)
        return INTERRUPTED
    return _report_failures(progress(opened))


def _report_failures(now: StudyProgress) -> int:
    """0 if every setting was measured; else 1, and which were not."""
    if now.given_up:
        first = now.given_up[0]
        say(
            f"error: {len(now.given_up)} of {now.total} settings failed for good; "
            f"the first: {first.label}, {first.attempts} attempts: {first.error}"
        )
    elif now.missing and now.is_done:
        say(f"error: {now.missing} of {now.total} trials failed, the last with: {now.last_error}")
    elif now.missing:
        say(f"error: {now.missing} of {now.total} are missing; the same command resumes")
    else:
        return 0
    return 1


@study_command
def worker(config: StudyConfig, url: str) -> int:
    """Join the work on a study, from any machine."""
    from spec_opt.cli import service

    *_, interrupted = service.work(config, url, log_trials=not sys.stderr.isatty())
    if interrupted:
        say("interrupted: the running trial was given back")
        return INTERRUPTED
    return 0


@study_command
@json_option
def train(config: StudyConfig, url: str, as_json: bool) -> None:
    """Make target and draft only, and say where they are."""
    from spec_opt.measure.objective import load_inputs

    del url  # only names of studies are looked up there
    _, models, inputs = load_inputs(config)
    document = inputs.as_document()
    document |= document.pop("models")
    lines = []
    for model, path in (inputs.target, models.target_path), (inputs.draft, models.draft_path):
        count = model.parameters
        what = model.description if count is None else f"{count:,} parameters"
        lines.append(f"{model.role}: {path}\n  {what}, fingerprint {model.fingerprint[:16]}")
    show(document if as_json else "\n".join(lines))


@study_command
@json_option
@click.option("--watch", is_flag=True, help="Show it on stderr until the study is done.")
def status(config: StudyConfig, url: str, as_json: bool, watch: bool) -> int:
    """Show whether speculation pays, how far a study is, who works on it, the best so far.

    With --watch, a study that is not in the store yet is waited for.
    """
    from spec_opt.cli import live, service
    from spec_opt.results.verdict import verdict_of
    from spec_opt.study.catalogue import stored_studies

    study = None
    try:
        study = service.look(config, url)
    except StudyError:
        if not watch or any(stored.name == config.name for stored in stored_studies(url)):
            raise
        say(f"study {config.name} is not in the store yet: waiting for a run to make it")
    if watch:  # Ctrl-C ends the watching, nothing else
        view = live.LiveView(lambda: study or service.look(config, url))
        with suppress(KeyboardInterrupt), view:
            view.done.wait()
        study = view.study
    if study is None:
        return INTERRUPTED
    with study.store:
        snapshot = live.look(study, config.search)
    table = snapshot.table.model_copy(update={"limits": config.recommend})
    snapshot = replace(snapshot, table=table, verdict=verdict_of(table, given_reference()))
    show(live.document_of(snapshot) if as_json else live.text_of(snapshot))
    return 0
