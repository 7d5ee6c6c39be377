"""Faults tried on purpose, and what spec-opt makes of each.

    python -m benchmarks.faults [--tree FOLDER] [ROW ...]

prints a table, one line a fault: what was tried, what was seen, and whether that is right. A row is
a function in `ROWS`. It works in a folder of its own, in which a study of two settings has been
run on a tiny pair. Right means: the work is done, or one clear line with exit code 2 (for the user
to mend) or 1 (it passes); never a traceback, nothing takes longer than 30 s (on a machine that is
idle), nothing is harmed. To add a row, decorate a function with `row`, here or in a module beside.

`--tree` takes the commands from another checkout, to see what an older version did.
"""

import argparse
import gzip
import json
import os
import shlex
import shutil
import stat
import sys
import zipfile
from pathlib import Path

import benchmarks.faults_store  # noqa: F401 - adds its rows
from benchmarks.fault_place import (
    PAIR,
    ROOT,
    ROWS,
    STORE,
    STUDY,
    Place,
    expect,
    finished,
    row,
    table,
)

# --- files ----------------------------------------------------------------------------------------


@row("export -o to a device, as root")
def device(place: Place) -> str:
    node = place.folder / "null"
    os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    place.right(f"spec-opt export study.toml {STORE} -o null")
    expect(stat.S_ISCHR(node.stat().st_mode), "the device is a file now")
    return "written into; it is still the device"


@row("export -o to a link like /dev/stdout, into a pipe and into a file")
def stdout(place: Place) -> str:
    (place.folder / "stdout").symlink_to("/proc/self/fd/1")  # not the real one: we may be root
    piped = place.right(f"spec-opt export study.toml {STORE} -o stdout | cat")
    place.right(f"(echo first; spec-opt export study.toml {STORE} -o stdout) > out.csv")
    lines = (place.folder / "out.csv").read_text().splitlines()
    expect(piped.out.startswith("number,"), "nothing came out")
    expect(lines[0] == "first" and len(lines) > 2, f"the file holds {lines[:2]}")
    return "written to stdout, after what was there"


@row("export -o to links: to a file, and to nothing yet")
def links(place: Place) -> str:
    (place.folder / "there").mkdir()
    place.write("there/one.csv", "old")
    for name in ("one", "two"):
        (place.folder / f"{name}.csv").symlink_to(f"there/{name}.csv")
        place.right(f"spec-opt export study.toml {STORE} -o {name}.csv")
        expect((place.folder / f"{name}.csv").is_symlink(), "the link became a file")
        expect((place.folder / f"there/{name}.csv").read_text() != "old", "the file is as it was")
    return "the files they point to are written"


@row("export -o to a pipe with a reader, and without one")
def pipes(place: Place) -> str:
    os.mkfifo(place.folder / "pipe")
    read = place.right(f"cat pipe & spec-opt export study.toml {STORE} -o pipe; wait")
    expect(read.out.startswith("number,"), "nothing came through")
    place.right(f"spec-opt export study.toml {STORE} -o pipe", 2)
    expect(stat.S_ISFIFO((place.folder / "pipe").stat().st_mode), "the pipe is a file now")
    return "written; without a reader: " + place.notes[-1]


@row("export and report over files with mode 0600 and 0640")
def modes(place: Place) -> str:
    for name, mode in (("front.csv", 0o600), ("r/summary.md", 0o640)):
        place.write(name, "old").chmod(mode)
    place.right(f"spec-opt export study.toml {STORE} -o front.csv")
    place.right(f"spec-opt report study.toml {STORE} -o r")
    found = [oct((place.folder / n).stat().st_mode & 0o777) for n in ("front.csv", "r/summary.md")]
    expect(found == ["0o600", "0o640"], f"modes are {found}")
    return "modes stay"


