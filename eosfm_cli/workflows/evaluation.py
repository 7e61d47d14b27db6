"""What an evaluation leaves behind, whether of a model or of a map."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eosfm_cli.confusion import Confusion
from eosfm_cli.errors import unwritable
from eosfm_cli.raster.confusion_chart import draw_confusion
from eosfm_cli.recipe import Task
from eosfm_cli.results import Cost, EvaluationResult, PrecisionChange, to_json
from eosfm_cli.run_dir import check_writable, write_csv, write_text

UNITS: dict[Task, str] = {
    "segmentation": "pixels",
    "classification": "samples",
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


def conclude(
    confusion: Confusion,
    *,
    title: str,
    subject: Path,
    reference: str,
    split: str | None,
    task: Task,
    products: Products,
    colours: Sequence[str] = (),
    left_out: dict[str, int] | None = None,
    cost: Cost,
    change: PrecisionChange | None = None,
) -> EvaluationResult:
    """Turn a confusion matrix into scores, tables and a picture, and write them.

    Raises:
        OutputError: A file cannot be written.
    """
    result = EvaluationResult(
        subject=subject,
        reference=reference,
        split=split,
        task=task,
        unit=UNITS[task],
        metrics=confusion.metrics(task),
        classes=confusion.classes(),
        confusion=confusion.counts,
        left_out=left_out or {},
        json=products.path("evaluation", ".json"),
        csv=products.path("evaluation", ".csv"),
        confusion_csv=products.path("confusion", ".csv"),
        png=products.path("confusion", ".png"),
        cost=cost,
        change=change,
    )
    _write(result, confusion, title, colours)
    return result


def _write(
    result: EvaluationResult, confusion: Confusion, title: str, colours: Sequence[str]
) -> None:
    unit = result.unit
    columns = [
        "class",
        "IoU",
        "F1",
        "precision",
        "recall",
        f"reference {unit}",
        f"predicted {unit}",
    ]
    rows = [
        (c.name, c.iou, c.f1, c.precision, c.recall, c.reference, c.predicted)
        for c in result.classes
    ]
    write_csv(result.csv, columns, rows)
    matrix = zip(confusion.names, confusion.counts, strict=True)
    write_csv(
        result.confusion_csv,
        ["reference", *confusion.names],
        [(name, *counts) for name, counts in matrix],
    )
    write_text(result.json, json.dumps(to_json(result), indent=2, ensure_ascii=False) + "\n")
    draw_confusion(result.png, confusion, title=title, unit=unit, colours=colours)
