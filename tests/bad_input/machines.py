"""Machines as they are: other users' files, folders without write access, closed and full streams.

Each case is a process of its own.
"""

from tests.bad_input.case import PAIR, Case, Content
from tests.bad_input.stores import FILES, whole

STORE = "--storage sqlite:///in/s.db"
LOOK = {**FILES, "in/s.db": whole}


def script(id: str, files: dict[str, Content], lines: str, *words: str, exit_code: int = 0) -> Case:
    return Case(f"machine: {id}", files, words, exit_code, lines, is_script=True)


def other(
    id: str,
    files: dict[str, Content],
    command: str,
    *words: str,
    before: str = "true",
    exit_code: int = 0,
) -> Case:
    """What is answered in another user's folder, after `before`."""
    before = f"chown -R 12345:12345 .; chmod 755 .; {before}"
    return Case(f"machine: {id}", files, words, exit_code, command, before=before)


READ_ONLY = [
    other(
        f"a store to be read, {command.partition(' ')[0]}",
        LOOK,
        f"{command} {STORE}",
        *words,
        before="chmod 755 in; chmod 644 in/s.db",
    )
    for command, *words in (
        ("status study.toml", "2 of 2 trials complete"),
        ("recommend study.toml", "speculat"),
        ("export study.toml --all", "number,state"),
    )
]

CASES = [
    *READ_ONLY,
    other(
        "a report of a store to be read",
        LOOK,
        f"report study.toml -o out/r {STORE}",
        "out/r/report.html",
        before="mkdir -m 777 out",
    ),
    other(
        "a report that finds no place",
        LOOK,
        f"report study.toml {STORE}",
        "reports/case",
        "Permission denied; choose another folder with -o",
        exit_code=2,
    ),
    other(
        "a run in a store to be read",
        LOOK,
        f"run study.toml {STORE}",
        "can only be read",
        "for a run give another --storage",
        before="chmod 755 in",
        exit_code=2,
    ),
    other(
        "a run in a store to be read whose folder is everybody's",
        LOOK,
        f"run study.toml {STORE}",
        "can only be read",
        before="chmod 777 in; chmod 644 in/s.db",
        exit_code=2,
    ),
    other(
        "a run in a folder to be read",
        FILES,
        "run study.toml",
        "this folder cannot be written; give another --storage",
        exit_code=2,
    ),
    other(
        "a run in a folder to be read, with its store elsewhere",
        FILES,
        f"run study.toml {STORE}",
        "Pareto front of case",
        "no report: reports/case",
        "`spec-opt report study.toml -o DIR` writes it elsewhere",
        before="mkdir -m 777 in",
    ),
    other(
        "a store of one's own user only",
        LOOK,
        f"status study.toml {STORE}",
        "permission denied",
        before="chmod 600 in/s.db",
        exit_code=2,
    ),
    other(
        "a folder of one's own user only",
        LOOK,
        f"status study.toml {STORE}",
        "ermission denied",
        before="chmod 700 in",
        exit_code=2,
    ),
    other(
        "a study file of one's own user only",
        FILES,
        "train study.toml",
        "study.toml",
        "Permission denied",
        before="chmod 600 study.toml",
        exit_code=2,
    ),
    other(
        "a series of one's own user only",
        FILES,
        "train study.toml",
        "plant.csv",
        "Permission denied",
        before="chmod 600 plant.csv",
        exit_code=2,
    ),
    other(
        "a checkpoint of one's own user only",
        {
            "study.toml": str(FILES["study.toml"]).replace(str(PAIR / "tiny_draft.pth"), "d.pth"),
            "plant.csv": FILES["plant.csv"],
            "d.pth": (PAIR / "tiny_draft.pth").read_bytes(),
        },
        "train study.toml",
        "d.pth: cannot be read: Permission denied",
        before="chmod 600 d.pth",
        exit_code=2,
    ),
    script(
        "help into a full disk", {}, "spec-opt --help >/dev/full", "stdout: No space", exit_code=1
    ),
    script(
        "status into a full disk",
        LOOK,
        f"spec-opt status study.toml {STORE} >/dev/full",
        "stdout: No space left on device",
        exit_code=1,
    ),
    Case(
        "machine: an export into a full disk",
        LOOK,
        ("/dev/full: cannot be written: No space left on device",),
        command=f"export study.toml {STORE} -o /dev/full",
    ),
    script("status without stdout", LOOK, f"spec-opt status study.toml {STORE} >&-"),
    script("status without stderr", LOOK, f"spec-opt status study.toml {STORE} 2>&-", "2 of 2"),
    script("an export to head", LOOK, f"spec-opt export study.toml {STORE} | head -1", "number"),
    script(
        "names in Latin-1",
        LOOK,
        "mkdir $'caf\\xe9'; cp -r study.toml plant.csv in $'caf\\xe9'; cd $'caf\\xe9'; "
        f"spec-opt status ../$'caf\\xe9'/study.toml {STORE} --json",
        '"complete": 2',
    ),
    script(
        "a missing file in Latin-1",
        {},
        "spec-opt train $'caf\\xe9.toml'",
        ".toml: no such study file",
        exit_code=2,
    ),
]