@row("a kill in the middle of writing a report")
def killed_while_writing(place: Place) -> str:
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom spec_opt.config import files\n"
        "files.os.fchmod = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_file(Path('r/summary.md'), b'new')\n"
    )
    place.write("program.py", program)
    place.write("r/summary.md", "old")
    seen = place.shell(f"{sys.executable} program.py")
    expect("Traceback" not in seen.err, f"not tried: {seen.last_line}")
    left = sorted(p.name for p in (place.folder / "r").iterdir())
    expect(left == ["summary.md"], f"left behind: {left} {seen.last_line}")
    return "the old file, and nothing beside it"


@row("a .lock that is a link, in the cache of models and beside the store")
def lock_links(place: Place) -> str:
    victim = place.write("victim", "precious")
    place.write("cache/models/x", "")
    (place.folder / "new.db.lock").symlink_to(victim)
    place.write("study.toml", TRAINED)
    place.shell("spec-opt train study.toml")
    kept = [*(place.folder / "cache/models").glob("*.safetensors")]
    expect(kept, "no model was made")
    for model in kept:
        model.unlink()
        lock = model.with_suffix(".lock")
        lock.unlink(missing_ok=True)
        lock.symlink_to(victim)
    place.right("spec-opt train study.toml", 2)
    place.write("study.toml", STUDY)
    place.right("spec-opt run study.toml --storage sqlite:///new.db", 0, 2)
    expect(victim.read_text() == "precious", "the file that the link names is empty")
    return "its file stays; " + place.notes[0]


# --- times ----------------------------------------------------------------------------------------


def _started(place: Place, zone: str) -> list[str]:
    done = place.right(f"spec-opt export study.toml {STORE} --format json", TZ=zone)
    return [trial["started"] for trial in json.loads(done.out)["trials"]]


@row("worker in Tokyo, export in New York and in UTC")
def time_zones(place: Place) -> str:
    place.shell("rm s.db*; date -u +%FT%T")
    now = place.shell("date -u +%FT%T").out.strip()
    place.right(f"spec-opt run study.toml {STORE}", TZ="Asia/Tokyo")
    found = {zone: _started(place, zone) for zone in ("America/New_York", "UTC", "Asia/Tokyo")}
    expect(len({tuple(times) for times in found.values()}) == 1, f"{found}")
    expect(found["UTC"][0][:13] >= now[:13], f"{found['UTC']} where it was {now}")
    return "one time in all three: UTC"


# --- streams and logs -----------------------------------------------------------------------------


@row("--workers 2 with logs/ full, and with a file in its place")
def logs(place: Place) -> str:
    place.shell("rm s.db*; mkdir -p logs/case; ln -s /dev/full logs/case/worker-0.log")
    place.right(f"spec-opt run study.toml {STORE} --workers 2")
    place.shell("rm -r s.db* logs; echo > logs")
    place.right(f"spec-opt run study.toml {STORE} --workers 2")
    done = place.right(f"spec-opt status study.toml {STORE} --json")
    expect(json.loads(done.out)["states"]["complete"] == 2, done.out)
    return "the work is done; without a log, workers print to stderr"


@row("worker 2>&1 | head -1; run 2>&1 | head -1")
def head(place: Place) -> str:
    for command in ("worker", "run"):
        place.shell("rm s.db*")
        place.right(f"spec-opt {command} study.toml {STORE} 2>&1 | head -1")
        done = place.right(f"spec-opt status study.toml {STORE} --json")
        complete = json.loads(done.out)["states"]["complete"]
        expect(complete == 2, f"{command}: {complete} of 2 complete")
    return "the work is done"


@row("run >/dev/full, 2>/dev/full, and both closed")
def full_streams(place: Place) -> str:
    for streams, code in ((">/dev/full", 1), ("2>/dev/full", 0), (">&- 2>&-", 0)):
        place.shell("rm s.db*")
        place.right(f"spec-opt run study.toml {STORE} {streams}", code)
        done = place.right(f"spec-opt status study.toml {STORE} --json")
        expect(json.loads(done.out)["states"]["complete"] == 2, f"{streams}: not complete")
    return f"the work is done; {place.notes[0]}"


# --- the cache of models --------------------------------------------------------------------------

