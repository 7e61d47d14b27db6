"""Gather trained specialists into one ensemble file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eosfm_cli.bands import nearest_word
from eosfm_cli.ensemble.bundle import (
    specialist_name,
    with_unique_names,
    write_ensemble,
    writer_for,
)
from eosfm_cli.ensemble.checkpoint import read_specialist
from eosfm_cli.ensemble.specialist import Specialist
from eosfm_cli.errors import DataError, EosfmError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import load_recipe
from eosfm_cli.results import ExportResult
from eosfm_cli.run_dir import RunDir, completed_runs, newest_first

_TRAIN_FIRST = "Train one first: eosfm train-specialist RECIPE"


def export(
    runs: Sequence[str | Path] | None = None,
    *,
    root: Path,
    encoders_folder: Path | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the specialists of finished runs, in the order of their names, into one file.

    Args:
        runs: Run folders, checkpoints, or names of specialists (their newest completed run); the
            newest completed run of every specialist if not given.
        root: The folder of the project's runs.
        encoders_folder: Where to look for specialists instead of `root/train`.
        output: The file; `root/ensemble.safetensors` if not given. Its suffix says the format.
        progress: Told of everything taken or left out.

    Raises:
        DataError: Nothing usable was found, or something named cannot be used.
        UsageError: The suffix of `output` stands for no format.
    """
    progress = progress or Silent()
    path = output or root / "ensemble.safetensors"
    writer_for(path)
    folder = encoders_folder or root / "train"
    if runs:
        found = _Found(*_named(runs, root, folder))
        taken = [_read(candidate, root) for candidate in found.candidates]
        skipped = dict(found.skipped)
    else:
        found = _scanned(folder)
        taken, unreadable = _readable(found.candidates, root)
        skipped = {**dict(found.skipped), **unreadable}
    for where, reason in skipped.items():
        progress.say(f"Left out {where}: {reason}")
    if not taken:
        raise DataError(_nothing(folder, skipped), hint=_TRAIN_FIRST)
    specialists = with_unique_names(sorted(taken, key=lambda s: s.info.name))
    for specialist in specialists:
        progress.say(f"Took {_described(specialist)}")
    write_ensemble(path, specialists, named=bool(runs))
    return ExportResult(
        path=path,
        specialists=tuple(specialist.info.name for specialist in specialists),
        skipped=skipped,
        parameters=sum(specialist.info.parameters for specialist in specialists),
    )


def _described(specialist: Specialist) -> str:
    info = specialist.info
    bands = ", ".join(info.bands) if info.bands else f"{info.in_chans} channels, bands not known"
    return f"{info.name}: {info.backbone}, {bands} (from {info.run})"


def _nothing(folder: Path, skipped: dict[str, str]) -> str:
    reasons = "".join(f"\n  {where}: {reason}" for where, reason in skipped.items())
    return f"There is no specialist to export in {folder}.{reasons}"


# --------------------------------------------------------------------------- what is there


@dataclass(frozen=True)
class _Candidate:
    """A checkpoint that may hold a specialist."""

    name: str
    checkpoint: Path
    run: RunDir | None = None
    """The folder of the run, where eosfm made it."""

    @property
    def where(self) -> str:
        return str(self.run.path if self.run else self.checkpoint)


