"""docs/attributes.md against what a real study holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from spec_opt.cli import main
from spec_opt.measure import bench as timing_bench
from spec_opt.measure import cost_model
from spec_opt.results.table import Result, StudyTable, TrialRow
from spec_opt.study import trials
from spec_opt.study.store import CONSTRAINTS_KEY, FIXED_PARAMS_KEY, METRIC_NAMES_KEY, open_store
from spec_opt.study.study import SCHEMA
from tests.cli.test_bench import UNTIMED

DOC = Path(__file__).parent.parent.parent / "docs" / "attributes.md"
TYPES: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "text": (str,),
    "object": (dict,),
    "list": (list,),
    "true or false": (bool,),
    "any": (object,),
}
KEYS = ("study_user", "study_system", "trial_user", "trial_system")


@dataclass(frozen=True)
class Entry:
    types: tuple[type, ...]
    written: str


def documented() -> dict[str, dict[str, Entry]]:
    """The four tables of the page, by the name of each attribute."""
    sections = DOC.read_text(encoding="utf-8").split("\n## ")[1:]
    found = {}
    for key, section in zip(KEYS, sections, strict=True):
        rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
        found[key] = {
            name: Entry(TYPES[row[1]], row[2])
            for row in rows
            for name in re.findall("`([^`]+)`", row[0])
        }
    return found


DOCUMENTED = documented()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mapping[str, Any]]:
    """The attributes of a study that was run, benched and confirmed, and of one of its trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("study"))
        patch.setattr(cost_model, "WIDEST_SPREAD", 1e9)  # the machine may be busy
        patch.setattr(timing_bench, "LEARNING_SECONDS", 0.0)
        patch.setattr(timing_bench, "LEARNING_REPEATS", 1)
        file = Path("tiny.toml")
        file.write_text(f"{UNTIMED}[recommend.speed]\nmax_mse_ratio = 9.0\n", encoding="utf-8")
        assert main(["run", str(file)]) == 0
        assert main(["bench", str(file), "--schedule", "--repeats", "1"]) == 0
        assert main(["confirm", str(file)]) == 0
        with open_store("sqlite:///storage/spec_opt.db") as store:
            study = store.optuna_study("tiny")
            trial = study.trials[0]
            system = store.storage.get_study_system_attrs(
                store.storage.get_study_id_from_name("tiny")
            )
            found = (study.user_attrs, system, trial.user_attrs, trial.system_attrs)
            return dict(zip(KEYS, found, strict=True))


@pytest.mark.parametrize("key", KEYS)
def test_everything_that_is_stored_is_documented_with_its_type(
    stored: dict[str, Mapping[str, Any]], key: str
) -> None:
    assert stored[key].keys() <= DOCUMENTED[key].keys()
    for name, value in stored[key].items():
        assert value is None or isinstance(value, DOCUMENTED[key][name].types), name


@pytest.mark.parametrize("key", KEYS)
def test_everything_that_is_documented_is_stored(
    stored: dict[str, Mapping[str, Any]], key: str
) -> None:
    written = {"always", "by a run", "by a bench", "by confirm"}
    written |= {"when complete", "when measured", "when claimed", "of a grid"}
    wanted = {name for name, entry in DOCUMENTED[key].items() if entry.written in written}
    assert wanted <= stored[key].keys()


def test_what_only_some_studies_hold_is_documented_too() -> None:
    user = {trials.FAILURE_KEY, trials.ERROR_KEY, trials.SOURCE_KEY, trials.WORKER_KEY}
    user |= {trials.VARIANT_KEY}
    system = {trials.WAITS_KEY, trials.CLAIM_KEY, FIXED_PARAMS_KEY, CONSTRAINTS_KEY}
    assert user <= DOCUMENTED["trial_user"].keys()
    assert system <= DOCUMENTED["trial_system"].keys()
    assert {f"{trials.LONG_PREFIX}{name}" for name in trials.LONG} <= DOCUMENTED[
        "trial_system"
    ].keys()
    assert METRIC_NAMES_KEY in DOCUMENTED["study_system"]


def test_what_is_read_is_documented() -> None:
    """What the table reads of attributes, rather than of the trial itself or of others."""
    derived = {"acceptance_rate", "mse", "mse_ratio", "pareto", "feasible"}
    own = {"number", "state", "setting", "result", "started", "finished", "attributes"}
    read = {field.name for kind in (Result, TrialRow) for field in fields(kind)}
    of_trials = read - derived - own - {*trials.LONG}
    assert of_trials <= DOCUMENTED["trial_user"].keys()
    of_studies = {*StudyTable.model_fields} - {"name", "trials", "not_asked", "in_detail", "limits"}
    assert of_studies <= DOCUMENTED["study_user"].keys()


def test_the_version(stored: dict[str, Mapping[str, Any]]) -> None:
    assert stored["study_user"]["schema"] == SCHEMA
    assert f"This page is version {SCHEMA} of their schema" in DOC.read_text(encoding="utf-8")