TRAINED = STUDY.replace(f'checkpoint = "{PAIR / "tiny_draft.pth"}"', 'kind = "linear"')
TINY = """
patch = 24
d_model = 16
heads = 2
feedforward = 16
layers = 1
[target.training]
epochs = 1
max_windows = 32
"""


@row("two models of the cache swapped: targets of two studies, target and draft")
def swapped(place: Place) -> str:
    made = TRAINED.replace(f'checkpoint = "{PAIR / "tiny_target.pth"}"', TINY)
    place.write("one.toml", made)
    place.write("two.toml", made.replace("d_model = 16", "d_model = 32"))

    def prints(name: str) -> list[str]:
        done = place.right(f"spec-opt train {name}.toml --json")
        document = json.loads(done.out)
        return [document["target"]["path"], document["target"]["fingerprint"]]

    (one, of_one), (two, of_two) = prints("one"), prints("two")
    for first, second in ((one, two), (one, str(_draft_of(place, one, two)))):
        shutil.copy(first, place.folder / "spare")
        shutil.copy(second, first)
        shutil.copy(place.folder / "spare", second)
        expect(prints("one")[1] == of_one, "one study uses the other's model")
        expect(prints("two")[1] == of_two, "the other study uses the first one's model")
    return "noticed, with a warning; made again"


def _draft_of(place: Place, *targets: str) -> Path:
    models = (place.folder / "cache/models").glob("*.safetensors")
    return next(path for path in models if str(path) not in targets)


# --- passwords ------------------------------------------------------------------------------------

SECRET = "walrus7heron"
LEAKING = {
    "an @ that is not encoded": f"postgresql://me:{SECRET}@{SECRET}@127.0.0.1:1/db",
    "a / that is not encoded": f"postgresql://me:{SECRET}/{SECRET}@127.0.0.1:1/db",
    "?PASSWORD=": f"postgresql://me@127.0.0.1:1/db?PASSWORD={SECRET}",
    "?options=password%3D": f"postgresql://me@127.0.0.1:1/db?options=password%3D{SECRET}",
    "?sslpassword=": f"postgresql://me@127.0.0.1:1/db?sslpassword={SECRET}&sslcert=/x",
    "another driver": f"mysql://me@corp:{SECRET}@127.0.0.1:1/db",
    "a port that is none": f"postgresql://me:{SECRET}@127.0.0.1:x/db",
}


@row("passwords in storage URLs, however written")
def passwords(place: Place) -> str:
    for what, url in LEAKING.items():
        seen = place.right(f"spec-opt -v status study.toml --storage {shlex.quote(url)}", 1, 2)
        expect(SECRET not in seen.out + seen.err, f"{what}: {seen.last_line}")
    return f"masked in all {len(LEAKING)} spellings"


@row("a storage URL given to the wrong option")
def wrong_option(place: Place) -> str:
    url = shlex.quote(f"postgresql://me:{SECRET}@127.0.0.1:1/db")
    for command in (
        f"status {url}",
        f"export study.toml {STORE} -o {url}",
        f"run study.toml {STORE} --workers {url}",
        f"report study.toml {STORE} -o {url}",
        f"import study.toml {url}",
    ):
        seen = place.right(f"spec-opt {command}", 2)
        expect(SECRET not in seen.out + seen.err, f"{command.split()[0]}: {seen.last_line}")
    names = [str(path) for path in place.folder.rglob("*")]
    expect(not any(SECRET in name for name in names), "it is the name of a folder now")
    return "masked, and no file is named so"


@row("a password of one letter")
def short_password(place: Place) -> str:
    seen = place.right("spec-opt status study.toml --storage postgresql://me:e@127.0.0.1:1/db", 1)
    expect("me:***@127.0.0.1" in seen.err and "refused" in seen.err, seen.last_line)
    return place.notes[0]


# --- things that cannot be read -------------------------------------------------------------------


