"""Look into an ensemble or a model without running it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

from eosfm_cli.bands import (
    BANDS,
    Bands,
    OwnViews,
    Plan,
    band_name,
    match_bands,
    nearest_word,
    parse_bands,
    plan_views,
)
from eosfm_cli.ensemble.hub import Located, is_address, locate
from eosfm_cli.errors import BandError, BundleError, DataError
from eosfm_cli.licences import strictest
from eosfm_cli.lineage import cost_in_all, lineage, new_work
from eosfm_cli.manifest import EnsembleManifest, ModelManifest, read_header, read_manifest
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import load_recipe
from eosfm_cli.results import Inspection
from eosfm_cli.run_dir import RunDir, completed_runs, find_fit
from eosfm_cli.sweeps import refuse_sweep
from eosfm_cli.words import counted
from eosfm_cli.workflows.card import check_card, write_card

Manifest = EnsembleManifest | ModelManifest
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def inspect(
    file: str | None,
    *,
    root: Path,
    bands: str | None = None,
    card: Path | None = None,
    progress: Progress,
) -> Inspection:
    """Read what a file says about itself, and plan how it would see some bands.

    A safetensors file is read by its header alone; the published format takes reading the weights.

    Args:
        file: An ensemble, a model, a checkpoint, a run's folder or an address on the hub; the
            newest model if not given, or else the newest export.
        root: The experiments folder.
        bands: A recipe, a raster or names of bands, as the user wrote them.
        card: Where to write a model card.
        progress: Told which file is taken.

    Raises:
        DataError: There is no such file, or it cannot be used.
        BandError: No specialist can be fed from the bands, or a model lacks some of them.
        UsageError: A name is unknown, the card would replace something, or it is the folder of a
            sweep.
    """
    check_card(card)
    located = _newest(root, progress) if file is None else _resolved(file, progress)
    path = located.path
    kind, manifest = _read(path, root, progress)
    _refuse_unknown_bands(manifest, path)
    plan, matching = (None, None) if bands is None else _plan(manifest, bands)
    if card is not None:
        write_card(card, manifest, path, root=root)
    found = _inspection(path, kind, manifest)
    address = located.origin if is_address(located.origin) else None
    return replace(found, plan=plan, matching=matching, card=card, address=address)


def _inspection(path: Path, kind: str, manifest: Manifest) -> Inspection:
    is_model = isinstance(manifest, ModelManifest)
    stages = [*manifest.specialists, *([manifest] if is_model else [])]
    parameters = sum(one.parameters for one in manifest.specialists)
    unlicensed = [one.name for one in manifest.specialists if not one.licence]
    if is_model and not manifest.licence:
        unlicensed.append(f"the data of {manifest.recipe}")
    work = lineage(manifest)
    return Inspection(
        path=path,
        kind=kind,
        manifest=manifest,
        bytes=path.stat().st_size,
        parameters=parameters + (_on_top(path) if is_model else 0),
        licence=strictest(stage.licence for stage in stages),
        unlicensed=tuple(unlicensed),
        cost=cost_in_all(work),
        new=new_work(work),
        unmeasured=tuple(f"{made.command} {made.name}" for made in work if not made.measured),
    )


# ------------------------------------------------------------------------------ which file


def _newest(root: Path, progress: Progress) -> Located:
    models = [run.model for run in completed_runs(root, "fit") if run.model.is_file()]
    exports = [root / "ensemble.safetensors", root / "ensemble.pth"]
    found = [*models[:1], *sorted(filter(Path.is_file, exports), key=_written, reverse=True)]
    if not found:
        raise DataError(
            f"There is neither a fitted model nor an ensemble in {root}.",
            hint="Name a file, or make one: eosfm export",
        )
    what = "newest fit" if models else "newest export"
    progress.say(f"inspecting: {found[0]} ({what})")
    return locate(found[0])


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _resolved(text: str, progress: Progress) -> Located:
    located = locate(text, progress)
    path = located.path
    if not path.is_dir():
        return located
    refuse_sweep(path, "inspect")
    run = RunDir(path)
    if run.model.is_file() or run.read_summary().get("kind") == "fit":
        return locate(find_fit(path, run.experiments))
    for checkpoint in (run.best, run.last):
        if checkpoint.is_file():
            return locate(checkpoint)
    raise DataError(
        f"{path} is a folder with neither a fitted model nor a checkpoint of a run.",
        hint="Name an ensemble or a model, or the folder of a run: `eosfm runs` lists them.",
    )


# ------------------------------------------------------------------------------ reading


def _read(path: Path, root: Path, progress: Progress) -> tuple[str, Manifest]:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        manifest = read_manifest(path)
        if isinstance(manifest, ModelManifest):
            return "model", manifest
        _refuse_missing_weights(path, manifest)
        return "ensemble", manifest
    if suffix not in {".pth", ".pt", ".ckpt"}:
        _refuse_other_kinds(path)
    from eosfm_cli.ensemble.bundle import holds_ensemble, read_ensemble  # brings torch along

    if holds_ensemble(path):
        kind, specialists = "ensemble", read_ensemble(path, progress)
    else:
        from eosfm_cli.workflows.export import specialist_of

        kind, specialists = "specialist", (specialist_of(path, root),)
    infos = tuple(specialist.info for specialist in specialists)
    return kind, EnsembleManifest(specialists=infos)


def _refuse_other_kinds(path: Path) -> None:
    if not path.is_file():
        raise BundleError(
            f"There is no file {path}.",
            hint="Name an ensemble, a model, or the folder of a run: `eosfm runs` lists those.",
        )
    raise BundleError(
        f"{path} is neither an ensemble nor a model.",
        hint="Those end in .safetensors, or in .pth in the published project's format.",
    )


def _refuse_missing_weights(path: Path, manifest: EnsembleManifest) -> None:
    """Check the header against the manifest in it, as far as that goes without the weights."""
    names = [one.name for one in manifest.specialists]
    owners = {key.partition("/")[0] for key in read_header(path)}
    for name in names:
        if names.count(name) > 1:
            raise _damaged(path, f"two specialists are named {name!r}")
        if name not in owners:
            raise _damaged(path, f"specialist {name!r} has no weights")
    if not names:
        raise _damaged(path, "it holds no specialist")


def _damaged(path: Path, reason: str) -> BundleError:
    return BundleError(
        f"{path} cannot be used: {reason}.",
        hint="Copy or export it again; it may be cut short or damaged.",
    )


def _on_top(path: Path) -> int:
    """Parameters of all in a model that is no specialist's."""
    try:
        return sum(
            math.prod(entry["shape"])
            for name, entry in read_header(path).items()
            if name != "__metadata__"
            and "encoder.backbones." not in name
            and not name.endswith(_BUFFERS)
        )
    except (LookupError, TypeError):
        raise _damaged(path, "a tensor in it has no shape") from None


