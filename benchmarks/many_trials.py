"""Time and memory of looking at a study of many trials.

    python -m benchmarks.many_trials              # 100,000 measured trials
    python -m benchmarks.many_trials --trials 10000 --keep /tmp/many

A thousand trials with everything that a worker stores are made in an SQLite store in a temporary
folder, and copied by SQL with other settings and results until there are enough. Then each command
runs in a process of its own, as a user runs it; its peak memory is that of the process.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import sqlalchemy
from optuna.trial import TrialState
from sqlalchemy import Connection

from benchmarks.environment import describe
from spec_opt.config.study_file import read_study
from spec_opt.results.importing import import_tables, read_tables
from spec_opt.results.report import OLD_COLUMNS
from spec_opt.study.space import distributions
from spec_opt.study.store import open_store, trial_system_attributes
from spec_opt.study.study import find_or_create
from spec_opt.study.trials import (
    LONG,
    LONG_PREFIX,
    NewTrial,
    add_trials,
    lock_study,
    put_attributes,
)  # fmt: skip
from tests.results import studies
from tests.study.stand_in import BASELINE, FINGERPRINTS

BASE = 1000
"""Trials that are made; the others are copies."""
STUDY = """
name = "{name}"
[search]
sampler = "random"
n_trials = 10000000
max_settings = 10000000
sigma = {{low = 0.01, high = 10.0}}
bias = {{low = 0.1, high = 100.0}}
k = {{low = 1, high = 64}}
[data]
source = "synthetic"
context = 672
horizon = 336
[decoding]
rule = "point"
"""
COMMANDS = {
    "status": ["status"],
    "recommend": ["recommend"],
    "export": ["export", "-o", "front.csv"],
    "export --all": ["export", "--all", "-o", "all.csv"],
    "report": ["report", "-o", "report"],
}
LIMITS = {"status": (5.0, 500.0), "report": (30.0, 2000.0)}
"""Seconds and MB that 100,000 trials may take."""


def make_study(connection: Connection, file: Path, count: int) -> None:
    """A study of so many complete trials in an empty store."""
    config = read_study(str(file))
    attributes = {
        "config": config.model_dump(mode="json"),
        "fingerprints": asdict(FINGERPRINTS),
        "baseline": studies.BASELINE | asdict(BASELINE) | studies.BASELINE,
        "versions": {"spec-opt": "0"},
        "costs": {studies.PLACE: asdict(studies.LEARNT)},
    }
    objectives = config.search.objectives
    study_id = find_or_create(connection, config.name, objectives, attributes)
    lock_study(connection, study_id)
    made = list(studies.random_trials(min(count, BASE), seed=0))
    new = [NewTrial(trial.params, trial.user_attrs, trial.values) for trial in made]
    space = distributions(config.search)
    ids = add_trials(connection, study_id, new, space, TrialState.COMPLETE)
    long = {
        trial_id: {f"{LONG_PREFIX}{n}": trial.system_attrs[f"{LONG_PREFIX}{n}"] for n in LONG}
        for trial_id, trial in zip(ids, made, strict=True)
    }
    put_attributes(connection, trial_system_attributes, long)
    copies = -(-count // BASE) - 1
    for copy in range(1, copies + 1):
        for statement in COPY:
            connection.execute(sqlalchemy.text(statement), {"shift": copy * BASE, "base": BASE})


COPY = (
    "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
    "SELECT trial_id + :shift, number + :shift, study_id, state, datetime_start, "
    "datetime_complete FROM trials WHERE trial_id <= :base",
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
    "SELECT trial_id + :shift, param_name, CASE param_name WHEN 'k' THEN param_value ELSE "
    "param_value * (1 + 1e-7 * :shift) END, distribution_json FROM trial_params "
    "WHERE trial_id <= :base",
    "INSERT INTO trial_values (trial_id, objective, value, value_type) "
    "SELECT trial_id + :shift, objective, value * (1 + 1e-15 * (abs(random()) % 10000000000000)), "
    "value_type FROM trial_values WHERE trial_id <= :base",
    *(
        f"INSERT INTO {table} (trial_id, key, value_json) "
        f"SELECT trial_id + :shift, key, value_json FROM {table} WHERE trial_id <= :base"
        for table in ("trial_user_attributes", "trial_system_attributes")
    ),
)  # fmt: skip


def write_table(path: Path, rows: int) -> None:
    """A table in the format of the old sweep script."""
    generator = random.Random(0)
    lines = [",".join(OLD_COLUMNS)]
    for index in range(rows):
        accepted = generator.randint(0, 1000)
        sigma, mse = 0.01 * (index % 100 + 1), 0.44 + 0.1 * generator.random()
        lines.append(f"{sigma},1.5,{index % 5 + 1},{mse},0.4,{accepted / 10:.2f},{accepted},1000,9")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(command: list[str], file: Path, url: str) -> tuple[float, float, float]:
    """Seconds, seconds of the processor and peak MB of a command in a process of its own."""
    began = time.perf_counter()
    arguments = [sys.executable, "-m", "spec_opt", command[0], str(file), *command[1:]]
    process = subprocess.Popen(
        [*arguments, "--storage", url], cwd=file.parent, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed")
    seconds = time.perf_counter() - began
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(kind: str, file: Path, url: str, checked: bool) -> bool:
    """Print a row for each command; whether all were within their limits."""
    right = True
    for name, command in COMMANDS.items():
        seconds, busy, megabytes = run(command, file, url)
        limit = LIMITS.get(name) if checked else None
        within = limit is None or (seconds <= limit[0] and megabytes <= limit[1])
        bounds = "" if limit is None else f"{limit[0]:.0f} s, {limit[1]:.0f} MB"
        cells = f"{kind}: {name} | {seconds:.1f} | {busy:.1f} | {megabytes:.0f} | {bounds}"
        print(f"| {cells} |", flush=True)
        right = right and within
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="a folder that keeps the stores")
    options = parser.parse_args()
    count = options.trials
    print(f"{describe()}\n\n{count} trials\n")
    print("| command | seconds | CPU seconds | peak MB | limit |\n|---|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        url, file = f"sqlite:///{folder}/measured.db", folder / "measured.toml"
        file.write_text(STUDY.format(name="measured"), encoding="utf-8")
        if not (folder / "measured.db").exists():
            with open_store(url) as store:
                store.transaction(lambda connection: make_study(connection, file, count))
        right = measure("measured", file, url, count <= 100_000)
        write_table(folder / "old.csv", count // 10)
        url, file = f"sqlite:///{folder}/old.db", folder / "old.toml"
        file.write_text(STUDY.format(name="old"), encoding="utf-8")
        with open_store(url) as store:
            import_tables(store, "old", *read_tables([folder / "old.csv"]))
        for command in ("recommend", "export", "report"):
            seconds, busy, megabytes = run(COMMANDS[command], file, url)
            name = f"{count // 10} imported: {command}"
            print(f"| {name} | {seconds:.1f} | {busy:.1f} | {megabytes:.0f} | |", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
