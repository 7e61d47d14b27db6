"""Kinds of values that recipes hold, each checked where it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from eosfm_cli.bands import BANDS, band_name, nearest_word


class Spec(BaseModel):
    """A mapping of keys that are known; what it holds cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _check_name(text: str) -> str:
    if not re.fullmatch(r"[^/\\,\s.][^/\\,]*", text):
        raise ValueError(f"{text!r} cannot name a folder; leave out slashes and commas")
    return text


def _check_band(name: str) -> str:
    if name in BANDS:
        return name
    near = nearest_word(name.lower(), BANDS)
    raise ValueError(f"unknown band {name!r}" + (f", did you mean {near!r}?" if near else ""))


def _check_unique(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"named twice: {', '.join(twice)}")
    return names


def _refuse_no_colour(raw: Any) -> Any:  # noqa: ANN401 - raw YAML
    if raw is None:
        raise ValueError("a colour is written '#rrggbb' in quotes; without them it is a comment")
    return raw


def check_colour(text: str) -> str:
    """A colour in small letters, if it is one.

    Raises:
        ValueError: It is none.
    """
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(f"a colour is written '#rrggbb' (in quotes), not {text!r}")
    return text.lower()


_FIELD = re.compile(r"\{([a-z][a-z0-9_]*)\}")
NOT_OF_A_SAMPLE = frozenset({"split", "class", "band"})
"""Fields of a path that do not tell one sample from the others."""


def template_fields(template: str) -> tuple[str, ...]:
    """The fields of a path template, without braces, in order and each once."""
    return tuple(dict.fromkeys(_FIELD.findall(template)))


def fill_template(template: str, fields: Mapping[str, str]) -> str:
    """A template with the fields that are known filled in; others stay as they are."""
    return _FIELD.sub(lambda field: fields.get(field[1]) or field[0], template)


def _check_template(text: str) -> str:
    if re.search(r"[{}]", _FIELD.sub("", text)):
        raise ValueError(
            f"{text!r} has a brace that belongs to no field; a field is a word in small letters, "
            "as in {id}"
        )
    return text


def _check_path_template(text: str) -> str:
    _check_template(text)
    if not set(template_fields(text)) - NOT_OF_A_SAMPLE:
        raise ValueError(
            "a path needs {id} where the file's own name stands, as in 'images/{id}.tif'"
        )
    return check_inside(text)


def check_inside(text: str) -> str:
    """A path below the dataset's root.

    Raises:
        ValueError: It leads out of it.
    """
    if Path(text).is_absolute() or ".." in Path(text).parts:
        raise ValueError("a path is relative to the dataset's root and stays inside it")
    return text


def _check_alternatives(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths[1:]:
        if set(template_fields(path)) != set(template_fields(paths[0])):
            raise ValueError(
                f"alternatives have the same fields; {path!r} differs from {paths[0]!r}"
            )
    return paths


def _shape(raw: Any) -> Literal["text", "list", "number"]:  # noqa: ANN401 - raw YAML
    """What a value that may be of several types was meant to be."""
    if isinstance(raw, list | tuple):
        return "list"
    is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
    return "number" if is_number else "text"


def _text_or_list(raw: Any) -> str:  # noqa: ANN401 - raw YAML
    return "tuple[text]" if _shape(raw) == "list" else "str"


def _text_or_number(raw: Any) -> str:  # noqa: ANN401 - raw YAML
    return "float" if _shape(raw) == "number" else "str"


def _text_list_or_number(raw: Any) -> str:  # noqa: ANN401 - raw YAML
    return {"list": "tuple[text]", "number": "float", "text": "str"}[_shape(raw)]


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?B)\s*", re.IGNORECASE)
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def size_in_bytes(text: str) -> int:
    """How many bytes a size such as `20GB` is.

    Raises:
        ValueError: It is no size.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"a size is a number and a unit, such as 20GB or 500MB, not {text!r}")
    return int(float(found[1]) * _BYTES[found[2].lower()])


def _check_size(text: str) -> str:
    size_in_bytes(text)
    return text


Name = Annotated[str, AfterValidator(_check_name)]
Size = Annotated[str, AfterValidator(_check_size)]
BandName = Annotated[str, AfterValidator(_check_band)]
Bands = Annotated[tuple[BandName, ...], AfterValidator(_check_unique)]
Colour = Annotated[str, AfterValidator(check_colour)]
ColourOrNone = Annotated[Colour | None, BeforeValidator(_refuse_no_colour)]
Template = Annotated[str, AfterValidator(_check_template)]
InsidePath = Annotated[str, AfterValidator(check_inside)]
PathTemplate = Annotated[str, AfterValidator(_check_path_template)]
Paths = Annotated[
    Annotated[PathTemplate, Tag("str")]
    | Annotated[
        tuple[PathTemplate, ...],
        Field(min_length=1),
        AfterValidator(_check_alternatives),
        Tag("tuple[text]"),
    ],
    Discriminator(_text_or_list),
]
InsidePaths = Annotated[
    Annotated[InsidePath, Tag("str")]
    | Annotated[tuple[InsidePath, ...], Field(min_length=1), Tag("tuple[text]")],
    Discriminator(_text_or_list),
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
TextOrShare = Annotated[
    Annotated[str, Tag("str")] | Annotated[Share, Tag("float")], Discriminator(_text_or_number)
]
TextList = Annotated[
    Annotated[str, Tag("str")] | Annotated[tuple[str, ...], Tag("tuple[text]")],
    Discriminator(_text_or_list),
]
ListOrShare = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[tuple[str, ...], Tag("tuple[text]")]
    | Annotated[Share, Tag("float")],
    Discriminator(_text_list_or_number),
]


def common_names(raw: Any, sensor: str | None = None) -> Any:  # noqa: ANN401 - raw YAML
    """Common names of bands written in any way; what is no band stays as it is."""
    if isinstance(raw, list | tuple):
        return tuple(band_name(str(b), sensor) or str(b) for b in raw)
    return raw


def common_names_in_each(raw: Any) -> Any:  # noqa: ANN401 - raw YAML
    """The same for the bands of each key."""
    if isinstance(raw, dict):
        return {key: common_names(bands) for key, bands in raw.items()}
    return raw


def common_keys(raw: Any) -> Any:  # noqa: ANN401 - raw YAML
    """The same for keys that are bands."""
    if isinstance(raw, dict):
        return {band_name(str(b)) or str(b): values for b, values in raw.items()}
    return raw
