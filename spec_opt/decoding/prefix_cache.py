"""All settings over one tree of decoded prefixes: models are asked once per prefix.

Random numbers are keyed by (seed, window, position), so what the models compute depends only on
the decoded prefix. A trial walks its windows through the tree, one patch a step; at most steps the
answer is there already. Every window emits exactly one patch a step (an accepted proposal, a
replacement, or a bonus patch), so all windows stand at the same depth and a step is one batch.

The walk gives what `decode_speculatively` gives for the same seed, to rounding: tests hold the two
against each other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spec_opt.config.study_file import Setting
from spec_opt.data.windows import Windows
from spec_opt.decoding.contexts import ROLLING, Contexts
from spec_opt.decoding.philox import Draws, Purpose
from spec_opt.decoding.prefix_tree import CacheStatistics, Patches, TreeGrower
from spec_opt.decoding.rules import (
    DRAFT_MEAN,
    AcceptanceRule,
    Edge,
    acceptance_probability,
    target_edge,
)
from spec_opt.decoding.speculative import Counters
from spec_opt.models.forecaster import Forecaster, Gaussian


@dataclass(frozen=True)
class Walk:
    """What came of all W windows under one setting; tensors on the cache's device."""

    counters: Counters
    squared_error: Tensor
    """[W], float64: summed over the H points and C channels of the forecast."""
    absolute_error: Tensor
    forecast: Tensor | None
    """[W, H, C], where it was asked for."""


