"""Gather trained specialists into one ensemble file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eosfm_cli.bands import nearest_word
from eosfm_cli.ensemble.bundle import (
    holds_ensemble,
    read_ensemble,
    specialist_name,
    write_ensemble,
    writer_for,
)
from eosfm_cli.ensemble.checkpoint import read_specialist
from eosfm_cli.ensemble.encoder import choose_specialists
from eosfm_cli.ensemble.gathering import from_file, gather
from eosfm_cli.ensemble.hub import is_address, locate
from eosfm_cli.ensemble.specialist import Specialist
from eosfm_cli.errors import DataError, EosfmError, UsageError
from eosfm_cli.lightning_yaml import is_lightning_yaml
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import Recipe, load_recipe
from eosfm_cli.results import ExportResult
from eosfm_cli.run_dir import RunDir, completed_runs, newest_first
from eosfm_cli.words import counted
from eosfm_cli.workflows.card import check_card, write_ensemble_card

_TRAIN_FIRST = "Train one first: eosfm train-specialist RECIPE"


def export(
    runs: Sequence[str | Path] | None = None,
    *,
    root: Path,
    encoders_folder: Path | None = None,
    output: Path | None = None,
    specialists: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    append: bool = False,
    card: Path | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write the specialists of finished runs, in the order of their names, into one file.

    Args:
        runs: Run folders, checkpoints, names of specialists (their newest completed run), or
            ensemble files, whose specialists come first and in their own order; the newest
            completed run of every specialist if not given.
        root: The folder of the project's runs.
        encoders_folder: Where to look for specialists instead of `root/train`.
        output: The file; `root/ensemble.safetensors` if not given. Its suffix says the format.
        specialists: Take only these of what is found; all if not given.
        exclude: Take all but these.
        append: Keep what is in the output already, and add what is not.
        card: Where to write a model card.
        progress: Told of everything taken or left out.

    Raises:
        DataError: Nothing usable was found, or something named cannot be used.
        UsageError: The suffix of `output` stands for no format, it is one of the files to read, or
            a name is unknown.
        OutputError: A file cannot be written.
    """
    progress = progress or Silent()
    path = output or root / "ensemble.safetensors"
    writer_for(path)
    check_card(card)
    there = read_ensemble(path, progress) if append and path.is_file() else ()
    found, skipped = _collect(runs, root, encoders_folder or root / "train", path, progress)
    taken = choose_specialists(found, specialists, exclude)
    gathered = gather(taken, progress, onto=there)
    added = gathered.specialists[len(there) :]
    for specialist in added:
        progress.say(f"Took {_described(specialist)}")
    if added:
        chosen = bool(runs or exclude or append) or specialists is not None
        write_ensemble(path, gathered.specialists, named=chosen)
    else:
        progress.say(f"{path} has them all already and stays as it is")
    infos = tuple(specialist.info for specialist in gathered.specialists)
    write_ensemble_card(card, infos, path, root=root)
    return ExportResult(
        path=path,
        specialists=tuple(info.name for info in infos),
        skipped=skipped,
        parameters=sum(info.parameters for info in infos),
        repeated=gathered.repeated,
        renamed=gathered.renamed,
        card=card,
    )


def specialist_of(checkpoint: Path, root: Path) -> Specialist:
    """The specialist in a checkpoint, with what the run around it knows.

    Raises:
        BundleError: There is none in it.
    """
    (specialist,) = _read(_from_file(checkpoint), root)
    return specialist


def _collect(
    runs: Sequence[str | Path] | None, root: Path, folder: Path, output: Path, progress: Progress
) -> tuple[list[Specialist], dict[str, str]]:
    """The specialists to write, and why others are left out."""
    if runs:
        found = _Found(*_named(runs, root, folder, progress))
        _refuse_an_input(output, found.candidates)
        taken = [one for candidate in found.candidates for one in _read(candidate, root, progress)]
        skipped = dict(found.skipped)
    else:
        found = _scanned(folder)
        taken, unreadable = _readable(found.candidates, root)
        skipped = {**dict(found.skipped), **unreadable}
    for where, reason in skipped.items():
        progress.say(f"Left out {where}: {reason}")
    if not taken:
        raise DataError(_nothing(folder, skipped), hint=_TRAIN_FIRST)
    return taken, skipped


