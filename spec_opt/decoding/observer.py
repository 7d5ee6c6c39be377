"""Hooks through which a decoder reports what it is doing, so that its steps can be timed."""

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal, NamedTuple

Role = Literal["target", "draft"]


class Step(NamedTuple):
    """One call of a model by a decoder."""

    role: Role
    kind: Literal["next", "verify", "bonus"]
    first: bool
    """Whether it is the model's first call of the forecast."""
    rows: int
    """Windows that take the step together."""
    proposals: int = 0
    """Proposals that are verified; 0 for the other kinds."""


class Observer:
    """The hooks. This class ignores what is reported."""

    def step(self, step: Step) -> AbstractContextManager[None]:
        """Entered for the call of a model."""
        del step
        return _IGNORED

    def judging(self) -> AbstractContextManager[None]:
        """Entered for the work of the rule: sampling, judging, replacing."""
        return _IGNORED


_IGNORED: Final = nullcontext()
UNOBSERVED: Final = Observer()