class PrefixCache:
    """Models, windows and a rule, and every prefix that was decoded with them.

    Args:
        target, draft: of one patch length, on `device`.
        rule: how proposals are made and judged.
        windows: what is forecast.
        seed: of all random numbers.
        batch_size: contexts per model call.
        device: where models and prefixes live.
        limit_bytes: memory of the prefixes; None for `default_limit`. Beyond it prefixes are
            forgotten, those of other sigmas first and the all-proposal chain, which every setting
            shares, last.
        contexts: how the models are shown a prefix.
    """

    def __init__(
        self,
        target: Forecaster,
        draft: Forecaster,
        rule: AcceptanceRule,
        windows: Windows,
        *,
        seed: int,
        batch_size: int = 64,
        device: torch.device | None = None,
        limit_bytes: int | None = None,
        contexts: Contexts = ROLLING,
    ) -> None:
        self._rule, self._seed = rule, seed
        self._horizon = windows.horizon
        self._device = device or torch.device("cpu")
        self._grower = TreeGrower(
            target,
            draft,
            windows,
            batch_size=batch_size,
            device=self._device,
            limit_bytes=limit_bytes,
            contexts=contexts,
        )
        self._tree = self._grower.tree
        self._dice: dict[int, Tensor] = {}

    @property
    def statistics(self) -> CacheStatistics:
        """How often the models were asked so far."""
        return self._grower.statistics

    @torch.inference_mode()
    def walk(self, setting: Setting, *, forecast: bool = False) -> Walk:
        """Decode all windows under one setting.

        Raises:
            DecodingError: a value is not finite.
        """
        edges = {
            self._rule.proposal_edge(setting.sigma, stochastic=True),
            self._rule.proposal_edge(setting.sigma, stochastic=False),
            self._rule.replacement_edge(setting),
            self._rule.bonus_edge(setting),
        }
        parts = [
            self._walk(roots, setting, forecast=forecast) for roots in self._grower.chunks(edges)
        ]
        forecasts = [part.forecast for part in parts if part.forecast is not None]
        return Walk(
            counters=Counters.concatenate([part.counters for part in parts]),
            squared_error=torch.cat([part.squared_error for part in parts]),
            absolute_error=torch.cat([part.absolute_error for part in parts]),
            forecast=torch.cat(forecasts) if forecasts else None,
        )

    @torch.inference_mode()
    def target_alone(self) -> tuple[Tensor, Tensor]:
        """The target's means: squared and absolute error of each window, [W] each, float64."""
        return self._follow(target_edge(0.0))

    @torch.inference_mode()
    def draft_alone(self) -> tuple[Tensor, Tensor]:
        """The draft's means: squared and absolute error of each window, [W] each, float64."""
        return self._follow(DRAFT_MEAN)

    def _follow(self, edge: Edge) -> tuple[Tensor, Tensor]:
        squared, absolute = [], []
        for nodes in self._grower.chunks({edge}):
            path = []
            for depth in range(self._grower.patches):
                if edge == DRAFT_MEAN:
                    self._grower.ask_draft(nodes, depth)
                    nodes = self._grower.extend(nodes, edge, depth, self._draft_means)
                else:
                    self._grower.ask_target(nodes, depth)
                    nodes = self._grower.extend(nodes, edge, depth, self._target_means)
                path.append(nodes)
            errors = self._errors(torch.stack(path, dim=1))
            squared.append(errors[0])
            absolute.append(errors[1])
        return torch.cat(squared), torch.cat(absolute)

    def _walk(self, roots: Tensor, setting: Setting, *, forecast: bool) -> Walk:
        """`roots` [B] through the tree, a patch a step; a round is a run of `wanted` proposals."""
        counters = Counters.zeros(len(roots), setting.k, self._device)
        nodes, path = roots, []
        slot = torch.zeros_like(roots)  # [B]: proposals accepted so far in the round
        wanted = torch.zeros_like(roots)  # [B]: proposals that the round makes
        for depth in range(self._grower.patches):
            starting = slot == 0
            wanted = torch.where(starting, min(setting.k, self._grower.patches - depth), wanted)
            counters.rounds.add_(starting)
            counters.proposed.add_(wanted * starting)

            self._grower.ask_target(nodes, depth)
            nodes = nodes.clone()
            judged = torch.nonzero(slot < wanted).squeeze(1)
            after_all = torch.nonzero(slot == wanted).squeeze(1)

            nodes[judged], accepted = self._judge(nodes[judged], depth, setting)
            at = slot[judged]
            counters.tested[judged, at] += 1
            counters.accepted[judged, at] += accepted.to(torch.int64)
            slot[judged] = torch.where(accepted, at + 1, 0)

            nodes[after_all] = self._add_bonus(nodes[after_all], depth, setting)
            counters.bonus[after_all] += 1
            slot[after_all] = 0

            counters.thinning_exhausted.add_(self._tree.exhausted.rows[nodes])
            path.append(nodes)
        taken = torch.stack(path, dim=1)  # [B, M]
        squared, absolute = self._errors(taken)
        patches = self._tree.patch.rows[taken].flatten(1, 2) if forecast else None
        return Walk(
            counters=counters,
            squared_error=squared,
            absolute_error=absolute,
            forecast=None if patches is None else patches[:, : self._horizon],
        )

    def _judge(self, nodes: Tensor, depth: int, setting: Setting) -> tuple[Tensor, Tensor]:
        """Propose at `nodes` [n] and judge: the prefixes that result [n], and which accepted."""
        tree, rule = self._tree, self._rule
        proposals = self._propose(nodes, depth, setting)
        unknown = torch.nonzero(tree.target_term.rows[proposals].isnan()).squeeze(1)
        if len(unknown):
            asked = proposals[unknown]
            tree.target_term.rows[asked] = rule.target_term(
                tree.patch.rows[asked], tree.target_mean(nodes[unknown])
            )
        log_ratio = rule.log_ratio(
            tree.draft_term.rows[proposals],
            tree.target_term.rows[proposals],
            setting.sigma,
            self._grower.patch_size,
        )
        alpha = acceptance_probability(log_ratio, setting.bias)
        accepted = self._uniforms(depth)[tree.window.rows[nodes]] <= alpha
        result = proposals.clone()
        result[~accepted] = self._replace(nodes[~accepted], depth, setting)
        return result, accepted

    def _propose(self, nodes: Tensor, depth: int, setting: Setting) -> Tensor:
        self._grower.ask_draft(nodes, depth)

        def make(missing: Tensor) -> Patches:
            draft = Gaussian(*self._tree.draft(missing))
            proposal = self._rule.propose(draft, setting.sigma, self._draws(missing, depth))
            return Patches(proposal, self._rule.draft_term(proposal, draft, setting.sigma))

        edge = self._rule.proposal_edge(setting.sigma, stochastic=self._tree.has_draft_variance)
        return self._grower.extend(nodes, edge, depth, make)

    def _replace(self, nodes: Tensor, depth: int, setting: Setting) -> Tensor:
        def make(missing: Tensor) -> Patches:
            patch, exhausted = self._rule.replace(
                Gaussian(*self._tree.draft(missing)),
                self._tree.target_mean(missing),
                setting,
                self._draws(missing, depth),
            )
            return Patches(patch, exhausted=exhausted.to(torch.int64))

        return self._grower.extend(nodes, self._rule.replacement_edge(setting), depth, make)

    def _add_bonus(self, nodes: Tensor, depth: int, setting: Setting) -> Tensor:
        def make(missing: Tensor) -> Patches:
            mean = self._tree.target_mean(missing)
            return Patches(self._rule.bonus(mean, setting, self._draws(missing, depth)))

        return self._grower.extend(nodes, self._rule.bonus_edge(setting), depth, make)

    def _target_means(self, nodes: Tensor) -> Patches:
        return Patches(self._tree.target_mean(nodes))

    def _draft_means(self, nodes: Tensor) -> Patches:
        # The term of rule `point`, whose proposals these are too, is 0.
        return Patches(self._tree.draft(nodes)[0])

    def _errors(self, path: Tensor) -> tuple[Tensor, Tensor]:
        """Squared and absolute error of forecasts whose patches are `path` [B, M]: [B] each."""
        tree = self._tree
        squared, absolute = tree.squared_error.rows[path], tree.absolute_error.rows[path]
        return squared.sum(dim=1), absolute.sum(dim=1)

    def _draws(self, nodes: Tensor, depth: int) -> Draws:
        windows = self._grower.starts[self._tree.window.rows[nodes]]
        return Draws(self._seed, windows, torch.full_like(windows, depth))

    def _uniforms(self, depth: int) -> Tensor:
        """[W]: the acceptance dice of all windows at one position."""
        if depth not in self._dice:
            draws = Draws(
                self._seed, self._grower.starts, torch.full_like(self._grower.starts, depth)
            )
            self._dice[depth] = draws.uniform(Purpose.ACCEPTANCE)
        return self._dice[depth]
