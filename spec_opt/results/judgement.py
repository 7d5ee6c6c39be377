"""What became of a recommendation on other windows, as the store keeps it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Judgement:
    """What `spec-opt confirm` found of one recommendation on one split."""

    scenario: str
    """speed, quality or balanced; draft_alone for the draft alone."""
    split: str
    trial: int | None
    outcome: str
    """confirmed, not confirmed, or not settled."""
    why: str | None
    """What contradicts the recommendation or leaves it open."""
    mse_ratio: float
    """MSE over the target's, on that split."""
    mse_ratio_low: float | None
    """The 95 % interval; None if not known."""
    mse_ratio_high: float | None
    limit: float
    """The scenario's highest `mse_ratio`."""
    acceptance_rate: float | None

    def __str__(self) -> str:
        return self.outcome if self.why is None else f"{self.outcome}: {self.why}"
