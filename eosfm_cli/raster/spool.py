"""Finished rows of a scene's maps on disk, and where to go on after a break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eosfm_cli.errors import RasterError, unwritable
from eosfm_cli.raster.carry import Carry
from eosfm_cli.raster.layers import Layer
from eosfm_cli.raster.mosaic import carried
from eosfm_cli.raster.rawfile import RawFile, RawLayout
from eosfm_cli.raster.windows import WindowPlan
from eosfm_cli.run_dir import RunDir, write_text
from eosfm_cli.tiling import Tile

JOURNAL = "journal.json"


class Spool:
    """Rows of maps that wait to be written, in a folder of their own.

    After each row of windows the folder says how far it is, so that a run that was killed can go
    on from there. Leaving the spool removes the folder, but for a run that was stopped; a damaged
    scene stays one.

    Args:
        folder: Made if it is not there.
        plan: The windows of the scene.
        layers: Name -> map that is being made.
        depth: How many scores a pixel has.
        key: What must be the same to go on: model, scene, options. Another key begins anew.

    Raises:
        OutputError: The folder cannot be written.
        UsageError: Another process makes the same maps.
    """

    def __init__(
        self,
        folder: Path,
        plan: WindowPlan,
        layers: Mapping[str, Layer],
        depth: int,
        key: Mapping[str, Any],
    ) -> None:
        self.folder, self._plan, self._key = folder, plan, dict(key)
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = ExitStack()
        self._lock.enter_context(RunDir(folder).hold())
        state = _read_journal(folder, self._key)
        self.row = int(state["row"]) if state else 0
        """The row of windows to go on with, counted from 0."""
        self.tally: dict[str, Any] = state["tally"] if state else {}
        """What was counted up to there."""
        with self._writing():
            self.carry = Carry(folder, carried(plan, depth), state["carry"] if state else None)
            rows = [*plan.rows, plan.height][self.row]
            self._files = {
                name: RawFile(folder / f"{name}.raw", _layout(layer, plan), rows)
                for name, layer in layers.items()
            }

    def add(self, name: str, tile: Tile, values: NDArray[np.generic]) -> None:
        """Take finished pixels of one map, `(bands, h, w)`.

        Raises:
            OutputError: The disk is full.
        """
        with self._writing():
            self._files[name].put(tile.row, tile.col, values)

    def finish_row(self, tally: Mapping[str, Any]) -> None:
        """Note that all windows of the next row were added.

        Args:
            tally: What was counted up to here.

        Raises:
            OutputError: The disk is full.
        """
        with self._writing():
            self.carry.flush()
            for file in self._files.values():
                file.flush()
        self.row += 1
        state = {"row": self.row, "carry": self.carry.state, "tally": dict(tally)}
        write_text(self.folder / JOURNAL, json.dumps({"key": self._key, **state}))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def raw(self, name: str) -> Path:
        """The rows of one map."""
        return self._files[name].path

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Keep what a run that was stopped can go on from; else nothing is left."""
        self.carry.close()
        for file in self._files.values():
            file.close()
        stopped = kind is not None and not issubclass(kind, RasterError)
        if not (stopped and self.row):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def throw_away(folder: Path) -> None:
    """Remove what a run that was stopped has left.

    Raises:
        UsageError: It was not stopped: another process works in the folder.
    """
    if folder.is_dir():
        with RunDir(folder).hold():
            shutil.rmtree(folder, ignore_errors=True)


def begun(folder: Path) -> int:
    """How many rows of windows a run that was stopped has left in a folder."""
    try:
        return int(json.loads((folder / JOURNAL).read_text(encoding="utf-8"))["row"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _layout(layer: Layer, plan: WindowPlan) -> RawLayout:
    return RawLayout(plan.width, layer.count, layer.dtype)


def _read_journal(folder: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """How far a run of the same key was; `None` where there is none."""
    try:
        found = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
        same = found["key"] == json.loads(json.dumps(key)) and found["row"] >= 1
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if same else None
