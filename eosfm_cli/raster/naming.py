"""Which bands a raster says it has, where no model says which are wanted."""

from __future__ import annotations

from pathlib import Path

from rasterio.enums import ColorInterp

from eosfm_cli.bands import Bands, band_name
from eosfm_cli.errors import BandError
from eosfm_cli.raster.opening import open_raster
from eosfm_cli.words import counted


def bands_of(path: Path) -> tuple[Bands, str]:
    """The bands of a raster by their descriptions, and a sentence on how they were found.

    Returns:
        Common names in file order, or how many bands there are if not one is described.

    Raises:
        RasterError: There is no such file, or it is no raster.
        BandError: A band is there twice.
    """
    with open_raster(path) as dataset:
        described = [
            text
            for text, meaning in zip(dataset.descriptions, dataset.colorinterp, strict=True)
            if text or meaning is not ColorInterp.alpha
        ]
        count = dataset.count
    names = [band_name(text) if text else None for text in described]
    known = tuple(name for name in names if name)
    if not known:
        # All of them: near infrared is often marked as transparency.
        return count, (
            f"{path.name} does not name its {counted(count, 'band')}: planned by number alone"
        )
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice:
        raise BandError(
            f"{path.name} has more than one {', '.join(twice)}.",
            hint="Name the bands instead of the file, as in --bands red,green,blue.",
        )
    others = [
        text or f"band {i}"
        for i, (text, name) in enumerate(zip(described, names, strict=True), 1)
        if name is None
    ]
    aside = f"; no known bands: {', '.join(others)}" if others else ""
    return known, f"bands found by the descriptions in {path.name}{aside}"
