"""Time to import, report, recommend and export on a study of many trials.

    python -m benchmarks.many_trials              # 10,000 rows
    python -m benchmarks.many_trials --rows 2000

The rows are imported from a table in the format of the old sweep script into an SQLite store in a
temporary folder, and each command reads them back from there. A second study, in memory, has as
many trials with everything that a worker measures.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import optuna

from spec_opt.results.export import export
from spec_opt.results.importing import import_tables, read_tables
from spec_opt.results.recommend import recommend_all
from spec_opt.results.report import OLD_COLUMNS, write_report
from spec_opt.results.table import StudyTable, read_table
from spec_opt.study.store import open_store
from tests.results import studies


def write_table(path: Path, rows: int) -> None:
    generator = random.Random(0)
    lines = [",".join(OLD_COLUMNS)]
    for index in range(rows):
        accepted = generator.randint(0, 1000)
        sigma, mse = 0.01 * (index % 100 + 1), 0.44 + 0.1 * generator.random()
        lines.append(f"{sigma},1.5,{index % 5 + 1},{mse},0.4,{accepted / 10:.2f},{accepted},1000,9")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def timed(name: str, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    print(f"| {name} | {time.perf_counter() - began:.1f} |", flush=True)


def commands(kind: str, table: Callable[[], StudyTable], folder: Path) -> None:
    url = f"sqlite:///{folder}/many.db"
    timed(
        f"{kind}: report",
        lambda: write_report(table(), folder / kind, storage=url, command="report"),
    )
    timed(f"{kind}: recommend", lambda: recommend_all(table()))
    timed(
        f"{kind}: export --all",
        lambda: export(table(), "json", all_trials=True, storage=url, command="export"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    rows = parser.parse_args().rows
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{rows} trials\n\n| command | seconds |\n|---|--:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "old.csv", rows)
        store = open_store(f"sqlite:///{folder}/many.db")
        timed("import", lambda: import_tables(store, "old", *read_tables([folder / "old.csv"])))
        commands("imported", lambda: read_table(store.optuna_study("old")), folder)
        store.close()
        measured = studies.continuous_study(rows)
        commands("measured", lambda: read_table(measured), folder)


if __name__ == "__main__":
    main()
