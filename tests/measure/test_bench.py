"""The batches that a bench times."""

import time

import pytest
import torch

from spec_opt.measure.bench import _part_by_part, interleave, spaced_batches


def test_batches_are_spaced_and_of_one_size() -> None:
    for windows, size in ((255, 1), (255, 8), (255, 64), (1000, 200), (20, 64), (20, 3)):
        batches = spaced_batches(windows, size)
        assert {len(batch) for batch in batches} == {min(size, windows)}
        every = torch.cat(batches)
        assert len(set(every.tolist())) == len(every)
        assert int(every[0]) == 0
        assert int(every[-1]) == windows - 1
    assert sum(map(len, spaced_batches(255, 8))) == 64


def test_without_time_left_each_is_timed_once() -> None:
    calls: list[str] = []
    runs = [lambda: calls.append("target"), lambda: calls.append("draft")]

    times = interleave(runs, 5, torch.device("cpu"), seconds=0.0)

    assert calls == ["target", "draft"]
    assert [len(one) for one in times] == [1, 1]


@pytest.mark.parametrize(("seconds", "turns"), [(9.0, 9), (3.5, 3), (2.5, 3), (0.5, 1)])
def test_no_turn_begins_that_would_not_end_in_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, turns: int
) -> None:
    now = 0.0

    def run() -> None:
        nonlocal now
        now += 1.0

    monkeypatch.setattr(time, "monotonic", lambda: now)
    (times,) = interleave([run], 9, torch.device("cpu"), seconds)
    assert len(times) == turns


def test_runs_warm_up_and_take_turns() -> None:
    calls: list[str] = []
    runs = [lambda: calls.append("target"), lambda: calls.append("draft")]

    times = interleave(runs, 2, torch.device("cpu"))

    assert calls == ["target", "draft"] * 3
    assert [len(one) for one in times] == [2, 2]


def test_short_runs_take_turns_with_the_windows() -> None:
    seen: list[int] = []
    forecast = _part_by_part(lambda batch: seen.extend(batch.tolist()), PARTS)
    for _ in range(3):
        forecast()
    assert seen == [0, 2, 1, 3, 0, 2]


PARTS = [[torch.tensor([0]), torch.tensor([2])], [torch.tensor([1]), torch.tensor([3])]]
