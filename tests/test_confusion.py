"""Scores from a confusion matrix: the same as torchmetrics', which the runs' summaries have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)

from eosfm_cli.confusion import Confusion, Mixup

CLASSES = 4
LABELS = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40
)


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_scores_are_those_of_torchmetrics(labels: list[tuple[int, int]]) -> None:
    truth, predicted = torch.tensor(labels).T
    matrix = MulticlassConfusionMatrix(CLASSES)(predicted, truth).tolist()
    found = Confusion.of("abcd", matrix)
    maps, images = found.metrics("segmentation"), found.metrics("classification")
    for metric, average, mine in (
        (MulticlassJaccardIndex, "macro", maps["mIoU"]),
        (MulticlassJaccardIndex, "micro", maps["mIoU_Micro"]),
        (MulticlassF1Score, "macro", maps["F1_Score"]),
        (MulticlassF1Score, "macro", images["F1_Score"]),
        (MulticlassAccuracy, "macro", maps["Accuracy"]),
        (MulticlassAccuracy, "macro", images["Accuracy"]),
        (MulticlassAccuracy, "micro", maps["Pixel_Accuracy"]),
        (MulticlassAccuracy, "micro", images["Accuracy_Micro"]),
        (MulticlassPrecision, "macro", maps["Precision"]),
        (MulticlassPrecision, "macro", images["Precision"]),
        (MulticlassRecall, "macro", images["Recall"]),
    ):
        theirs = metric(CLASSES, average=average)(predicted, truth)
        assert mine == pytest.approx(float(theirs), abs=1e-6), (metric, average)
    for score in ("iou", "f1", "precision", "recall"):
        metric = {
            "iou": MulticlassJaccardIndex,
            "f1": MulticlassF1Score,
            "precision": MulticlassPrecision,
            "recall": MulticlassRecall,
        }[score]
        theirs = metric(CLASSES, average=None)(predicted, truth).tolist()
        mine = [getattr(one, score) or 0.0 for one in found.classes()]
        assert mine == pytest.approx(theirs, abs=1e-6), score


def test_what_cannot_be_told_is_none_and_not_zero() -> None:
    only, never, wrong = Confusion.of(["a", "b", "c"], [[3, 0, 1], [0, 0, 0], [0, 0, 0]]).classes()
    assert (only.recall, only.precision, only.iou) == (0.75, 1.0, 0.75)
    assert (never.recall, never.precision, never.iou, never.f1) == (None,) * 4
    assert (wrong.recall, wrong.precision, wrong.iou) == (None, 0.0, 0.0)
    assert (only.reference, only.predicted) == (4, 3)


def test_mixups_are_sorted_and_are_shares_of_the_reference() -> None:
    found = Confusion.of(["a", "b"], [[1, 3], [5, 5]]).mixups()
    assert found == [Mixup("b", "a", 5, 0.5), Mixup("a", "b", 3, 0.75)]
