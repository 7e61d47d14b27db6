"""`eosfm recipes`: list, show, copy, validate."""

from __future__ import annotations

import json

import pytest
import yaml

from eosfm_cli.commands.app import main
from eosfm_cli.errors import ExitCode
from eosfm_cli.recipe import load_recipe
from tests.test_cli import RECIPE

VARIANTS = RECIPE + "\nvariants: {rgb: {bands: [red, green, blue]}, nir: {bands: [nir]}}\n"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_list_filters_by_task_and_sensor(capsys):
    def names(*options):
        assert main(["recipes", "list", "--json", *options]) == 0
        return {entry["name"] for entry in json.loads(capsys.readouterr().out)["recipes"]}

    everything = names()
    assert {"mini-rgb", "mini-s1", "mini-s2", "mini-landcover"} <= everything
    radar = names("--sensor", "sar")
    assert "mini-s1" in radar
    assert "mini-rgb" not in radar
    tasks = ("segmentation", "classification", "multilabel", "regression", "change")
    by_task = [names("--task", task) for task in tasks]
    assert set().union(*by_task) == everything
    assert sum(map(len, by_task)) == len(everything)


def test_list_that_finds_nothing_says_so(capsys):
    assert main(["recipes", "list", "--sensor", "sonar"]) == 0
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "warning" in streams.err


def test_show_prints_what_would_run(tmp_path, capsys):
    (tmp_path / "fields.yaml").write_text(VARIANTS)
    assert main(["recipes", "show", "fields-rgb.yaml", "--set", "training.lr=1e-4"]) == 0
    streams = capsys.readouterr()
    shown = yaml.safe_load(streams.out)
    assert shown["bands"] == ["red", "green", "blue"]
    assert float(shown["training"]["lr"]) == 1e-4
    assert "fields.yaml" in streams.err

    (tmp_path / "again.yaml").write_text(streams.out)
    assert load_recipe("again.yaml") == load_recipe("fields-rgb.yaml", {"training.lr": 1e-4})


def test_show_as_json_has_the_same_values(tmp_path, capsys):
    (tmp_path / "fields.yaml").write_text(VARIANTS)
    main(["recipes", "show", "fields.yaml", "--json"])
    assert json.loads(capsys.readouterr().out)["bands"] == ["blue", "green", "red", "nir"]


def test_copy_is_a_file_that_validates_and_is_never_overwritten(tmp_path, capsys):
    assert main(["recipes", "copy", "mini-rgb"]) == 0
    streams = capsys.readouterr()
    copied = tmp_path / streams.out.strip()
    assert copied == tmp_path / "mini.yaml"
    assert "mini-rgb.yaml" in streams.err
    assert load_recipe("mini-rgb.yaml").bands == load_recipe("mini-rgb").bands

    copied.write_text("mine")
    assert main(["recipes", "copy", "mini-rgb"]) == ExitCode.USAGE
    assert copied.read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert main(["recipes", "copy", "mini-rgb", "--overwrite"]) == 0
    assert main(["recipes", "validate", "mini.yaml"]) == 0


def test_copy_under_another_name(tmp_path):
    assert main(["recipes", "copy", "mini", "folder/mine.yaml"]) == 0
    assert (tmp_path / "folder" / "mine.yaml").is_file()


def test_validate_lists_every_error_of_every_file(tmp_path, capsys):
    (tmp_path / "good.yaml").write_text(VARIANTS)
    (tmp_path / "bad.yaml").write_text(
        RECIPE.replace("title:", "titel:") + "\nvariants: {ir: {bands: [nri]}}\n"
    )
    assert main(["recipes", "validate", "good.yaml", "bad.yaml"]) == ExitCode.USAGE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "good.yaml: ok"
    assert any("line 2" in line and "'title'" in line for line in lines)
    assert any("'nir'" in line for line in lines)


def test_validate_as_json(tmp_path, capsys):
    (tmp_path / "good.yaml").write_text(RECIPE)
    (tmp_path / "broken.yaml").write_text("a: [")
    assert main(["recipes", "validate", "good.yaml", "broken.yaml", "--json"]) == ExitCode.USAGE
    found = json.loads(capsys.readouterr().out)
    assert found["valid"] is False
    assert found["recipes"]["good.yaml"] == []
    assert len(found["recipes"]["broken.yaml"]) == 1
