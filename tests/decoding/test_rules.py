"""The rules' formulas, against reference values and written out by hand."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.decoding import rules
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.decoding.rules import (
    RULES,
    THINNING_BOUND,
    AcceptanceRule,
    acceptance_probability,
    target_patch,
)
from spec_opt.models.forecaster import Gaussian

SIGMAS = (0.1, 0.25, 0.5, 1.0)
BIASES = (1.0, 2.0, 5.0)

Arrays = dict[str, Tensor]


@pytest.fixture(scope="module")
def reference(reference_dir: Path) -> Arrays:
    with np.load(reference_dir / "reference_tiny.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture
def draws() -> Draws:
    return Draws(3, torch.arange(6), torch.zeros(6, dtype=torch.int64))


def log_ratio(
    rule: AcceptanceRule, x: Tensor, draft: Gaussian, target_mean: Tensor, sigma: float
) -> Tensor:
    return rule.log_ratio(
        rule.draft_term(x, draft, sigma),
        rule.target_term(x, target_mean),
        sigma,
        x[0].numel(),
    )


def family(reference: Arrays, prefix: str, sigma: int, k: int, kind: str) -> tuple[Tensor, ...]:
    """Proposals, draft means and log-variances of one family, for one sigma and position."""
    names = [f"{prefix}{part}_{kind}" for part in ("x", "mu", "logvar")]
    arrays = [reference[name] for name in names]
    return tuple(array[sigma, k] if array.dim() == 5 else array[k] for array in arrays)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize(
    ("prefix", "expected_prefix"), [("tuned_", "tuned_"), ("near_", "near_"), ("prop_", "")]
)
@pytest.mark.parametrize(("name", "array"), [("stride", "log_ratio"), ("exact", "exact_log_ratio")])
def test_log_ratios_are_those_of_the_reference(
    reference: Arrays, prefix: str, expected_prefix: str, name: str, array: str, kind: str
) -> None:
    expected = reference[f"{expected_prefix}{array}_{kind}"].double()
    relative, absolute = (1e-5, 2e-3) if kind == "f32" else (1e-10, 1e-9)
    for s, sigma in enumerate(SIGMAS):
        for k in range(3):
            x, mean, log_variance = family(reference, prefix, s, k, kind)
            draft = Gaussian(mean, log_variance.exp())

            result = log_ratio(RULES[name], x, draft, reference[f"verify_p_{kind}"][k], sigma)

            assert result.dtype == torch.float64
            torch.testing.assert_close(result, expected[s, k], rtol=relative, atol=absolute)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("prefix", ["tuned_", "near_"])
def test_acceptance_probabilities_are_those_of_the_reference(
    reference: Arrays, prefix: str, kind: str
) -> None:
    expected = reference[f"{prefix}alpha_{kind}"].double()
    absolute = 1e-3 if kind == "f32" else 1e-9
    for s, sigma in enumerate(SIGMAS):
        for k in range(3):
            x, mean, log_variance = family(reference, prefix, s, k, kind)
            ratio = log_ratio(
                RULES["stride"],
                x,
                Gaussian(mean, log_variance.exp()),
                reference[f"verify_p_{kind}"][k],
                sigma,
            )
            for b, bias in enumerate(BIASES):
                torch.testing.assert_close(
                    acceptance_probability(ratio, bias), expected[s, b, k], rtol=0, atol=absolute
                )


def test_the_reference_probabilities_vary(reference: Arrays) -> None:
    tuned = reference["tuned_alpha_f64"]
    inside = (tuned > 0.01) & (tuned < 0.99)

    assert float(inside[:, 0].double().mean()) > 0.5
    assert float((reference["near_log_ratio_f64"] > 20).double().mean()) > 0


@pytest.mark.parametrize("name", ["stride", "exact"])
def test_a_draft_without_variance_has_that_of_the_target(reference: Arrays, name: str) -> None:
    expected = reference["nonstoch_log_ratio_f64"]
    for s, sigma in enumerate(SIGMAS):
        for k in range(3):
            draft = Gaussian(reference["near_mu_f64"][k], None)
            x, target_mean = reference["near_x_f64"][k], reference["verify_p_f64"][k]

            result = log_ratio(RULES[name], x, draft, target_mean, sigma)

            torch.testing.assert_close(result, expected[s, k], rtol=1e-10, atol=1e-9)


def test_rule_exact_is_the_ratio_of_two_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    x, mean, target_mean = torch.randn(3, 5, 2, 3, generator=generator, dtype=torch.float64)
    variance = torch.rand(5, 2, 3, generator=generator, dtype=torch.float64) + 0.2

    def log_density(center: Tensor, variances: Tensor) -> Tensor:
        each: Tensor = -0.5 * (x - center).square() / variances
        each = each - 0.5 * torch.log(2 * math.pi * variances)
        return each.sum(dim=(1, 2))

    p, q = log_density(target_mean, torch.full_like(x, 0.49)), log_density(mean, variance)

    result = log_ratio(RULES["exact"], x, Gaussian(mean, variance), target_mean, 0.7)

    torch.testing.assert_close(result, p - q)


def test_rule_stride_by_hand() -> None:
    x = torch.tensor([[[1.0, 2.0]]])
    draft = Gaussian(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.5, 1.5]]]))
    target_mean = torch.tensor([[[1.0, 0.0]]])

    result = log_ratio(RULES["stride"], x, draft, target_mean, 2.0)

    # (1 + 4) / (2 * 1) - (0 + 4) / (2 * 4)
    assert float(result) == pytest.approx(2.5 - 0.5)


def test_rule_point_by_hand(draws: Draws) -> None:
    draft = Gaussian(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.full((1, 2, 2), 9.0))
    target_mean = torch.tensor([[[1.0, 2.5], [3.0, 5.0]]])
    rule = RULES["point"]

    proposal = rule.propose(draft, 0.5, draws)
    result = log_ratio(rule, proposal, draft, target_mean, 0.5)

    assert torch.equal(proposal, draft.mean)
    # Mean squared gap (0 + 0.25 + 0 + 1) / 4, over twice sigma squared.
    assert float(result) == pytest.approx(-0.3125 / 0.5)
    assert float(acceptance_probability(result, 1.0)) == pytest.approx(math.exp(-0.625))
    assert float(acceptance_probability(result, 10.0)) == 1.0
    assert float(acceptance_probability(result, 0.5)) == pytest.approx(0.5 * math.exp(-0.625))


def test_rule_point_emits_the_targets_mean(draws: Draws) -> None:
    draft, target_mean = Gaussian(torch.zeros(6, 1, 1), None), torch.ones(6, 1, 1)
    setting = Setting(sigma=0.5, bias=1.0, k=1)

    replacement, exhausted = RULES["point"].replace(draft, target_mean, setting, draws)

    assert torch.equal(replacement, target_mean)
    assert torch.equal(RULES["point"].bonus(target_mean, setting, draws), target_mean)
    assert not exhausted.any()
    assert RULES["point"].target_sigma(0.5) == 0.0


@pytest.mark.parametrize("name", ["stride", "exact"])
def test_proposals_are_samples_of_the_draft(name: str, draws: Draws) -> None:
    mean = torch.arange(36.0).view(6, 2, 3)
    variance = mean + 0.25
    noise = draws.normal(Purpose.PROPOSAL, (2, 3))

    own = RULES[name].propose(Gaussian(mean, variance), 0.5, draws)
    borrowed = RULES[name].propose(Gaussian(mean, None), 0.5, draws)

    torch.testing.assert_close(own, mean + variance.sqrt() * noise)
    torch.testing.assert_close(borrowed, mean + 0.5 * noise)


def test_rule_stride_replaces_by_a_draw_from_the_target(draws: Draws) -> None:
    draft, target_mean = Gaussian(torch.zeros(6, 2, 3), None), torch.ones(6, 2, 3)
    setting = Setting(sigma=0.5, bias=1.0, k=1)
    expected = 1.0 + 0.5 * draws.normal(Purpose.TARGET_PATCH, (2, 3))

    replacement, exhausted = RULES["stride"].replace(draft, target_mean, setting, draws)

    torch.testing.assert_close(replacement, expected)
    torch.testing.assert_close(RULES["stride"].bonus(target_mean, setting, draws), expected)
    torch.testing.assert_close(target_patch(target_mean, 0.5, draws), expected)
    assert torch.equal(target_patch(target_mean, 0.0, draws), target_mean)
    assert not exhausted.any()


def test_rule_exact_keeps_a_first_draw_that_the_draft_could_not_have_made(draws: Draws) -> None:
    """Far from the draft, thinning keeps everything: the residual is the target."""
    draft = Gaussian(torch.full((6, 2, 3), 50.0), torch.ones(6, 2, 3))
    target_mean = torch.zeros(6, 2, 3)
    setting = Setting(sigma=0.5, bias=1.0, k=1)

    replacement, exhausted = RULES["exact"].replace(draft, target_mean, setting, draws)

    torch.testing.assert_close(replacement, target_patch(target_mean, 0.5, draws))
    assert not exhausted.any()


def test_thinning_tries_in_the_order_of_attempts(draws: Draws) -> None:
    """The number of tries in a batch varies; the result does not depend on it."""
    draft = Gaussian(torch.zeros(6, 1, 1), torch.full((6, 1, 1), 0.25))
    target_mean = torch.full((6, 1, 1), 0.05)
    setting = Setting(sigma=0.5, bias=1.0, k=1)
    rule = RULES["exact"]

    together, exhausted = rule.replace(draft, target_mean, setting, draws)

    assert not exhausted.any()
    one_draft = Gaussian(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.25))
    tries = []
    for row in range(6):
        one = draws.rows(torch.tensor([row]))
        for attempt in range(THINNING_BOUND):
            noise = one.normal(Purpose.TARGET_PATCH, (1, 1), attempt)
            drawn = 0.05 + 0.5 * noise
            ratio = log_ratio(rule, drawn, one_draft, target_mean[:1], 0.5)
            keep = 1.0 - min(1.0, math.exp(-float(ratio)))
            if float(one.uniform(Purpose.THINNING, attempt)) < keep:
                break
        tries.append(attempt)
        torch.testing.assert_close(together[row : row + 1], drawn)
    assert max(tries) > 4  # so that several batches of tries were needed


def test_the_bound_on_thinning_is_reported(draws: Draws) -> None:
    """A draft that equals the target leaves no residual: every try fails."""
    same = torch.zeros(6, 1, 1)
    draft = Gaussian(same, torch.full_like(same, 0.25))
    setting = Setting(sigma=0.5, bias=1.0, k=1)

    replacement, exhausted = RULES["exact"].replace(draft, same, setting, draws)

    assert exhausted.tolist() == [True] * 6
    last = draws.normal(Purpose.TARGET_PATCH, (1, 1), THINNING_BOUND - 1)
    torch.testing.assert_close(replacement, 0.5 * last)


def test_only_exhausted_rows_are_reported(draws: Draws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "THINNING_BOUND", 3)
    means = torch.tensor([0.0, 50.0, 0.0, 50.0, 50.0, 0.0]).view(6, 1, 1)
    draft = Gaussian(means, torch.full_like(means, 0.25))
    target_mean, setting = torch.zeros(6, 1, 1), Setting(sigma=0.5, bias=1.0, k=1)

    _, exhausted = RULES["exact"].replace(draft, target_mean, setting, draws)

    assert exhausted.tolist() == [True, False, True, False, False, True]


def test_thinning_stops_at_nan(draws: Draws) -> None:
    draft = Gaussian(torch.zeros(6, 1, 1), torch.full((6, 1, 1), 0.25))
    target_mean, setting = torch.full((6, 1, 1), torch.nan), Setting(sigma=0.5, bias=1.0, k=1)

    patch, exhausted = RULES["exact"].replace(draft, target_mean, setting, draws)

    assert bool(patch.isnan().all())
    assert not exhausted.any()


def test_thinning_a_patch_that_fills_a_batch_of_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows of large patches: one try at a time, and the same result."""
    rows = 50
    draws = Draws(1, torch.arange(rows), torch.zeros(rows, dtype=torch.int64))
    draft = Gaussian(torch.zeros(rows, 2, 3), torch.full((rows, 2, 3), 0.25))
    target_mean, setting = torch.full((rows, 2, 3), 0.1), Setting(sigma=0.5, bias=1.0, k=1)
    expected, _ = RULES["exact"].replace(draft, target_mean, setting, draws)

    monkeypatch.setattr(rules, "_THINNING_ELEMENTS", 7)
    result, exhausted = RULES["exact"].replace(draft, target_mean, setting, draws)

    assert torch.equal(result, expected)
    assert not exhausted.any()