@row("store paths: not searchable, too long, of nobody's home, a pipe")
def store_paths(place: Place) -> str:
    os.mkfifo(place.folder / "pipe")
    closed = place.folder / "closed"
    closed.mkdir(mode=0o000)
    without = "setpriv --bounding-set -dac_override,-dac_read_search --inh-caps -all "
    as_other = without if os.geteuid() == 0 else ""
    program = f"{shlex.quote(sys.executable)} -m spec_opt"
    os.chown(closed, 12345, 12345) if os.geteuid() == 0 else None
    for command in ("status", "run"):
        place.right(f"{as_other}{program} {command} study.toml --storage sqlite:///closed/s.db", 2)
        for name in ("x" * 300 + ".db", "y" * 300 + "/s.db", "~nouser_here/s.db", "pipe"):
            place.right(f"spec-opt {command} study.toml --storage sqlite:///{name}", 2)
    closed.chmod(0o700)
    return f"one line each; the first: {place.notes[0]}"


@row("study files: an integer of 5,000 digits, a key of 3,000 parts, a byte-order mark")
def study_files(place: Place) -> str:
    for line in (f"x = {'9' * 5000}", f"x = 0x{'f' * 5000}", f"{'.'.join(['a'] * 3000)} = 1"):
        place.write("odd.toml", f"{line}\n{STUDY}")
        place.right("spec-opt train odd.toml", 2)
    place.write("odd.toml", b"\xef\xbb\xbf" + STUDY.encode())
    place.right("spec-opt train odd.toml")
    return f"one line each, the last is read; the first: {place.notes[0]}"


DAMAGE = {
    "JSON that is none": "UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'worker'",
    "JSON of a system attribute": "UPDATE trial_system_attributes SET value_json = ''",
    "JSON of the study": "UPDATE study_user_attributes SET value_json = '[' WHERE key = 'baseline'",
    "an unknown state": "UPDATE trials SET state = 'ASLEEP' WHERE number = 1",
    "no value": "DELETE FROM trial_values",
    "one value of two": "DELETE FROM trial_values WHERE objective = 0",
    "a value that is no number": "UPDATE trial_values SET value = 'much'",
    "a time that is none": "UPDATE trials SET datetime_start = 'yesterday'",
    "a distribution that is none": "UPDATE trial_params SET distribution_json = '{}'",
}


@row("stored rows: JSON, states, values, times that are none")
def stored_rows(place: Place) -> str:
    shutil.copy(place.folder / "s.db", place.folder / "whole.db")
    for what, statement in DAMAGE.items():
        shutil.copy(place.folder / "whole.db", place.folder / "s.db")
        place.execute(statement)
        for command in ("status", "recommend", "export"):
            seen = place.shell(f"spec-opt {command} study.toml {STORE}")
            problem = seen.wrong(0, 2)
            expect(problem is None, f"{what}, {command}: {problem}")
            if seen.code:
                place.notes.append(seen.last_line.removeprefix("spec-opt: error: "))
    return f"left out or one line; the first: {place.notes[0]}"


# --- the dashboard --------------------------------------------------------------------------------


@row("the dashboard in a frame of another page")
def frames(place: Place) -> str:
    seen = place.shell(
        f"timeout 60 {shlex.quote(sys.executable)} -m spec_opt dashboard {STORE} --port 18099 & "
        "for i in $(seq 100); do sleep 0.3; curl -sI http://127.0.0.1:18099/dashboard/ && break; "
        "done; curl -sI http://127.0.0.1:18099/api/studies; kill %1; wait"
    )
    answers = seen.out.lower()
    expect("http/1." in answers, f"no answer: {seen.last_line}")
    expect("frame-ancestors 'self'" in answers, "no frame-ancestors: a frame may show it")
    expect("x-frame-options" in answers, "no X-Frame-Options")
    return "refused by the browser: frame-ancestors 'self'"


# --- odd files ------------------------------------------------------------------------------------


@row("sqlite:///q?mark.db")
def question_mark(place: Place) -> str:
    place.right("spec-opt run study.toml --storage 'sqlite:///q?mark.db'", 0, 2)
    expect(not (place.folder / "q").exists(), "file q is used")
    expect((place.folder / "q?mark.db").exists(), "the file is not made")
    return "that file is used"


