"""`spec-opt bench`, run on the tiny pair."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor

from spec_opt.cli import main
from spec_opt.config.study_file import Setting
from spec_opt.decoding.speculative import Decoded, Workload
from spec_opt.errors import DecodingError
from spec_opt.measure import bench as timing_bench
from spec_opt.measure import cost_model
from spec_opt.measure.cost_model import LearntCosts
from spec_opt.results.speedup import Speedup
from spec_opt.results.table import read_table
from spec_opt.results.verdict import Verdict, verdict_of
from spec_opt.study.store import open_store

DATA = Path(__file__).parent.parent / "files"
STORE = "sqlite:///storage/spec_opt.db"

STUDY = f"""
name = "tiny"
[search]
sigma = [1.5]
bias = [1.0]
k = [1, 2]
[data]
source = "synthetic"
context = 96
horizon = 72
max_windows = 20
[data.synthetic]
rows = 1000
[target]
checkpoint = "{DATA / "tiny_target.pth"}"
[draft]
checkpoint = "{DATA / "tiny_draft.pth"}"
[bench]
seconds = {{seconds}}
[decoding]
batch_size = 5
"""
UNTIMED, TIMED = STUDY.format(seconds=0), STUDY.format(seconds=0.5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tiny pair gains nothing from a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost_model, "WIDEST_SPREAD", 1e9)  # the machine may be busy
    monkeypatch.setattr(timing_bench, "LEARNING_SECONDS", 0.0)
    monkeypatch.setattr(timing_bench, "LEARNING_REPEATS", 1)
    (tmp_path / "tiny.toml").write_text(UNTIMED, encoding="utf-8")
    (tmp_path / "timed.toml").write_text(TIMED, encoding="utf-8")
    (tmp_path / "growing.toml").write_text(UNTIMED + 'context = "growing"\n', encoding="utf-8")
    return tmp_path


def speedups() -> tuple[Speedup, ...]:
    with open_store(STORE) as store:
        return read_table(store.optuna_study("tiny")).speedups


def test_a_run_ends_with_a_bench(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, meanwhile = timing_bench.learn_by_batch_size, list[Verdict]()

    def looked_at(*arguments: Any, **options: Any) -> dict[int, LearntCosts]:
        with open_store(STORE) as store:
            meanwhile.append(verdict_of(read_table(store.optuna_study("tiny"))))
        return learn(*arguments, **options)

    monkeypatch.setattr(timing_bench, "learn_by_batch_size", looked_at)
    assert main(["run", "timed.toml"]) == 0
    first = capfd.readouterr()
    assert ["is being timed at the moment" in verdict.reason for verdict in meanwhile] == [True]
    with open_store(STORE) as store:
        assert read_table(store.optuna_study("tiny")).timing_until is None
    kept = speedups()
    assert {(s.trial is None, s.batch_size) for s in kept} == {
        (alone, size) for alone in (True, False) for size in (1, 5)
    }
    assert all(s.runs >= 1 for s in kept)
    assert "nothing was timed" not in first.out
    assert len(first.out.splitlines()) <= 25

    # The same command resumes the study, which has all that would be timed.
    assert main(["run", "timed.toml"]) == 0
    again = capfd.readouterr()
    assert "timing what is recommended" in first.err
    assert "timing what is recommended" not in again.err
    assert speedups() == kept


def test_a_run_in_processes_ends_with_a_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spec_opt.cli.service.make_models", lambda *_: None)  # as there are some
    assert main(["run", "timed.toml", "--workers", "1"]) == 0
    assert {s.batch_size for s in speedups()} == {1, 5}


def test_a_run_without_time_for_a_bench_names_the_command(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "tiny.toml"]) == 0
    assert "nothing was timed; `spec-opt bench tiny.toml`" in " ".join(
        capfd.readouterr().out.split()
    )
    assert speedups() == ()


def test_the_schedule_is_learnt_confirmed_and_kept(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the batch sizes 1, 2, 4 and 5, which is the study's own."""
    lenient = f"{UNTIMED}[recommend.speed]\nmax_mse_ratio = 9.0\n"
    Path("lenient.toml").write_text(lenient, encoding="utf-8")
    assert main(["run", "lenient.toml"]) == 0
    capfd.readouterr()
    assert main(["bench", "lenient.toml", "--schedule", "--json", "--repeats", "1"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [row[0] for row in found["schedule"]] == [1, 2, 4, 5]
    for _, sigma, bias, k, speedup in found["schedule"]:
        assert (sigma, bias) == ((1.5, 1.0) if k else (None, None))
        assert speedup > 1.0 if k else speedup == 1.0
    timed = {row["batch_size"] for row in found["rows"]}
    assert 1 in timed
    assert len(timed) >= 2
    assert all(row["predicted_speedup"] > 0.0 for row in found["rows"])

    assert main(["recommend", "lenient.toml", "--format", "schedule", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == found["schedule"]
    assert main(["recommend", "lenient.toml", "--format", "schedule"]) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "costs learnt at batch size 1, 2, 4, 5" in text
    assert "measured" in text

    # A busy machine does not spoil what is known.
    monkeypatch.setattr(cost_model, "WIDEST_SPREAD", -1.0)
    assert main(["bench", "lenient.toml", "--schedule"]) == 1
    assert "timings of the same work varied by" in capfd.readouterr().err
    monkeypatch.setattr(cost_model, "WIDEST_SPREAD", 1e9)
    assert main(["recommend", "lenient.toml", "--format", "schedule", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == found["schedule"]


def test_the_schedule_chooses_the_settings_itself(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tiny.toml", "--schedule", "--trial", "0"]) == 2
    assert "it takes none" in capfd.readouterr().err
    assert main(["run", "tiny.toml"]) == 0
    capfd.readouterr()
    assert main(["bench", "tiny.toml", "--schedule"]) == 2
    assert "no trial has MSE <= " in capfd.readouterr().err
    assert main(["recommend", "tiny.toml", "--format", "flags", "--json"]) == 2
    assert "exclude each other" in capfd.readouterr().err


def test_a_bench_that_fails_is_no_failed_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise DecodingError("not finite")

    monkeypatch.setattr(Workload, "draft_only", diverge)
    assert main(["run", "timed.toml"]) == 0
    out, err = capfd.readouterr()
    assert "no speedup was measured: not finite" in err
    assert "Pareto front of tiny" in out


@pytest.mark.parametrize("study", ["tiny.toml", "growing.toml"])
def test_a_trial(study: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", study]) == 0
    capfd.readouterr()

    assert main(["bench", study, "--trial", "1", "--repeats", "2", "--json"]) == 0

    document = json.loads(capfd.readouterr().out)
    # 64 is more than there are windows; the study's own 5 is among them.
    assert [row["batch_size"] for row in document["rows"]] == [1, 5, 8, 20]
    for row in document["rows"]:
        assert row["trial"] == 1
        assert row["setting"] == {"sigma": 1.5, "bias": 1.0, "k": 2}
        assert row["context"] == ("growing" if study == "growing.toml" else "rolling")
        assert row["windows"] % row["batch_size"] == 0
        assert row["speedup"] == pytest.approx(row["target_only_s"] / row["speculative_s"])
        assert row["speedup_low"] <= row["speedup_high"]
        assert row["predicted_speedup"] > 0.0
        assert row["target_only_calls"] == 3 * row["windows"] / row["batch_size"]
        assert sum(row["shares"].values()) == pytest.approx(1.0)
        assert len(row["runs"]["speculative"]) == 2

    table = read_table(optuna.load_study(study_name="tiny", storage=STORE))
    for trial in (None, 1):  # of the draft alone, too
        kept = [s.batch_size for s in table.speedups if s.trial == trial]
        assert kept == [1, 5, 8, 20]
    measured = table.measured_speedup(1)
    assert measured is not None
    assert measured.device == "cpu"
    assert all(row.result and row.result.predicted_speedup for row in table.trials)


def test_a_given_setting_needs_no_store(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    setting = ["--sigma", "2.5", "--bias", "1", "--k", "3"]
    assert main(["bench", "tiny.toml", *setting, "--batch-size", "4", "--repeats", "1"]) == 0
    out = capfd.readouterr().out
    assert "tiny: rule stride, rolling context, float32, on cpu" in out
    assert out.startswith("Whether speculation pays is not known (")
    assert "it was timed too few times" in " ".join(out.split())
    assert not (folder / "storage").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sigma", "1"], "go together"),
        (["--sigma", "0", "--bias", "1", "--k", "1"], "sigma"),
        (["--sigma", "1", "--bias", "0.5", "--k", "1"], "bias >= 1 only"),
        (["--trial", "0", "--sigma", "1", "--bias", "1", "--k", "1"], "exclude each other"),
        (["--trial", "9"], "no completed trial 9"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tiny.toml"]) == 0
    assert main(["bench", "tiny.toml", *arguments]) == 2
    assert message in capfd.readouterr().err.splitlines()[-1]


def test_a_study_measured_otherwise(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tiny.toml"]) == 0
    (folder / "tiny.toml").write_text(UNTIMED + "seed = 1\n", encoding="utf-8")
    assert main(["bench", "tiny.toml", "--trial", "0"]) == 2
    assert "measured with another decoding (decoding.seed was 0, now 1)" in capfd.readouterr().err


def test_a_batch_that_does_not_fit_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    speculatively = Workload.speculatively

    def tight(self: Workload, index: Tensor, setting: Setting) -> Decoded:
        # Learning costs and timing come through here; the cache does not.
        if len(index) > 4:
            raise torch.cuda.OutOfMemoryError
        return speculatively(self, index, setting)

    monkeypatch.setattr(Workload, "speculatively", tight)
    setting = ["--sigma", "2.5", "--bias", "1", "--k", "3", "--repeats", "1", "--json"]
    assert main(["bench", "tiny.toml", *setting]) == 0
    out, err = capfd.readouterr()
    assert [row["batch_size"] for row in json.loads(out)["rows"]] == [1]
    assert "batch size 8 does not fit" in err
