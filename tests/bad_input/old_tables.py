"""Tables of old sweeps as people bring them."""

from tests.bad_input.case import Case, Content, study

HEADER = "sigma,bias,k,mse,mae,acceptance_pct,accepted,attempted,total_time_s"
ROW = "0.1,1.0,1,0.45,0.46,50.00,10,20,17"
TABLE = f"{HEADER}\n{ROW}\n"
NO_STORE = "--storage sqlite:///old.db"


def bad(id: str, content: Content, *words: str) -> Case:
    command = f"import study.toml old.csv {NO_STORE}"
    files = {"study.toml": study(), "old.csv": content}
    return Case(f"old table: {id}", files, ("old.csv", *words), command=command)


def row(**cells: str) -> str:
    """The table with other cells."""
    values = dict(zip(HEADER.split(","), ROW.split(","), strict=True)) | cells
    return f"{HEADER}\n{','.join(values.values())}\n"


CASES = [
    bad("empty", "", "lacks the column sigma"),
    bad("a header alone", f"{HEADER}\n", "no row can be believed"),
    bad("no header", f"{ROW}\n", "lacks the column sigma"),
    bad(
        "a column lost",
        TABLE.replace("acceptance_pct", "accept"),
        "lacks the column acceptance_pct",
    ),
    bad("UTF-16", TABLE.encode("utf-16"), "not a CSV file in UTF-8"),
    bad("parquet", b"PAR1" + bytes(100), "old.csv"),
    bad("an unclosed quote", f'{HEADER}\n"0.1,1.0\n', "old.csv"),
    bad("a percent sign", row(acceptance_pct="50%"), "old.csv:2", "50%"),
    bad("acceptance above 100", row(acceptance_pct="500"), "old.csv:2", "impossible"),
    bad("nothing attempted", row(attempted="0", accepted="0"), "attempted = 0", "means nothing"),
    bad("more accepted than attempted", row(accepted="30"), "accepted = 30"),
    bad("a contradiction", row(acceptance_pct="60"), "contradicts"),
    bad("NaN", row(mse="nan"), "mse"),
    bad("infinite", row(mse="inf"), "not finite"),
    bad("a negative error", row(mse="-1"), "below 0"),
    bad("a decimal comma", row(sigma='"0,1"'), "sigma = '0,1' is not a number"),
    bad("k of 1.5", row(k="1.5"), "whole number"),
    bad("sigma of 0", row(sigma="0"), "sigma"),
    bad("half a count", row(accepted="1.5"), "is not a count"),
    Case(
        "old table: missing",
        {"study.toml": study()},
        ("nowhere.csv", "No such file"),
        command=f"import study.toml nowhere.csv {NO_STORE}",
    ),
    Case(
        "old table: a folder",
        {"study.toml": study(), "sweeps/old.csv": TABLE},
        ("sweeps", "Is a directory"),
        command=f"import study.toml sweeps {NO_STORE}",
    ),
    Case("old table: none named", {"study.toml": study()}, ("CSV",), command="import study.toml"),
    Case(
        "old table: in other hands",
        {"study.toml": study(), "old.csv": TABLE.replace(",", ";")},
        ("1 rows imported",),
        exit_code=0,
        command=f"import study.toml old.csv {NO_STORE}",
    ),
]
