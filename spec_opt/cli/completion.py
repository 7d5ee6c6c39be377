"""Names of studies for the shell's completion."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem

from spec_opt.config.paths import DEFAULT_STORAGE, STORAGE_VARIABLE
from spec_opt.errors import SpecOptError


class _StudyType(click.types.StringParamType):
    """A study file, or the name of a study: looked up when the command runs."""

    name = "study"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The studies that ship, those in a store that is a file, and files."""
        del param
        from spec_opt.config.study_file import shipped_studies

        url = ctx.params.get("url") or os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE
        names = sorted({*shipped_studies(), *_stored(url)})
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [*found, CompletionItem(incomplete, type="file")]


def _stored(url: str) -> list[str]:
    """No server is asked: a shell that waits for one is worse than a name that is missing."""
    if not url.startswith("sqlite:"):
        return []
    from spec_opt.study.catalogue import stored_studies

    try:
        return [study.name for study in stored_studies(url)]
    except SpecOptError:
        return []


STUDY = _StudyType()
