"""Bands by name, and the ways to feed one specialist from the bands at hand.

Names are the common names of the STAC electro-optical extension, plus `vv vh hh hv` (radar) and
`dem`. Wavelengths are band centres in nanometres: Sentinel-2A where it has the band, Landsat for
the thermal ones. Every adaptation is a matrix `(required × available)` that acts on standardised
bands, so picking, repeating and compositing are one mechanism. Where nobody knows the names, their
number decides, by the published project's table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from eosfm_cli.errors import BandError, UsageError
from eosfm_cli.words import counted


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
    """Whether every required band is one that the specialist was trained to see there, or the user
    says what to feed."""
    strategy: str | None = None
    """A user's own code that makes the input of what the matrix picks."""
    plugin: str | None = None
    """Where that code came from."""

    def describe(self, required: Sequence[str], available: Sequence[str]) -> str:
        """Write the view as `red ← nir, green ← red`, or the bare names where they agree."""
        if self.strategy is not None:
            return f"computed by {self.strategy} of {self.plugin or 'an installed package'}"
        return ", ".join(
            _describe_row(want, row, available)
            for want, row in zip(required, self.matrix, strict=True)
        )


_TOLD_WEIGHT = 0.05
"""Learned matrices mix a little of everything; a plan names what counts."""


def _describe_row(want: str, row: Sequence[float], available: Sequence[str]) -> str:
    parts = [
        name if weight == 1 else f"{weight:.2g}·{name}"
        for name, weight in zip(available, row, strict=True)
        if abs(weight) >= _TOLD_WEIGHT
    ]
    parts += ["…"] if any(0 < abs(weight) < _TOLD_WEIGHT for weight in row) else []
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


COUNT_RULES: dict[tuple[int, int], tuple[tuple[int, ...], ...]] = {
    (3, 12): ((3, 2, 1),),
    (3, 13): ((3, 2, 1), (7, 3, 2)),
    (3, 2): ((0, 1, 1),),
    (12, 14): (tuple(range(2, 14)),),
    (2, 14): ((0, 1),),
    (3, 14): ((5, 4, 3),),
    (3, 4): ((3, 0, 1), (0, 1, 2)),
    (3, 5): ((0, 1, 2), (3, 4, 4)),
    **{
        (required, available): (tuple(i % available for i in range(required)),)
        for required in (12, 13, 14)
        for available in (2, 3, 4)
    },
}
"""The published rules: (bands required, bands at hand) -> per view, which band feeds which."""
BY_COUNT = "by count"


def views_by_count(required: int, available: int) -> tuple[View, ...]:
    """The published project's views, for specialists or data whose bands nobody has named.

    Equal numbers are taken as they are, whatever they may mean; others by `COUNT_RULES`.
    """
    same = (tuple(range(required)),) if required == available else ()
    return tuple(
        View(BY_COUNT, tuple(_unit(index, available) for index in indices), exact=False)
        for indices in same or COUNT_RULES.get((required, available), ())
    )


def _unit(index: int, length: int) -> tuple[float, ...]:
    return tuple(float(i == index) for i in range(length))


Bands = Sequence[str] | int
"""Common names in order, or how many there are where nobody has named them."""


def named(bands: Bands) -> tuple[str, ...]:
    """Names to write for bands: their own, or `band 1`, `band 2` and so on."""
    if isinstance(bands, int):
        return tuple(f"band {i}" for i in range(1, bands + 1))
    return tuple(bands)


def _count(bands: Bands) -> int:
    return bands if isinstance(bands, int) else len(bands)


def _built_in_views(required: Bands, available: Bands) -> tuple[View, ...]:
    if isinstance(required, int) or isinstance(available, int):
        return views_by_count(_count(required), _count(available))
    return views(required, available)


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
    unused: tuple[str, ...] = ()
    """Views that the recipe declares and no specialist takes."""

    @property
    def usable(self) -> tuple[PlanRow, ...]:
        """The specialists that take part."""
        return tuple(row for row in self.rows if row.views)

    def lines(self) -> list[str]:
        """The plan in words, one line per specialist and view."""
        width = max(len(row.specialist) for row in self.rows)
        return [
            *(f"{row.specialist:{width}}  {text}" for row in self.rows for text in self._told(row)),
            *(f"view {name!r} of the recipe: no specialist takes it" for name in self.unused),
        ]

    def announcement(self) -> list[str]:
        """What a command says before it runs an ensemble: a heading, and `lines` below it."""
        return ["plan: how the ensemble sees these bands", *(f"  {text}" for text in self.lines())]

    def _told(self, row: PlanRow) -> list[str]:
        if not row.views:
            return [f"left out: {row.reason}"]
        return [
            f"{view.name}{'' if view.exact or view.name == BY_COUNT else ' (inexact)'}: "
            f"{view.describe(row.required, self.available)}"
            for view in row.views
        ]


OwnViews = Callable[[Bands, Bands], tuple[View, ...]]
"""What a user's code makes of (required, available); nothing where it has no say."""