def _refuse_unknown_bands(manifest: Manifest, path: Path) -> None:
    own = manifest.bands if isinstance(manifest, ModelManifest) else ()
    for band in (*own, *(band for one in manifest.specialists for band in one.bands or ())):
        if band not in BANDS:
            near = nearest_word(band, BANDS)
            meant = f"; did it mean {near!r}?" if near else ""
            raise _damaged(path, f"it names an unknown band {band!r}{meant}")


# ------------------------------------------------------------------------------ the plan


def _plan(manifest: Manifest, asked: str) -> tuple[Plan, str]:
    """How the specialists would see the bands asked about, and how those were found."""
    sensor = manifest.sensor if isinstance(manifest, ModelManifest) else None
    if "," in asked or band_name(asked, sensor):
        given = parse_bands(asked, sensor)
        return _plan_for(manifest, given, {}, f"bands as named: {', '.join(given)}", "--bands")
    if Path(asked).suffix.lower() not in {"", ".yaml", ".yml"}:
        return _plan_for_raster(manifest, Path(asked))
    recipe = load_recipe(asked)
    matching = f"bands of the recipe {recipe.name}: {', '.join(recipe.bands)}"
    return _plan_for(manifest, recipe.bands, recipe.views, matching, f"recipe {recipe.name}")


def _plan_for_raster(manifest: Manifest, path: Path) -> tuple[Plan, str]:
    if isinstance(manifest, ModelManifest):
        from eosfm_cli.raster.scene import open_scene  # brings rasterio along

        with open_scene(path, manifest) as scene:
            return _plan_of_model(manifest), scene.matching
    from eosfm_cli.raster.naming import bands_of

    bands, matching = bands_of(path)
    if isinstance(bands, int) and any(one.bands for one in manifest.specialists):
        raise BandError(
            f"{path.name} does not name its {counted(bands, 'band')}.",
            hint="Name them in file order instead of the file, as in --bands red,green,blue.",
        )
    return _plan_of_ensemble(manifest, bands, {}), matching


def _plan_for(
    manifest: Manifest,
    bands: tuple[str, ...],
    declared: Mapping[str, Sequence[str]],
    matching: str,
    where: str,
) -> tuple[Plan, str]:
    if not isinstance(manifest, ModelManifest):
        return _plan_of_ensemble(manifest, bands, declared), matching
    match_bands(manifest.bands, count=len(bands), described=(), given=bands, where=where)
    return _plan_of_model(manifest), matching


def _plan_of_model(manifest: ModelManifest) -> Plan:
    """A model sees the bands that it wants, wherever they stand in the data."""
    wanted = [(one.name, one.wants) for one in manifest.specialists]
    return plan_views(wanted, manifest.bands, known=manifest.encoder.views, own=_own_views())


def _plan_of_ensemble(
    manifest: EnsembleManifest, bands: Bands, declared: Mapping[str, Sequence[str]]
) -> Plan:
    wanted = [(one.name, one.wants) for one in manifest.specialists]
    return plan_views(wanted, bands, declared=declared, own=_own_views())


def _own_views() -> OwnViews | None:
    """The strategies of installed packages; torch is imported only where there are any."""
    if not entry_points(group="eosfm.strategies"):
        return None
    from eosfm_cli.ensemble.strategies import own_views

    return own_views
