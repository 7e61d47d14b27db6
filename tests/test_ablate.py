"""Ablation: what is refused before anything is computed, and what is written."""

from __future__ import annotations

import csv
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from eosfm_cli.errors import DataError, OutputError, UsageError
from eosfm_cli.manifest import ModelManifest, to_metadata
from eosfm_cli.progress import Silent
from eosfm_cli.results import AblationResult, AblationRow, Cost
from eosfm_cli.run_dir import RunDir
from eosfm_cli.workflows.ablate import ablate, write_ablation
from tests.rasters import folder_recipe


def write_fit(folder: Path, *names: str) -> RunDir:
    """A fit's run folder, as far as it can be told without its weights."""
    recipe = folder_recipe()
    manifest = ModelManifest.model_validate(
        {
            "recipe": recipe.name,
            "title": recipe.title,
            "task": recipe.task,
            "bands": recipe.bands,
            "statistics": recipe.statistics,
            "classes": recipe.classes,
            "ignore_index": 255,
            "tile_size": 32,
            "encoder": {"fusion": "concat", "normalize": "batch"},
            "specialists": [
                {"name": name, "backbone": "x", "in_chans": 3, "bands": recipe.bands}
                for name in names
            ],
            "decoder": {"name": "d"},
        }
    )
    run = RunDir(folder)
    header = json.dumps({"__metadata__": to_metadata(manifest)}).encode()
    run.model.write_bytes(struct.pack("<Q", len(header)) + header)
    run.config.write_text(recipe.to_yaml())
    return run


def leave_out(run: Path) -> AblationResult:
    return ablate(run, root=run / "root", data_root=None, progress=Silent())


def test_one_specialist_alone_cannot_be_left_out(tmp_path: Path) -> None:
    run = write_fit(tmp_path, "rgb")
    with pytest.raises(UsageError, match="one specialist only"):
        leave_out(run.path)


def test_a_model_outside_its_run_is_refused(tmp_path: Path) -> None:
    run = write_fit(tmp_path, "rgb", "s1")
    elsewhere = run.model.rename(tmp_path / "mine.safetensors")
    with pytest.raises(DataError, match=r"mine\.safetensors is not in the run folder"):
        leave_out(elsewhere)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write anywhere: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work() -> None:
    with TemporaryDirectory() as name:
        run = write_fit(Path(name), "rgb", "s1")
        run.path.chmod(0o555)
        try:
            with without_privileges(), pytest.raises(OutputError, match="Cannot write") as caught:
                leave_out(run.path)
        finally:
            run.path.chmod(0o755)
    assert caught.value.exit_code == 1


def test_the_full_model_has_one_name(tmp_path: Path) -> None:
    rows = (AblationRow("rgb", 0.4, -0.1, 10), AblationRow("s1", 0.6, 0.1, 20))
    csv_, json_, png = (tmp_path / f"ablation.{ending}" for ending in ("csv", "json", "png"))
    write_ablation(
        AblationResult(tmp_path, "segmentation", "mIoU", 0.5, rows, csv_, json_, png, Cost(1))
    )
    with csv_.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["without"] for row in found] == ["none left out", "rgb", "s1"]
    assert [row["mIoU"] for row in found] == ["0.5", "0.4", "0.6"]
    assert found[0]["parameters"] == "30"
    assert json.loads(json_.read_text())["rows"][1]["specialist"] == "s1"
    assert png.read_bytes().startswith(b"\x89PNG")