def _refuse_an_input(output: Path, candidates: Iterable[_Candidate]) -> None:
    if output.exists() and any(output.samefile(one.checkpoint) for one in candidates):
        raise UsageError(f"{output} is one of the inputs.", hint="Choose another --output.")


def _described(specialist: Specialist) -> str:
    info = specialist.info
    unnamed = f"{counted(info.in_chans, 'channel')}, bands not known"
    bands = ", ".join(info.bands) if info.bands else unnamed
    return f"{info.name}: {info.backbone}, {bands} (from {info.source or info.run})"


def _nothing(folder: Path, skipped: dict[str, str]) -> str:
    reasons = "".join(f"\n  {where}: {reason}" for where, reason in skipped.items())
    return f"There is no specialist to export in {folder}.{reasons}"


# --------------------------------------------------------------------------- what is there


@dataclass(frozen=True)
class _Candidate:
    """A checkpoint that may hold a specialist, or an ensemble of them."""

    name: str
    checkpoint: Path
    run: RunDir | None = None
    """The folder of the run, where eosfm made it."""
    origin: str | None = None
    """What to call the file, where it is an ensemble."""

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


_FITTED = "it is a fitted model, no specialist"


def _unusable(run: RunDir) -> str:
    """Why a run has no specialist to give; empty if it has one."""
    summary = run.read_summary()
    if not summary:
        return "its summary.json cannot be read"
    if summary.get("kind") == "fit" or summary.get("specialists"):
        return _FITTED
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
    runs: Sequence[str | Path], root: Path, folder: Path, progress: Progress
) -> tuple[tuple[_Candidate, ...], tuple[tuple[str, str], ...]]:
    """What the user named, ensembles first; the same thing named twice is taken once."""
    found = [_resolved(str(run), root, folder, progress) for run in runs]
    candidates = {c.checkpoint.absolute(): c for part in found for c in part.candidates}
    ordered = sorted(candidates.values(), key=lambda c: (0, "") if c.origin else (1, c.name))
    return tuple(ordered), tuple(s for part in found for s in part.skipped)


def _resolved(text: str, root: Path, folder: Path, progress: Progress) -> _Found:
    if is_address(text):
        located = locate(text, progress)
        return _Found((_Candidate(located.path.stem, located.path, origin=located.origin),))
    path = Path(text)
    newest = {run.name: run for run in reversed(completed_runs(root, "train"))}
    if text in newest:
        return _Found((_own(newest[text]),))
    if path.is_file() and holds_ensemble(path):
        return _Found((_Candidate(path.stem, path, origin=path.name),))
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
            if run.last.is_file() and reason != _FITTED
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
    for candidate in sorted(candidates, key=lambda c: c.name):
        try:
            taken += _read(candidate, root)
        except EosfmError as error:
            unreadable[candidate.where] = error.message
    return taken, unreadable


def _read(
    candidate: _Candidate, root: Path, progress: Progress | None = None
) -> tuple[Specialist, ...]:
    if candidate.origin is not None:
        return from_file(read_ensemble(candidate.checkpoint, progress), candidate.origin)
    run = candidate.run
    if run is None:
        known = {"run": _relative(candidate.checkpoint, root)}
    else:
        known = {
            "recipe": _recipe(run),
            "summary": run.read_summary(),
            "run": _relative(run.path, root),
        }
    return (read_specialist(candidate.checkpoint, name=candidate.name, **known),)


def _recipe(run: RunDir) -> Recipe | None:
    """What a run was trained on; unknown where a Lightning YAML's own data module says it."""
    if run.recipe.is_file():
        return load_recipe(str(run.recipe))
    return None if is_lightning_yaml(run.config) else load_recipe(str(run.config))


def _relative(path: Path, root: Path) -> str:
    """A path as the project knows it: where the machine keeps it is nobody's business."""
    own, base = path.absolute(), root.absolute()
    return own.relative_to(base).as_posix() if own.is_relative_to(base) else own.name
