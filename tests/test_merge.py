"""Ensembles of several institutions become one; nothing gets lost, and nothing counts twice."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import BACKBONE, PARAMETERS_3, tiny_specialist, tiny_state

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_ensemble, write_ensemble, write_model
from eosfm_cli.ensemble.specialist import Specialist
from tests.test_bundle import _model_manifest


def named(specialist: Specialist, **changes: Any) -> Specialist:
    return replace(specialist, info=specialist.info.model_copy(update=changes))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two institutions' ensembles, one in each format, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EOSFM_EXPERIMENTS", raising=False)
    shared = named(tiny_specialist("clouds", 2, seed=7), run=None)
    ours = [tiny_specialist("rgb", seed=1), shared]
    theirs = [
        named(tiny_specialist("rgb", seed=2), licence="CC-BY-NC-4.0", energy_kwh=0.75),
        named(shared, name="clouds-again", bands=None),
    ]
    write_ensemble(tmp_path / "ours.safetensors", ours)
    write_ensemble(tmp_path / "theirs.pth", theirs)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    return code, *capsys.readouterr()


def test_two_formats_become_one_ensemble(folder: Path, capsys: Any) -> None:
    code, out, err = run(capsys, "merge", "ours.safetensors", "theirs.pth", "--card", "card.md")
    assert code == 0
    found = read_ensemble(folder / "experiments" / "merged.safetensors")
    assert [one.info.name for one in found] == ["rgb", "clouds", "rgb-2"]
    assert [one.info.source for one in found] == [
        "ours.safetensors",
        "ours.safetensors",
        "theirs.pth",
    ]
    theirs = found[2].info
    assert (theirs.licence, theirs.energy_kwh, theirs.metrics) == (
        "CC-BY-NC-4.0",
        0.75,
        {"mIoU": 0.5},
    )
    assert torch.equal(found[2].state["stem_0.weight"], tiny_state(seed=2)["stem_0.weight"])
    assert "Renamed: rgb (theirs.pth) is called rgb-2 here" in err
    assert "Taken once: clouds-again (theirs.pth) has the same weights as clouds" in err
    assert "eosfm fit-ensemble RECIPE --ensemble experiments/merged.safetensors" in err
    assert "CC-BY-NC-4.0" in out
    assert "license: cc-by-nc-4.0" in (folder / "card.md").read_text()


def test_the_first_origin_stays_over_several_merges(folder: Path, capsys: Any) -> None:
    write_ensemble(folder / "third.pth", [tiny_specialist("third", seed=3)])
    assert run(capsys, "merge", "ours.safetensors", "theirs.pth", "-o", "two.pth")[0] == 0
    code, out, _ = run(capsys, "merge", "two.pth", "third.pth", "-o", "three.safetensors", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["sources"] == {
        "rgb": "ours.safetensors",
        "clouds": "ours.safetensors",
        "rgb-2": "theirs.pth",
        "third": "third.pth",
    }
    assert result["parameters"] == sum(
        one.info.parameters for one in read_ensemble(folder / "three.safetensors")
    )
    assert result["licence"] == "CC-BY-NC-4.0"


def test_who_names_its_bands_stands_for_its_twin(folder: Path, capsys: Any) -> None:
    whole = tiny_specialist("whole")
    write_ensemble(folder / "bare.pth", [named(whole, name="bare", bands=None)])
    write_ensemble(folder / "whole.pth", [named(whole, bands=("red", "green", "blue"))])
    write_ensemble(folder / "turned.pth", [named(whole, bands=("blue", "green", "red"))])
    assert run(capsys, "merge", "bare.pth", "whole.pth", "turned.pth", "-o", "all.pth")[0] == 0
    found = read_ensemble(folder / "all.pth")
    assert [one.info.bands for one in found] == [("red", "green", "blue"), ("blue", "green", "red")]
    assert [one.info.name for one in found] == ["whole", "whole-2"]


def test_files_of_one_name_are_told_apart_by_their_folders(folder: Path, capsys: Any) -> None:
    for place, seed in (("a", 1), ("b", 2)):
        write_ensemble(folder / place / "all.pth", [tiny_specialist(place, seed=seed)])
    again = str(folder / "b" / "all.pth")
    _, out, _ = run(capsys, "merge", "a/all.pth", "b/all.pth", again, "-o", "c.pth", "--json")
    result = json.loads(out)
    assert result["sources"] == {"a": "a/all.pth", "b": "b/all.pth"}
    assert result["repeated"] == ["b (b/all.pth)"]


def test_what_states_no_licence_is_said(folder: Path, capsys: Any) -> None:
    write_ensemble(folder / "bare.pth", [named(tiny_specialist("bare", seed=4), licence=None)])
    asked = ["merge", "ours.safetensors", "bare.pth", "-o", "all.pth", "--card", "card.md"]
    assert "no licence is stated for bare" in run(capsys, *asked)[2]
    assert "license: unknown" in (folder / "card.md").read_text()


def test_the_published_format_stays_plain(folder: Path, capsys: Any) -> None:
    assert run(capsys, "merge", "ours.safetensors", "theirs.pth", "-o", "all.pth")[0] == 0
    entries = torch.load(folder / "all.pth", weights_only=True)
    assert [entry[2]["source"] for entry in entries] == [
        "ours.safetensors",
        "ours.safetensors",
        "theirs.pth",
    ]


class _Calls:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch was-run",))


def broken(folder: Path) -> dict[str, tuple[int, str]]:
    """File -> what is wrong with it: exit code and words."""
    nan = tiny_specialist("sick")
    nan.state["stem_1.weight"][0] = float("nan")
    write_ensemble(folder / "nan.safetensors", [nan])
    write_model(folder / "model.safetensors", {"a": torch.ones(1)}, _model_manifest())
    whole = (folder / "ours.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-100])
    (folder / "cut.pth").write_bytes((folder / "theirs.pth").read_bytes()[:-100])
    config = {"backbone": f"timm_{BACKBONE}", "encoder_name": "x"}
    torch.save([], folder / "empty.pth")
    torch.save([(12, tiny_state(), config)], folder / "channels.pth")
    torch.save(_Calls(), folder / "hostile.pth")
    torch.save([(3, _Calls(), config)], folder / "inside.pth")
    (folder / "plain.pth").write_bytes(pickle.dumps(_Calls()))
    return {
        "nan.safetensors": (3, "'sick' of nan.safetensors has values that are not finite"),
        "model.safetensors": (3, "is a fitted model, no ensemble"),
        "cut.safetensors": (3, "it is cut short"),
        "cut.pth": (3, "is cut short or damaged"),
        "empty.pth": (3, "holds no specialist"),
        "channels.pth": (3, "said to take 12 channels"),
        "hostile.pth": (3, "asks for posix.system, which was not run"),
        "inside.pth": (3, "its entry 1 asks for posix.system, which was not run"),
        "plain.pth": (3, "did not write; it asks for posix.system, which was not run"),
        "missing.pth": (3, "There is no file missing.pth"),
        "ours.onnx": (3, "no usable safetensors file"),
    }


def test_what_cannot_be_merged_changes_nothing(folder: Path, capsys: Any) -> None:
    cases = broken(folder)
    (folder / "ours.onnx").write_bytes(b"no ensemble at all")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, (expected, words) in cases.items():
        code, out, err = run(capsys, "merge", "ours.safetensors", name, "--card", "card.md")
        assert (code, out) == (expected, ""), name
        assert words in err
        assert "Traceback" not in err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ours.safetensors"], "takes two ensembles or more"),
        (["ours.safetensors", "theirs.pth", "-o", "theirs.pth"], "is one of the inputs"),
        (
            ["ours.safetensors", "theirs.pth", "-o", "theirs.pth", "--overwrite"],
            "is one of the inputs",
        ),
        (["ours.safetensors", "theirs.pth", "-o", "there.pth"], "is already there"),
        (["ours.safetensors", "theirs.pth", "-o", "all.onnx"], "cannot be written as"),
    ],
)
def test_nothing_is_overwritten_unasked(
    arguments: list[str], words: str, folder: Path, capsys: Any
) -> None:
    (folder / "there.pth").write_text("mine")
    before = (folder / "theirs.pth").read_bytes()
    code, _, err = run(capsys, "merge", *arguments)
    assert code == 2
    assert words in err
    assert (folder / "there.pth").read_text() == "mine"
    assert (folder / "theirs.pth").read_bytes() == before


def test_an_output_can_be_replaced_when_asked(folder: Path, capsys: Any) -> None:
    (folder / "there.pth").write_text("old")
    asked = ["merge", "ours.safetensors", "theirs.pth", "-o", "there.pth", "--overwrite"]
    assert run(capsys, *asked)[0] == 0
    assert len(read_ensemble(folder / "there.pth")) == 3
    assert read_ensemble(folder / "there.pth")[0].info.parameters == PARAMETERS_3
