"""Whether the files of all samples are what the recipe says, by their headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from eosfm_cli.data.fitness import check_areas, check_image, check_mask, check_size, finest
from eosfm_cli.data.headers import read_headers
from eosfm_cli.data.kinds import AREAS, BOXES, Files
from eosfm_cli.data.problems import Collected, Problem, Report, problem_of
from eosfm_cli.data.reader import Header
from eosfm_cli.data.splits import few
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress, Silent
from eosfm_cli.recipe import Recipe
from eosfm_cli.words import counted

Headers = Mapping[Path, Header]
Shape = tuple[int, int]
"""Rows and columns."""
_Known = Mapping[str, Sequence[tuple[Path, Header]]]
"""Name of a source -> its files of one sample that were looked at."""


def rasters_of(files: Files) -> Iterator[Path]:
    """The rasters of a sample."""
    for name, group in files.items():
        if name != BOXES:
            yield from (found.path for found in group)


def readable(paths: Sequence[Path], root: Path, report: Report, progress: Progress) -> Headers:
    """The headers of files; those that cannot be opened are reported."""
    try:
        return read_headers(paths, root, progress)
    except DataError as error:
        if len(paths) == 1 or not isinstance(report, Collected):
            report(problem_of(error, "damaged", (_said(paths[0], root),)))
            return {}
    half = len(paths) // 2
    halves = (readable(part, root, report, Silent()) for part in (paths[:half], paths[half:]))
    return {path: header for part in halves for path, header in part.items()}


class HeaderCheck:
    """Checks samples one by one, and then says what concerns many of them.

    Args:
        recipe: What the files should be.
        headers: What they are; files without a header are not checked.
        root: The dataset's folder.
        report: Told of bands, sizes and types that are wrong.
    """

    def __init__(self, recipe: Recipe, headers: Headers, root: Path, report: Report) -> None:
        self._recipe, self._headers, self._root, self._report = recipe, headers, root, report
        self._images = recipe.image_files
        self._shadowed: dict[int, set[Path]] = defaultdict(set)
        self._otherwise: dict[Shape, list[Path]] = defaultdict(list)
        self._shapes: dict[int, Shape | None] = {}
        labels = recipe.dataset.labels
        self._is_windowed = labels is not None and labels.windows

    def shape_of(self, files: Files) -> Shape | None:
        """The size of a sample's files; `None` if something is wrong with them."""
        if id(files) not in self._shapes:  # several samples may be parts of the same
            self._shapes[id(files)] = self._shape_of(files)
        return self._shapes[id(files)]

    def _shape_of(self, files: Files) -> Shape | None:
        paths = {name: [found.path for found in g] for name, g in files.items() if name != BOXES}
        if not all(path in self._headers for group in paths.values() for path in group):
            return None  # they could not be opened, which has been reported
        known = {name: [(p, self._headers[p]) for p in group] for name, group in paths.items()}
        shape = self._recipe.dataset.shape or finest(
            header
            for name, group in known.items()
            if name in self._images or not self._is_windowed
            for _, header in group
        )
        checks = [
            self._has_right_bands(name, path, header)
            for name, group in known.items()
            for path, header in group
        ]
        return shape if self._fits(known, shape) and all(checks) else None

    def _has_right_bands(self, name: str, path: Path, header: Header) -> bool:
        if name in self._images:
            file = self._images[name]
            return self._tried(path, lambda: check_image(path, header, file, self._recipe))
        if name == AREAS:
            return self._tried(path, lambda: check_areas(path, header))
        self._note_shadowed(path, header)
        return self._tried(path, lambda: check_mask(path, header, self._recipe))

    def _fits(self, known: _Known, shape: Shape) -> bool:
        """Whether all files of a sample are of its size, or can be brought to it."""
        files = [each for group in known.values() for each in group]
        if (own := finest(header for _, header in files)) != shape and not self._is_windowed:
            self._otherwise[own] += [p for p, one in files if (one.height, one.width) == own]
            return False
        try:
            for name, group in known.items():
                for path, header in group:
                    self._check_size(name, path, header, shape)
        except DataError as error:
            lines = [f"  {path}: {header.width} × {header.height}" for path, header in files]
            text = "\n".join(["Files of one sample differ in size (width × height):", *lines])
            items = tuple(_said(path, self._root) for path, _ in files)
            self._report(Problem("size", text, items, error.hint))
            return False
        return True

    def _check_size(self, name: str, path: Path, header: Header, shape: Shape) -> None:
        is_image = name in self._images
        if self._is_windowed and not is_image:
            return  # it may begin elsewhere: its windows tell
        resampling = self._images[name].image.resampling if is_image else None
        check_size(path, header, shape, resampling)

    def _tried(self, path: Path, check: Callable[[], None]) -> bool:
        try:
            check()
        except DataError as error:
            self._report(problem_of(error, "bands", (_said(path, self._root),)))
            return False
        return True

    def _note_shadowed(self, path: Path, header: Header) -> None:
        """Note where a class's value is also nodata."""
        masks = self._recipe.dataset.masks
        if masks.encoding == "colours" or masks.band > len(header.nodata):
            return
        nodata = header.nodata[masks.band - 1]
        classes = dict(enumerate(self._recipe.classes))
        if nodata in classes and classes[nodata].values is None:
            self._shadowed[int(nodata)].add(path)

    def tell_all(self) -> None:
        """Tell what concerns many samples."""
        for own, paths in self._otherwise.items():
            items = tuple(_said(path, self._root) for path in paths)
            self._report(_of_another_shape(own, self._recipe.dataset.shape, items))
        self._tell_shadowed()

    def _tell_shadowed(self) -> None:
        """Tell which classes the masks declare as nodata."""
        for value, masks in self._shadowed.items():
            text = (
                f"{counted(len(masks), 'mask')} with {value} as nodata, which is also the class "
                f"{self._recipe.class_names[value]!r} by its position: such pixels count as "
                f"without label. If they are that class, write 'values: [{value}]' in the recipe's "
                "class."
            )
            items = tuple(_said(path, self._root) for path in sorted(masks))
            self._report(Problem("nodata", text, items, is_note=True))


def _of_another_shape(own: Shape, expected: Shape, items: tuple[str, ...]) -> Problem:
    text = (
        f"Samples are of {own[1]} × {own[0]} pixels, the recipe says {expected[1]} × {expected[0]} "
        f"(width × height), in {counted(len(items), 'file')}: {few(items, 3)}."
    )
    return Problem("size", text, items, "Change dataset.shape in the recipe, or get them again.")


def _said(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
