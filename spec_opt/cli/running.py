"""Commands that make a study go: run, worker, train, status."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from spec_opt.cli.common import (
    INTERRUPTED,
    command_line,
    json_option,
    print_json,
    say,
    storage_option,
    study_argument,
)
from spec_opt.errors import StudyError

if TYPE_CHECKING:
    from spec_opt.config.study_file import StudyConfig
    from spec_opt.study.progress import StudyProgress
    from spec_opt.study.study import Study


@click.command()
@click.argument("study", metavar="[STUDY]", default="quickstart")
@storage_option
@click.option("--workers", type=click.IntRange(1), metavar="N", help="N processes on the CPU.")
@click.option("--gpus", metavar="LIST", help="One process per GPU: 0,1,… or all.")
@click.option(
    "--ray",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="auto",
    help="One task per GPU (or CPU) of a Ray cluster, N with --workers. ADDRESS: HOST:PORT; "
    "without it, the cluster of this machine.",
)
@json_option
def run(
    study: str,
    storage: str | None,
    workers: int | None,
    gpus: str | None,
    ray: str | None,
    as_json: bool,
) -> int:
    """Make the models if need be, run the study to its end, print the front.

    Run again, it resumes. Without STUDY: the offline quickstart. By default one worker, in this
    process.
    """
    from spec_opt.cli import service
    from spec_opt.cli.live import LiveView
    from spec_opt.config.study_file import read_study
    from spec_opt.study.store import parse_url

    if gpus is not None and (workers is not None or ray is not None):
        raise click.UsageError("--gpus goes with neither --workers nor --ray")
    config = read_study(study)
    url = service.storage_url(storage)
    if ray is not None:
        with service.ray_cluster(ray, url):
            if code := service.make_models(study):
                return code
            interrupted = service.run_on_ray(config, url, workers).interrupted
        opened = _look(config, url, interrupted)
    elif workers is None and gpus is None:
        opened, objective = service.prepare(config, url)
        interrupted = service.work(opened, objective, LiveView(opened)).interrupted
    else:
        parse_url(url)
        places = service.environments(workers, gpus)
        if code := service.make_models(study):
            return code
        interrupted = service.run_many(study, config, url, places).interrupted
        opened = _look(config, url, interrupted)
    table = service.table_of(opened)
    if as_json:
        print_json(service.results_document(config, table, url, command_line()))
    else:
        click.echo(service.results_text(config, table))
    sys.stdout.flush()
    written = service.write_report(config, table, url, command_line(), folder=None, png=False)
    say(f"report: {written.files[0]}")
    if interrupted:
        say("interrupted: what was finished is kept, the same command resumes")
        return INTERRUPTED
    return _report_failures(service.status_of(opened))


@click.command()
@study_argument
@storage_option
def worker(study: str, storage: str | None) -> int:
    """Join the work on a study, from any machine that reaches its store."""
    from spec_opt.cli import service
    from spec_opt.cli.live import LiveView, TrialLines
    from spec_opt.config.study_file import read_study

    opened, objective = service.prepare(read_study(study), service.storage_url(storage))
    view = LiveView(opened) if sys.stderr.isatty() else TrialLines()
    summary = service.work(opened, objective, view)
    if summary.interrupted:
        say("interrupted: the running trial was given back")
        return INTERRUPTED
    return 0


@click.command()
@study_argument
@json_option
def train(study: str, as_json: bool) -> int:
    """Make target and draft only, or say where they are cached."""
    from spec_opt.cli import service
    from spec_opt.config.study_file import read_study

    made = service.train(read_study(study))
    if as_json:
        print_json({model.role: asdict(model) for model in made})
    else:
        for model in made:
            click.echo(
                f"{model.role}: {model.path}\n"
                f"  {model.parameters:,} parameters, fingerprint {model.fingerprint[:16]}"
            )
    return 0


@click.command()
@study_argument
@storage_option
@json_option
@click.option("--watch", is_flag=True, help="Keep showing it on stderr until the study is done.")
def status(study: str, storage: str | None, as_json: bool, watch: bool) -> int:
    """Counts by state, settings missing, workers alive, best so far."""
    from spec_opt.cli import live, service
    from spec_opt.config.study_file import read_study

    opened = service.look(read_study(study), service.storage_url(storage))
    if watch:
        service.watch(opened)
    now, table = service.status_of(opened), service.table_of(opened)
    if as_json:
        print_json(live.as_document(now, table))
    else:
        click.echo(live.as_text(now, table))
    return 0


def _look(config: StudyConfig, url: str, interrupted: bool) -> Study:
    """The study that workers have made.

    Raises:
        KeyboardInterrupt: they were interrupted before they made it.
    """
    from spec_opt.cli import service

    try:
        return service.look(config, url)
    except StudyError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


def _report_failures(now: StudyProgress) -> int:
    """0 if every setting was measured; else 1, and which were not."""
    if now.given_up:
        first = now.given_up[0]
        say(
            f"error: {len(now.given_up)} of {now.total} settings failed for good; "
            f"the first: {first.setting}, {first.attempts} attempts: {first.error}"
        )
    elif now.missing and now.is_done:
        say(f"error: {now.missing} of {now.total} trials failed, the last with: {now.last_error}")
    elif now.missing:
        say(f"error: {now.missing} of {now.total} are missing; the same command resumes")
    else:
        return 0
    return 1
