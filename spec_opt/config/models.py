"""`[target]` and `[draft]` of a study file: checkpoints, factories, or settings to make models."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PlainSerializer,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from spec_opt.config.paths import readable
from spec_opt.config.values import (
    DraftKind,
    Dropout,
    PositiveInt,
    Seed,
    Share,
    Size,
    Table,
    matching,
)
from spec_opt.config.variants import Variant


class TrainingConfig(Table):
    """`[target.training]`, `[draft.training]`: how a model is fitted."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 3e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    patience: PositiveInt = 3
    """Epochs without a better validation loss before training stops."""
    max_windows: PositiveInt | None = None
    """Training windows used in an epoch, evenly spaced; all of them if absent."""
    seed: Seed = 0


Factory = Annotated[str, matching(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "'package.module:function'")]
"""A function of the user's that returns a model."""


class ModelConfig(Table):
    """A model: a checkpoint, a factory, or the settings to make one.

    Each origin has its own keys (`_keys`): others are an error beside it, and their defaults are
    left out when it is serialised.
    """

    checkpoint: (
        Annotated[Path, Field(strict=False), PlainSerializer(readable, str, when_used="json")]
        | None
    ) = None
    activation: Literal["relu", "gelu"] = "relu"
    """Also of a checkpoint of OpenLTM or STRIDE, which does not record it; not of others."""
    factory: Factory | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the factory."""

    @property
    def is_made(self) -> bool:
        """Whether spec-opt trains or fits it: it is neither a checkpoint nor the user's own."""
        return self.checkpoint is None and self.factory is None

    def _origin(self) -> tuple[str, frozenset[str]]:
        """The key that says where the model comes from, and the keys that can stand beside it."""
        if self.checkpoint is not None:
            return "checkpoint", frozenset({"checkpoint", "activation"})
        if self.factory is not None:
            return "factory", frozenset({"factory", "options"})
        return "", frozenset(type(self).model_fields) - {"checkpoint", "factory", "options"}

    @model_validator(mode="after")
    def _of_one_origin(self) -> Self:
        origin, keys = self._origin()
        if self.options and self.factory is None:
            raise ValueError("options are a factory's: give the factory too")
        if surplus := sorted(self.model_fields_set - keys - {"options"}):
            found = " and ".join(filter(None, (", ".join(surplus[:-1]), surplus[-1])))
            raise ValueError(f"{found} cannot stand beside {origin}: give one or the other")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = serialise(self)
        _, keys = self._origin()
        if self.checkpoint is not None:  # a default would be taken for given when read again
            keys -= {"activation"} - self.model_fields_set
        return {key: value for key, value in document.items() if key in keys}


class TargetConfig(ModelConfig):
    """`[target]`: a checkpoint, a factory, or the sizes of a Timer-XL to train."""

    patch: Size = 96
    """Points per patch."""
    d_model: Size = 256
    heads: Size = 8
    feedforward: Size = 512
    layers: Annotated[int, Field(ge=1, le=1000)] = 2
    dropout: Dropout = 0.1
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.is_made and self.d_model % (4 * self.heads):
            raise ValueError(
                f"d_model = {self.d_model} must be a multiple of 4 * heads = {4 * self.heads}"
            )
        return self


class ScaleConfig(Table):
    """`[draft.scale]`: the draft's sizes as fractions of the target's."""

    d_model: Share = 0.25
    heads: Share = 0.25
    feedforward: Share = 0.25
    layers: Share = 0.25


class DistillationConfig(Table):
    """`[draft.distillation]`: how the draft learns from the target."""

    teacher_noise: NonNegativeFloat = 0.05
    """Standard deviation of the noise added to the teacher's output (standardised units)."""
    variance_regularizer: NonNegativeFloat = 0.01
    """Weight of the penalty on log-variances below -5."""
    teacher_dropout: Dropout = 0.0
    """Dropout rate of the teacher while it teaches."""


_NETWORK_KEYS: Final = frozenset({"activation", "scale", "distillation", "training"})
_DRAFT_KEYS: Final[dict[DraftKind, frozenset[str]]] = {
    "timer-xl": _NETWORK_KEYS,
    "linear": frozenset(),
    "seasonal": frozenset({"period"}),
}
"""The keys of each kind of draft, besides those of every draft."""


class DraftConfig(ModelConfig):
    """`[draft]`: a checkpoint, a factory, or the kind of draft to make and its settings."""

    kind: DraftKind | None = None
    """timer-xl: distilled from the target; linear and seasonal: fitted to it in closed form.
    If absent, linear; or timer-xl where a key is given that only a network has."""
    context: PositiveInt | None = None
    """Points that the draft sees, the last ones of the target's; all of them if absent."""
    period: PositiveInt | None = None
    """Of a seasonal draft; found in the training split if absent."""
    scale: ScaleConfig = ScaleConfig()
    distillation: DistillationConfig = DistillationConfig()
    training: TrainingConfig = TrainingConfig(learning_rate=5e-4)

    @property
    def kind_made(self) -> DraftKind:
        """The kind of a draft that is made."""
        if self.kind is not None:
            return self.kind
        return "timer-xl" if self.model_fields_set & _NETWORK_KEYS else "linear"

    @property
    def is_network(self) -> bool:
        """Whether it is a network to be distilled."""
        return self.is_made and self.kind_made == "timer-xl"

    @property
    def written(self) -> dict[str, Any]:
        """Its values of a variant's keys; those that have no effect on it are absent."""
        if not self.is_made:
            return {}
        kind = {"draft_kind": self.kind_made}
        if not self.is_network:
            return kind
        scales = {getattr(self.scale, name) for name in ScaleConfig.model_fields}
        return {
            **kind,
            **dict(self.distillation),
            "draft_epochs": self.training.epochs,
            "draft_scale": scales.pop() if len(scales) == 1 else None,
        }

    def with_variant(self, variant: Variant) -> "DraftConfig":
        """The draft that a variant makes of this one."""
        draft = self._of_kind(variant.draft_kind or self.kind_made) if self.is_made else self
        if not draft.is_network:
            return draft
        given = variant.given
        scale = dict.fromkeys(ScaleConfig.model_fields, variant.draft_scale)
        distillation = {n: given[n] for n in DistillationConfig.model_fields if n in given}
        epochs = {} if variant.draft_epochs is None else {"epochs": variant.draft_epochs}
        parts = {
            "scale": draft.scale.model_copy(update={} if variant.draft_scale is None else scale),
            "distillation": draft.distillation.model_copy(update=distillation),
            "training": draft.training.model_copy(update=epochs),
        }
        return draft.model_copy(update=parts)

    def _of_kind(self, kind: DraftKind) -> "DraftConfig":
        """A draft of a kind, with the keys of this one that the kind has too."""
        keys = self.model_fields_set & (_DRAFT_KEYS[kind] | {"context"})
        return DraftConfig(kind=kind, **{key: getattr(self, key) for key in sorted(keys)})

    def _origin(self) -> tuple[str, frozenset[str]]:
        origin, keys = super()._origin()
        if not origin:
            origin, keys = f"kind = '{self.kind_made}'", _DRAFT_KEYS[self.kind_made] | {"kind"}
        return origin, keys | {"context"}
