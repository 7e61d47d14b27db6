"""Bands by name, and the ways to feed one specialist from the bands at hand.

Names are the common names of the STAC electro-optical extension, plus `vv vh hh hv` (radar) and
`dem`. Wavelengths are band centres in nanometres: Sentinel-2A where it has the band, Landsat for
the thermal ones. Every adaptation is a matrix `(required × available)` that acts on standardised
bands, so picking, repeating and compositing are one mechanism.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eosfm_cli.errors import BandError, UsageError


@dataclass(frozen=True)
class Band:
    """One band of the vocabulary."""

    name: str
    wavelength_nm: float | None
    """Centre wavelength; `None` for radar and elevation."""
    kind: str
    """`optical`, `sar` or `dem`."""


_OPTICAL_NM = {
    "coastal": 443,
    "blue": 492,
    "green": 560,
    "red": 665,
    "rededge071": 704,
    "rededge075": 741,
    "rededge078": 783,
    "nir": 833,
    "nir08": 865,
    "nir09": 945,
    "cirrus": 1374,
    "swir16": 1614,
    "swir22": 2202,
    "pan": 590,
    "lwir11": 10900,
    "lwir12": 12000,
}

BANDS: dict[str, Band] = {
    **{name: Band(name, nm, "optical") for name, nm in _OPTICAL_NM.items()},
    **{name: Band(name, None, "sar") for name in ("vv", "vh", "hh", "hv")},
    "dem": Band("dem", None, "dem"),
}

_SENTINEL_2 = {
    "b1": "coastal",
    "b2": "blue",
    "b3": "green",
    "b4": "red",
    "b5": "rededge071",
    "b6": "rededge075",
    "b7": "rededge078",
    "b8": "nir",
    "b8a": "nir08",
    "b9": "nir09",
    "b10": "cirrus",
    "b11": "swir16",
    "b12": "swir22",
}
_LANDSAT_OLI = {
    "b1": "coastal",
    "b2": "blue",
    "b3": "green",
    "b4": "red",
    "b5": "nir08",
    "b6": "swir16",
    "b7": "swir22",
    "b8": "pan",
    "b9": "cirrus",
    "b10": "lwir11",
    "b11": "lwir12",
}
_LANDSAT_TM = {
    "b1": "blue",
    "b2": "green",
    "b3": "red",
    "b4": "nir08",
    "b5": "swir16",
    "b7": "swir22",
    "b8": "pan",
}
SENSORS: dict[str, dict[str, str]] = {
    "sentinel-1": {},
    "sentinel-2": _SENTINEL_2,
    "landsat-5": _LANDSAT_TM,
    "landsat-7": _LANDSAT_TM,
    "landsat-8": _LANDSAT_OLI,
    "landsat-9": _LANDSAT_OLI,
    "aerial": {},
}
"""Sensor -> its own band names (lower case, without leading zeros) -> common name."""

_WORDS = {
    "r": "red",
    "g": "green",
    "b": "blue",
    "gray": "pan",
    "grey": "pan",
    "panchromatic": "pan",
    "coastal_aerosol": "coastal",
    "coastalaerosol": "coastal",
    "aerosol": "coastal",
    "water_vapour": "nir09",
    "watervapour": "nir09",
    "water_vapor": "nir09",
    "nir_broad": "nir",
    "nir_1": "nir",
    "nir_narrow": "nir08",
    "nir_2": "nir08",
    "near_infrared": "nir",
    "nearinfrared": "nir",
    "red_edge_1": "rededge071",
    "red_edge_2": "rededge075",
    "red_edge_3": "rededge078",
    "rededge1": "rededge071",
    "rededge2": "rededge075",
    "rededge3": "rededge078",
    "swir_1": "swir16",
    "swir_2": "swir22",
    "swir1": "swir16",
    "swir2": "swir22",
    "thermal_infrared_1": "lwir11",
    "thermal_infrared_2": "lwir12",
    "elevation": "dem",
    "dsm": "dem",
}
"""Names that TerraTorch, TorchGeo, GDAL and people use, whatever the sensor."""


def band_name(text: str, sensor: str | None = None) -> str | None:
    """The common name that `text` stands for, or `None`.

    Args:
        text: A common name, a sensor's own name (`B04`, `B4`, `B8A`) or a usual word (`NIR_BROAD`).
        sensor: Whose own names to use; Sentinel-2's if not given.
    """
    word = text.strip().lower().replace("-", "_").replace(" ", "_")
    if word in BANDS:
        return word
    if word in _WORDS:
        return _WORDS[word]
    own = f"b{word[1:].lstrip('0')}" if word.startswith("b") else word
    return SENSORS.get(sensor or "sentinel-2", {}).get(own)


_OWN_NAMES = {
    sensor: f"{sensor.title()}'s own names (B4 is {own['b4']})"
    for sensor, own in SENSORS.items()
    if own
}


def nearest_word(word: str, valid: Iterable[str]) -> str | None:
    """The valid word that `word` most likely means, or `None`."""
    found = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return found[0] if found else None


def parse_bands(text: str, sensor: str | None = None) -> tuple[str, ...]:
    """Read a comma-separated option value into common names.

    Args:
        text: Names as `band_name` takes them.
        sensor: Whose own names to use; Sentinel-2's if not given.

    Raises:
        UsageError: A name is unknown or stands there twice.
    """
    own = _OWN_NAMES.get(sensor or "sentinel-2")
    names = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name = band_name(word, sensor)
        if name is None:
            near = nearest_word(word.lower(), BANDS)
            raise UsageError(
                f"Unknown band {word!r}." + (f" Did you mean {near!r}?" if near else ""),
                hint=f"Known bands: {', '.join(BANDS)}" + (f"; {own} work too." if own else "."),
            )
        names.append(name)
    if len(set(names)) != len(names):
        raise UsageError(
            f"A band is named twice: {text}.", hint="Name each band once, in file order."
        )
    return tuple(names)


@dataclass(frozen=True)
class View:
    """One way to make a specialist's input from the bands at hand.

    Apply it as `matrix @ x` over the band axis of standardised bands.
    """

    name: str
    matrix: tuple[tuple[float, ...], ...]
    """`(required, available)`; a row of zeros feeds the mean."""
    exact: bool
    """Whether every required band is one that the specialist was trained to see there."""

    def describe(self, required: Sequence[str], available: Sequence[str]) -> str:
        """Write the view as `red ← nir, green ← red`, or the bare names where they agree."""
        return ", ".join(
            _describe_row(want, row, available)
            for want, row in zip(required, self.matrix, strict=True)
        )


def _describe_row(want: str, row: Sequence[float], available: Sequence[str]) -> str:
    parts = [
        name if weight == 1 else f"{weight:g}·{name}"
        for name, weight in zip(available, row, strict=True)
        if weight
    ]
    source = " + ".join(parts) or "mean"
    return want if source == want else f"{want} ← {source}"


def views(required: Sequence[str], available: Sequence[str]) -> tuple[View, ...]:
    """All exact views of a specialist, or else one inexact view, or none.

    Exact: the same bands found by name; for an optical specialist with three bands also the
    false-colour composite (nir, red, green) where those exist. Inexact, only where no exact view
    exists: the radar composite (vv, vh, vh) for three bands where nothing optical is at hand; else
    the nearest wavelength for each optical band and the mean for radar bands; else repetition.
    None for specialists of radar (or elevation) alone without such input.
    """
    found = _exact_views(required, available)
    if found:
        return found
    inexact = _inexact_view(required, available)
    return (inexact,) if inexact else ()


def _exact_views(required: Sequence[str], available: Sequence[str]) -> tuple[View, ...]:
    found = []
    if set(required) <= set(available):
        name = "identity" if tuple(required) == tuple(available) else "by name"
        found.append(_gather(name, required, available, exact=True))
    false_colour = ("nir", "red", "green")
    optical = all(BANDS[name].kind == "optical" for name in required)
    if (
        len(required) == 3
        and optical
        and set(required) != set(false_colour)
        and set(false_colour) <= set(available)
    ):
        found.append(_gather("false colour", false_colour, available, exact=True))
    return tuple(found)


def _inexact_view(required: Sequence[str], available: Sequence[str]) -> View | None:
    kinds_wanted = {BANDS[name].kind for name in required}
    kinds_at_hand = {BANDS[name].kind for name in available}
    if "optical" not in kinds_wanted or "optical" in kinds_at_hand:
        sources = [_nearest(name, available) for name in required]
        if not any(sources):
            return None
        return _gather("nearest wavelength", sources, available, exact=False)
    if not available:
        return None
    if len(required) == 3 and {"vv", "vh"} <= set(available):
        return _gather("radar composite", ("vv", "vh", "vh"), available, exact=False)
    repeated = [available[i % len(available)] for i in range(len(required))]
    return _gather("repetition", repeated, available, exact=False)


_OTHER_POLARISATION = {"vv": "hh", "hh": "vv", "vh": "hv", "hv": "vh"}


def _nearest(name: str, available: Sequence[str]) -> str | None:
    """The band at hand that comes nearest to `name`, or `None` for the mean."""
    if name in available:
        return name
    wanted = BANDS[name]
    if wanted.wavelength_nm is None:
        stand_in = _OTHER_POLARISATION.get(name)
        return stand_in if stand_in in available else None
    at_hand = [BANDS[other] for other in available if BANDS[other].wavelength_nm is not None]
    return min(at_hand, key=lambda b: abs(b.wavelength_nm - wanted.wavelength_nm)).name


def _gather(
    name: str, sources: Sequence[str | None], available: Sequence[str], *, exact: bool
) -> View:
    rows = tuple(tuple(float(band == source) for band in available) for source in sources)
    return View(name, rows, exact)


@dataclass(frozen=True)
class PlanRow:
    """How one specialist takes part: its views, or why it does not."""

    specialist: str
    required: tuple[str, ...]
    views: tuple[View, ...]
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """Which specialists run on the bands at hand, and on which views of them."""

    available: tuple[str, ...]
    rows: tuple[PlanRow, ...]

    @property
    def usable(self) -> tuple[PlanRow, ...]:
        """The specialists that take part."""
        return tuple(row for row in self.rows if row.views)

    def lines(self) -> list[str]:
        """The plan in words, one line per specialist and view."""
        width = max(len(row.specialist) for row in self.rows)
        return [
            f"{row.specialist:{width}}  {text}" for row in self.rows for text in self._views_of(row)
        ]

    def announcement(self) -> list[str]:
        """What a command says before it runs an ensemble: a heading, and `lines` below it."""
        return ["plan: how the ensemble sees these bands", *(f"  {text}" for text in self.lines())]

    def _views_of(self, row: PlanRow) -> list[str]:
        if not row.views:
            return [f"left out: {row.reason}"]
        return [
            f"{view.name}{'' if view.exact else ' (inexact)'}: "
            f"{view.describe(row.required, self.available)}"
            for view in row.views
        ]


def plan_views(specialists: Iterable[tuple[str, Sequence[str]]], available: Sequence[str]) -> Plan:
    """Plan an ensemble's views of the bands at hand.

    Args:
        specialists: Name and required bands of each.
        available: The bands at hand, in their order.

    Raises:
        BandError: Not one specialist can be fed.
    """
    rows = tuple(
        PlanRow(
            name,
            tuple(required),
            found := views(required, available),
            "" if found else f"needs {', '.join(required)}",
        )
        for name, required in specialists
    )
    plan = Plan(tuple(available), rows)
    if not plan.usable:
        wanted = "\n".join(f"  {row.specialist}: {', '.join(row.required)}" for row in rows)
        raise BandError(
            f"No specialist can be fed from these bands.\nat hand: {', '.join(available)}\n"
            f"wanted by\n{wanted}",
            hint="Name the bands of the data in file order with --bands, or add a specialist.",
        )
    return plan


def match_bands(
    wanted: Sequence[str],
    *,
    count: int,
    described: Sequence[str | None],
    given: Sequence[str] | None,
    where: str,
    sensor: str | None = None,
) -> tuple[tuple[int, ...], str]:
    """Find each wanted band in a raster: by `--bands`, by band descriptions, or by count.

    Args:
        wanted: Common names, in the order the model takes them.
        count: How many bands the raster has.
        described: The raster's band descriptions, `None` where it has none.
        given: What the user named with `--bands`, in file order.
        where: The raster, as the user knows it.
        sensor: Whose own names descriptions use.

    Returns:
        The zero-based band of the raster for each wanted one, and a sentence on how it was found.

    Raises:
        BandError: Something wanted is not there; both lists stand side by side.
    """
    if given is not None:
        if len(given) != count:
            raise BandError(
                f"--bands names {len(given)} bands, {where} has {count}.",
                hint="Name every band of the file, in file order.",
            )
        names: list[str | None] = list(given)
        source = "named by --bands"
    elif any(band_name(text, sensor) for text in described if text):
        names = [band_name(text, sensor) if text else None for text in described]
        source = "found by the file's band descriptions"
    elif count == len(wanted):
        return tuple(range(count)), (
            f"{where} does not name its {count} bands: taken in the model's order "
            f"({', '.join(wanted)})"
        )
    else:
        names = [None] * count
        source = ""
    _refuse_unclear(wanted, names, _found(names, described), where)
    return tuple(names.index(band) for band in wanted), f"bands {source}"


def _refuse_unclear(
    wanted: Sequence[str], names: Sequence[str | None], found: Sequence[str], where: str
) -> None:
    missing = [band for band in wanted if band not in names]
    if missing:
        raise BandError(
            f"{where} lacks {', '.join(missing)}.\n"
            f"wanted: {', '.join(wanted)}\n"
            f"found:  {', '.join(found)}",
            hint="If the file has them under other names, give --bands with one name per band, "
            "in file order.",
        )
    twice = [band for band in wanted if names.count(band) > 1]
    if twice:
        raise BandError(
            f"{where} has more than one {', '.join(twice)}.\nfound:  {', '.join(found)}",
            hint="Give a file that has each band once.",
        )


def _found(names: Sequence[str | None], described: Sequence[str | None]) -> list[str]:
    descriptions = [*described, *[None] * (len(names) - len(described))]
    return [
        name or (text and f"{text} (?)") or f"band {i} (no name)"
        for i, (name, text) in enumerate(zip(names, descriptions, strict=False), 1)
    ]