def test_probabilities_are_safe_at_the_extremes() -> None:
    ratios = torch.tensor([-1e6, -800.0, 0.0, 800.0, 1e6], dtype=torch.float64)

    assert acceptance_probability(ratios, 1.0).tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert float(acceptance_probability(ratios, 0.25)[2]) == pytest.approx(0.25)
    rising = [float(acceptance_probability(torch.tensor(-2.0), b)) for b in (0.5, 1, 2, 5, 7, 10)]
    assert all(low < high for low, high in pairwise(rising[:5]))
    assert rising[-1] == 1.0


def test_edges_hold_all_that_a_patch_depends_on_and_nothing_else() -> None:
    one, other_bias = Setting(sigma=0.5, bias=2.0, k=1), Setting(sigma=0.5, bias=5.0, k=3)
    other_sigma = Setting(sigma=0.25, bias=2.0, k=1)
    for name, rule in RULES.items():
        assert rule.replacement_edge(one) == rule.replacement_edge(other_bias)
        assert rule.bonus_edge(one) == rule.bonus_edge(other_bias)
        samples = name != "point"
        assert (rule.replacement_edge(one) != rule.replacement_edge(other_sigma)) == samples
        assert rule.proposal_edge(0.5, stochastic=True) == rule.proposal_edge(0.25, stochastic=True)
        borrowed = [rule.proposal_edge(sigma, stochastic=False) for sigma in (0.5, 0.25)]
        assert (borrowed[0] != borrowed[1]) == samples
    low, lower = (Setting(sigma=0.5, bias=bias, k=1) for bias in (0.5, 0.25))
    exact, stride = RULES["exact"], RULES["stride"]
    assert len({exact.replacement_edge(s) for s in (one, low, lower)}) == 3
    assert exact.replacement_edge(one) != exact.bonus_edge(one)
    assert stride.replacement_edge(one) == stride.bonus_edge(one)