def plan_views(
    specialists: Iterable[tuple[str, Bands]],
    available: Bands,
    *,
    declared: Mapping[str, Sequence[str]] | None = None,
    own: OwnViews | None = None,
    known: Mapping[str, Sequence[View]] | None = None,
) -> Plan:
    """Plan an ensemble's views of the bands at hand.

    What a recipe declares comes before a user's own code, that before the built-in rules.

    Args:
        specialists: Name and required bands of each, or their number if nobody knows them.
        available: The bands at hand, in their order, or their number.
        declared: View -> bands, as a recipe declares them: for the specialist of that name, else
            for every specialist that takes so many bands of that kind.
        own: A user's own code.
        known: Specialist -> its views, where a model's file says them: no rule is asked.

    Raises:
        BandError: Not one specialist can be fed, or a declared view does not fit.
    """
    wanted = [
        (name, bands if isinstance(bands, int) else tuple(bands)) for name, bands in specialists
    ]
    offers = _Offers(declared or {}, named(available), {name for name, _ in wanted})
    rows = tuple(
        _plan_row(name, bands, _fitting(known[name], name, bands, available))
        if known is not None and name in known
        else _plan_row(
            name,
            bands,
            offers.take(name, bands)
            or (own and own(bands, available))
            or _built_in_views(bands, available),
        )
        for name, bands in wanted
    )
    plan = Plan(named(available), rows, offers.unused)
    if not plan.usable:
        listed = "\n".join(f"  {row.specialist}: {', '.join(row.required)}" for row in rows)
        raise BandError(
            f"No specialist can be fed from these bands.\nat hand: {', '.join(plan.available)}\n"
            f"wanted by\n{listed}",
            hint="Name the bands of the data in file order with --bands, or add a specialist.",
        )
    return plan


def _plan_row(name: str, required: Bands, found: Sequence[View]) -> PlanRow:
    needs = counted(required, "band") if isinstance(required, int) else ", ".join(required)
    return PlanRow(name, named(required), tuple(found), "" if found else f"needs {needs}")


def _fitting(found: Sequence[View], name: str, required: Bands, available: Bands) -> Sequence[View]:
    """The views that a file says, after checking that their matrices have the right shape."""
    for view in found:
        rows = {len(row) for row in view.matrix}
        right_height = view.strategy is not None or len(view.matrix) == _count(required)
        if rows != {_count(available)} or not right_height:
            raise BandError(
                f"The view {view.name!r} of specialist {name!r} is no matrix of "
                f"{_count(required)} x {_count(available)} bands.",
                hint="The file was changed after it was written, or is not for these bands.",
            )
    return found


class _Offers:
    """The views that a recipe declares, handed out to the specialists that they fit."""

    def __init__(
        self, declared: Mapping[str, Sequence[str]], available: Sequence[str], names: set[str]
    ) -> None:
        self._declared, self._available, self._names = declared, available, names
        self._taken: set[str] = set()

    @property
    def unused(self) -> tuple[str, ...]:
        """Views that nobody took."""
        return tuple(name for name in self._declared if name not in self._taken)

    def take(self, name: str, required: Bands) -> tuple[View, ...]:
        """What is declared for one specialist."""
        mine = [name] if name in self._declared else self._fitting(required)
        self._taken.update(mine)
        return tuple(self._view(view, name, required) for view in mine)

    def _fitting(self, required: Bands) -> list[str]:
        return [
            view
            for view, bands in self._declared.items()
            if view not in self._names
            and len(bands) == _count(required)
            and (isinstance(required, int) or _kinds(bands) & _kinds(required))
        ]

    def _view(self, view: str, name: str, required: Bands) -> View:
        bands = self._declared[view]
        missing = [band for band in bands if band not in self._available]
        if missing:
            raise BandError(
                f"views.{view} names {', '.join(missing)}, not among the bands at hand "
                f"({', '.join(self._available)})."
            )
        if len(bands) != _count(required):
            raise BandError(
                f"views.{view} names {counted(len(bands), 'band')}, specialist {name!r} takes "
                f"{_count(required)} ({', '.join(named(required))})."
            )
        return _gather(view, bands, self._available, exact=True)


def _kinds(bands: Iterable[str]) -> set[str]:
    return {BANDS[name].kind for name in bands}


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
                f"--bands names {counted(len(given), 'band')}, {where} has {count}.",
                hint="Name every band of the file, in file order.",
            )
        names: list[str | None] = list(given)
        source = "named by --bands"
    elif any(band_name(text, sensor) for text in described if text):
        names = [band_name(text, sensor) if text else None for text in described]
        source = "found by the file's band descriptions"
    elif count == len(wanted):
        return tuple(range(count)), (
            f"{where} does not name its {'band' if count == 1 else f'{count} bands'}: taken in "
            f"the model's order ({', '.join(wanted)})"
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


_MOST_LISTED = 40
_LONGEST_SHOWN = 40


def _found(names: Sequence[str | None], described: Sequence[str | None]) -> list[str]:
    """What a raster's bands are called, for a message; files may have thousands, or long ones."""
    descriptions = [*described, *[None] * (len(names) - len(described))]
    listed = [
        name or (text and f"{_shown(text)} (?)") or f"band {i} (no name)"
        for i, (name, text) in enumerate(zip(names, descriptions, strict=False), 1)
        if i <= _MOST_LISTED
    ]
    more = len(names) - len(listed)
    return [*listed, f"and {more:,} more"] if more else listed


def _shown(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text[: _LONGEST_SHOWN + 1])
    return printable if len(text) <= _LONGEST_SHOWN else f"{printable[:_LONGEST_SHOWN]}…"
