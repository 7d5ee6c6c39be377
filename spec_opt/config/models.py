"""`[target]` and `[draft]` of a study file: checkpoints, or the settings to make models."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

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
from spec_opt.config.values import PositiveInt, Seed, Size, Table

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


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


BESIDE_CHECKPOINT = frozenset({"checkpoint", "activation"})
"""The only keys that a model with a checkpoint can have; the others describe how to make one."""


class ModelConfig(Table):
    """A model: a checkpoint, or the settings to make one.

    A checkpoint fixes sizes and weights, so settings for making a model are an error beside it,
    and their defaults are left out when it is serialised.
    """

    checkpoint: Annotated[Path, PlainSerializer(readable, str, when_used="json")] | None = None
    activation: Literal["relu", "gelu"] = "relu"
    """Also needed with a checkpoint of OpenLTM or STRIDE, which does not record it."""

    @model_validator(mode="after")
    def _of_one_origin(self) -> Self:
        surplus = sorted(self.model_fields_set - BESIDE_CHECKPOINT)
        if self.checkpoint is not None and surplus:
            raise ValueError(f"{surplus[0]} cannot stand beside checkpoint: give one or the other")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = serialise(self)
        if self.checkpoint is None:
            return document
        return {key: value for key, value in document.items() if key in BESIDE_CHECKPOINT}


class TargetConfig(ModelConfig):
    """`[target]`: a checkpoint, or the sizes of a Timer-XL to train."""

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
        if self.checkpoint is None and self.d_model % (4 * self.heads):
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


class DraftConfig(ModelConfig):
    """`[draft]`: a checkpoint, or the scale and distillation of one to make."""

    scale: ScaleConfig = ScaleConfig()
    distillation: DistillationConfig = DistillationConfig()
    training: TrainingConfig = TrainingConfig(learning_rate=5e-4)