@row("a pipe as checkpoint, as old table")
def pipe_to_read(place: Place) -> str:
    os.mkfifo(place.folder / "pipe")
    place.write("study.toml", STUDY.replace(str(PAIR / "tiny_draft.pth"), "pipe"))
    place.right("spec-opt train study.toml", 2)
    place.write("study.toml", STUDY)
    place.right("spec-opt import study.toml pipe", 2)
    return place.notes[0]


@row("a CSV of 100,000 columns: as series, as old table")
def wide(place: Place) -> str:
    names = ",".join(f"c{i}" for i in range(100_000))
    cells = ",".join(["1.5"] * 100_000)
    place.write("plant.csv", f"{names}\n" + f"{cells}\n" * 60)
    first = place.right("spec-opt train study.toml", 2)
    second = place.right("spec-opt import study.toml plant.csv", 2)
    return f"{max(first.seconds, second.seconds):.0f} s; {place.notes[0]}"


@row("a study file with a value, and with a key, of 20 MB")
def endless(place: Place) -> str:
    long = "a" * 20_000_000
    for content in (STUDY.replace('"case"', f'"{long}"'), f"{long} = 1\n{STUDY}"):
        place.write("study.toml", content)
        seen = place.right("spec-opt train study.toml", 2)
        expect(len(seen.err) < 2000, f"{len(seen.err):,} characters are printed")
    return place.notes[0]


@row("terminal escapes and a leading = in what is exported or shown")
def escapes(place: Place) -> str:
    text = json.dumps("=HYPERLINK(1)\x1b]0;owned\x07").replace("'", "''")
    place.execute(f"UPDATE trial_user_attributes SET value_json = '{text}' WHERE key = 'worker'")
    done = place.right(f"spec-opt export study.toml {STORE}")
    expect("\x1b" not in done.out, "the escape is exported as it is")
    expect(",=HYPER" not in done.out, "the formula is exported as it is")
    place.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 1")
    done = place.right(f"spec-opt status study.toml {STORE}")
    expect("\x1b" not in done.out, "the escape is printed as it is")
    return "escaped, and quoted with '"


@row("bombs: a checkpoint, a gzipped CSV of 3 MB that unpack to 3 GB")
def bombs(place: Place) -> str:
    with (
        zipfile.ZipFile(place.folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w", force_zip64=True) as file,
    ):
        for _ in range(3000):
            file.write(bytes(1 << 20))
    place.write("study.toml", STUDY.replace(str(PAIR / "tiny_draft.pth"), "bomb.pth"))
    limit = "ulimit -v 12000000; "
    place.right(f"{limit}spec-opt train study.toml", 2)
    with gzip.open(place.folder / "plant.csv.gz", "wt", compresslevel=6) as text:
        text.write("date,load\n")
        for _ in range(3000):
            text.write("1,2\n" * (1 << 18))
    place.write("study.toml", STUDY.replace("plant.csv", "plant.csv.gz"))
    place.right(f"{limit}spec-opt train study.toml", 2)
    return place.notes[0]


@row("checksums of ETTh2, ETTm1 and ETTm2")
def checksums(place: Place) -> str:
    seen = place.right(
        f"{sys.executable} -c 'from spec_opt.data.series import KNOWN; "
        "print(all(known.sha256 for known in KNOWN.values()))'"
    )
    expect(seen.out.strip() == "True", "there is none")
    return "there; a download with another one is refused"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", help="parts of titles; all if none is given")
    parser.add_argument("--tree", type=Path, default=ROOT)
    given = parser.parse_args()
    chosen = [t for t in ROWS if not given.rows or any(part in t for part in given.rows)]
    try:
        sys.exit(0 if table(chosen, given.tree.resolve()) else 1)
    finally:
        if finished.cache_info().currsize:
            shutil.rmtree(finished(given.tree.resolve()))
