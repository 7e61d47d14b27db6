"""A fitted model that is about to run: which one, and what it sees of the bands."""

from __future__ import annotations

from pathlib import Path

from eosfm_cli.bands import plan_views
from eosfm_cli.errors import BundleError
from eosfm_cli.manifest import ModelManifest, read_manifest
from eosfm_cli.progress import Progress
from eosfm_cli.run_dir import find_fit


def choose_model(given: Path | None, root: Path, progress: Progress) -> tuple[Path, ModelManifest]:
    """Find the fitted model that is meant, say which it is, and read what it says about itself.

    Args:
        given: A model file or the run folder of a fit; the newest fit in `root` if not given.
        root: The experiments folder.
        progress: Told which model is taken.

    Raises:
        DataError: There is no such model.
        BundleError: The file is damaged, or an ensemble that nobody has fitted.
    """
    path = find_fit(given, root)
    manifest = read_manifest(path)
    if not isinstance(manifest, ModelManifest):
        raise BundleError(
            f"{path} is an ensemble of specialists, not a fitted model.",
            hint=f"Fit it to a task first: eosfm fit-ensemble RECIPE --ensemble {path}",
        )
    how = "" if given else " (newest fit)"
    names = ", ".join(specialist.name for specialist in manifest.specialists)
    progress.say(f"model: {path}{how}: {manifest.title} ({names})")
    return path, manifest


def tell_plan(manifest: ModelManifest, progress: Progress) -> None:
    """Say which specialist runs on which view of the model's bands."""
    wanted = [(specialist.name, specialist.wants) for specialist in manifest.specialists]
    plan = plan_views(wanted, manifest.bands, known=manifest.encoder.views)
    for text in plan.announcement():
        progress.say(text)
