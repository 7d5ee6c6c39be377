"""What models a study has, in one line each: sizes, parameters, where they come from."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from spec_opt.config.paths import readable
from spec_opt.models.forecaster import MovableForecaster


@dataclass(frozen=True)
class ModelSummary:
    """A model as a study uses it; small enough to keep with the study."""

    role: Literal["target", "draft"]
    path: str
    """Its file, or the factory that made it."""
    description: str
    patch: int
    parameters: int | None
    """None for a model that does not say."""
    fingerprint: str
    times_smaller: float | None
    """A draft's: how many times the target's parameters are its own."""

    def __str__(self) -> str:
        """The line that says what it is."""
        text = f"{self.role}: {self.description}"
        if self.parameters is not None:
            text += f", {counted(self.parameters)} parameters"
        text += f", from {self.path}"
        if self.times_smaller is None:
            return text
        if self.times_smaller < 1.0:
            return f"{text}, {_short(1 / self.times_smaller)} times larger than the target"
        return f"{text}, {_short(self.times_smaller)} times smaller"

    def as_document(self) -> dict[str, Any]:
        """For JSON, the line included."""
        return {"summary": str(self), **asdict(self)}


def counted(parameters: int) -> str:
    """A number of parameters as a person says it."""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if parameters >= size:
            return f"{_short(parameters / size)} {unit}"
    return str(parameters)


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 10 else f"{number:,.0f}"


def summarise_model(
    role: Literal["target", "draft"],
    model: MovableForecaster,
    path: Path | str,
    target: MovableForecaster | None = None,
) -> ModelSummary:
    """Say what a model is; a draft beside its `target`."""
    parameters, targets = (_parameters(one) for one in (model, target))
    return ModelSummary(
        role=role,
        path=readable(path),
        description=getattr(model, "description", type(model).__name__),
        patch=model.patch,
        parameters=parameters,
        fingerprint=model.fingerprint,
        times_smaller=None if not (parameters and targets) else targets / parameters,
    )


def _parameters(model: MovableForecaster | None) -> int | None:
    """How many a model says that it has."""
    found = getattr(model, "parameters", None)
    return found if isinstance(found, int) else None
