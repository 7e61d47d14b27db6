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
