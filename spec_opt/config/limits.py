"""What a search keeps to, and when it ends: `constraints` and `stop` of `[search]`."""

from typing import Annotated

from pydantic import Field, PositiveFloat

from spec_opt.config.values import PositiveInt, Table


class Constraints(Table):
    """`[search] constraints`: the limits that a setting must keep to be feasible."""

    max_mse_ratio: PositiveFloat | None = None
    """MSE at most this times the target's own."""
    min_acceptance: Annotated[float, Field(ge=0.0, le=1.0)] | None = None

    @property
    def are_set(self) -> bool:
        return self.max_mse_ratio is not None or self.min_acceptance is not None

    def __str__(self) -> str:
        parts = []
        if self.max_mse_ratio is not None:
            parts.append(f"MSE <= {self.max_mse_ratio:g} times the target's")
        if self.min_acceptance is not None:
            parts.append(f"acceptance >= {100 * self.min_acceptance:g}%")
        return ", ".join(parts)


class StopConfig(Table):
    """`[search] stop`: when nothing more comes."""

    patience: PositiveInt = 30
    """Distinct settings over which the hypervolume is watched."""
    hypervolume: float = Field(default=0.001, ge=0.0, le=1.0)
    """Share by which it must rise over them."""
