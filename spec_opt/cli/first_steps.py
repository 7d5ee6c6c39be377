"""Commands to begin with: init, list, show."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spec_opt.cli.common import (
    app,
    given_reference,
    json_option,
    note,
    pasted,
    show,
    storage_option,
    study_command,
)
from spec_opt.cli.completion import STUDY
from spec_opt.config.paths import ANOTHER_STORE
from spec_opt.errors import DataError, OutputError

if TYPE_CHECKING:
    from spec_opt.config.study_file import StudyConfig


@app.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option(
    "--from", "origin", type=STUDY, metavar="STUDY", help="Copy this study; by default quickstart."
)
@click.option(
    "--csv", "source", metavar="FILE", help="Instead a study of this series, with what fits it."
)
@click.option("--force", is_flag=True, help="Overwrite NAME.toml.")
@storage_option
def init(name: str | None, origin: str | None, source: str | None, force: bool, url: str) -> None:
    """Write a study file to edit, NAME.toml.

    From a series, text or Parquet, it fills in the channels, the splits, a season as the patch, and
    a context and a horizon that fit, with a small target to be trained and a linear draft.
    """
    from spec_opt.config.files import write_file
    from spec_opt.config.study_file import QUICKSTART, read_study

    if origin is not None and source is not None:
        raise click.UsageError("--from and --csv exclude each other")
    given = name or origin or (source and Path(source).stem) or QUICKSTART
    name = _as_name(given)
    path = Path(f"{name}.toml")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already; give another NAME, or --force to overwrite it")
    if source is not None:
        from spec_opt.models.starter import study_file_for  # brings torch

        text = study_file_for(source, name)
    else:
        text = _copied(origin or QUICKSTART, name, url)
    write_file(path, text.encode())
    read_study(str(path))  # a copy of a file elsewhere may name files that are not found from here
    show(str(path))
    note(f"edit it, then: spec-opt run {pasted(str(path))}")


def _as_name(given: str) -> str:
    """What was given as the name of a study and its file."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", given.removesuffix(".toml")).lstrip("._-")[:100]
    if not name:
        raise click.UsageError(f"{given!r} is no name for a study: give NAME, in letters or digits")
    return name


def _copied(reference: str, name: str, url: str) -> str:
    """A shipped study with its comments; another one with all its settings."""
    from spec_opt.api import find_settings
    from spec_opt.config.study_file import shipped_studies
    from spec_opt.config.toml import renamed, toml_of

    if (path := shipped_studies().get(reference)) is not None:
        return renamed(path.read_text(encoding="utf-8"), name, f"{name}.toml")
    config = find_settings(reference, url)
    return toml_of(config.model_copy(update={"name": name}), explained=True)


@app.command("list")
@storage_option
@json_option
def list_(url: str, as_json: bool) -> None:
    """List the studies in the store, and those that ship."""
    from spec_opt.config.study_file import read_study, shipped_studies
    from spec_opt.study.catalogue import stored_studies
    from spec_opt.study.database import parse_url

    where, stored = parse_url(url), stored_studies(url)
    shipped = [(name, read_study(name)) for name in shipped_studies()]
    if as_json:
        studies = [{"study": name, "name": config.name} for name, config in shipped]
        show({"storage": where.masked, "studies": stored, "shipped": studies})
        return
    lines = [f"in the store {where.place}:"]
    lines += [
        f"  {study.name}: {study.complete} of {study.trials} trials complete"
        + ("" if study.has_settings else "; not run by spec-opt")
        for study in stored
    ] or [f"  none yet; {ANOTHER_STORE}"]
    lines += ["that ship, to run or to copy with `spec-opt init NAME --from STUDY`:"]
    lines += [f"  {name}: {_outline(config)}" for name, config in shipped]
    show("\n".join(lines))


def _outline(config: StudyConfig) -> str:
    data, search = config.data, config.search
    return (
        f"{data.source}, context {data.context}, horizon {data.horizon}, rule "
        f"{config.decoding.rule}, sampler {search.sampler}"
    )


@partial(study_command, name="show")
@json_option
def show_(config: StudyConfig, url: str, as_json: bool) -> None:
    """Print all settings of a study, with their defaults, and what was read of its series.

    The text is a study file too.
    """
    from spec_opt.config.toml import toml_of
    from spec_opt.data.summary import summarise
    from spec_opt.data.windows import load_dataset

    del url  # only names of studies are looked up there
    problem, series = None, None
    try:
        series = summarise(load_dataset(config.data), config.data)
    except DataError as error:  # the settings are of use even so
        problem = error
    if as_json:
        document = {"study": config.name, "config": config.model_dump(mode="json")}
        show(document | {"series": series and series.as_document()})
    else:
        read = "" if series is None else f"# series: {series}\n"
        show(f"# {given_reference()}\n{read}\n{toml_of(config, explained=True)}")
    if problem is not None:
        raise problem
