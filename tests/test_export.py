"""From run folders and loose checkpoints to one ensemble."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from checkpoints import PARAMETERS_3, lightning, tiny_specialist, tiny_state, train_run

from eosfm_cli.commands.app import main
from eosfm_cli.ensemble.bundle import read_ensemble, write_ensemble
from eosfm_cli.errors import BundleError, DataError, UsageError
from eosfm_cli.manifest import read_manifest
from eosfm_cli.progress import Silent
from eosfm_cli.workflows.export import export


class _Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def _loose(path: Path, in_chans: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(lightning(tiny_state(in_chans, seed=zlib.crc32(str(path).encode()))), path)
    return path


def test_every_completed_specialist_is_taken(tmp_path: Path) -> None:
    train_run(tmp_path, "mini-s2")
    train_run(tmp_path, "mini-rgb")
    result = export(root=tmp_path)
    assert result.path == tmp_path / "ensemble.safetensors"
    assert result.specialists == ("mini-rgb", "mini-s2")
    assert (result.skipped, result.parameters) == ({}, 2 * PARAMETERS_3)
    info = read_ensemble(result.path)[0].info
    assert info.bands == ("red", "green", "blue")
    assert info.statistics["green"].std == 4
    assert (info.recipe, info.task, info.licence) == ("mini-rgb", "segmentation", "CC-BY-4.0")
    assert info.classes == ("water", "land")
    assert (info.metrics, info.seconds) == ({"mIoU": 0.25}, 3.0)
    assert (info.energy_kwh, info.emissions_kg) == (0.5, 0.125)
    assert info.run == "train/mini-rgb/20260101-000000"


def test_the_newest_completed_run_wins_and_the_others_are_told(tmp_path: Path) -> None:
    old = train_run(tmp_path, "mini", "20260101-000000")
    ninth = train_run(tmp_path, "mini", "20260102-000000-9")
    tenth = train_run(tmp_path, "mini", "20260102-000000-10")
    running = train_run(tmp_path, "mini", "20260103-000000", state="running")
    failed = train_run(tmp_path, "mini", "20260104-000000", state="failed")
    listener = _Listener()
    result = export(root=tmp_path, progress=listener)
    assert read_ensemble(result.path)[0].info.run.endswith(tenth.name)
    assert result.skipped == {
        str(failed): "it is not finished (failed)",
        str(running): "it is still running",
        str(ninth): f"{tenth} is newer",
        str(old): f"{tenth} is newer",
    }
    for path in (old, ninth, running, failed, "Took mini"):
        assert any(str(path) in text for text in listener.said)


def test_the_last_checkpoint_stands_in_for_the_best(tmp_path: Path) -> None:
    checkpoints = train_run(tmp_path, "mini") / "checkpoints"
    (checkpoints / "best.ckpt").rename(checkpoints / "last.ckpt")
    assert export(root=tmp_path).specialists == ("mini",)
    (checkpoints / "last.ckpt").unlink()
    with pytest.raises(DataError, match="it has no checkpoint"):
        export(root=tmp_path)


def test_checkpoints_of_plain_terratorch_are_found(tmp_path: Path) -> None:
    train = tmp_path / "train"
    train_run(tmp_path, "mini")
    _loose(train / "potsdam/version_0/checkpoints/best-epoch=09.ckpt")
    newest = _loose(train / "potsdam/version_1/checkpoints/best-epoch=03.ckpt", 4)
    last = _loose(train / "potsdam/version_1/checkpoints/last.ckpt")
    _loose(train / "clouds.ckpt")
    _loose(train / "floods.ckpt", 2)
    result = export(root=tmp_path, output=tmp_path / "all.pth")
    assert result.specialists == ("clouds", "floods", "mini", "potsdam")
    assert read_ensemble(result.path)[3].info.in_chans == 4
    assert result.skipped[str(last)] == f"{newest} was preferred"
    assert len(result.skipped) == 2


def test_another_folder_can_be_gathered(tmp_path: Path) -> None:
    _loose(tmp_path / "elsewhere/lightning_logs/version_0/checkpoints/epoch=1-step=2.ckpt")
    train_run(tmp_path, "mini")
    result = export(root=tmp_path, encoders_folder=tmp_path / "elsewhere")
    assert result.specialists == ("elsewhere",)


def test_what_cannot_be_read_is_left_out_of_a_folder(tmp_path: Path) -> None:
    train_run(tmp_path, "whole")
    broken = train_run(tmp_path, "broken")
    (broken / "checkpoints/best.ckpt").write_bytes(b"PK\x03\x04 cut short")
    recipe = train_run(tmp_path, "recipe")
    (recipe / "config.yaml").write_text("titel: x\n")
    loose = tmp_path / "train/stranger.ckpt"
    torch.save({"state_dict": {"net.weight": torch.ones(1)}}, loose)
    result = export(root=tmp_path)
    assert result.specialists == ("whole",)
    assert "cut short" in result.skipped[str(broken)]
    assert "did you mean 'title'" in result.skipped[str(recipe)]
    assert "no encoder" in result.skipped[str(loose)]


def test_nothing_usable_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no specialist to export") as caught:
        export(root=tmp_path)
    assert "eosfm train-specialist" in caught.value.hint
    run = train_run(tmp_path, "mini", state="interrupted")
    with pytest.raises(DataError, match=f"{run}: it is not finished"):
        export(root=tmp_path)
    assert not (tmp_path / "ensemble.safetensors").exists()


# --------------------------------------------------------------------------- named runs


def test_runs_can_be_named_in_every_way(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        train_run(tmp_path, name)
    train_run(tmp_path, "a", "20260102-000000")
    train = tmp_path / "train"
    loose = _loose(tmp_path / "loose.ckpt")
    runs = ["a", train / "b/20260101-000000", train / "c", loose]
    runs += [train / "d/20260101-000000/checkpoints/best.ckpt", "a"]
    result = export(runs, root=tmp_path)
    assert result.specialists == ("a", "b", "c", "d", "loose")
    infos = {s.info.name: s.info for s in read_ensemble(result.path)}
    assert infos["a"].run == "train/a/20260102-000000"
    assert infos["d"].recipe == "d"
    assert infos["loose"].run == "loose.ckpt"


def test_one_name_from_two_runs_becomes_two(tmp_path: Path) -> None:
    first = train_run(tmp_path, "a")
    second = train_run(tmp_path, "a", "20260102-000000")
    assert export([first, second], root=tmp_path).specialists == ("a", "a-2")


def test_a_named_run_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    train_run(tmp_path, "whole")
    unfinished = train_run(tmp_path, "unfinished", state="running")
    best, last = (unfinished / f"checkpoints/{name}.ckpt" for name in ("best", "last"))
    shutil.copy(best, last)
    with pytest.raises(DataError, match="still running") as caught:
        export(["whole", unfinished], root=tmp_path)
    assert str(last) in caught.value.hint
    assert export([last], root=tmp_path).specialists == ("unfinished",)
    last.write_bytes(b"")
    with pytest.raises(BundleError, match="is empty"):
        export(["whole", last], root=tmp_path)
    with pytest.raises(DataError, match="Did you mean 'whole'"):
        export(["whol"], root=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no specialist to export"):
        export([tmp_path / "empty"], root=tmp_path)


def test_the_suffix_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        export(root=tmp_path / "nowhere", output=tmp_path / "ensemble")


# --------------------------------------------------------------------------- choosing


def test_a_choice_by_name(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        train_run(tmp_path, name)
    assert export(root=tmp_path, specialists=["a", "c"]).specialists == ("a", "c")
    result = export(root=tmp_path, exclude=["a"])
    assert result.specialists == ("b", "c")
    assert read_manifest(result.path).named
    before = result.path.read_bytes()
    with pytest.raises(UsageError, match="Did you mean 'a'"):
        export(root=tmp_path, exclude=["aa"])
    with pytest.raises(UsageError, match="No specialist is left"):
        export(root=tmp_path, specialists=["a"], exclude=["a"])
    assert result.path.read_bytes() == before


def test_what_is_not_there_yet_is_appended(tmp_path: Path) -> None:
    first = train_run(tmp_path, "b")
    listener = _Listener()
    result = export(root=tmp_path, append=True)
    assert result.specialists == ("b",)
    train_run(tmp_path, "a")
    train_run(tmp_path, "b", "20260102-000000")
    before = read_ensemble(result.path)
    result = export(root=tmp_path, append=True, progress=listener)
    assert result.specialists == ("b", "a", "b-2")
    assert result.renamed == {"b-2": "b"}
    found = read_ensemble(result.path)
    assert found[0].info == before[0].info
    assert all(torch.equal(found[0].state[k], v) for k, v in before[0].state.items())
    assert found[2].info.run == "train/b/20260102-000000"
    written = result.path.stat().st_mtime_ns
    again = export([first, "a"], root=tmp_path, append=True, progress=listener)
    assert again.specialists == ("b", "a", "b-2")
    assert len(again.repeated) == 2
    assert result.path.stat().st_mtime_ns == written
    assert any("has them all already" in text for text in listener.said)


def test_a_damaged_output_is_not_appended_to(tmp_path: Path) -> None:
    train_run(tmp_path, "a")
    output = tmp_path / "ensemble.safetensors"
    output.write_bytes(b"half a file")
    with pytest.raises(BundleError, match="no usable safetensors"):
        export(root=tmp_path, append=True)
    assert output.read_bytes() == b"half a file"


# --------------------------------------------------------------------------- ensembles


@pytest.mark.parametrize(("old", "new"), [("pth", "safetensors"), ("safetensors", "pth")])
def test_an_ensemble_is_written_in_the_other_format(old: str, new: str, tmp_path: Path) -> None:
    wanted = [tiny_specialist("z", seed=1), tiny_specialist("a", 2, seed=2)]
    write_ensemble(tmp_path / f"old.{old}", wanted)
    result = export([tmp_path / f"old.{old}"], root=tmp_path, output=tmp_path / f"new.{new}")
    assert result.specialists == ("z", "a")
    for one, other in zip(read_ensemble(result.path), wanted, strict=True):
        assert one.info == other.info.model_copy(update={"source": f"old.{old}"})
        assert all(torch.equal(one.state[name], other.state[name]) for name in other.state)


def test_ensembles_and_runs_go_together(tmp_path: Path) -> None:
    write_ensemble(tmp_path / "theirs.pth", [tiny_specialist("z", seed=1), tiny_specialist("a")])
    train_run(tmp_path, "a")
    runs = ["a", tmp_path / "theirs.pth", _loose(tmp_path / "loose.pth")]
    result = export(runs, root=tmp_path)
    assert result.specialists == ("z", "a", "a-2", "loose")
    assert read_ensemble(result.path)[2].info.run == "train/a/20260101-000000"
    assert export(runs, root=tmp_path, exclude=["a"]).specialists == ("z", "loose")


def test_an_ensemble_is_not_written_over_itself(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.safetensors"
    write_ensemble(path, [tiny_specialist("a"), tiny_specialist("b", 2)])
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is one of the inputs"):
        export([path], root=tmp_path, exclude=["a"])
    assert path.read_bytes() == before


def test_an_export_writes_a_card_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_run(tmp_path, "a")
    known = ["--experiments", str(tmp_path), "--card", str(tmp_path / "README.md"), "--json"]
    assert main(["export", *known, "--specialists", "a"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["card"] == str(tmp_path / "README.md")
    assert f"wrote {tmp_path / 'README.md'}" in err
    assert "emissions: 125.0" in (tmp_path / "README.md").read_text()
