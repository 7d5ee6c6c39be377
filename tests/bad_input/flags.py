"""Command lines and environment variables as people give them."""

from tests.bad_input.case import Case, study
from tests.bad_input.series import TEXT

TRAINED = """
name = "case"
[data]
source = "plant.csv"
context = 96
horizon = 24
[target]
patch = 24
d_model = 16
heads = 2
layers = 1
"""
"""A study that trains its models."""
FILES = {"study.toml": study(), "plant.csv": TEXT}


def bad(command: str, *words: str, **environment: str) -> Case:
    given = " ".join(f"{name}={value}" for name, value in environment.items())
    id = f"flags: {given} {command}" if given else f"flags: {command}"
    return Case(id, FILES, words, command=command, environment=environment)


CASES = [
    bad("frobnicate", "No such command 'frobnicate'"),
    bad("runn study.toml", "runn"),
    bad("run study.toml --wrokers 2", "--wrokers", "--workers"),
    bad("run study.toml --workers 0", "--workers", "x>=1"),
    bad("run study.toml --workers two", "--workers", "two"),
    bad("run study.toml --workers 2 --gpus 0", "--gpus", "--workers"),
    bad("run study.toml --gpus 99", "99"),
    bad("run study.toml --gpus zero", "--gpus", "zero"),
    bad("run study.toml --gpus 0,0", "0"),
    bad("run study.toml --ray a:b:c", "--ray"),
    bad("run study.toml --storage", "--storage"),
    bad("run study.toml other.toml", "other.toml"),
    bad("worker", "STUDY"),
    bad("train", "STUDY"),
    bad("status study.toml", "there is none yet", "spec-opt run", "SPEC_OPT_STORAGE names another"),
    bad("status nothing", "no such study file", "store sqlite:///storage/spec_opt.db (in /"),
    bad("recommend study.toml --scenario fast", "fast", "speed"),
    bad("recommend study.toml --format yaml", "yaml", "toml"),
    bad("recommend study.toml", "there is none yet"),
    bad("export study.toml --format xlsx", "xlsx", "parquet"),
    bad("export study.toml", "there is none yet"),
    bad("report study.toml", "there is none yet"),
    bad("confirm study.toml --split trian", "trian", "validation"),
    bad("confirm study.toml --trial -1", "--trial"),
    bad("confirm study.toml", "there is none yet"),
    bad("bench study.toml --batch-size 0", "--batch-size"),
    bad("bench study.toml --sigma 0.5", "--bias"),
    bad("bench study.toml --sigma 0 --bias 1 --k 1", "sigma"),
    bad("bench study.toml --trial 0 --sigma 0.5 --bias 1 --k 1", "--trial"),
    bad("bench study.toml", "there is none yet"),
    bad("compare study.toml study.toml", "there is none yet"),
    bad("compare", "STUDY"),
    bad("copy study.toml", "--to", "SPEC_OPT_COPY_TO"),
    bad("copy study.toml --to sqlite:///other.db", "there is none yet"),
    bad("forecast study.toml --horizon 0", "--horizon"),
    bad("forecast study.toml --horizon ten", "--horizon", "ten"),
    bad("forecast study.toml --trial 1 --scenario speed", "--trial", "--scenario"),
    bad("forecast study.toml --scenario fast", "fast", "balanced"),
    bad("forecast study.toml", "there is none yet"),
    bad("dashboard study.toml --port 70000", "--port"),
    bad("dashboard study.toml", "there is none yet"),
    bad("--storage sqlite:///x.db run study.toml", "--storage"),
    bad("status study.toml", "oracle", SPEC_OPT_STORAGE="oracle://x"),
    bad("status study.toml", "write sqlite:///studies.db", SPEC_OPT_STORAGE="studies.db"),
    bad(
        "status study.toml",
        "driver x is not supported",
        SPEC_OPT_STORAGE="postgresql+x://user:pw@h/d",
    ),
    Case(
        "flags: no such folder in SPEC_OPT_DATA",
        {"study.toml": study()},
        ("plant.csv", "no such file", "SPEC_OPT_DATA (/nowhere)"),
        environment={"SPEC_OPT_DATA": "/nowhere"},
    ),
    Case(
        "flags: a file as SPEC_OPT_CACHE",
        {"study.toml": TRAINED, "plant.csv": TEXT, "cache": ""},
        ("trained models cannot be kept here", "set SPEC_OPT_CACHE"),
        environment={"SPEC_OPT_CACHE": "cache"},
    ),
    Case(
        "flags: SPEC_OPT_CACHE below /proc",
        {"study.toml": TRAINED, "plant.csv": TEXT},
        ("/proc/nothing/models", "set SPEC_OPT_CACHE"),
        environment={"SPEC_OPT_CACHE": "/proc/nothing"},
    ),
    Case(
        "flags: another user's home in SPEC_OPT_CACHE",
        {"study.toml": TRAINED, "plant.csv": TEXT},
        ("SPEC_OPT_CACHE = '~nobody_here/cache'", "home"),
        environment={"SPEC_OPT_CACHE": "~nobody_here/cache"},
    ),
    Case(
        "flags: threads that are no number",
        FILES,
        ("target: Timer-XL",),
        exit_code=0,
        environment={"OMP_NUM_THREADS": "many"},
    ),
]
