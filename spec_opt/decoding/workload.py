"""What is decoded, by which models, and how: all that a setting is tried on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spec_opt.config import Setting
from spec_opt.data import Windows
from spec_opt.decoding.acceptance import AcceptanceRule
from spec_opt.decoding.autoregressive import decode_autoregressively
from spec_opt.decoding.contexts import Contexts, patches_to_cover
from spec_opt.decoding.speculative import Decoded, decode_speculatively
from spec_opt.models.device import send
from spec_opt.models.forecaster import Forecaster


@dataclass(frozen=True)
class Workload:
    """Windows, and what forecasts them in lockstep batches."""

    target: Forecaster
    draft: Forecaster
    rule: AcceptanceRule
    contexts: Contexts
    windows: Windows
    seed: int
    device: torch.device
    """Where the models are."""

    @property
    def patches(self) -> int:
        """M, patches per forecast."""
        return patches_to_cover(self.windows.horizon, self.target.patch)

    def speculatively(self, index: Tensor, setting: Setting) -> Decoded:
        """Decode the windows `index` [B] as one batch.

        Raises:
            DecodingError: a value is not finite.
        """
        return decode_speculatively(
            self.target,
            self.draft,
            self.rule,
            setting,
            send(self.windows.contexts(index), self.device),
            send(self.windows.starts[index], self.device),
            self.windows.horizon,
            self.seed,
            self.contexts,
        )

    def target_only(self, index: Tensor, setting: Setting) -> Tensor:
        """The same windows with the target alone and the same emission: [B, H, C].

        Raises:
            DecodingError: a value is not finite.
        """
        return self._alone(self.target, index, self.rule.target_sigma(setting.sigma))

    def draft_only(self, index: Tensor) -> Tensor:
        """The same windows with the draft's means alone: [B, H, C].

        Raises:
            DecodingError: a value is not finite.
        """
        return self._alone(self.draft, index, 0.0)

    def _alone(self, model: Forecaster, index: Tensor, sigma: float) -> Tensor:
        return decode_autoregressively(
            model,
            send(self.windows.contexts(index), self.device),
            send(self.windows.starts[index], self.device),
            self.windows.horizon,
            sigma,
            self.seed,
            self.contexts,
        )
