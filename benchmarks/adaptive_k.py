"""Would a k for each round pay? A stop before doubtful proposals against the best static k.

    SPEC_OPT_SHARED=folder python -m benchmarks.adaptive_k

A round stops proposing where the next proposal is doubtful, judged by what is known before it is
drawn: the draft's own variance, or how far its mean is from that of a linear model (whose own time
is not counted). A round that stops at once is a step of the target. For comparison, the oracle
knows each rejection beforehand and proposes nothing behind it. A stop may also be left out.

Nothing is timed. Every prefix that patches of draft and target can form is computed once, and all
settings and stops are counted in these trees. The time of a forecast, in steps of the target, is

    calls * fixed + evaluations * (1 - fixed) + draft steps * DRAFT_COST

where `fixed` is the share of a step of the target that does not grow with what it verifies: 0 on
a busy CPU (then time is target evaluations, and the draft), 0.64 for single windows of this pair on
two idle cores with spinning threads (docs/performance.md: four contexts take 2.4 ms, one 1.15 ms),
near 1 where a verification costs the same whatever k is.

A cell is the speedup over the target alone, at the measure that was reached, and the chosen k.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.environment import describe
from benchmarks.pair import CONTEXT, evaluator, model, shared, windows
from spec_opt.config.models import DraftConfig, TargetConfig, TrainingConfig
from spec_opt.config.study_file import DataConfig, DecodingConfig, Setting, StudyConfig
from spec_opt.config.values import ContextMode, Rule
from spec_opt.data.windows import load_dataset
from spec_opt.decoding.contexts import GROWING
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.decoding.rules import acceptance_probability
from spec_opt.decoding.speculative import Workload
from spec_opt.measure.evaluator import Evaluator
from spec_opt.models.forecaster import Forecaster, MovableForecaster
from spec_opt.models.linear import fit_to_series
from spec_opt.models.preparation import prepare_models

FIXED = (0.0, 0.64, 1.0)
DRAFT_COST = 0.07
"""The draft of this pair forecasts in a fourteenth of the target's time."""
SIGMAS: dict[Rule, tuple[float, ...]] = {
    "point": (0.04, 0.06, 0.08, 0.09, 0.1, 0.11, 0.12, 0.14, 0.17, 0.2, 0.25, 0.4, 1.0),
    "stride": (0.05, 0.1, 0.2, 0.22, 0.24, 0.26, 0.28, 0.32, 0.5),
}
BIASES = (1.0, 10.0)
THRESHOLDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
"""Shares of all prefixes at which a stop is tried."""
WINDOWS_AT_ONCE = 8
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """All prefixes of one length, [W, 2^d]; the children of prefix n are 2n (draft) and 2n + 1."""

    draft_term: Floats
    target_term: Floats
    variance: Floats
    from_linear: Floats
    """Squared distance of the draft's mean from a linear model's."""
    errors: Floats
    """[W, 2^d, 2]: squared errors of the proposal and of the target's patch."""
    away: Floats
    """[W, 2^d, 2]: their squared distances from the forecast of the target alone."""
    uniform: Floats
    """[W]: decides on acceptance."""


@dataclass(frozen=True)
class Outcome:
    """What one setting, with one way to stop, took and gave: [W] each."""

    setting: Setting
    mse: Floats
    away: Floats
    """Mean squared distance from the forecast of the target alone."""
    calls: Floats
    """Of the target."""
    evaluations: Floats
    drafts: Floats

    def steps(self, fixed: float) -> Floats:
        """Time, in steps of the target."""
        return self.calls * fixed + self.evaluations * (1 - fixed) + self.drafts * DRAFT_COST


PAIRS: tuple[tuple[int | None, Rule, ContextMode, int], ...] = (
    (None, "point", "rolling", 336),
    (None, "point", "growing", 336),
    (None, "point", "rolling", 720),
    (None, "stride", "rolling", 336),
    (6000, "point", "rolling", 336),
    (6000, "point", "growing", 336),
    (6000, "stride", "rolling", 336),
)
"""Training windows of the draft, seen once (None: the pair's own), rule, context mode, horizon."""


