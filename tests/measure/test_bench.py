"""The batches that a bench times."""

import torch

from spec_opt.measure.bench import spaced_batches


def test_batches_are_spaced_and_of_one_size() -> None:
    for windows, size in ((255, 1), (255, 8), (255, 64), (1000, 200), (20, 64), (20, 3)):
        batches = spaced_batches(windows, size)
        assert {len(batch) for batch in batches} == {min(size, windows)}
        every = torch.cat(batches)
        assert len(set(every.tolist())) == len(every)
        assert int(every[0]) == 0
        assert int(every[-1]) == windows - 1
    assert sum(map(len, spaced_batches(255, 8))) == 64
