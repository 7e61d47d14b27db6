"""A fitted model that is about to compute: loaded when the first scene needs it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from eosfm_cli.errors import UsageError, is_out_of_memory
from eosfm_cli.manifest import ModelManifest, read_manifest
from eosfm_cli.precision import Precision
from eosfm_cli.progress import Progress
from eosfm_cli.raster import program
from eosfm_cli.raster.scoring import Scorer, choose_device, describe_device, refuse_precision
from eosfm_cli.raster.windows import (
    MULTIPLE,
    WindowPlan,
    plan_fitting_windows,
    plan_windows,
    window_size,
)
from eosfm_cli.words import counted

if TYPE_CHECKING:
    from eosfm_cli.training.model import FittedModel


def load_scorer(
    source: Path | None,
    fitted: FittedModel | None,
    progress: Progress,
    *,
    disagreement: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    precision: Precision = "32-true",
) -> Scorer:
    """Make a model ready to compute: the one that is in memory, or the file's.

    Args:
        source: The model's file; not needed where the model is in memory.
        fitted: A model in memory.
        progress: Told of the device, and of batches that had to become smaller.
        disagreement: Whether to tell how far the specialists differ, too.
        device: `auto`, `cpu` or `cuda`.
        batch_size: Windows at once; as many as go well if not given.
        precision: What a model from a file computes in.

    Raises:
        BundleError: The file is damaged.
        UsageError: There is no such device, or it cannot compute in this precision by itself.
    """
    where = choose_device(device)
    refuse_precision(precision, where)
    if fitted is None:
        return program.load_scorer(
            source,
            read_manifest(source),
            make=_through_terratorch,
            disagreement=disagreement,
            device=where,
            batch_size=batch_size,
            precision=precision,
            progress=progress,
        )
    progress.say(f"device: {describe_device(where)}")
    return Scorer(
        _disagreeing(fitted) if disagreement else fitted.module,
        where,
        batch_size,
        lambda size: progress.warn(
            f"Memory ran out; going on with {counted(size, 'window')} at once."
        ),
        fitted.manifest.task,
        disagreement=disagreement,
    )


def _through_terratorch(path: Path, disagreement: bool, precision: Precision) -> nn.Module:
    from eosfm_cli.training.program import build_module  # TerraTorch takes long to import

    return build_module(path, disagreement, precision)


def _disagreeing(fitted: FittedModel) -> nn.Module:
    from eosfm_cli.training.program import Disagreeing

    return Disagreeing(fitted).eval()


class ReadyModel:
    """A fitted model and what of it is needed to map scenes.

    Args:
        source: Its file; `None` where it is in memory.
        fitted: The model in memory.
        manifest: What it says about itself.
        progress: Told of what is loaded.
        options: Those of `load_scorer`.
    """

    def __init__(
        self,
        source: Path | None,
        fitted: FittedModel | None,
        manifest: ModelManifest,
        progress: Progress,
        **options: bool | str | int | None,
    ) -> None:
        self.source, self.manifest = source, manifest
        self._fitted, self._progress, self._options = fitted, progress, options
        self.failed = False
        """Whether it could not be loaded, so that no scene can be mapped."""

    @cached_property
    def scorer(self) -> Scorer:
        """The model, loaded."""
        try:
            return load_scorer(self.source, self._fitted, self._progress, **self._options)
        except Exception:
            self.failed = True
            raise

    def plan(self, height: int, width: int, asked: int | None) -> WindowPlan:
        """Plan windows over a scene, as large as go well.

        They are larger than small tiles where the model takes other sizes than it was fitted on.

        Args:
            height: Of the scene.
            width: Of the scene.
            asked: The window's edge as the user wants it.

        Raises:
            UsageError: The model takes windows of its tile's size alone, or of no such size.
        """
        tile = self.manifest.tile_size
        if asked is not None and asked % MULTIPLE:
            near = max(asked // MULTIPLE, 1) * MULTIPLE
            raise UsageError(
                f"--window cannot be {asked}: encoders halve their input five times.",
                hint=f"Choose a multiple of {MULTIPLE}, such as {near}.",
            )
        size = window_size(tile, asked)
        planned = plan_windows if asked else plan_fitting_windows
        plan = planned(height, width, size)
        if plan.padded == (tile, tile) or self._takes_other_sizes:
            return plan
        if asked not in (None, tile):
            raise UsageError(
                f"The model {self.manifest.recipe!r} takes windows of {tile} pixels alone.",
                hint="Leave --window out.",
            )
        return replace(plan_windows(height, width, tile), fixed=True)

    @cached_property
    def _takes_other_sizes(self) -> bool:
        edge = self.manifest.tile_size + MULTIPLE
        dates = (2,) if self.manifest.task == "change" else ()
        window = np.zeros((len(self.manifest.bands), *dates, edge, edge), np.float32)
        scorer = self.scorer
        try:
            scorer.fit_to(*window.shape)
            (scores,) = scorer.score([window])
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False  # such as encoders with a place for each of a fixed number of patches
        return scores.shape[-2:] == window.shape[-2:]