def main() -> None:
    print(describe())
    for sigma in (0.1, 0.25, 0.5, 1.0):
        found = evaluator("exact", "rolling").measure(Setting(sigma=sigma, bias=1.0, k=4))
        print(f"exact, sigma {sigma:g}: {found.accepted} of {found.tested} proposals accepted")
    for case in PAIRS:
        report(*case)


def report(draft_windows: int | None, rule: Rule, mode: ContextMode, horizon: int) -> None:
    config = DecodingConfig(rule=rule, context=mode, device="cpu")
    draft = model("draft") if draft_windows is None else brief_draft(draft_windows)
    measured = Evaluator(model("target"), draft, windows(horizon), config)
    baseline = measured.baseline()
    name = "the pair's draft" if draft_windows is None else f"a draft of {draft_windows} windows"
    print(
        f"\n{rule}, {mode}, horizon {horizon}, {name}: MSE of the target "
        f"{baseline.target_mse:.4f}, of the draft {baseline.draft_mse:.4f}\n"
    )
    found = outcomes(measured, rule)
    print("| limit | fixed | best static k | stop by variance | stop by linear model | oracle |")
    print("|---|---|---|---|---|---|")
    target = measured.target_alone[:, 0]
    for factor in (1.02, 1.05, 1.1):
        print_rows(f"MSE {factor:g} of the target's", found, "mse", target, factor)
    for factor in (0.02, 0.06) if rule == "point" else ():
        print_rows(f"{factor:g} from the target", found, "away", target, factor)


def brief_draft(draft_windows: int) -> MovableForecaster:
    study = StudyConfig(
        name="brief",
        data=DataConfig(source="ETTh1", context=CONTEXT, horizon=336),
        target=TargetConfig(checkpoint=shared() / "checkpoints" / "etth1_target_checkpoint.pth"),
        draft=DraftConfig(
            training=TrainingConfig(epochs=1, learning_rate=5e-4, max_windows=draft_windows)
        ),
    )
    return prepare_models(study, load_dataset(study.data)).draft


def outcomes(measured: Evaluator, rule: Rule) -> dict[str, list[Outcome]]:
    """Of all settings, without a stop, and with each way to decide on it."""
    workload, data = measured.workload, measured.workload.windows
    linear = fit_to_series(
        load_dataset(DataConfig(source="ETTh1", context=CONTEXT, horizon=data.horizon)),
        CONTEXT,
        workload.target.patch,
    )
    found: dict[str, list[Outcome]] = {"static": [], "variance": [], "linear": [], "oracle": []}
    tree: list[Level] = []
    for number, sigma in enumerate(SIGMAS[rule]):
        if rule == "stride" or number == 0:  # the patches of `point` do not depend on sigma
            tree = grow(workload, sigma, linear)
        signals = {
            "variance": [-level.variance for level in tree],
            "linear": [-level.from_linear for level in tree],
        }
        for bias, k in product(BIASES, range(1, workload.patches + 1)):
            count = Count(workload, tree, Setting(sigma=sigma, bias=bias, k=k))
            found["static"].append(count.decode(None, 0.0))
            found["oracle"].append(count.decode(None, 0.0, judged_only=True))
            for signal, confidence in signals.items():
                for least in np.quantile(flat(confidence), THRESHOLDS):
                    found[signal].append(count.decode(confidence, least))
    check(measured, found["static"])
    if rule == "point":
        gaps = flat([level.target_term for level in tree])
        for signal, confidence in signals.items():
            print(
                f"Rank correlation with the gap to the target, {signal}: "
                f"{-spearmanr(flat(confidence), gaps).statistic:.2f}\n"
            )
    for stopped in ("variance", "linear", "oracle"):
        found[stopped] += found["static"]  # a stop may be left out
    return found


