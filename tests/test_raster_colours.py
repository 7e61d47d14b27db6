"""Class colours stay as given, and the rest tell themselves apart."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eosfm_cli.raster.colours import class_colours, to_rgb
from eosfm_cli.recipe import ClassSpec


def specs(*colours):
    return [
        ClassSpec(name=f"class {i}", colour=c) if c else ClassSpec(name=f"class {i}")
        for i, c in enumerate(colours)
    ]


def test_given_colours_stay():
    assert class_colours(specs("#112233", None, "#445566"))[::2] == ("#112233", "#445566")


@pytest.mark.parametrize("count", [2, 12, 255])
def test_default_colours_all_differ(count):
    assert len(set(class_colours(specs(*[None] * count)))) == count


def test_default_colours_avoid_given_ones():
    familiar = class_colours(specs(None))[0]
    assert class_colours(specs(familiar, None))[1] != familiar


@settings(max_examples=20, deadline=None)
@given(st.lists(st.none() | st.from_regex(r"#[0-9a-f]{6}", fullmatch=True), max_size=12))
def test_same_classes_get_same_colours(colours):
    assert class_colours(specs(*colours)) == class_colours(specs(*colours))


def test_a_dozen_default_colours_are_far_apart_for_the_eye():
    colours = [to_rgb(c) for c in class_colours(specs(*[None] * 12))]
    nearest = min(
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
        for one, other in itertools.combinations(colours, 2)
    )
    assert nearest > 50
