"""A tiny DIOR, as its mirror and as its authors lay it out, in which a swapped image shows.

Image number n is of one colour: red 10 n, green 200 - 10 n, blue 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.rasters import write_image

PX = 64
SETTINGS: dict[str, Any] = {"dataset.shape": [PX, PX]}
"""What the recipe needs to know of images that are smaller than the real ones."""
TRAIN, VAL, TEST = range(1, 11), range(11, 15), range(15, 19)
"""The images' numbers in the official split."""
KINDS = (
    "airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney", "dam",
    "expresswayservicearea", "expresswaytollstation", "golffield", "groundtrackfield", "harbor",
    "overpass", "ship", "stadium", "storagetank", "tenniscourt", "trainstation", "vehicle",
    "windmill",
)  # fmt: skip
"""As the mirror writes them, in the order of the classes."""
THEIR_OWN = {
    "expresswayservicearea": "Expressway-Service-area",
    "expresswaytollstation": "Expressway-toll-station",
}
"""What the authors write otherwise."""


def objects(number: int) -> list[int]:
    """The kinds of the objects in an image: several, one of them twice."""
    return [number % 20, (3 * number) % 20, (7 * number + 1) % 20, number % 20]


def colour(number: int) -> tuple[int, int, int]:
    """Red, green, blue of an image."""
    return 10 * number, 200 - 10 * number, 100


def write(root: Path) -> None:
    """Write what the mirror has and what the authors publish, for all variants."""
    write_mirror(root)
    write_original(root)


def write_mirror(root: Path) -> None:
    """Write what the mirror has: nothing of the test images but the images."""
    rows = ["image_path,label_path,split"]
    for split, numbers in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        folder = "test" if split == "test" else "trainval"
        for number in numbers:
            image = f"Images/{folder}/{number:05}.jpg"
            _write_image(root / image, number)
            boxes = ""
            if split != "test":
                boxes = f"Annotations/trainval/{number:05}.xml"
                _write_boxes(root / boxes, number, KINDS)
            rows.append(f"{image},{boxes},{split}")
    (root / "sample_df.csv").write_text("\n".join(rows) + "\n")


def write_original(root: Path) -> None:
    """Write what the authors publish: labels of all images, and lists."""
    kinds = [THEIR_OWN.get(kind, kind) for kind in KINDS]
    (root / "ImageSets/Main").mkdir(parents=True)
    for split, numbers in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        folder = "JPEGImages-test" if split == "test" else "JPEGImages-trainval"
        lines = "".join(f"{number:05}\n" for number in numbers)
        (root / f"ImageSets/Main/{split}.txt").write_text(lines)
        for number in numbers:
            _write_image(root / folder / f"{number:05}.jpg", number)
            boxes = root / "Annotations/Horizontal Bounding Boxes" / f"{number:05}.xml"
            _write_boxes(boxes, number, kinds)


def _write_image(path: Path, number: int) -> None:
    write_image(path, np.tile(np.array(colour(number))[:, None, None], (1, PX, PX)))


def _write_boxes(path: Path, number: int, kinds: Sequence[str]) -> None:
    boxes = "".join(
        f"<object><name>{kinds[kind]}</name><bndbox><xmin>{place}</xmin><ymin>2</ymin>"
        f"<xmax>{place + 9}</xmax><ymax>11</ymax></bndbox></object>"
        for place, kind in enumerate(objects(number))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{number:05}.jpg</filename><size><width>{PX}</width>"
        f"<height>{PX}</height><depth>3</depth></size>{boxes}</annotation>"
    )
