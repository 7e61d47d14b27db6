"""What people call their folders and files, and what they mean by it."""

from __future__ import annotations

import re
from typing import Literal

from eosfm_cli.bands import band_name

Role = Literal["image", "label"]

_LABELS = frozenset(
    {
        *("mask", "masks", "label", "labels", "lbl", "lbls", "gt", "gts", "groundtruth", "truth"),
        *("annotation", "annotations", "annot", "target", "targets", "reference", "ref", "refs"),
        *("seg", "segs", "segmentation", "segmentations", "segmentationclass", "classification"),
        *("lc", "lulc", "landcover", "landuse", "urbanatlas", "ua2012", "clc", "cm", "zones"),
    }
)
_IMAGES = frozenset(
    {
        *("image", "images", "img", "imgs", "jpegimages", "input", "inputs"),
        *("photo", "photos", "picture", "pictures", "feature", "features", "sat", "satellite"),
        *("ortho", "orthos", "bdortho", "aerial", "naip", "uav", "drone", "spot", "planet"),
        *("rgb", "rgbi", "rgbir", "rgbn", "rgbnir", "irrg", "cir", "nirrg", "ms", "pan"),
        *("s1", "s2", "sentinel", "sentinel1", "sentinel2", "msi", "hls", "oli", "landsat"),
        *("sar", "grd", "rtc", "vv", "vh", "hh", "hv", "dem", "dsm", "dtm", "rgealti"),
    }
)
_SENSOR_AND_MORE = re.compile(r"(s1|s2|l[5789]|landsat|sentinel)[-_]?[a-z0-9]*")
_BAND = re.compile(r"b\d{1,2}a?")
_LABEL_INSIDE = re.compile(r"mask|groundtruth|annotation|segmentationclass")
_SPLITS = {
    "train": frozenset({"train", "training", "trn", "trainset", "trainval"}),
    "val": frozenset({"val", "valid", "validation", "valset", "dev", "eval"}),
    "test": frozenset({"test", "testing", "tst", "testset", "holdout"}),
}
_SEPARATORS = re.compile(r"[_\-. ]+")


def tokens(text: str) -> list[str]:
    """The parts of a name between `_`, `-`, `.` and spaces."""
    return [part for part in _SEPARATORS.split(text) if part]


def role_of(text: str) -> Role | None:
    """Whether a folder's or file's name says that it holds images or labels."""
    words = [word.lower() for word in tokens(text)]
    plain = [word.rstrip("0123456789") or word for word in words]
    if any(word in _LABELS for word in (*words, *plain)) or _LABEL_INSIDE.search(text.lower()):
        return "label"
    if any(_names_an_image(word) for word in (*words, *plain)):
        return "image"
    return None


def _names_an_image(word: str) -> object:
    return word in _IMAGES or _SENSOR_AND_MORE.fullmatch(word) or _BAND.fullmatch(word)


def is_band(word: str) -> bool:
    """Whether a name is that of one band, so that files may hold one band each."""
    return len(word) > 1 and band_name(word) is not None


def split_of(word: str) -> str | None:
    """`train`, `val` or `test`, if the word means one of them."""
    return next((name for name, words in _SPLITS.items() if word.lower() in words), None)


def split_pattern(name: str) -> tuple[str, str] | None:
    """A name with its word for a split replaced by `{split}`, and that word."""
    for match in re.finditer(r"[A-Za-z]+", name):
        if split_of(match[0]):
            return f"{name[: match.start()]}{{split}}{name[match.end() :]}", match[0]
    return None


_SENSORS = (
    ("sentinel-2", re.compile(r"(^|[^a-z0-9])(s2|sentinel-?_?2|sen2|msi)|l2a|l1c")),
    ("sentinel-1", re.compile(r"(^|[^a-z0-9])(s1|sentinel-?_?1|sen1|sar|grd|rtc)")),
    ("landsat-9", re.compile(r"landsat-?_?9|(^|[^a-z0-9])l[co]?0?9([^0-9]|$)")),
    ("landsat-8", re.compile(r"landsat-?_?8|(^|[^a-z0-9])l[co]?0?8([^0-9]|$)|(^|[^a-z])oli")),
    ("landsat-7", re.compile(r"landsat-?_?7|(^|[^a-z0-9])le?0?7([^0-9]|$)")),
    ("landsat-5", re.compile(r"landsat-?_?5|(^|[^a-z0-9])lt?0?5([^0-9]|$)")),
    ("aerial", re.compile(r"aerial|ortho|naip|(^|[^a-z])(uav|drone|dop|rgbir|rgbn)")),
)


def sensor_of(text: str) -> str | None:
    """The sensor that a folder's or file's name speaks of, as recipes call it."""
    lower = text.lower()
    return next((sensor for sensor, pattern in _SENSORS if pattern.search(lower)), None)


def slug(text: str) -> str:
    """A name as a key of a recipe: small letters, digits and `_`."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
