"""Study files as people write them: typos, wrong types, other formats and encodings."""

from tests.bad_input.case import Case, Content, study
from tests.bad_input.series import TEXT

TOML = study()


def bad(id: str, content: Content, *words: str, name: str = "study.toml") -> Case:
    files = {name: content, "plant.csv": TEXT}
    return Case(f"study file: {id}", files, words, command=f"train {name}")


def more(table: str, line: str) -> str:
    """The study file with a line in a table; keys of `[data]` may be replaced."""
    key = line.partition("=")[0].strip()
    kept = "\n".join(row for row in TOML.splitlines() if row.partition("=")[0].strip() != key)
    header = f"[{table}]"
    if header in kept:
        return kept.replace(header, f"{header}\n{line}", 1)
    return f"{kept}\n{header}\n{line}\n"


def of(table: str, line: str, *words: str) -> Case:
    return bad(f"{table}: {line[:40]}", more(table, line), *words)


FILES = [
    Case("study file: missing", {}, ("study.toml: no such study file", "quickstart")),
    Case("study file: a folder", {"study.toml/x": ""}, ("study.toml",)),
    Case("study file: unknown name", {}, ("etth1_gird", "etth1_grid"), command="train etth1_gird"),
    bad("empty", "", "name: missing"),
    bad(
        "not TOML", "name: case\ndata:\n  source: plant.csv\n", "not a readable TOML file", "line 1"
    ),
    bad("JSON", '{"name": "case"}', "not a readable TOML file"),
    bad("a CSV", TEXT, "not a readable TOML file"),
    bad("UTF-16", TOML.encode("utf-16"), "no text in UTF-8"),
    bad("Latin-1", f"{TOML}\n# caf\xe9".encode("latin-1"), "no text in UTF-8"),
    bad("a key twice", TOML.replace("context = 24", "context = 24\ncontext = 24"), "TOML"),
    bad("a table twice", TOML + "\n[data]\nhorizon = 24\n", "TOML"),
    bad("half a file", TOML[: len(TOML) // 3], "study.toml"),
    bad("deeply nested", "x = " + "[" * 5000, "study.toml"),
    bad("NUL bytes", TOML.encode() + b"\x00", "not a readable TOML file"),
    bad("a typo of a table", TOML.replace("[target]", "[traget]"), "traget", "target"),
    bad("no name", TOML.replace('name = "case"', ""), "name"),
    bad("a name with a slash", TOML.replace('"case"', '"a/b"'), "name"),
    bad("a name that is a number", TOML.replace('"case"', "3"), "name = 3"),
    bad("a checkpoint's folder", more("target", 'checkpoint = "."'), "target.checkpoint"),
    bad(
        "another user's home",
        more("target", 'checkpoint = "~nobody_here/x.pth"'),
        "target.checkpoint",
    ),
    bad("an integer of 5,000 digits", f"x = {'9' * 5000}\n{TOML}", "thousands of digits"),
    bad("a hexadecimal one", f"x = 0x{'f' * 5000}\n{TOML}", "thousands of digits"),
    bad("a key of 3,000 parts", f"{'.'.join(['a'] * 3000)} = 1\n{TOML}", "too deeply nested"),
    bad("a table of 3,000 parts", f"{TOML}\n[{'.'.join(['a'] * 3000)}]\n", "study.toml"),
    bad("a value of 2 MB", TOML.replace('"case"', f'"{"a" * 2_000_000}"'), "name = 'aaa"),
    bad("a key of 2 MB", f"{'a' * 2_000_000} = 1\n{TOML}", "unknown key"),
    bad("a table twice, of 2 MB", f"[{'a' * 2_000_000}]\n" * 2 + TOML, "not a readable TOML file"),
    bad("9 MB", f"#{'a' * 9_000_000}\n{TOML}", "9,000,", "more than a study file has"),
    Case(
        "study file: a byte-order mark",
        {"study.toml": b"\xef\xbb\xbf" + TOML.encode(), "plant.csv": TEXT},
        ("target:",),
        exit_code=0,
    ),
    bad("a Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "TOML"),
]

KEYS = [
    of("data", "contxt = 24", "unknown key", "context"),
    of("data", "context = 0", "data.context"),
    of("data", "context = -24", "data.context"),
    of("data", 'context = "24"', "data.context", "whole number"),
    of("data", "context = 24.5", "data.context", "whole number"),
    of("data", "context = true", "data.context", "whole number"),
    of("data", "context = 25", "data.context", "patch"),
    of("data", "context = 100000", "plant.csv", "rows"),
    of("data", "horizon = 0", "data.horizon"),
    of("data", 'split = "valid"', "data.split", "validation"),
    of("data", "max_windows = 0", "data.max_windows"),
    of("data", "window_stride = 0", "data.window_stride"),
    of("data", "source = 3", "data.source", "text"),
    of("data", 'source = ""', "data.source", "empty"),
    of("data", 'source = "nothing.csv"', "nothing.csv", "no such file"),
    of("data", "splits = [0.9, 0.1]", "data.splits"),
    of("data", "splits = [0.5, 0.5, 0.5]", "data.splits"),
    of("data", 'channels = "load"', "data.channels", "list"),
    of("search", 'sampler = "grdi"', "search.sampler", "grid"),
    of("search", "sigma = []", "search.sigma", "at least one value"),
    of("search", "sigma = [-0.1]", "search.sigma", "greater than 0"),
    of("search", "sigma = [nan]", "search.sigma"),
    of("search", "sigma = [inf]", "search.sigma"),
    of("search", "sigma = 0.5", "search.sigma", "list"),
    of("search", "sigma = {low = 0.5}", "search.sigma", "high"),
    of("search", 'sampler = "tpe"\nsigma = {low = 1.0, high = 0.5}', "search.sigma"),
    of("search", "sigma = {low = 0.1, high = 0.5}", "grid"),
    of("search", "k = [0]", "search.k"),
    of("search", "k = [1.5]", "search.k", "whole number"),
    of("search", "bias = [0.0]", "search.bias"),
    of("search", "bias = [0.5]", "bias"),
    of("search", 'objectives = ["mse"]', "objectives", "acceptance_rate"),
    of("search", "n_trials = 10", "n_trials"),
    of("search", "seed = -1", "search.seed"),
    of("decoding", 'rule = "strides"', "decoding.rule", "stride"),
    of("decoding", 'device = "cuda:99"', "decoding.device", "cuda:99"),
    of("decoding", 'device = "gpu"', "decoding.device"),
    of("decoding", 'precision = "fp16"', "decoding.precision"),
    of("decoding", "batch_size = 0", "decoding.batch_size"),
    of("target", "layers = 3", "layers cannot stand beside checkpoint"),
    of("target", 'activation = "silu"', "target.activation"),
    of("recommend", "speed = 3", "recommend.speed", "table"),
    of("recommand", "x = 1", "recommand", "recommend"),
]

CASES = [*FILES, *KEYS]
