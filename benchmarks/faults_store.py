"""Faults of stores, clocks and sizes; `faults` runs them with the others."""

import sys

from benchmarks.fault_place import STORE, STUDY, Place, expect, row

UNFINISHED = (
    "DELETE FROM trial_values WHERE trial_id = 2",
    "UPDATE trials SET state = '{state}', datetime_complete = NULL WHERE trial_id = 2",
)
HOLD = (
    "import sqlite3, sys, time\n"
    "c = sqlite3.connect('s.db', isolation_level=None)\n"
    "c.execute('PRAGMA journal_mode = ' + sys.argv[1]); c.execute('BEGIN EXCLUSIVE')\n"
    "open('held', 'w').close(); time.sleep(25)\n"
)


def unfinished(place: Place, state: str) -> None:
    """Make the study's second trial one that has not ended."""
    place.execute(*(statement.format(state=state) for statement in UNFINISHED))


@row("a worker that died under a clock a day ahead")
def clock_ahead(place: Place) -> str:
    unfinished(place, "RUNNING")
    place.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '+1 day')")
    status = place.right(f"spec-opt status study.toml {STORE}")
    expect("-86" not in status.out and "ahead" in status.out, status.out)
    seen = place.shell(f"spec-opt run study.toml {STORE}")
    expect(seen.code == 0 and seen.seconds < 59, f"{seen.code} after {seen.seconds:.0f} s")
    return "given up after 30 s, and measured again; `status`: its clock is 24.0 h ahead"


@row("a copy of a study, its original deleted")
def copied(place: Place) -> str:
    place.write(
        "clone.py",
        "import optuna\ns = 'sqlite:///s.db'\n"
        "optuna.copy_study(from_study_name='case', from_storage=s, to_storage=s, "
        "to_study_name='copy')\noptuna.delete_study(study_name='case', storage=s)\n",
    )
    place.right(f"{sys.executable} clone.py")
    place.write("study.toml", STUDY.replace('"case"', '"copy"'))
    status = place.right(f"spec-opt status study.toml {STORE}")
    expect(status.out.find("copy: 2 of 2") >= 0, status.out)
    place.right(f"spec-opt recommend study.toml {STORE}")
    return "its own trials"


@row("a setting that waits and is no longer asked for")
def withdrawn(place: Place) -> str:
    unfinished(place, "WAITING")
    place.write("study.toml", STUDY.replace("k = [1, 2]", "k = [1]"))
    place.right(f"spec-opt run study.toml {STORE}")
    status = place.right(f"spec-opt status study.toml {STORE}")
    expect("1 of 1" in status.out and "1 withdrawn" in status.out, status.out)
    return "withdrawn; 1 of 1 complete"


@row("a grid of 1,000,000,000 settings")
def huge(place: Place) -> str:
    numbers = list(range(1, 1001))
    text = STUDY.replace("sigma = [0.5]", f"sigma = {numbers}").replace(
        "bias = [1.0]", f"bias = {numbers}"
    )
    place.write("study.toml", text.replace("k = [1, 2]", f"k = {numbers}"))
    place.right(f"ulimit -v 8000000; spec-opt run study.toml {STORE}", 2)
    return place.notes[0]


@row("status and export while another program writes to the file, with both kinds of journal")
def locked(place: Place) -> str:
    place.write("hold.py", HOLD)
    for journal, code in (("WAL", 0), ("DELETE", 1)):
        hold = f"rm -f held; {sys.executable} hold.py {journal} & "
        wait = "until [ -e held ]; do sleep 0.1; done; "
        for command in ("status", "export"):
            seen = place.right(
                f"{hold}{wait}spec-opt {command} study.toml {STORE}; code=$?; kill %1; exit $code",
                code,
            )
            expect(seen.seconds < 15, f"took {seen.seconds:.0f} s")
    return f"answered at once; a rollback journal: {place.notes[0]}"


@row("a name that is taken, in a study that trains")
def taken(place: Place) -> str:
    place.write(
        "other.py",
        "import optuna\noptuna.create_study(study_name='taken', storage='sqlite:///s.db')\n",
    )
    place.right(f"{sys.executable} other.py")
    text = STUDY.replace('"case"', '"taken"').replace("context = 24", "context = 96")
    lines = text.splitlines()
    place.write("study.toml", "\n".join(li for li in lines if "checkpoint" not in li))
    for workers in ("", " --workers 2"):
        place.right(f"spec-opt run study.toml {STORE}{workers}", 2)
    expect("did not make" in place.notes[0], place.notes[0])
    expect(not [*place.folder.glob("cache/models/*.safetensors")], "a model was trained")
    return f"before training: {place.notes[0]}"


@row("a server that is not there, with --workers 2")
def no_server(place: Place) -> str:
    for url in ("postgresql://me@127.0.0.1:1/db", "postgresql://me@host.invalid/db"):
        seen = place.right(f"spec-opt run study.toml --storage {url} --workers 2", 1, 2)
        expect(seen.seconds < 20, f"took {seen.seconds:.0f} s")
    return "; ".join(note.splitlines()[0] for note in place.notes)