def grow(workload: Workload, sigma: float, linear: Forecaster) -> list[Level]:
    """Every prefix of the windows' forecasts, by length."""
    index = torch.split(torch.arange(len(workload.windows)), WINDOWS_AT_ONCE)
    parts = [list(levels(workload, sigma, linear, part)) for part in index]
    return [
        Level(
            **{name: np.concatenate([vars(part)[name] for part in same]) for name in vars(same[0])}
        )
        for same in zip(*parts, strict=True)
    ]


@torch.inference_mode()
def levels(workload: Workload, sigma: float, linear: Forecaster, index: Tensor) -> Iterator[Level]:
    """The prefixes of the windows `index` [B], patch by patch."""
    rule, length = workload.rule, workload.target.patch
    buffer, keys = workload.start(index)
    series, futures = buffer.observed, workload.windows.futures(index)
    for depth in range(workload.patches):
        nodes = 2**depth
        draws = Draws(workload.seed, keys, torch.full_like(keys, depth))
        spread = draws.rows(torch.arange(len(keys)).repeat_interleave(nodes))
        draft = workload.contexts.forecast(workload.draft, series, CONTEXT)
        target = workload.contexts.forecast(workload.target, series, CONTEXT).mean
        proposal = rule.propose(draft, sigma, spread)
        emitted = torch.stack(
            [proposal, rule.bonus(target, Setting(sigma=sigma, bias=1.0, k=1), spread)], dim=1
        )  # [B * 2^d, 2, P, C]
        truth = futures[:, depth * length : (depth + 1) * length]
        by_window = emitted.reshape(len(keys), nodes, *emitted.shape[1:])
        alone = by_window[:, -1, 1]
        assert draft.variance is not None

        def squares(reference: Tensor, patches: Tensor = by_window) -> Floats:
            gap = patches[..., : reference.shape[1], :] - reference[:, None, None]
            found: Floats = gap.double().square().sum(dim=(3, 4)).numpy()
            return found

        def per_node(values: Tensor, nodes: int = nodes) -> Floats:
            found: Floats = values.double().reshape(-1, nodes).numpy()
            return found

        from_linear = linear.predict(series[:, -CONTEXT:]).mean - draft.mean
        yield Level(
            draft_term=per_node(rule.draft_term(proposal, draft, sigma)),
            target_term=per_node(rule.target_term(proposal, target)),
            variance=per_node(draft.variance.mean(dim=(1, 2))),
            from_linear=per_node(from_linear.square().mean(dim=(1, 2))),
            errors=squares(truth),
            away=squares(alone[:, : truth.shape[1]]),
            uniform=draws.uniform(Purpose.ACCEPTANCE).numpy(),
        )
        series = torch.cat([series.repeat_interleave(2, dim=0), emitted.flatten(0, 1)], dim=1)


