"""Run folders never collide; files appear whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import threading
from pathlib import Path

import pytest

from eosfm_cli.errors import DataError, OutputError, UsageError
from eosfm_cli.run_dir import (
    RunDir,
    check_writable,
    clear_leftovers,
    completed_runs,
    create_run,
    experiments_dir,
    find_fit,
    find_runs,
    newest_first,
    newest_fit,
    replacing,
    write_csv,
    write_text,
)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------- run folders


def _create(root: Path) -> None:
    create_run(root, "train", "mini")


def test_runs_started_together_get_folders_of_their_own(tmp_path: Path) -> None:
    threads = [threading.Thread(target=_create, args=(tmp_path,)) for _ in range(20)]
    processes = [
        multiprocessing.get_context("fork").Process(target=_create, args=(tmp_path,))
        for _ in range(2)
    ]
    for worker in [*processes, *threads]:  # no fork while threads run
        worker.start()
    for worker in [*threads, *processes]:
        worker.join()
    runs = find_runs(tmp_path, "train")
    assert len(runs) == 22
    assert all(run.read_summary()["state"] == "running" for run in runs)
    assert all(run.checkpoints.is_dir() for run in runs)


def test_a_run_remembers_what_it_is(tmp_path: Path) -> None:
    run = create_run(tmp_path, "fit", "potsdam")
    run.write_summary(state="completed", metrics={"mIoU": 0.5})
    summary = RunDir(run.path).read_summary()
    assert (summary["kind"], summary["name"], summary["state"]) == ("fit", "potsdam", "completed")
    assert summary["metrics"] == {"mIoU": 0.5}
    assert (run.name, run.path.parent) == ("potsdam", tmp_path / "fit/potsdam")


def test_an_unwritable_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("a file")
    with pytest.raises(OutputError, match="Cannot write"):
        create_run(tmp_path, "train", "mini")


def test_runs_are_found_newest_first(tmp_path: Path) -> None:
    stamps = ["20260102-000000", "20260102-000000-2", "20260102-000000-10", "20260103-000000"]
    for name, stamp in zip("abab", stamps, strict=True):
        path = tmp_path / "train" / name / stamp
        path.mkdir(parents=True)
        state = "completed" if stamp.startswith("20260102") else "running"
        (path / "summary.json").write_text(json.dumps({"state": state}))
    (tmp_path / "train/a/no-run").mkdir()
    found = [run.path.name for run in find_runs(tmp_path, "train")]
    assert found == stamps[::-1]
    assert [run.path.name for run in completed_runs(tmp_path, "train")] == stamps[2::-1]
    assert newest_first([]) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_a_broken_summary_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(text)
    assert RunDir(tmp_path).read_summary() == {}
    assert RunDir(tmp_path).state is None


def test_the_newest_fit_has_a_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no fitted model"):
        newest_fit(tmp_path)
    run = create_run(tmp_path, "fit", "mini")
    run.model.write_bytes(b"")
    with pytest.raises(DataError, match="no fitted model"):
        newest_fit(tmp_path)
    run.write_summary(state="completed")
    other = create_run(tmp_path, "fit", "mini")
    other.write_summary(state="completed")
    assert newest_fit(tmp_path) == run


def test_a_fit_is_its_file_its_folder_or_the_newest(tmp_path: Path) -> None:
    run = create_run(tmp_path, "fit", "mini")
    with pytest.raises(DataError, match=r"it has no model\.safetensors"):
        find_fit(run.path, tmp_path)
    with pytest.raises(DataError, match=r"nowhere.*no such file"):
        find_fit(tmp_path / "nowhere", tmp_path)
    run.model.write_bytes(b"")
    run.write_summary(state="completed")
    assert {find_fit(given, tmp_path) for given in (None, run.path, run.model)} == {run.model}


def test_the_folder_of_runs_is_given_or_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EOSFM_EXPERIMENTS", raising=False)
    assert experiments_dir() == Path("experiments")
    monkeypatch.setenv("EOSFM_EXPERIMENTS", str(tmp_path))
    assert experiments_dir() == tmp_path
    assert experiments_dir(Path("here")) == Path("here")


# --------------------------------------------------------------------------- whole files


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "map.tif"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".tif"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert _names(path.parent) == ["map.tif"]


def _write_half(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_leaves_the_old_file_and_nothing_else(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "map.tif"
    write_text(path, "old")
    with pytest.raises(error):
        _write_half(path, error)
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["map.tif"]


def test_errors_of_the_file_system_are_put_into_words(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder") as caught:
        write_text(tmp_path / "folder", "text")
    assert "permissions" in caught.value.hint
    with pytest.raises(OutputError, match="No space left"), replacing(tmp_path / "full"):
        raise OSError(28, os.strerror(28))
    assert _names(tmp_path) == ["folder"]


def test_pipes_and_devices_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="not an ordinary file"), replacing(pipe):
        pytest.fail("there is nothing to write to")
    assert pipe.is_fifo()


def test_a_folder_is_tried_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path)
    assert _names(tmp_path) == []
    with pytest.raises(OutputError, match=r"Cannot write .*gone"):
        check_writable(tmp_path / "gone")


def test_tables_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.csv"
    write_csv(path, ["name", "score"], [("a, b", 0.5), ("c", None)])
    assert path.read_text() == 'name,score\n"a, b",0.5\nc,\n'


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_name_that_others_write_at_the_same_time_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    texts = [str(digit) * 100_000 for digit in range(8)]
    writers = [threading.Thread(target=write_text, args=(path, text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_text() in texts
    assert _names(tmp_path) == ["summary.json"]


# --------------------------------------------------------------------------- held


def test_a_run_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    run = create_run(tmp_path, "train", "mini")
    assert run.state == "killed"  # it says that it is running, and nobody holds it
    with run.hold():
        assert run.state == "running"
        with pytest.raises(UsageError, match="another process"), RunDir(run.path).hold():
            pass
        assert run.is_held()  # a second look does not give the lock up
    assert run.state == "killed"


def test_what_a_killed_process_had_begun_is_cleared(tmp_path: Path) -> None:
    keep = [tmp_path / ".lock", tmp_path / ".hidden", tmp_path / "a.part.txt"]
    for path in keep:
        path.write_text("x")
    (tmp_path / "deep").mkdir()
    with replacing(tmp_path / "deep" / "a.ckpt") as temporary:
        (tmp_path / temporary.name).write_text("half")  # as a killed process leaves it
        temporary.write_text("whole")
    (tmp_path / "deep" / "a.ckpt").unlink()
    clear_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(keep)
