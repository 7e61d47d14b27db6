"""Which class was taken for which: the counts that every score of a classification comes from.

Scores that have no value, such as the precision of a class that was never predicted, are `None`;
in means over the classes they count as 0, and classes that occur nowhere do not count at all, as
torchmetrics has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eosfm_cli.recipe import Task


@dataclass(frozen=True)
class ClassScore:
    """How well one class was found."""

    name: str
    iou: float | None
    """Intersection over union."""
    f1: float | None
    precision: float | None
    """Of what was called so, the share that is so: the user's accuracy."""
    recall: float | None
    """Of what is so, the share that was called so: the producer's accuracy."""
    reference: int
    """How many pixels or samples are of this class."""
    predicted: int
    """How many were taken for it."""


@dataclass(frozen=True)
class Mixup:
    """One class that was taken for another."""

    reference: str
    predicted: str
    count: int
    share: float
    """Of all that is of the reference's class."""


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix with the names of its classes."""

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """Rows are the reference's classes, columns the predicted ones."""

    @classmethod
    def of(cls, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Confusion:
        """Take any square of counts."""
        return cls(tuple(names), tuple(tuple(map(int, row)) for row in counts))

    @property
    def total(self) -> int:
        """All pixels or samples."""
        return sum(map(sum, self.counts))

    @property
    def agreed(self) -> int:
        """Those that were taken for what they are."""
        return sum(self.counts[i][i] for i in range(len(self.names)))

    @property
    def shares(self) -> tuple[tuple[float | None, ...], ...]:
        """The matrix as shares of each reference class; `None` for classes that it lacks."""
        return tuple(tuple(_ratio(count, sum(row)) for count in row) for row in self.counts)

    def classes(self) -> tuple[ClassScore, ...]:
        """The scores of each class."""
        columns = [sum(column) for column in zip(*self.counts, strict=True)]
        return tuple(
            _class_score(name, self.counts[i][i], sum(self.counts[i]), columns[i])
            for i, name in enumerate(self.names)
        )

    def metrics(self, task: Task) -> dict[str, float]:
        """The scores over all classes, by TerraTorch's names."""
        overall = self.agreed / self.total if self.total else 0.0
        recall, f1 = self._mean(lambda c: c.recall), self._mean(lambda c: c.f1)
        if task == "classification":
            return {
                "Accuracy": recall,
                "Accuracy_Micro": overall,
                "F1_Score": f1,
                "Precision": self._mean(lambda c: c.precision),
                "Recall": recall,
            }
        union = 2 * self.total - self.agreed
        return {
            "mIoU": self._mean(lambda c: c.iou),
            "mIoU_Micro": self.agreed / union if union else 0.0,
            "F1_Score": f1,
            "Accuracy": recall,
            "Pixel_Accuracy": overall,
            "Precision": self._mean(lambda c: c.precision),
        }

    def mixups(self) -> list[Mixup]:
        """Every class that was taken for another, the most frequent first."""
        found = [
            Mixup(self.names[i], self.names[j], count, count / sum(row))
            for i, row in enumerate(self.counts)
            for j, count in enumerate(row)
            if count and i != j
        ]
        return sorted(found, key=lambda mixup: -mixup.count)

    def _mean(self, score: Callable[[ClassScore], float | None]) -> float:
        """Over the classes that occur at all."""
        there = [score(c) or 0.0 for c in self.classes() if c.reference or c.predicted]
        return sum(there) / len(there) if there else 0.0


def _class_score(name: str, agreed: int, reference: int, predicted: int) -> ClassScore:
    return ClassScore(
        name=name,
        iou=_ratio(agreed, reference + predicted - agreed),
        f1=_ratio(2 * agreed, reference + predicted),
        precision=_ratio(agreed, predicted),
        recall=_ratio(agreed, reference),
        reference=reference,
        predicted=predicted,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
