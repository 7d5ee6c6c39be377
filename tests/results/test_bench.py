"""What a bench shows and keeps; the verdict itself is tested in test_verdict.py."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from threading import Barrier, Thread

import pytest

from spec_opt.config.study_file import Setting
from spec_opt.measure.measurement import Baseline, BenchRow, Shares
from spec_opt.results.bench import Bench, bench_document, bench_text, speedups_of
from spec_opt.results.speedup import Speedup
from spec_opt.results.stored import keep_records
from spec_opt.results.verdict import Verdict
from spec_opt.study.store import open_store
from tests.results import studies

BASELINE = Baseline(0.40, 0.3, 0.01, 0.50, 0.4, 0.01, 0.002, draft_minus_target_mse_ci95=0.005)
IDENTITY = ("trial", "device", "batch_size")
VERDICT = Verdict("target_alone", None, None, None, None, "Use the target alone.")


def row(batch_size: int, speedups: tuple[float, ...], trial: int | None = 3) -> BenchRow:
    return BenchRow(
        trial=trial,
        setting=Setting(sigma=0.25, bias=2.0, k=3),
        context="growing",
        batch_size=batch_size,
        windows=64,
        patches=256,
        rounds=80,
        target_only=(2.0,) * len(speedups),
        speculative=tuple(2.0 / speedup for speedup in speedups),
        draft_only=(0.5,) * len(speedups),
        predicted_speedup=1.25,
        target_only_calls=256,
        target_calls=80,
        draft_calls=240,
        shares=Shares(0.2, 0.6, 0.05, 0.15),
        acceptance_rate=0.9,
        mse=0.44,
    )


def bench(*rows: BenchRow) -> Bench:
    return Bench("etth1", "cpu", "float32", "point", 2, rows, BASELINE, VERDICT)


def test_the_verdict_is_first_and_the_reason_last() -> None:
    lines = bench_text(bench(row(8, (0.5, 0.4, 0.6)), row(64, (0.4, 0.4, 0.4)))).splitlines()
    assert lines[0] == "Use the target alone."
    # 80 rounds in 4 s against 256 patches in 2 s.
    assert "a round costs as much as 6.4 patches of the target alone and emits 3.2" in " ".join(
        lines
    )


def test_a_missing_prediction_is_explained() -> None:
    known = row(8, (0.5, 0.4, 0.6))
    why = "Where pred. is - what decoding costs is not known"
    assert why not in bench_text(bench(known))
    assert why in bench_text(bench(known, replace(known, predicted_speedup=None)))


def test_nothing_fits() -> None:
    assert "no batch size fits" in bench_text(bench())


def test_the_document() -> None:
    document = json.loads(json.dumps(bench_document(bench(row(8, (1.25, 1.25, 1.25))))))
    assert document["device"] == "cpu"
    assert document["verdict"] == VERDICT.document()
    (found,) = document["rows"]
    assert found["setting"] == {"sigma": 0.25, "bias": 2.0, "k": 3}
    assert (found["trial"], found["batch_size"], found["context"]) == (3, 8, "growing")
    assert (found["target_only_s"], found["speculative_s"]) == (2.0, 1.6)
    assert (found["speedup"], found["predicted_speedup"]) == (1.25, 1.25)
    assert (found["speedup_low"], found["speedup_high"]) == (1.25, 1.25)
    assert found["draft_speedup"] == 4.0
    assert found["target_only_patches_per_s"] == 128.0
    assert found["speculative_latency_s"] == pytest.approx(0.2)
    assert sum(found["shares"].values()) == pytest.approx(1.0)
    assert len(found["runs"]["speculative"]) == 3


def test_the_table_fits_a_terminal() -> None:
    text = bench_text(bench(row(8, (1.25, 1.2, 1.3)), row(1, (1.1, 1.1, 1.1), trial=None)), 80)
    assert max(map(len, text.splitlines())) <= 80
    cells = [line.split() for line in text.splitlines()]
    times = ["250", "62.5", "200"]
    assert ["3", "0.25", "2", "3", "8", *times, "1.25", "1.20", "1.30", "1.25"] in cells
    assert any(line[:1] == ["-"] for line in cells)
    assert "medians of 3 runs" in " ".join(text.split())


def test_a_busy_machine_is_part_of_the_verdict() -> None:
    steady = row(8, (1.25, 1.25, 1.25))
    assert VERDICT.cautioned(speedups_of((steady,), "cpu")) == VERDICT
    disturbed = replace(steady, target_only=(0.010, 0.019, 0.011))
    cautioned = VERDICT.cautioned(speedups_of((steady, disturbed), "cpu"))
    assert cautioned.reason == (
        "Use the target alone. The machine was busy: equal runs of the target alone took 10 to "
        "19 ms for 64 windows, batch after batch, at batch size 8."
    )


def test_what_a_study_keeps(tmp_path: Path) -> None:
    found = speedups_of((row(1, (1.2, 1.3, 1.4)), row(8, (0.9, 0.9, 0.9), trial=None)), "cpu")
    assert [(s.trial, s.batch_size) for s in found] == [(None, 1), (None, 8), (3, 1)]
    assert [s.value for s in found] == pytest.approx([4.0, 4.0, 1.3])
    assert (found[2].runs, found[2].trial) == (3, 3)
    assert found[2].speedup_low == pytest.approx(1.2)
    old = Speedup(3, "cpu", 1, 2.0, 2.0)
    other = replace(old, device="NVIDIA H200")
    with open_store(f"sqlite:///{tmp_path / 'store.db'}") as store:
        study = studies.empty_study("given", storage=store.storage)
        study.set_user_attr("speedups", [asdict(old), asdict(other)])
        keep_records(store, "given", "speedups", found, IDENTITY)
        kept = store.optuna_study("given").user_attrs["speedups"]
    assert kept == [asdict(one) for one in (other, *found)]


def test_benches_at_the_same_time_lose_no_result(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store = open_store(url)
    studies.empty_study("given", storage=store.storage)
    threads, start = [], Barrier(8)

    def keep(number: int) -> None:
        start.wait()
        for batch_size in range(5):
            with open_store(url) as own:
                new = [Speedup(number, "cpu", batch_size, None, 1.0)]
                keep_records(own, "given", "speedups", new, IDENTITY)

    for number in range(8):
        threads.append(Thread(target=keep, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(store.optuna_study("given").user_attrs["speedups"]) == 40
