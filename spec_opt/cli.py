"""The command line: parse, call, print, exit code. All heavy imports wait for their command."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from spec_opt import __version__
from spec_opt.errors import SpecOptError
from spec_opt.interrupts import terminate_as_interrupt

if TYPE_CHECKING:
    from spec_opt.tuning.progress import StudyProgress

INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="spec-opt")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def app(verbose: bool) -> None:
    """Tune speculative decoding of autoregressive time-series models.

    STUDY is a study file (TOML), or the name of one that ships: quickstart, etth1_grid, etth1_tpe,
    etth1_paper.
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s" if verbose else "%(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("spec_opt").setLevel(logging.INFO)


study_argument = click.argument("study", metavar="STUDY")
storage_option = click.option(
    "--storage",
    metavar="URL",
    help="The store: sqlite:///FILE or postgresql://… [env: SPEC_OPT_STORAGE; "
    "default: sqlite:///storage/spec_opt.db]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


@app.command()
@click.argument("study", metavar="[STUDY]", default="quickstart")
@storage_option
@click.option("--workers", type=click.IntRange(1), metavar="N", help="N processes on the CPU.")
@click.option("--gpus", metavar="LIST", help="One process per GPU: 0,1,… or all.")
@json_option
def run(
    study: str, storage: str | None, workers: int | None, gpus: str | None, as_json: bool
) -> int:
    """Make the models if need be, run the study to its end, print the front.

    Run again, it resumes. Without STUDY: the offline quickstart. By default one worker, in this
    process.
    """
    from spec_opt import service
    from spec_opt.config import read_study
    from spec_opt.live import LiveView
    from spec_opt.tuning.store_url import parse_url

    if workers is not None and gpus is not None:
        raise click.UsageError("--workers and --gpus exclude each other")
    config = read_study(study)
    url = service.storage_url(storage)
    if workers is None and gpus is None:
        opened, objective = service.prepare(config, url)
        interrupted = service.work(opened, objective, LiveView(opened)).interrupted
    else:
        parse_url(url)
        places = service.environments(workers, gpus)
        if code := service.make_models(study):
            return code
        interrupted = service.run_many(study, config, url, places).interrupted
        opened = service.look(config, url)
    table = service.table_of(opened)
    if as_json:
        _print_json(service.results_document(config, table, url, _command_line()))
    else:
        click.echo(service.results_text(config, table))
    if interrupted:
        _say("interrupted: what was finished is kept, the same command resumes")
        return INTERRUPTED
    return _report_failures(service.status_of(opened))


@app.command()
@study_argument
@storage_option
def worker(study: str, storage: str | None) -> int:
    """Join the work on a study, from any machine that reaches its store."""
    from spec_opt import service
    from spec_opt.config import read_study
    from spec_opt.live import LiveView, TrialLines

    opened, objective = service.prepare(read_study(study), service.storage_url(storage))
    view = LiveView(opened) if sys.stderr.isatty() else TrialLines()
    summary = service.work(opened, objective, view)
    if summary.interrupted:
        _say("interrupted: the running trial was given back")
        return INTERRUPTED
    return 0


@app.command()
@study_argument
@json_option
def train(study: str, as_json: bool) -> int:
    """Make target and draft only, or say where they are cached."""
    from spec_opt import service
    from spec_opt.config import read_study

    made = service.train(read_study(study))
    if as_json:
        _print_json({model.role: asdict(model) for model in made})
    else:
        for model in made:
            click.echo(
                f"{model.role}: {model.path}\n"
                f"  {model.parameters:,} parameters, fingerprint {model.fingerprint[:16]}"
            )
    return 0


@app.command()
@study_argument
@storage_option
@json_option
def status(study: str, storage: str | None, as_json: bool) -> int:
    """Counts by state, settings missing, workers alive, best so far."""
    from spec_opt import service, status
    from spec_opt.config import read_study

    opened = service.look(read_study(study), service.storage_url(storage))
    now, table = service.status_of(opened), service.table_of(opened)
    if as_json:
        _print_json(status.as_document(now, table))
    else:
        click.echo(status.as_text(now, table))
    return 0


@app.command()
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
    from spec_opt import service
    from spec_opt.config import read_study
    from spec_opt.results.export import export as exported
    from spec_opt.results.export import write_atomically

    url = service.storage_url(storage)
    table = service.table_of(service.look(read_study(study), url))
    content = exported(table, style, all_trials=all_trials, storage=url, command=_command_line())
    if output is not None:
        write_atomically(output, content)
        _say(f"wrote {output}")
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    return 0


@app.command()
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
    from spec_opt import service
    from spec_opt.config import read_study
    from spec_opt.results.recommend import recommend as recommended
    from spec_opt.results.recommend import recommend_all
    from spec_opt.results.render import render

    config = read_study(study)
    table = service.table_of(service.look(config, service.storage_url(storage)))
    choices = (
        recommend_all(table, config.recommend)
        if scenario is None
        else (recommended(table, scenario, config.recommend),)
    )
    click.echo(render(choices, style))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        with terminate_as_interrupt():
            code = app.main(args=arguments, prog_name="spec-opt", standalone_mode=False)
    except click.ClickException as error:
        _say(f"error: {error.format_message()}")
        return 2
    except SpecOptError as error:
        _say(f"error: {error}")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted: what was finished is kept, the same command resumes")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `head` does: no error, and nothing more to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _report_failures(now: StudyProgress) -> int:
    """0 if every setting was measured; else 1, and which were not."""
    if not now.given_up:
        return 0
    first = now.given_up[0]
    _say(
        f"error: {len(now.given_up)} of {now.total} settings failed for good; "
        f"the first: {first.setting}, {first.attempts} attempts: {first.error}"
    )
    return 1


def _say(text: str) -> None:
    click.echo(f"spec-opt: {text}", err=True)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def _command_line() -> str:
    """How spec-opt was called, for documents; a password in it is masked by who writes them."""
    return shlex.join(["spec-opt", *sys.argv[1:]])