class Count:
    """Decodes all windows under one setting by looking its prefixes up."""

    def __init__(self, workload: Workload, tree: list[Level], setting: Setting) -> None:
        self._growing = workload.contexts is GROWING
        self._tree, self._setting = tree, setting
        self._values = workload.windows.horizon * workload.windows.values.shape[1]
        self._accepted = []  # of each prefix, whether its proposal would be accepted
        for level in tree:
            log_ratio = workload.rule.log_ratio(
                torch.from_numpy(level.draft_term),
                torch.from_numpy(level.target_term),
                setting.sigma,
                workload.target.patch * workload.windows.values.shape[1],
            )
            alpha = acceptance_probability(log_ratio, setting.bias).numpy()
            self._accepted.append(level.uniform[:, None] <= alpha)

    def decode(
        self, confidence: list[Floats] | None, least: float, *, judged_only: bool = False
    ) -> Outcome:
        """Count what decoding takes.

        Args:
            confidence: of each prefix in its proposal; propose while it is at least `least`.
            judged_only: propose nothing behind a rejection, as if it were known beforehand.
        """
        patches, every = len(self._tree), np.arange(len(self._tree[0].uniform))
        node, slot, wanted = (np.zeros_like(every) for _ in range(3))
        errors, away, calls, evaluations, drafts, judgements = np.zeros((6, len(every)))
        for depth, level in enumerate(self._tree):
            fresh, left = np.flatnonzero(slot == 0), patches - depth
            most = min(self._setting.k, left)
            made, asked = self._proposals(fresh, node[fresh], depth, most, confidence, least)
            wanted[fresh] = made
            judged = slot < wanted
            accepted = judged & self._accepted[depth][every, node]
            if self._growing:  # a verification's last output is the bonus
                calls[fresh] += 1
                evaluations[fresh] += np.minimum(made + 1, left)
            else:  # a round that proposes nothing is a bonus too
                calls[fresh] += made > 0
                evaluations[fresh] += made
                calls += ~judged
                evaluations += ~judged
            drafts[fresh] += asked
            child = (~accepted).astype(np.int64)
            errors += level.errors[every, node, child]
            away += level.away[every, node, child]
            node = 2 * node + child
            slot = np.where(accepted, slot + 1, 0)
            judgements += judged
        if judged_only:
            evaluations, drafts = np.full_like(evaluations, patches), judgements
        return Outcome(
            self._setting, errors / self._values, away / self._values, calls, evaluations, drafts
        )

    def _proposals(
        self,
        rows: NDArray[np.int64],
        node: NDArray[np.int64],
        depth: int,
        most: int,
        confidence: list[Floats] | None,
        least: float,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many proposals a round makes, and how many draft steps it takes to know."""
        made, asked = (np.zeros_like(rows) for _ in range(2))
        going = np.ones(len(rows), dtype=bool)
        for slot in range(most):
            asked += going
            if confidence is not None:
                going &= confidence[depth + slot][rows, node] >= least
            made += going
            node = 2 * node
        return made, asked


def flat(parts: list[Floats]) -> Floats:
    return np.concatenate([part.ravel() for part in parts])


def check(measured: Evaluator, static: list[Outcome]) -> None:
    """Compare some settings with the decoder itself."""
    growing = measured.workload.contexts is GROWING
    for outcome in static[:: len(static) // 5]:
        found = measured.measure(outcome.setting)
        calls = found.rounds + (0 if growing else found.bonus)
        np.testing.assert_allclose(
            [values.mean() for values in (outcome.mse, outcome.calls, outcome.drafts)],
            (found.mse, calls / found.windows, found.proposed / found.windows),
            rtol=2e-3,
        )


def print_rows(
    name: str, found: dict[str, list[Outcome]], measure: str, target: Floats, factor: float
) -> None:
    """Speedups within a limit on `measure`, and the measure, as shares of the target's.

    Settings are chosen on one half of the windows and judged on the other, both ways round.
    """
    halves = np.array_split(np.arange(len(target)), 2)
    patches = max(outcome.setting.k for outcome in found["static"])
    for fixed in FIXED:
        cells = []
        for outcomes in found.values():
            measures = np.array([vars(one)[measure] for one in outcomes])  # [settings, W]
            steps = np.array([one.steps(fixed) for one in outcomes])
            time, reached, ks = 0.0, 0.0, []
            for chosen_on, judged_on in (halves, halves[::-1]):
                within = measures[:, chosen_on].mean(axis=1) <= factor * target[chosen_on].mean()
                best = np.where(within, steps[:, chosen_on].mean(axis=1), np.inf).argmin()
                time += steps[best, judged_on].sum()
                reached += measures[best, judged_on].sum()
                ks.append(str(outcomes[best].setting.k) if within.any() else "none within")
            cells.append(
                f"{patches * len(target) / time:.2f} at {reached / target.sum():.3f} "
                f"(k {', '.join(ks)})"
            )
        print(f"| {name} | {fixed:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
