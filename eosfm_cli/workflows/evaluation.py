"""What an evaluation leaves behind, whether of a model or of a map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eosfm_cli.confusion import Confusion
from eosfm_cli.errors import unwritable
from eosfm_cli.raster.agreement_chart import draw_labels, draw_scatter
from eosfm_cli.raster.confusion_chart import draw_confusion
from eosfm_cli.raster.residuals import Residuals
from eosfm_cli.recipe import TargetSpec, Task
from eosfm_cli.results import (
    ComparedValues,
    Cost,
    EvaluationResult,
    LabelScore,
    PrecisionChange,
    ValueSummary,
    to_json,
)
from eosfm_cli.run_dir import check_writable, write_csv, write_text

UNITS: dict[Task, str] = {
    "segmentation": "pixels",
    "classification": "samples",
    "multilabel": "samples",
    "regression": "pixels",
    "change": "pixels",
}


@dataclass(frozen=True)
class Products:
    """Where the files of an evaluation go."""

    folder: Path
    before: str = ""
    after: str = ""

    def path(self, what: str, suffix: str) -> Path:
        """One of the files."""
        return self.folder / f"{self.before}{what}{self.after}{suffix}"


def prepare(folder: Path) -> None:
    """Make the folder of the results, before work is done whose result goes there.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    check_writable(folder)


@dataclass(frozen=True)
class Comparison:
    """What was set against what, and where the results go."""

    title: str
    subject: Path
    reference: str
    split: str | None
    task: Task
    products: Products
    cost: Cost
    left_out: dict[str, int] = field(default_factory=dict)
    change: PrecisionChange | None = None

    def result(self, metrics: dict[str, float], picture: str, **found: Any) -> EvaluationResult:  # noqa: ANN401
        """The result with these scores, and with what else was found."""
        return EvaluationResult(
            subject=self.subject,
            reference=self.reference,
            split=self.split,
            task=self.task,
            unit=UNITS[self.task],
            metrics=metrics,
            left_out=self.left_out,
            json=self.products.path("evaluation", ".json"),
            csv=self.products.path("evaluation", ".csv"),
            png=self.products.path(picture, ".png"),
            cost=self.cost,
            change=self.change,
            **found,
        )


def conclude_classes(
    comparison: Comparison, confusion: Confusion, colours: Sequence[str] = ()
) -> EvaluationResult:
    """Turn a confusion matrix into scores, tables and a picture, and write them.

    Args:
        comparison: What was compared.
        confusion: What came of it.
        colours: Of the classes on maps.

    Raises:
        OutputError: A file cannot be written.
    """
    result = comparison.result(
        confusion.metrics(comparison.task),
        "confusion",
        classes=confusion.classes(),
        confusion=confusion.counts,
        confusion_csv=comparison.products.path("confusion", ".csv"),
    )
    _write_classes(result, confusion)
    draw_confusion(result.png, confusion, title=comparison.title, unit=result.unit, colours=colours)
    return result


def _write_classes(result: EvaluationResult, confusion: Confusion) -> None:
    unit = result.unit
    columns = ["class", "IoU", "F1", "precision", "recall"]
    rows = [
        (c.name, c.iou, c.f1, c.precision, c.recall, c.reference, c.predicted)
        for c in confusion.classes()
    ]
    write_csv(result.csv, [*columns, f"reference {unit}", f"predicted {unit}"], rows)
    if result.confusion_csv is not None:
        matrix = zip(confusion.names, confusion.counts, strict=True)
        rows = [(name, *counts) for name, counts in matrix]
        write_csv(result.confusion_csv, ["reference", *confusion.names], rows)
    _write_json(result)


def conclude_labels(
    comparison: Comparison,
    scores: tuple[LabelScore, ...],
    metrics: dict[str, float],
    samples: int,
) -> EvaluationResult:
    """Write the scores of several labels as tables and a picture.

    Args:
        comparison: What was compared.
        scores: Of each label.
        metrics: Over all of them.
        samples: How many there are.

    Raises:
        OutputError: A file cannot be written.
    """
    result = comparison.result(metrics, "evaluation", classes=scores)
    columns = ["class", "AP", "F1", "precision", "recall", "reference samples", "predicted samples"]
    rows = [(s.name, s.ap, s.f1, s.precision, s.recall, s.reference, s.predicted) for s in scores]
    write_csv(result.csv, columns, rows)
    _write_json(result)
    draw_labels(result.png, scores, title=comparison.title, samples=samples)
    return result


def conclude_values(
    comparison: Comparison, residuals: Residuals, metrics: dict[str, float], target: TargetSpec
) -> EvaluationResult:
    """Write how far values are off as tables and a picture.

    Args:
        comparison: What was compared.
        residuals: What came of it.
        metrics: The scores.
        target: What the values are.

    Raises:
        OutputError: A file cannot be written.
    """
    values = ComparedValues(
        pixels=residuals.count,
        reference=_summary(target, *residuals.known),
        predicted=_summary(target, *residuals.predicted),
    )
    result = comparison.result(metrics, "scatter", values=values)
    rows = [(name, metrics[name], unit_of(name, target.unit)) for name in metrics]
    for whose, summary in (("reference", values.reference), ("predicted", values.predicted)):
        for what in ("min", "mean", "max"):
            rows.append((f"{whose} {what}", getattr(summary, what), target.unit))
    write_csv(result.csv, ["score", "value", "unit"], [*rows, ("pixels", values.pixels, None)])
    _write_json(result)
    unit = f" {target.unit}" if target.unit else ""
    draw_scatter(
        result.png,
        residuals,
        title=comparison.title,
        quantity=target.title,
        scores=f"RMSE {metrics['RMSE']:.4g}{unit}, MAE {metrics['MAE']:.4g}{unit}, bias "
        f"{metrics['Bias']:+.4g}{unit}, R² {metrics['R2_Score']:.3f}",
    )
    return result


def _summary(target: TargetSpec, low: float, mean: float, high: float) -> ValueSummary:
    return ValueSummary(target.name, target.unit, low, mean, high)


def unit_of(metric: str, unit: str | None) -> str | None:
    """The unit of a score of values that are in this one."""
    if unit is None or metric == "R2_Score":
        return None
    return f"({unit})²" if metric == "MSE" else unit


def _write_json(result: EvaluationResult) -> None:
    write_text(result.json, json.dumps(to_json(result), indent=2, ensure_ascii=False) + "\n")