@dataclass(frozen=True)
class _Found:
    candidates: tuple[_Candidate, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()


def _scanned(folder: Path) -> _Found:
    """The newest completed run of each specialist below `folder`, and others' checkpoints."""
    own = [RunDir(path.parent) for path in sorted(folder.rglob("summary.json"))]
    checkpoints = [
        path
        for path in sorted(folder.rglob("*.ckpt"))
        if path.is_file() and not any(run.path in path.parents for run in own)
    ]
    ours, theirs = _newest_runs(newest_first(own)), _best_of_each(checkpoints, folder)
    return _Found(ours.candidates + theirs.candidates, ours.skipped + theirs.skipped)


def _newest_runs(runs: Iterable[RunDir]) -> _Found:
    chosen: dict[str, _Candidate] = {}
    skipped = []
    for run in runs:
        name = str(run.read_summary().get("name") or run.name)
        if reason := _unusable(run):
            skipped.append((str(run.path), reason))
        elif name in chosen:
            skipped.append((str(run.path), f"{chosen[name].where} is newer"))
        else:
            chosen[name] = _Candidate(name, _checkpoint(run), run)
    return _Found(tuple(chosen.values()), tuple(skipped))


def _unusable(run: RunDir) -> str:
    """Why a run has no specialist to give; empty if it has one."""
    summary = run.read_summary()
    if not summary:
        return "its summary.json cannot be read"
    if summary.get("kind") == "fit":
        return "it is a fitted model, no specialist"
    state = summary.get("state")
    if state != "completed":
        return {"running": "it is still running"}.get(str(state), f"it is not finished ({state})")
    if not _checkpoint(run).is_file():
        return "it has no checkpoint"
    return ""


def _checkpoint(run: RunDir) -> Path:
    return run.best if run.best.is_file() else run.last


# --------------------------------------------------------------------------- checkpoints of others

_LIGHTNING = re.compile(r"(^|[-_.])(best|last|epoch|step)(?![a-z])", re.IGNORECASE)
"""How checkpoints of one training are named; any other name is a specialist's own."""
_NO_NAME = re.compile(r"version_\d+|checkpoints|lightning_logs|tensorboard|train", re.IGNORECASE)


def _best_of_each(checkpoints: Iterable[Path], folder: Path) -> _Found:
    """One checkpoint per specialist: the best, or the last, or else the newest."""
    by_name: dict[str, list[Path]] = {}
    for path in checkpoints:
        by_name.setdefault(_foreign_name(path, folder), []).append(path)
    chosen, skipped = [], []
    for name, paths in by_name.items():
        best, *others = sorted(paths, key=_worth, reverse=True)
        chosen.append(_Candidate(name, best))
        skipped += [(str(other), f"{best} was preferred") for other in others]
    return _Found(tuple(chosen), tuple(skipped))


def _foreign_name(path: Path, folder: Path) -> str:
    """The name of a specialist by its file, or by the folder of the training it comes from."""
    if not _LIGHTNING.search(path.stem):
        return specialist_name(path.stem)
    parents = (folder / path.relative_to(folder)).absolute().parents
    return specialist_name(next((p.name for p in parents if not _NO_NAME.fullmatch(p.name)), ""))


def _worth(path: Path) -> tuple[int, int, float]:
    """Newest training first, then best before last before others, then the newest file."""
    version = re.search(r"version_(\d+)", str(path.parent))
    stem = path.stem.lower()
    rank = 2 if "best" in stem else 1 if stem.startswith("last") else 0
    return int(version[1]) if version else -1, rank, path.stat().st_mtime


# --------------------------------------------------------------------------- what is named


def _named(
    runs: Sequence[str | Path], root: Path, folder: Path
) -> tuple[tuple[_Candidate, ...], tuple[tuple[str, str], ...]]:
    """What the user named; the same thing named twice is taken once."""
    found = [_resolved(str(run), root, folder) for run in runs]
    candidates = {c.checkpoint.absolute(): c for part in found for c in part.candidates}
    return tuple(candidates.values()), tuple(s for part in found for s in part.skipped)


def _resolved(text: str, root: Path, folder: Path) -> _Found:
    path = Path(text)
    newest = {run.name: run for run in reversed(completed_runs(root, "train"))}
    if text in newest:
        return _Found((_own(newest[text]),))
    if path.is_file():
        return _Found((_from_file(path),))
    if path.is_dir():
        return _from_folder(path)
    near = nearest_word(text, newest)
    raise DataError(
        f"There is no run, checkpoint or trained specialist {text!r}."
        + (f" Did you mean {near!r}?" if near else ""),
        hint=f"Trained in {folder}: {', '.join(newest)}" if newest else _TRAIN_FIRST,
    )


def _own(run: RunDir) -> _Candidate:
    if reason := _unusable(run):
        raise DataError(
            f"{run.path} cannot be exported: {reason}.",
            hint=f"To take it all the same, name a checkpoint: {run.last}"
            if run.last.is_file()
            else _TRAIN_FIRST,
        )
    return _Candidate(str(run.read_summary().get("name") or run.name), _checkpoint(run), run)


def _from_file(path: Path) -> _Candidate:
    run = RunDir(path.absolute().parent.parent)
    if run.summary.is_file() and run.config.is_file():
        return _Candidate(str(run.read_summary().get("name") or run.name), path, run)
    return _Candidate(_foreign_name(path, path.parent), path)


def _from_folder(path: Path) -> _Found:
    run = RunDir(path)
    if run.summary.is_file():
        return _Found((_own(run),))
    found = _scanned(path)
    if not found.candidates:
        raise DataError(_nothing(path, dict(found.skipped)), hint=_TRAIN_FIRST)
    return found


# --------------------------------------------------------------------------- reading


def _readable(
    candidates: Iterable[_Candidate], root: Path
) -> tuple[list[Specialist], dict[str, str]]:
    """Those candidates that can be read, and why the others cannot."""
    taken, unreadable = [], {}
    for candidate in candidates:
        try:
            taken.append(_read(candidate, root))
        except EosfmError as error:
            unreadable[candidate.where] = error.message
    return taken, unreadable


def _read(candidate: _Candidate, root: Path) -> Specialist:
    run = candidate.run
    if run is None:
        return read_specialist(
            candidate.checkpoint, name=candidate.name, run=_relative(candidate.checkpoint, root)
        )
    return read_specialist(
        candidate.checkpoint,
        name=candidate.name,
        recipe=load_recipe(str(run.config)),
        summary=run.read_summary(),
        run=_relative(run.path, root),
    )


def _relative(path: Path, root: Path) -> str:
    """A path as the project knows it: where the machine keeps it is nobody's business."""
    own, base = path.absolute(), root.absolute()
    return own.relative_to(base).as_posix() if own.is_relative_to(base) else own.name
