"""`eosfm demo`, from nothing to a map."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import rasterio

from eosfm_cli.commands.app import main


@pytest.mark.slow
def test_the_demo_leaves_what_it_promises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path / "demo"), "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    for command in ("train-specialist", "export", "fit-ensemble", "ablate", "predict", "emissions"):
        assert f"$ eosfm {command}" in err
    scores = {row["model"]: row["miou"] for row in result["rows"]}
    assert len(scores) == 7
    full = scores["full ensemble (concat)"]
    assert full > max(score for model, score in scores.items() if model.endswith("alone"))
    assert full > scores["random ensemble (concat)"]
    for path in map(Path, result["files"].values()):
        assert path.exists(), path
    with rasterio.open(result["files"]["map"]) as map_:
        assert (map_.width, map_.height) == (598, 508)
    with Path(result["files"]["comparison"]).open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == list(scores)
