"""Variants of a study: other drafts and other rules, which are searched with the settings."""

from typing import Any, Final, Literal, Self

from pydantic import model_validator

from spec_opt.config.values import (
    ContinuousRange,
    DraftKind,
    Dropout,
    DropoutSpace,
    EpochSpace,
    NonNegative,
    NonNegativeSpace,
    PositiveInt,
    Rule,
    Share,
    ShareSpace,
    Table,
    distinct,
)

Combination = Literal["all", "one-at-a-time"]

NETWORK_KEYS: Final = (
    "teacher_noise",
    "variance_regularizer",
    "teacher_dropout",
    "draft_epochs",
    "draft_scale",
)
"""The keys of a variant that only a network has: they have no effect on other kinds of draft."""


class Variant(Table):
    """What a trial changes in its study file besides the setting; None leaves it as it is."""

    draft_kind: DraftKind | None = None
    teacher_noise: NonNegative | None = None
    variance_regularizer: NonNegative | None = None
    teacher_dropout: Dropout | None = None
    draft_epochs: PositiveInt | None = None
    draft_scale: Share | None = None
    """All four fractions of `[draft.scale]`."""
    rule: Rule | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The keys that are not None, in the order above."""
        return {name: value for name, value in self if value is not None}

    @property
    def changes_draft(self) -> bool:
        """Whether it is about more than the rule."""
        return any(name != "rule" for name in self.given)

    def __str__(self) -> str:
        def written(value: Any) -> str:
            return f"{value:g}" if isinstance(value, float) else str(value)

        return " ".join(f"{name}={written(value)}" for name, value in self.given.items())


AS_WRITTEN: Final = Variant()
"""The study file as it is."""
VARIANT_KEYS: Final = tuple(Variant.model_fields)


class VariantSpaces(Table):
    """The keys of `[search]` that make variants; those that are absent are not searched."""

    draft_kind: tuple[DraftKind, ...] | None = None
    teacher_noise: NonNegativeSpace | None = None
    """See `[draft.distillation]`."""
    variance_regularizer: NonNegativeSpace | None = None
    teacher_dropout: DropoutSpace | None = None
    draft_epochs: EpochSpace | None = None
    """`epochs` of `[draft.training]`."""
    draft_scale: ShareSpace | None = None
    """All four fractions of `[draft.scale]`."""
    rule: tuple[Rule, ...] | None = None
    combine: Combination = "all"
    """Of a grid: each value of a key above with each of the others, or (one-at-a-time) the study
    file as it is and each value alone."""

    @property
    def varied(self) -> dict[str, Any]:
        """The spaces of the keys that are searched, by key, in the order of a variant's."""
        spaces = {name: getattr(self, name) for name in VARIANT_KEYS}
        return {name: space for name, space in spaces.items() if space is not None}

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name, space in self.varied.items():
            if isinstance(space, tuple):
                try:
                    distinct(space)
                except ValueError:
                    raise ValueError(
                        f"{name} = {list(space)}: must list values, none twice"
                    ) from None
            elif isinstance(space, ContinuousRange) and space.log and space.low == 0:
                raise ValueError(f"{name}: a range with log = true must begin above 0")
        return self
