"""Machines as they are: other users' files, folders without write access, closed and full streams.

Each case is a script of its own process. `before` of a script is done by its first lines.
"""

from tests.bad_input.case import PAIR, Case, Content
from tests.bad_input.stores import FILES, whole

GIVE_AWAY = "chown -R 12345:12345 .; chmod 755 ."
STORE = "--storage sqlite:///in/s.db"
LOOK = {**FILES, "in/s.db": whole}


def script(id: str, files: dict[str, Content], lines: str, *words: str, exit_code: int = 0) -> Case:
    return Case(f"machine: {id}", files, words, exit_code, lines, is_script=True)


READ_ONLY = [
    script(
        f"a store to be read, {command.partition(' ')[0]}",
        LOOK,
        f"{GIVE_AWAY}; chmod 755 in; chmod 644 in/s.db; other spec-opt {command} {STORE}",
        *words,
    )
    for command, *words in (
        ("status study.toml", "2 of 2 trials complete"),
        ("recommend study.toml", "speculat"),
        ("export study.toml --all", "number,state"),
    )
]

CASES = [
    *READ_ONLY,
    script(
        "a report of a store to be read",
        LOOK,
        f"{GIVE_AWAY}; mkdir -m 777 out; other spec-opt report study.toml -o out/r {STORE}",
        "out/r/report.html",
    ),
    script(
        "a report that finds no place",
        LOOK,
        f"{GIVE_AWAY}; other spec-opt report study.toml {STORE}",
        "reports/case",
        "Permission denied; choose another folder with -o",
        exit_code=2,
    ),
    script(
        "a run in a store to be read",
        LOOK,
        f"{GIVE_AWAY}; chmod 755 in; other spec-opt run study.toml {STORE}",
        "can only be read",
        "for a run give another --storage",
        exit_code=2,
    ),
    script(
        "a run in a store to be read whose folder is everybody's",
        LOOK,
        f"{GIVE_AWAY}; chmod 777 in; chmod 644 in/s.db; other spec-opt run study.toml {STORE}",
        "can only be read",
        exit_code=2,
    ),
    script(
        "a run in a folder to be read",
        FILES,
        f"{GIVE_AWAY}; other spec-opt run study.toml",
        "this folder cannot be written; give another --storage",
        exit_code=2,
    ),
    script(
        "a run in a folder to be read, with its store elsewhere",
        FILES,
        f"{GIVE_AWAY}; mkdir -m 777 in; other spec-opt run study.toml {STORE}",
        "Pareto front of case",
        "no report: reports/case",
        "`spec-opt report study.toml -o DIR` writes it elsewhere",
    ),
    script(
        "a store of one's own user only",
        LOOK,
        f"{GIVE_AWAY}; chmod 600 in/s.db; other spec-opt status study.toml {STORE}",
        "permission denied",
        exit_code=2,
    ),
    script(
        "a folder of one's own user only",
        LOOK,
        f"{GIVE_AWAY}; chmod 700 in; other spec-opt status study.toml {STORE}",
        "ermission denied",
        exit_code=2,
    ),
    script(
        "a study file of one's own user only",
        FILES,
        f"{GIVE_AWAY}; chmod 600 study.toml; other spec-opt train study.toml",
        "study.toml",
        "Permission denied",
        exit_code=2,
    ),
    script(
        "a series of one's own user only",
        FILES,
        f"{GIVE_AWAY}; chmod 600 plant.csv; other spec-opt train study.toml",
        "plant.csv",
        "Permission denied",
        exit_code=2,
    ),
    script(
        "a checkpoint of one's own user only",
        {
            "study.toml": str(FILES["study.toml"]).replace(str(PAIR / "tiny_draft.pth"), "d.pth"),
            "plant.csv": FILES["plant.csv"],
            "d.pth": (PAIR / "tiny_draft.pth").read_bytes(),
        },
        f"{GIVE_AWAY}; chmod 600 d.pth; other spec-opt train study.toml",
        "d.pth: cannot be read: Permission denied",
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
    script(
        "an export into a full disk",
        LOOK,
        f"spec-opt export study.toml {STORE} -o /dev/full",
        "/dev/full: cannot be written: No space left on device",
        exit_code=2,
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
