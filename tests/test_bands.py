"""Bands are known by many names; views are matrices that follow the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.bands import (
    BANDS,
    SENSORS,
    View,
    band_name,
    match_bands,
    parse_bands,
    plan_views,
    views,
    views_by_count,
)
from eosfm_cli.errors import BandError, UsageError

some_bands = st.lists(st.sampled_from(sorted(BANDS)), min_size=1, max_size=8, unique=True)
RGB = ("red", "green", "blue")
S2 = tuple(dict.fromkeys(SENSORS["sentinel-2"].values()))


def _sources(view: View, available: tuple[str, ...]) -> list[str | None]:
    """Which band each row takes; `None` for the mean."""
    picked = [
        [b for b, weight in zip(available, row, strict=True) if weight] for row in view.matrix
    ]
    return [row[0] if row else None for row in picked]


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "sensor", "name"),
    [
        ("red", None, "red"),
        (" Red ", None, "red"),
        ("B4", None, "red"),
        ("B04", "sentinel-2", "red"),
        ("B8A", None, "nir08"),
        ("b08", None, "nir"),
        ("B11", None, "swir16"),
        ("B4", "landsat-8", "red"),
        ("B5", "landsat-8", "nir08"),
        ("B4", "landsat-5", "nir08"),
        ("NIR_BROAD", None, "nir"),
        ("near infrared", None, "nir"),
        ("SWIR-1", None, "swir16"),
        ("VV", None, "vv"),
        ("B", None, "blue"),
        ("B99", None, None),
        ("", None, None),
        ("B4", "sentinel-1", None),
    ],
)
def test_a_band_is_known_by_its_names(text: str, sensor: str | None, name: str | None) -> None:
    assert band_name(text, sensor) == name


@given(st.sampled_from(sorted(BANDS)), st.sampled_from(sorted(SENSORS)))
def test_common_names_mean_the_same_for_every_sensor(name: str, sensor: str) -> None:
    assert band_name(name.upper(), sensor) == name


def test_every_sensor_names_known_bands() -> None:
    assert {name for own in SENSORS.values() for name in own.values()} <= BANDS.keys()


def test_options_are_read() -> None:
    assert parse_bands("B04, green,NIR") == ("red", "green", "nir")
    with pytest.raises(UsageError, match=r"'gren'.*'green'"):
        parse_bands("red,gren")
    with pytest.raises(UsageError, match="named twice"):
        parse_bands("red,B04")


def test_options_are_read_by_the_sensors_own_names() -> None:
    assert parse_bands("B8,B4,nir", "landsat-8") == ("pan", "red", "nir")
    with pytest.raises(UsageError, match=r"'B8A'") as caught:
        parse_bands("B8A", "landsat-8")
    assert "Landsat-8's own names (B4 is red)" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        parse_bands("B4", "aerial")
    assert "own names" not in caught.value.hint
    assert parse_bands("red", "a sensor of a later version") == ("red",)


def test_a_plan_is_announced() -> None:
    heading, *lines = plan_views([("rgb", ("red",)), ("s1", ("vv",))], ("red",)).announcement()
    assert heading == "plan: how the ensemble sees these bands"
    assert lines == ["  rgb  identity: red", "  s1   left out: needs vv"]


# --------------------------------------------------------------------------- views


@given(some_bands, some_bands)
def test_a_view_is_a_gather(required: list[str], available: list[str]) -> None:
    for view in views(required, available):
        assert len(view.matrix) == len(required)
        for row in view.matrix:
            assert len(row) == len(available)
            assert set(row) <= {0.0, 1.0}
            assert sum(row) <= 1


@given(some_bands, some_bands)
def test_exact_views_exclude_inexact_ones(required: list[str], available: list[str]) -> None:
    found = views(required, available)
    assert len(found) <= 2
    assert all(view.exact for view in found) or len(found) == 1
    if set(required) <= set(available):
        assert found[0].exact
        assert _sources(found[0], tuple(available)) == required


@given(some_bands, some_bands)
def test_only_what_has_nothing_to_see_is_left_out(
    required: list[str], available: list[str]
) -> None:
    optical = any(BANDS[name].kind == "optical" for name in required)
    if optical:
        assert views(required, available)


@given(some_bands)
def test_the_bands_themselves_are_the_identity(bands: list[str]) -> None:
    first = views(bands, bands)[0]
    assert (first.name, first.exact) == ("identity", True)
    assert all(row[i] == 1 for i, row in enumerate(first.matrix))


FALSE_COLOUR = ["nir", "red", "green"]


@pytest.mark.parametrize(
    ("required", "available", "expected"),
    [
        # Found by name, whatever the order.
        (RGB, RGB, [("identity", True, [*RGB])]),
        (RGB, ("blue", "green", "red"), [("by name", True, [*RGB])]),
        # False colour beside it, where the bands are there.
        (
            RGB,
            ("red", "green", "blue", "nir"),
            [("by name", True, [*RGB]), ("false colour", True, FALSE_COLOUR)],
        ),
        # Or alone: still exact.
        (RGB, ("nir", "red", "green"), [("false colour", True, FALSE_COLOUR)]),
        # A specialist of false colour sees it once, in its own order.
        (
            ("red", "nir", "green"),
            ("nir", "red", "green"),
            [("by name", True, ["red", "nir", "green"])],
        ),
        # Not for specialists that are not optical, or of another number of bands.
        (
            ("vv", "vh", "dem"),
            ("vv", "vh", "dem", *FALSE_COLOUR),
            [("by name", True, ["vv", "vh", "dem"])],
        ),
        (("red", "green"), ("red", "green", "nir"), [("by name", True, ["red", "green"])]),
        # The radar composite, only where nothing optical is at hand.
        (RGB, ("vv", "vh"), [("radar composite", False, ["vv", "vh", "vh"])]),
        (RGB, ("vv", "vh", "pan"), [("nearest wavelength", False, ["pan", "pan", "pan"])]),
        # The nearest wavelength; radar without radar is the mean.
        (("red", "nir08"), ("blue", "nir"), [("nearest wavelength", False, ["nir", "nir"])]),
        (("coastal", "swir22"), RGB, [("nearest wavelength", False, ["blue", "red"])]),
        (("vv", "red"), RGB, [("nearest wavelength", False, [None, "red"])]),
        # Another polarisation stands in.
        (("vv", "vh"), ("hh", "hv"), [("nearest wavelength", False, ["hh", "hv"])]),
        (("vv", "vh"), ("hh", "red"), [("nearest wavelength", False, ["hh", None])]),
        # Repetition.
        (("red", "nir"), ("vv", "vh"), [("repetition", False, ["vv", "vh"])]),
        (S2, ("vv", "vh"), [("repetition", False, [("vv", "vh")[i % 2] for i in range(13)])]),
        (RGB, ("hh",), [("repetition", False, ["hh", "hh", "hh"])]),
        # Left out.
        (("vv", "vh"), RGB, []),
        (("dem",), RGB, []),
        (RGB, (), []),
    ],
)
def test_the_rules(
    required: tuple[str, ...],
    available: tuple[str, ...],
    expected: list[tuple[str, bool, list[str | None]]],
) -> None:
    found = [(v.name, v.exact, _sources(v, available)) for v in views(required, available)]
    assert found == expected


def test_a_view_describes_itself() -> None:
    (view,) = views(("vv", "red", "green"), ("green", "nir"))
    assert view.describe(("vv", "red", "green"), ("green", "nir")) == (
        "vv ← mean, red ← green, green"
    )
    half = View("mixed", ((0.5, 0.5),), exact=False)
    assert half.describe(("pan",), ("green", "red")) == "pan ← 0.5·green + 0.5·red"


def test_a_plan_keeps_order_and_gives_reasons() -> None:
    plan = plan_views([("s1", ("vv", "vh")), ("rgb", RGB)], RGB)
    assert [(row.specialist, bool(row.views), row.reason) for row in plan.rows] == [
        ("s1", False, "needs vv, vh"),
        ("rgb", True, ""),
    ]
    assert [row.specialist for row in plan.usable] == ["rgb"]


def test_a_plan_without_anyone_shows_both_sides() -> None:
    with pytest.raises(BandError, match=r"(?s)at hand: red, green, blue.*s1: vv, vh"):
        plan_views([("s1", ("vv", "vh"))], RGB)


# --------------------------------------------------------------------------- by count


@pytest.mark.parametrize(
    ("required", "available", "expected"),
    [
        (3, 12, [[3, 2, 1]]),
        (3, 13, [[3, 2, 1], [7, 3, 2]]),
        (3, 2, [[0, 1, 1]]),
        (12, 14, [list(range(2, 14))]),
        (2, 14, [[0, 1]]),
        (3, 14, [[5, 4, 3]]),
        (3, 4, [[3, 0, 1], [0, 1, 2]]),
        (3, 5, [[0, 1, 2], [3, 4, 4]]),
        (13, 3, [[0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]),
        (12, 2, [[0, 1] * 6]),
        (14, 4, [[i % 4 for i in range(14)]]),
        (7, 7, [[0, 1, 2, 3, 4, 5, 6]]),
        (2, 3, []),
        (13, 12, []),
    ],
)
def test_the_rules_by_count(required: int, available: int, expected: list[list[int]]) -> None:
    found = [
        [row.index(1.0) for row in view.matrix] for view in views_by_count(required, available)
    ]
    assert found == expected


def test_without_names_the_plan_goes_by_count() -> None:
    plan = plan_views([("old", 3), ("rgb", RGB), ("s1", 2)], ("red", "green", "blue", "nir"))
    assert plan.lines() == [
        "old  by count: band 1 ← nir, band 2 ← red, band 3 ← green",
        "old  by count: band 1 ← red, band 2 ← green, band 3 ← blue",
        "rgb  by name: red, green, blue",
        "rgb  false colour: red ← nir, green ← red, blue ← green",
        "s1   left out: needs 2 bands",
    ]
    assert plan_views([("rgb", RGB)], 3).lines() == [
        "rgb  by count: red ← band 1, green ← band 2, blue ← band 3"
    ]
    with pytest.raises(BandError, match=r"(?s)at hand: band 1, band 2.*s2: band 1, band 2, band 3"):
        plan_views([("s2", 7)], 2)


# --------------------------------------------------------------------------- declared views

FOUR = ("red", "green", "blue", "nir")


def test_a_declared_view_comes_before_the_rules() -> None:
    declared = {"irrg": ("nir", "red", "green"), "s1": ("vv", "vv")}
    plan = plan_views(
        [("rgb", RGB), ("old", 3), ("s1", ("vv", "vh")), ("pair", ("red", "nir"))],
        (*FOUR, "vv"),
        declared=declared,
    )
    assert plan.lines() == [
        "rgb   irrg: red ← nir, green ← red, blue ← green",
        "old   irrg: band 1 ← nir, band 2 ← red, band 3 ← green",
        "s1    s1: vv, vh ← vv",
        "pair  by name: red, nir",
    ]


def test_several_declared_views_all_count() -> None:
    declared = {"a": RGB, "b": ("nir", "nir", "nir")}
    (row,) = plan_views([("rgb", RGB)], FOUR, declared=declared).rows
    assert [view.name for view in row.views] == ["a", "b"]


def test_a_view_that_nobody_takes_is_told() -> None:
    plan = plan_views([("rgb", RGB)], FOUR, declared={"pair": ("red", "nir")})
    assert plan.lines()[-1] == "view 'pair' of the recipe: no specialist takes it"


def test_optical_views_are_not_for_radar() -> None:
    radar = ("vv", "vh", "hh")
    plan = plan_views([("s1", radar)], (*FOUR, *radar), declared={"rgb": RGB})
    assert plan.lines()[0] == "s1  by name: vv, vh, hh"


def test_declared_views_that_do_not_fit() -> None:
    with pytest.raises(BandError, match=r"views\.rgb names 2 bands, specialist 'rgb' takes 3"):
        plan_views([("rgb", RGB)], FOUR, declared={"rgb": ("red", "nir")})
    with pytest.raises(BandError, match=r"views\.x names swir16, not among"):
        plan_views([("rgb", RGB)], FOUR, declared={"x": ("red", "red", "swir16")})


# --------------------------------------------------------------------------- known views


def test_known_views_are_taken_as_they_are() -> None:
    known = {"rgb": [View("mine", ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0)), exact=True)]}
    plan = plan_views([("rgb", RGB), ("pair", ("red", "nir"))], ("red", "nir"), known=known)
    assert plan.lines() == [
        "rgb   mine: red, green ← 0.5·red + 0.5·nir, blue ← nir",
        "pair  identity: red, nir",
    ]


@pytest.mark.parametrize(
    "matrix", [(), ((1.0, 0.0),), ((1.0,),) * 3, ((1.0, 0.0), (1.0,), (0.0, 1.0))]
)
def test_known_views_of_another_shape_are_refused(matrix: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(BandError, match="no matrix of 3 x 2"):
        plan_views([("rgb", RGB)], ("red", "nir"), known={"rgb": [View("x", matrix, exact=True)]})


def test_learned_views_are_told_in_short() -> None:
    view = View("by name, learned", ((0.9123, 0.2, 0.01),), exact=True)
    assert view.describe(("red",), ("red", "nir", "green")) == "red ← 0.91·red + 0.2·nir + …"


# --------------------------------------------------------------------------- rasters


def _matched(described: list[str | None], given: tuple[str, ...] | None = None, **more: object):
    options = {"wanted": RGB, "count": len(described), "where": "scene.tif", **more}
    wanted = options.pop("wanted")
    return match_bands(wanted, described=described, given=given, **options)


def test_bands_are_found_by_description() -> None:
    indices, how = _matched(["B02", None, "B03", "B04", "cloud mask"])
    assert indices == (3, 2, 0)
    assert "descriptions" in how


def test_descriptions_follow_the_sensor() -> None:
    indices, _ = _matched(["B1", "B5"], wanted=("nir08", "coastal"), sensor="landsat-8")
    assert indices == (1, 0)


def test_bands_are_taken_as_named() -> None:
    indices, how = _matched(["B02", "B03", "B04"], given=RGB)
    assert indices == (0, 1, 2)
    assert "--bands" in how


def test_order_counts_only_where_the_number_fits() -> None:
    indices, how = _matched([None, "?", None])
    assert indices == (0, 1, 2)
    assert "does not name its 3 bands" in how
    with pytest.raises(
        BandError, match=r"(?s)lacks red, green, blue.*band 1 \(no name\), x \(\?\)"
    ):
        _matched([None, "x"])


@given(st.permutations(S2), st.lists(st.sampled_from(S2), min_size=1, max_size=5, unique=True))
def test_every_order_is_undone(described: list[str], wanted: list[str]) -> None:
    indices, _ = _matched(described, wanted=wanted)
    assert [described[i] for i in indices] == wanted


def test_both_lists_stand_side_by_side() -> None:
    with pytest.raises(
        BandError, match=r"lacks green\.\nwanted: red, green, blue\nfound:  red, blue"
    ):
        _matched(["B04", "B02"])
    with pytest.raises(BandError, match=r"names 3 bands, scene\.tif has 2"):
        _matched([None, None], given=RGB)
    with pytest.raises(BandError, match="more than one red"):
        _matched(["red", "green", "blue", "red"])
