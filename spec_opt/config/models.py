"""`[target]` and `[draft]` of a study file: checkpoints, or what makes models."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from spec_opt.config.values import PositiveInt, Seed, Size, Table


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


class ModelConfig(Table):
    """A model: a checkpoint, or what makes one.

    A checkpoint fixes sizes and weights: keys that would make a model contradict it, so they are
    not taken beside it, and not told beside it either, defaults or not.
    """

    making: ClassVar[frozenset[str]]
    """The keys that make a model."""

    checkpoint: Path | None = None

    @model_validator(mode="after")
    def _of_one_origin(self) -> Self:
        surplus = sorted(self.making & self.model_fields_set)
        if self.checkpoint is not None and surplus:
            raise ValueError(f"{surplus[0]} cannot stand beside checkpoint: give one or the other")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = serialise(self)
        surplus = self.making if self.checkpoint is not None else ()
        return {key: value for key, value in document.items() if key not in surplus}


class TargetConfig(ModelConfig):
    """`[target]`: a checkpoint, or the sizes of a Timer-XL to train."""

    making = frozenset(
        {"patch", "d_model", "heads", "feedforward", "layers", "dropout", "training"}
    )

    patch: Size = 96
    """Points per patch."""
    d_model: Size = 256
    heads: Size = 8
    feedforward: Size = 512
    layers: Annotated[int, Field(ge=1, le=1000)] = 2
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    activation: Literal["relu", "gelu"] = "relu"
    """Also needed with a foreign checkpoint: its tensors do not tell."""
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.checkpoint is None and self.d_model % (4 * self.heads):
            raise ValueError(
                f"d_model = {self.d_model} must be a multiple of 4 * heads = {4 * self.heads}"
            )
        return self


class ScaleConfig(Table):
    """`[draft.scale]`: the draft's sizes as fractions of the target's."""

    d_model: float = Field(default=0.25, gt=0.0, le=1.0)
    heads: float = Field(default=0.25, gt=0.0, le=1.0)
    feedforward: float = Field(default=0.25, gt=0.0, le=1.0)
    layers: float = Field(default=0.25, gt=0.0, le=1.0)


class DistillationConfig(Table):
    """`[draft.distillation]`: how the draft learns from the target."""

    teacher_noise: NonNegativeFloat = 0.05
    """Standard deviation of the noise added to the teacher's output (standardised units)."""
    variance_regularizer: NonNegativeFloat = 0.01
    """Weight of the penalty on log-variances below -5."""
    teacher_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the teacher while it teaches."""


class DraftConfig(ModelConfig):
    """`[draft]`: a checkpoint, or the scale and distillation of one to make."""

    making = frozenset({"scale", "distillation", "training"})

    activation: Literal["relu", "gelu"] = "relu"
    scale: ScaleConfig = ScaleConfig()
    distillation: DistillationConfig = DistillationConfig()
    training: TrainingConfig = TrainingConfig(learning_rate=5e-4)
