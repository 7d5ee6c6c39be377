"""What a bench says: numbers for scripts, a table, and a plain verdict in every case."""

import json
from dataclasses import replace

import pytest

from spec_opt.config.study_file import Setting
from spec_opt.measure.measurement import Baseline, BenchRow, Shares
from spec_opt.results.bench import (
    Bench,
    bench_document,
    bench_text,
    merged,
    verdict,
)
from spec_opt.results.table import Speedup

WORSE_DRAFT = Baseline(0.40, 0.3, 0.01, 0.50, 0.4, 0.01, 0.002, draft_minus_target_mse_ci95=0.005)
GOOD_DRAFT = Baseline(0.44, 0.3, 0.01, 0.43, 0.3, 0.01, 0.002, draft_minus_target_mse_ci95=0.015)


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


def bench(*rows: BenchRow, baseline: Baseline = WORSE_DRAFT) -> Bench:
    return Bench("etth1", "cpu", "float32", "point", 2, 3, rows, baseline, 0.02)


def test_it_pays() -> None:
    words = verdict(bench(row(1, (1.2, 1.3, 1.4)), row(64, (0.8, 0.7, 0.9))))
    assert words == (
        "Speculation pays here: up to 1.30 times as fast as the target alone at sigma=0.25 bias=2 "
        "k=3, batch size 1 (1.20 to 1.40 over 3 runs), with an MSE 10.0% above the target's. "
        "It loses at batch size 64."
    )


def test_it_does_not_pay_and_why() -> None:
    words = verdict(bench(row(8, (0.5, 0.4, 0.6)), row(64, (0.4, 0.4, 0.4))))
    assert words.startswith(
        "Speculation does not pay here: at best it takes 2.00 times as long as the target alone, "
        "at sigma=0.25 bias=2 k=3, batch size 8"
    )
    # 80 rounds in 4 s against 256 patches in 2 s.
    assert "a round costs as much as 6.4 patches of the target alone and emits 3.2." in words


def test_it_makes_no_clear_difference() -> None:
    words = verdict(bench(row(1, (1.1, 0.9, 1.05))))
    assert words.startswith("Speculation makes no clear difference here: at best it is 1.05 times")


def test_a_clear_gain_counts_before_a_higher_median() -> None:
    words = verdict(bench(row(1, (0.9, 1.6, 1.7)), row(8, (1.2, 1.3, 1.4))))
    assert words.startswith("Speculation pays here: up to 1.30 times")
    assert "batch size 8" in words


def test_a_draft_that_is_as_good() -> None:
    words = verdict(bench(row(1, (1.2, 1.3, 1.4)), baseline=GOOD_DRAFT))
    assert (
        "The draft alone is as accurate as the target on the study's windows (MSE 0.4300 against "
        "0.4400"
    ) in words
    assert "It is up to 4.0 times as fast as the target (batch size 1)." in words
    assert "draft alone" not in verdict(bench(row(1, (1.2, 1.3, 1.4))))


def test_nothing_fits() -> None:
    assert "no batch size fits" in verdict(bench())
    assert "no batch size fits" in bench_text(bench())


def test_the_document() -> None:
    document = json.loads(json.dumps(bench_document(bench(row(8, (1.25, 1.25, 1.25))))))
    assert document["device"] == "cpu"
    assert document["verdict"].startswith("Speculation pays here")
    (found,) = document["rows"]
    assert found["setting"] == {"sigma": 0.25, "bias": 2.0, "k": 3}
    assert (found["trial"], found["batch_size"], found["context"]) == (3, 8, "growing")
    assert (found["target_only_s"], found["speculative_s"]) == (2.0, 1.6)
    assert (found["speedup"], found["predicted_speedup"]) == (1.25, 1.25)
    assert (found["speedup_low"], found["speedup_high"]) == (1.25, 1.25)
    assert found["target_only_patches_per_s"] == 128.0
    assert found["speculative_latency_s"] == pytest.approx(0.2)
    assert sum(found["shares"].values()) == pytest.approx(1.0)
    assert len(found["runs"]["speculative"]) == 3


def test_the_table() -> None:
    text = bench_text(bench(row(8, (1.25, 1.2, 1.3)), row(1, (1.1, 1.1, 1.1), trial=None)))
    lines = text.splitlines()
    assert "rule point, growing context, float32, on cpu (2 threads); medians of 3 runs" in lines[0]
    assert lines[3].split()[:7] == ["3", "0.25", "2", "3", "8", "250.00", "200.00"]
    assert lines[3].split()[7:10] == ["1.25", "(1.20-1.30)", "1.25"]
    assert lines[4].split()[0] == "-"
    assert lines[-1] == verdict(bench(row(8, (1.25, 1.2, 1.3)), row(1, (1.1, 1.1, 1.1))))


def test_what_a_study_keeps() -> None:
    found = bench(row(1, (1.2, 1.3, 1.4)), row(8, (0.9, 0.9, 0.9), trial=None)).speedups
    assert found == (Speedup(3, "cpu", 1, 1.25, pytest.approx(1.3), pytest.approx(1.2)),)  # type: ignore[arg-type]
    old = Speedup(3, "cpu", 1, 2.0, 2.0)
    other = replace(old, device="NVIDIA H200")
    assert merged([old, other], found) == (other, *found)
