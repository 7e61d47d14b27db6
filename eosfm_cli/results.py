"""What each workflow hands back: numbers, names and paths, no tensors."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What a piece of work took."""

    seconds: float = 0.0
    energy_kwh: float = 0.0
    emissions_kg: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.energy_kwh + other.energy_kwh,
            self.emissions_kg + other.emissions_kg,
        )


@dataclass(frozen=True)
class TrainResult:
    """One trained specialist."""

    specialist: str
    run: Path
    metrics: dict[str, float]
    """Of the test split: `mIoU` for segmentation, `Accuracy` for classification, and others."""
    parameters: int
    """Of the encoder, which is what an ensemble takes."""
    trainable: int
    """Of the encoder with its decoder and head."""
    cost: Cost


@dataclass(frozen=True)
class ExportResult:
    """One ensemble file."""

    path: Path
    specialists: tuple[str, ...]
    skipped: dict[str, str]
    """Run or checkpoint -> why it is not in the ensemble."""
    parameters: int


@dataclass(frozen=True)
class FitResult:
    """One fitted model."""

    recipe: str
    run: Path
    model: Path
    ensemble: Path | None
    specialists: tuple[str, ...]
    """Those in the model, in order."""
    scores: dict[str, float]
    """Gate score of every specialist searched; empty without `top_k`."""
    metrics: dict[str, float]
    parameters: int
    trainable: int
    cost: Cost


NONE_LEFT_OUT = "none left out"
"""What tables call the full model beside those that lack a specialist."""


@dataclass(frozen=True)
class AblationRow:
    """What leaving one specialist out does."""

    specialist: str
    metric: float
    """The task's metric without it."""
    change: float
    """Against the full model; negative means that it helps."""
    parameters: int


@dataclass(frozen=True)
class AblationResult:
    """Leave-one-out over a fitted model."""

    run: Path
    task: str
    metric_name: str
    full: float
    """With all specialists."""
    rows: tuple[AblationRow, ...]
    csv: Path
    json: Path
    png: Path
    cost: Cost


@dataclass(frozen=True)
class PredictResult:
    """One mapped scene."""

    input: Path
    output: Path
    quicklook: Path | None
    width: int
    height: int
    windows: int
    shares: dict[str, float]
    """Class -> share of the mapped pixels."""
    nodata_share: float
    cost: Cost


def to_json(value: Any) -> Any:  # noqa: ANN401 - any result
    """A result as plain JSON values."""
    if hasattr(value, "__dataclass_fields__"):
        return to_json(asdict(value))
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value
