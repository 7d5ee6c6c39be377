"""Random study files, series, checkpoints and command lines.

Whatever comes in: exit code 0 or 2, one line about what is wrong, never a traceback, nothing half
written, and never much memory. 25 examples of each kind in a usual run, 500 with `-m nightly`.
"""

import json
import resource
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spec_opt.cli import main
from tests.bad_input.case import PAIR, study
from tests.bad_input.series import TEXT
from tests.data.test_reader_fuzz import CONTENT

LARGEST_BYTES = 2 * 2**30
FEW, MANY = 25, 500
"""Examples of each of the four kinds."""

Capture = pytest.CaptureFixture[str]


def check(files: Mapping[str, str | bytes], command: list[str], capfd: Capture) -> None:
    """Run a command line in a folder with these files."""
    folder, before = Path(tempfile.mkdtemp()), peak_bytes()
    try:
        for name, content in files.items():
            given = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
            (folder / name).write_bytes(given)
        with chdir(folder):
            code = main(command)
            after = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    finally:
        shutil.rmtree(folder)
    out, err = capfd.readouterr()
    assert code in (0, 2), out + err
    assert "Traceback" not in out + err
    assert after == files.keys()
    if code == 2:
        errors = [line for line in err.splitlines() if line.startswith("spec-opt: error: ")]
        usage = command == [] or err.startswith("Usage: ")
        assert usage or len(errors) == 1, err
    assert peak_bytes() - before < LARGEST_BYTES


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- study files ----------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.integers(0, 200).map(str),
    st.floats().map(lambda number: repr(number)),
    st.sampled_from(["true", "false", "2024-01-01", "'x'", "[]", "{}", "{low = 1, high = 2}"]),
    st.sampled_from(["plant.csv", "synthetic", "ETTh9", "../x", "cuda", "grid"]).map(json.dumps),
    st.text(max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False)),
)
KEY_WORDS = """
name source context horizon split max_windows window_stride channels time gaps splits sigma bias k
sampler seed n_trials objectives checkpoint activation rule device precision batch_size min_k
"""
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=4).map(lambda values: f"[{', '.join(values)}]"),
)
KEYS = st.one_of(
    st.sampled_from(KEY_WORDS.split()),
    st.from_regex(r"\A[a-z_]{1,8}\Z"),
)
TABLES = st.sampled_from(
    ["search", "data", "target", "draft", "decoding", "recommend", "data.synthetic", "data.x"]
).map(lambda name: f"[{name}]")


@st.composite
def study_files(draw: st.DrawFn) -> str:
    """A study file with a few lines replaced, dropped or added; none of them trains."""
    lines = study('source = "plant.csv"\nmax_windows = 4').splitlines()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        line = f"{draw(KEYS)} = {draw(VALUES)}"
        change = draw(st.sampled_from(["replace", "insert", "drop", "table", "text"]))
        if change == "insert":
            lines.insert(place, line)
        elif change == "table":
            lines += [draw(TABLES), line]
        elif "checkpoint" not in lines[place] and not lines[place].startswith("["):
            new = {"replace": [line], "drop": [], "text": [draw(st.text(max_size=30))]}[change]
            lines[place : place + 1] = new
    return "\n".join(lines)


def check_study_file(content: str, capfd: Capture) -> None:
    check({"study.toml": content, "plant.csv": TEXT}, ["train", "study.toml"], capfd)


# --- series ---------------------------------------------------------------------------------------


def check_series(content: bytes, capfd: Capture) -> None:
    check({"study.toml": study(), "plant.csv": content}, ["train", "study.toml"], capfd)


# --- headers of safetensors -----------------------------------------------------------------------

WHOLE = (PAIR / "tiny_draft.safetensors").read_bytes()
LENGTH = struct.unpack("<Q", WHOLE[:8])[0]
HEADER: dict[str, Any] = json.loads(WHOLE[8 : 8 + LENGTH])
NUMBERS = st.one_of(st.integers(-2, 200), st.integers(0, 2**64), st.floats(allow_nan=False))
OTHER: st.SearchStrategy[Any] = st.one_of(
    NUMBERS, st.none(), st.text(max_size=5), st.lists(NUMBERS, max_size=4), st.builds(dict)
)


@st.composite
def safetensors_files(draw: st.DrawFn) -> bytes:
    """A file whose header has other names, types, shapes, offsets or lengths."""
    header = json.loads(json.dumps(HEADER))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(header)))
        change = draw(st.sampled_from(["field", "value", "name", "drop", "metadata"]))
        if change == "field" and isinstance(header[name], dict):
            header[name][draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = draw(OTHER)
        elif change == "value":
            header[name] = draw(OTHER)
        elif change == "name":
            header[draw(st.text(max_size=60))] = header.pop(name)
        elif change == "drop" and len(header) > 1:
            del header[name]
        else:
            header["__metadata__"] = {"spec_opt_format": "1", "config": draw(st.text(max_size=30))}
    text = json.dumps(header).encode()
    length = draw(st.one_of(st.just(len(text)), st.integers(0, 2**64 - 1)))
    return struct.pack("<Q", length) + text + WHOLE[8 + LENGTH :]


def check_safetensors(content: bytes, capfd: Capture) -> None:
    text = study().replace(str(PAIR / "tiny_draft.pth"), "draft.safetensors")
    files: dict[str, str | bytes] = {"study.toml": text, "plant.csv": TEXT}
    check(files | {"draft.safetensors": content}, ["train", "study.toml"], capfd)


# --- command lines --------------------------------------------------------------------------------

COMMANDS = ["train", "status", "export", "report", "recommend", "confirm", "bench", "run"]
COMMANDS += ["dashboard", "import", "worker"]
LINE_WORDS = """
study.toml plant.csv nothing.toml --json --all --format csv parquet json -o x/y --storage
sqlite:///s.db sqlite:// postgresql://a:b@[/c --scenario speed --trial 0 -1 --split test --sigma 0.5
--bias 1 --k --batch-size --repeats --png --host --port --watch -v --help --workers --gpus --ray all
"""
WORDS = st.one_of(
    st.sampled_from(LINE_WORDS.split()),
    st.text(max_size=8).filter(lambda text: "\0" not in text),
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Words that belong on a command line; none would start work or a server."""
    command = draw(st.sampled_from([*COMMANDS, "", "-v", "--version", "frobnicate"]))
    words = draw(st.lists(WORDS, max_size=5))
    if command in ("run", "worker", "dashboard", "", "-v"):
        words = [word for word in words if word != "study.toml" and word not in COMMANDS]
        words = ["nothing.toml", *words]
    return [command, *words] if command else words


def check_command_line(words: list[str], capfd: Capture) -> None:
    check({"study.toml": study(), "plant.csv": TEXT}, words, capfd)


# --- few examples, and many -----------------------------------------------------------------------

KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any, Capture], None]]] = {
    "study files": (study_files(), check_study_file),
    "series": (CONTENT, check_series),
    "safetensors": (safetensors_files(), check_safetensors),
    "command lines": (command_lines(), check_command_line),
}


def run_examples(kind: str, count: int, capfd: Capture) -> None:
    strategy, check_one = KINDS[kind]

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=count == FEW,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(strategy)
    def examine(example: Any) -> None:
        check_one(example, capfd)

    examine()


@pytest.mark.parametrize("kind", KINDS)
def test_few(kind: str, capfd: Capture) -> None:
    run_examples(kind, FEW, capfd)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_many(kind: str, capfd: Capture) -> None:
    run_examples(kind, MANY, capfd)
