"""Of a large study only what is needed is read, and the answers stay the same."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from benchmarks.many_trials import STUDY, make_study
from spec_opt.config.study_file import StudyConfig, read_study
from spec_opt.results import schedule
from spec_opt.results import table as tables
from spec_opt.results.export import ExportFormat, export
from spec_opt.results.recommend import recommend_all
from spec_opt.results.statistics import noise_aware_front
from spec_opt.results.table import Detail, StudyTable, by_acceptance, by_mse, table_of
from spec_opt.results.verdict import verdict_of
from spec_opt.study.reading import StoredTrial, read_trials
from spec_opt.study.store import Store, open_store
from tests.results import studies
from tests.study.stand_in import stand_in_study

TRIALS = 150


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, StudyConfig]]:
    folder: Path = tmp_path_factory.mktemp("large")
    file = folder / "study.toml"
    file.write_text(STUDY.format(name="measured"), encoding="utf-8")
    with open_store(f"sqlite:///{folder}/store.db") as store:
        store.transaction(lambda connection: make_study(connection, file, TRIALS))
        yield store, read_study(str(file))


@pytest.fixture
def tables_of(
    large: tuple[Store, StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Detail], tuple[StudyTable, StudyTable]]:
    """The study read whole, and as one of many trials."""

    def read(detail: Detail) -> tuple[StudyTable, StudyTable]:
        whole = table_of(*large)
        monkeypatch.setattr(tables, "MOST_IN_DETAIL", 10)
        return whole, table_of(*large, detail)

    return read


def test_trials_are_read_as_optuna_reads_them(store: Store) -> None:
    study = stand_in_study(store, sigma=(0.1, 0.5), bias=(1.0,), k=(1, 2)).optuna_study()
    study.tell(study.ask(), (0.5, float("inf")))
    study.ask()
    found = store.read(lambda connection: read_trials(connection, study._study_id, 2))
    for ours, theirs in zip(found, study.get_trials(), strict=True):
        ours.row = ours.row._replace(params={}, last_sign=None, now=None)  # not of Optuna's trials
        assert ours == StoredTrial.of(theirs)


@pytest.mark.parametrize("detail", ["front", "brief", "columns"])
def test_choices_are_those_of_the_study_read_whole(
    detail: Detail, tables_of: Callable[[Detail], tuple[StudyTable, StudyTable]]
) -> None:
    whole, part = tables_of(detail)
    assert (len(part.points) < TRIALS) == (detail == "front")
    assert [p.number for p in part.front] == [p.number for p in whole.front]
    assert verdict_of(part) == verdict_of(whole)
    for key in (by_acceptance, by_mse):
        assert min(part.points, key=key).number == min(whole.points, key=key).number
    chosen = [r.point and r.point.number for r in recommend_all(part)]
    assert chosen == [r.point and r.point.number for r in recommend_all(whole)]
    assert all(member.standing != "unknown" for member in noise_aware_front(part))


def test_the_schedule_is_that_of_the_study_read_whole(
    tables_of: Callable[[Detail], tuple[StudyTable, StudyTable]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "MOST_OF_A_K", 5)
    whole, part = (
        schedule.schedule_of(table.model_copy(update={"costs": {studies.PLACE: studies.LEARNT}}))
        for table in tables_of("columns")
    )
    assert part.rows == whole.rows
    assert part.rows


def test_blocks_are_read_of_notable_trials_only(
    tables_of: Callable[[Detail], tuple[StudyTable, StudyTable]],
) -> None:
    _, part = tables_of("columns")
    with_blocks = {p.number for p in part.points if p.result.blocks is not None}
    assert {p.number for p in part.front} <= with_blocks
    assert len(with_blocks) < TRIALS / 2


@pytest.mark.parametrize("style", ["csv", "json"])
def test_the_exported_front_is_that_of_the_study_read_whole(
    style: ExportFormat, tables_of: Callable[[Detail], tuple[StudyTable, StudyTable]]
) -> None:
    whole, part = (
        export(table, style, all_trials=False, storage="sqlite:///a.db", command="c")
        for table in tables_of("brief")
    )
    assert part == whole


def test_all_columns_are_those_of_the_study_read_whole(
    tables_of: Callable[[Detail], tuple[StudyTable, StudyTable]],
) -> None:
    whole, part = (
        export(table, "csv", all_trials=True, storage="sqlite:///a.db", command="c")
        for table in tables_of("columns")
    )
    assert part == whole


def test_a_trial_that_is_asked_for_is_read_whole(
    large: tuple[Store, StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_IN_DETAIL", 10)
    part = table_of(*large)
    other = next(p.number for p in part.points if p.result.blocks is None)
    assert table_of(*large, also=(other,)).point(other).result.blocks is not None


def test_few_statements_read_a_large_study(
    large: tuple[Store, StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_IN_DETAIL", 10)
    engine = large[0].storage.engine
    statements: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    table_of(*large)
    event.remove(engine, "before_cursor_execute", note)
    assert len(statements) < 20
