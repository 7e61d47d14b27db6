"""Write the model card of an ensemble or a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from eosfm_cli import __version__
from eosfm_cli.carbon.ledger import LEDGER_NAME, Hardware, Intensity, read_ledger
from eosfm_cli.card import LIBRARY, Circumstances, card
from eosfm_cli.errors import UsageError
from eosfm_cli.manifest import EnsembleManifest, ModelManifest, SpecialistInfo
from eosfm_cli.run_dir import now, write_text

_DEPTH = 4
"""How far above a file its project's folder is, for a model: experiments/fit/RECIPE/RUN."""


def check_card(path: Path | None) -> None:
    """Check that a card may be written there, before the work on what it is about.

    Raises:
        UsageError: The place has something that eosfm did not write.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(
            f"--card {path} is a folder.", hint=f"Name a file: --card {path / 'README.md'}"
        )
    if path.suffix.lower() != ".md":
        raise UsageError(
            f"A model card is Markdown, and --card {path} does not end in .md.",
            hint=f"For example: --card {path.with_suffix('.md')}",
        )
    if path.is_file() and LIBRARY not in path.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(
            f"{path} is already there, and eosfm did not write it.",
            hint="Choose another place with --card.",
        )


def write_card(
    path: Path, manifest: EnsembleManifest | ModelManifest, file: Path, *, root: Path
) -> None:
    """Write a model card.

    Args:
        path: Where to.
        manifest: What the file says about itself.
        file: The ensemble or the model.
        root: The experiments folder, for a file outside of any. Its ledger knows on what machine
            the work was done.

    Raises:
        OutputError: The place cannot be written.
    """
    write_text(path, card(manifest, file.name, _circumstances(manifest, file, root)))


def write_ensemble_card(
    path: Path | None, specialists: Sequence[SpecialistInfo], file: Path, *, root: Path
) -> None:
    """Write the card of an ensemble that was just made, if one is wanted.

    Raises:
        OutputError: The place cannot be written.
    """
    if path is not None:
        manifest = EnsembleManifest(
            created=now(), eosfm=__version__, specialists=tuple(specialists)
        )
        write_card(path, manifest, file, root=root)


def _circumstances(
    manifest: EnsembleManifest | ModelManifest, file: Path, root: Path
) -> Circumstances:
    runs = {one.run for one in manifest.specialists if one.run}
    ledgers = (folder for folder in (*file.absolute().parents[:_DEPTH], root))
    home = next((folder for folder in ledgers if (folder / LEDGER_NAME).is_file()), None)
    if home is None:  # a file from elsewhere has its ledger there
        return Circumstances()
    if isinstance(manifest, ModelManifest):
        runs.add(os.path.relpath(file.parent, home))
    records = [one for one in read_ledger(home).records if one.run in runs and one.measured]
    intensities = [record.intensity for record in records if record.intensity]
    return Circumstances(
        locations=_distinct(_place(one) for one in intensities),
        electricity=_distinct(f"{i.g_per_kwh:.0f} g CO₂eq/kWh, {i.source}" for i in intensities),
        hardware=_distinct(_machine(record.hardware) for record in records),
    )


def _place(intensity: Intensity) -> str:
    """The country, as the ledger's sources begin with it; nothing for the world's average."""
    return "" if intensity.source.startswith("world") else intensity.source.partition(" (")[0]


def _machine(hardware: Hardware) -> str:
    gpu = f"{hardware.gpu_count or 1} × {hardware.gpu}" if hardware.gpu else None
    return ", ".join(filter(None, (gpu, hardware.cpu)))


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, texts)))
