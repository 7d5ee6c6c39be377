"""How a speedup is written."""

import pytest

from spec_opt.results.speedup import Speedup, timings


def timed(value: float, low: float, high: float, runs: int = 9, batch_size: int = 1) -> Speedup:
    return Speedup(7, "cpu", batch_size, None, value, low, high, runs)


@pytest.mark.parametrize(
    ("speedup", "written", "between"),
    [
        (timed(1.3997, 1.35, 1.44), "1.40x", "1.35x to 1.44x"),
        (timed(14.73, 13.9, 15.4), "15x", "13.9x to 15.4x"),
        # Runs that differ by a factor of six do not bear three digits.
        (timed(14.73, 6.058, 35.42), "about 15x", "6.1x to 35x"),
        (timed(1.974, 0.506, 4.489), "about 2x", "0.51x to 4.5x"),
        (timed(147.3, 90.0, 210.0), "about 150x", "90x to 210x"),
        (timed(1.3997, 1.3997, 1.3997, runs=1), "1.40x", None),
        (Speedup(7, "cpu", 1, 1.234, None), "1.23x", None),
    ],
)
def test_it_has_as_many_digits_as_its_runs_agree_on(
    speedup: Speedup, written: str, between: str | None
) -> None:
    assert str(speedup) == written
    assert speedup.range == between


def test_several_batch_sizes_are_listed_in_order() -> None:
    large, small = timed(1.4, 1.4, 1.4, 1, 64), timed(1.974, 0.506, 4.489)
    assert timings([large, small]) == (
        "Timed: about 2x at batch size 1 (0.51x to 4.5x in 9 runs), 1.40x at batch size 64 (1 run)."
    )
    assert timings([large]) is None
