"""What a fit stands on: an ensemble, one of its specialists, or what to compare them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eosfm_cli.ensemble.bundle import is_choice, read_ensemble
from eosfm_cli.ensemble.encoder import choose_specialists
from eosfm_cli.ensemble.hub import is_address, locate
from eosfm_cli.ensemble.specialist import Specialist, build_backbone
from eosfm_cli.errors import DataError, UsageError
from eosfm_cli.manifest import SpecialistInfo
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import OF_TIMM, SCRATCH, FitSpec, Recipe
from eosfm_cli.run_dir import completed_runs
from eosfm_cli.training.trainer import seed_everything
from eosfm_cli.workflows.export import export

_SUFFIXES = {".safetensors", ".pth", ".pt", ".ckpt"}


@dataclass(frozen=True)
class Encoders:
    """The encoders that a fit may use, and where they are from."""

    specialists: tuple[Specialist, ...]
    spec: FitSpec
    """With what was taken written in, so that the run can be run again."""
    source: Path | None = None
    """The ensemble's file, if there is one."""
    title: str | None = None
    """What to call them, where they are no trained specialists."""

    def describe(self, names: Sequence[str]) -> str:
        """What a model with these of them stands on, in a few words."""
        if self.title is not None:
            return self.title
        return names[0] if len(names) == 1 else f"ensemble of {len(names)}"


def find_encoders(
    recipe: Recipe, root: Path, progress: Progress, *, gather_into: Path | None = None
) -> Encoders:
    """The encoders to fit: those the recipe names, else the newest export.

    Args:
        recipe: `fit` says what to take, and which of it.
        root: The experiments folder.
        progress: Told what is taken.
        gather_into: Where to write what is gathered, instead of over the export.

    Raises:
        DataError: There is neither an ensemble nor a trained specialist, or no such file.
        UsageError: A specialist or a model of timm is unknown.
        WeightsUnavailableError: Published weights were asked for and cannot be had.
    """
    spec, given = recipe.fit, recipe.fit.ensemble
    if given == SCRATCH:
        return _scratch(recipe, progress)
    if given is not None and given.startswith(OF_TIMM):
        return _of_timm(recipe, given.removeprefix(OF_TIMM), progress)
    alone = given if given is not None and _is_name(given) else None
    if given is None or alone:
        source = newest_export(root, progress, gather_into=gather_into)
        taken = str(source.absolute())
    else:
        located = locate(given, progress)
        source = located.path
        taken = located.origin if is_address(given) else str(source.absolute())
    specialists = read_ensemble(source, progress)
    if alone:
        (one,) = specialists = _alone(specialists, alone)
        spec = spec.model_copy(update={"specialists": (one.info.name,)})
        progress.say(f"encoder: {one.info.name} alone")
    chosen = choose_specialists(specialists, recipe.fit.specialists, recipe.fit.exclude)
    return Encoders(chosen, spec.model_copy(update={"ensemble": taken}), source)


def _is_name(given: str) -> bool:
    """Whether something names a specialist; a file of that name comes first."""
    path = Path(given)
    looks_like_a_file = len(path.parts) > 1 or path.suffix.lower() in _SUFFIXES
    return not (is_address(given) or looks_like_a_file or path.is_file())


def _alone(specialists: Sequence[Specialist], name: str) -> tuple[Specialist, ...]:
    try:
        return choose_specialists(specialists, [name], ())
    except UsageError as error:
        raise UsageError(
            error.message,
            hint=f"{error.hint} Or name an ensemble's file, scratch, or {OF_TIMM}MODEL.",
        ) from None


# --------------------------------------------------------------------------- baselines


def _scratch(recipe: Recipe, progress: Progress) -> Encoders:
    """One encoder on all bands, which learns from nothing."""
    backbone = recipe.training.backbone
    one = _single(recipe, SCRATCH, backbone, pretrained=False)
    title = f"{SCRATCH} {backbone}"
    progress.say(f"encoder: {title}, random weights that learn with the decoder")
    return Encoders((one,), recipe.fit, title=title)


def _of_timm(recipe: Recipe, backbone: str, progress: Progress) -> Encoders:
    """One encoder on all bands, with timm's published weights or random ones."""
    pretrained = recipe.fit.pretrained
    one = _single(recipe, backbone, backbone, pretrained=pretrained)
    weights = "pretrained" if pretrained else "random weights"
    title = f"{OF_TIMM}{backbone}, {weights}"
    progress.say(f"encoder: {title}{', frozen' if recipe.fit.freeze else ''}")
    return Encoders((one,), recipe.fit, title=title)


def _single(recipe: Recipe, name: str, backbone: str, *, pretrained: bool) -> Specialist:
    bands = recipe.bands
    if set(bands) == set(_PHOTOGRAPH):
        bands = _PHOTOGRAPH
    seed_everything(recipe.fit.seed)  # its weights are drawn here
    state = build_backbone(backbone, len(bands), pretrained=pretrained).state_dict()
    parameters = sum(tensor.numel() for tensor in state.values())
    info = SpecialistInfo(
        name=name, backbone=backbone, in_chans=len(bands), bands=bands, parameters=parameters
    )
    return Specialist(info, state)


_PHOTOGRAPH = ("red", "green", "blue")
"""The order in which published weights for photographs take colours."""


# --------------------------------------------------------------------------- the newest export


def newest_export(root: Path, progress: Progress, *, gather_into: Path | None = None) -> Path:
    """The newest export, gathered anew if it is out of date.

    Args:
        root: The experiments folder.
        progress: Told which is taken.
        gather_into: Where to write what is gathered, instead of over the export.

    Raises:
        DataError: There is neither an ensemble nor a trained specialist.
    """
    exports = [root / "ensemble.safetensors", root / "ensemble.pth"]
    newest = max((e for e in exports if e.is_file()), key=_written, default=None)
    trained = completed_runs(root, "train")
    if newest is None and not trained:
        raise DataError(
            f"There is neither an ensemble nor a trained specialist in {root}.",
            hint="Train specialists first (eosfm train-specialist RECIPE), or name an ensemble "
            "with --ensemble.",
        )
    if newest is None:
        progress.say("no export yet: gathering the trained specialists")
        return export(None, root=root, output=gather_into, progress=progress).path
    if any(_written(run.summary) > _written(newest) for run in trained):
        if is_choice(newest):
            progress.warn(
                f"{newest} was exported from named runs and stays as it is, though newer "
                "specialists are there: `eosfm export` takes them in."
            )
        else:
            progress.say(f"{newest} is older than the newest specialist: gathering them again")
            output = gather_into or newest
            return export(None, root=root, output=output, progress=progress).path
    progress.say(f"ensemble: {newest} (newest export)")
    return newest


def _written(path: Path) -> float:
    return path.stat().st_mtime
