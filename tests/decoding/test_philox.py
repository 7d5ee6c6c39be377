"""Random numbers: the published values, keyed, and independent of each other."""

import math

import pytest
import torch
from torch import Tensor

from spec_opt.decoding import philox as philox_module
from spec_opt.decoding.philox import Draws, Purpose, Words, philox

from .stubs import CRITICAL, kolmogorov, normal_cdf


def draws(windows: int, positions: int = 1, seed: int = 7) -> Draws:
    """One row for every pair of a window and a position."""
    return Draws(
        seed,
        torch.arange(windows).repeat_interleave(positions),
        torch.arange(positions).repeat(windows),
    )


def correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation times the square root of the size: standard normal if independent."""
    pair = torch.stack([first.flatten(), second.flatten()]).double()
    return float(torch.corrcoef(pair)[0, 1]) * math.sqrt(pair.shape[1])


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    words = [torch.tensor([word], dtype=torch.int64) for word in counter]

    result = philox((words[0], words[1], words[2], words[3]), key[0] | key[1] << 32)

    assert tuple(int(word) for word in result) == expected


def test_uniforms_are_uniform() -> None:
    sample = draws(20_000).uniform(Purpose.ACCEPTANCE)

    assert sample.dtype == torch.float64
    assert 0.0 <= float(sample.min()) < float(sample.max()) < 1.0
    assert kolmogorov(sample) < CRITICAL


def test_normals_are_normal() -> None:
    sample = draws(5_000).normal(Purpose.PROPOSAL, (3, 4))
    count = sample.numel()
    values = sample.double()

    assert sample.shape == (5_000, 3, 4)
    assert sample.dtype == torch.float32
    assert kolmogorov(normal_cdf(sample)) < CRITICAL
    # Standard errors of the first four moments of a standard normal.
    assert abs(float(values.mean())) < 4 / math.sqrt(count)
    assert abs(float(values.square().mean()) - 1) < 4 * math.sqrt(2 / count)
    assert abs(float(values.pow(3).mean())) < 4 * math.sqrt(15 / count)
    assert abs(float(values.pow(4).mean()) - 3) < 4 * math.sqrt(96 / count)


def test_elements_of_a_patch_are_normal_and_uncorrelated() -> None:
    sample = draws(8_000).normal(Purpose.PROPOSAL, (2, 3)).flatten(1)

    for first in range(6):
        assert kolmogorov(normal_cdf(sample[:, first])) < CRITICAL
        for second in range(first):
            assert abs(correlation(sample[:, first], sample[:, second])) < 4
            # The radius of Box and Muller is shared by two elements: squares must not show it.
            squares = sample[:, first].square(), sample[:, second].square()
            assert abs(correlation(*squares)) < 4


def test_a_patch_can_be_large() -> None:
    sample = draws(2).normal(Purpose.PROPOSAL, (720, 321))

    assert sample.shape == (2, 720, 321)
    assert bool(torch.isfinite(sample).all())
    assert kolmogorov(normal_cdf(sample[0])) < CRITICAL
    assert abs(correlation(sample[0], sample[1])) < 4
    assert len(set(sample[0].flatten().tolist())) > 0.95 * sample[0].numel()


def test_a_window_has_the_same_numbers_in_any_batch_and_order() -> None:
    together = draws(40, positions=3)
    shuffled = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    apart = together.rows(shuffled)
    alone = together.rows(torch.tensor([57]))

    for purpose in Purpose:
        normals, uniforms = together.normal(purpose, (2, 3)), together.uniform(purpose)
        assert torch.equal(apart.normal(purpose, (2, 3)), normals[shuffled])
        assert torch.equal(apart.uniform(purpose), uniforms[shuffled])
        assert torch.equal(alone.normal(purpose, (2, 3)), normals[57:58])
        assert torch.equal(alone.uniform(purpose), uniforms[57:58])


def test_repeated_rows_take_attempts() -> None:
    each = draws(3)
    repeated = each.rows(torch.arange(3).repeat_interleave(4))
    attempts = torch.arange(4).repeat(3)

    together = repeated.normal(Purpose.TARGET_PATCH, (2, 2), attempts).view(3, 4, 2, 2)

    for attempt in range(4):
        expected = each.normal(Purpose.TARGET_PATCH, (2, 2), attempt)
        assert torch.equal(together[:, attempt], expected)
    assert torch.equal(together[:, 0], each.normal(Purpose.TARGET_PATCH, (2, 2)))


def test_seed_window_position_purpose_and_attempt_each_make_other_numbers() -> None:
    size = 4_000
    windows, zeros = torch.arange(size), torch.zeros(size, dtype=torch.int64)
    base = Draws(7, windows, zeros)
    samples = [
        (base, Purpose.PROPOSAL, 0),
        (Draws(8, windows, zeros), Purpose.PROPOSAL, 0),
        (Draws(7 + 2**40, windows, zeros), Purpose.PROPOSAL, 0),
        (Draws(7, windows + size, zeros), Purpose.PROPOSAL, 0),
        (Draws(7, windows, zeros + 1), Purpose.PROPOSAL, 0),
        *((base, purpose, 0) for purpose in Purpose if purpose != Purpose.PROPOSAL),
        (base, Purpose.PROPOSAL, 1),
        (base, Purpose.THINNING, 9_999),
    ]
    uniforms = [one.uniform(purpose, attempt) for one, purpose, attempt in samples]
    normals = [one.normal(purpose, (1, 1), attempt) for one, purpose, attempt in samples]

    for values in (uniforms, normals):
        for first in range(len(values)):
            for second in range(first):
                assert not torch.equal(values[first], values[second])
                assert abs(correlation(values[first], values[second])) < 4.5


def test_no_two_keys_share_a_number() -> None:
    """32 bits each: with distinct keys, repeats are as rare as the birthday problem predicts."""
    every = draws(50, positions=10)
    uniforms = torch.cat(
        [every.uniform(purpose, attempt) for purpose in Purpose for attempt in range(5)]
    )

    # 10 000 numbers among 2^32: 0.012 coincidences are expected.
    assert len(set(uniforms.tolist())) >= len(uniforms) - 1


def test_neighbouring_windows_and_positions_are_uncorrelated() -> None:
    grid = draws(400, positions=50).uniform(Purpose.ACCEPTANCE).view(400, 50)

    assert abs(correlation(grid[1:], grid[:-1])) < 4
    assert abs(correlation(grid[:, 1:], grid[:, :-1])) < 4


def test_no_rows_no_numbers() -> None:
    none = draws(0)

    assert none.uniform(Purpose.ACCEPTANCE).shape == (0,)
    assert none.normal(Purpose.PROPOSAL, (2, 3)).shape == (0, 2, 3)


@pytest.mark.parametrize("word", [0, 0xFF, 0xFFFFFFFF])
def test_the_rarest_words_make_finite_normals(monkeypatch: pytest.MonkeyPatch, word: int) -> None:
    """One word in 16 million would give the logarithm of 0 without the offset."""

    def rare(counter: tuple[Words, ...], seed: int) -> tuple[Words, ...]:
        return tuple(0 * part + word for part in counter)

    monkeypatch.setattr(philox_module, "philox", rare)

    assert bool(torch.isfinite(draws(2).normal(Purpose.PROPOSAL, (2, 2))).all())
    assert bool((draws(2).uniform(Purpose.ACCEPTANCE) < 1.0).all())


def test_few_and_many_draws_are_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    few = draws(5).normal(Purpose.PROPOSAL, (8, 3))
    monkeypatch.setattr(philox_module, "_FEW", 0)  # numpy for few, torch for many
    assert torch.equal(draws(5).normal(Purpose.PROPOSAL, (8, 3)), few)
