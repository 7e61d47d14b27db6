"""Every shipped recipe over a damaged dataset: nothing is dropped, shifted or left unsaid.

What is damaged is found through the loader itself, on the whole dataset that the recipe's writer
makes, so that a new recipe is covered as soon as it has a writer.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import rasterio

from eosfm_cli.commands.app import main
from eosfm_cli.data import check_values
from eosfm_cli.data.datamodule import build_datamodule
from eosfm_cli.data.folder import FolderSource, Sample
from eosfm_cli.data.labels import UNKNOWN, colour_numbers, label_table
from eosfm_cli.data.sources import open_source
from eosfm_cli.data.splits import SPLIT_NAMES
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import Recipe, fill_template, load_recipe, recipe_names, template_fields
from eosfm_cli.recipe.library import find_recipe
from tests.listening import Listener
from tests.rasters import write_image, write_tif


def _writer(name: str) -> str:
    return f"tests.datasets.{find_recipe(name)[0].stem.replace('-', '_')}"


STEMS = {find_recipe(name)[0].stem for name in recipe_names() if not name.startswith("mini")}
FEWER_FILES = {"oscd": "oscd-rgb", "kenya-croptype": "kenya-croptype-rgb"}
"""Of two recipes with hundreds of files, a variant that reads a quarter of them."""
NAMES = sorted(FEWER_FILES.get(name, name) for name in STEMS if find_spec(_writer(name)))
RECIPES = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class Good:
    """A whole dataset, and how its recipe opens it. Not to be changed."""

    name: str
    recipe: Recipe
    settings: dict[str, Any]
    root: Path
    source: FolderSource

    def first(self, split: str) -> Sample:
        return self.source.samples[split][0]

    def copied(self, folder: Path) -> Copy:
        """A copy to be spoilt; files are links until `Copy.replace` writes one anew."""
        root = folder / self.recipe.dataset.root
        shutil.copytree(self.root, root, copy_function=os.link)
        return Copy(self, root)


@dataclass(frozen=True)
class Copy:
    """A dataset that is spoilt."""

    good: Good
    root: Path

    def __getitem__(self, path: Path) -> Path:
        """The file here that stands for one of the good dataset."""
        return self.root / path.relative_to(self.good.root)

    def replace(self, path: Path, content: bytes) -> None:
        path.unlink()
        path.write_bytes(content)

    def open(self, listener: Listener | None = None) -> FolderSource:
        return open_source(self.good.recipe, self.root.parent, listener or Silent())

    def tried(self) -> tuple[FolderSource | None, str]:
        """What opens, and all that was said: warnings, or the error instead."""
        listener = Listener()
        try:
            return self.open(listener), "\n".join(listener.warnings)
        except DataError as error:
            return None, f"{error.message}\n{error.hint}"

    def read(self, spoilt: Sample) -> None:
        """Open it as training does, and read what is of the same file as a sample."""
        data = build_datamodule(
            self.good.recipe, self.root.parent, spec=self.good.recipe.training, progress=Silent()
        )
        for split, samples in data.source.samples.items():
            dataset = data.dataset(split)
            for index, number in enumerate(dataset.sample_numbers):
                if samples[number].place == self[spoilt.place]:
                    dataset[index]

    def refused(self, spoilt: Sample, *names: str) -> None:
        """Check that opening it or reading a sample fails, and names some file or sample."""
        with pytest.raises(DataError) as caught:
            self.read(spoilt)
        said = f"{caught.value.message}\n{caught.value.hint}"
        assert any(name in said for name in names), said
        assert caught.value.hint

    def check(
        self, capsys: pytest.CaptureFixture[str], *words: str, code: int = 3
    ) -> dict[str, Any]:
        """What `eosfm data check` says."""
        pairs = [f"{key}={json.dumps(value)}" for key, value in self.good.settings.items()]
        options = [word for pair in pairs for word in ("--set", pair)]
        words = (*words, "--data-root", str(self.root.parent), *options, "--json")
        capsys.readouterr()
        assert main(["data", "check", self.good.name, *words]) == code
        return json.loads(capsys.readouterr().out)["recipes"][0]

    def listed(self, capsys: pytest.CaptureFixture[str], *names: str) -> None:
        """Check that `eosfm data check` ends in 3 and names one of some files or samples."""
        told = self.check(capsys)["problems"]
        assert any(name in json.dumps(told, ensure_ascii=False) for name in names), told


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory):
    """The whole dataset of a recipe, written once."""
    folder = tmp_path_factory.mktemp("good")

    @cache
    def write(name: str) -> Good:
        module = import_module(_writer(name))
        settings = getattr(module, "SETTINGS", {})
        plain = {band: {"mean": 0, "std": 1} for band in load_recipe(name).bands}
        training = {"training.workers": 0, "training.augment": False, "tile.train": "grid"}
        recipe = load_recipe(name, {**settings, **training, "statistics": plain})
        root = folder / recipe.dataset.root
        module.write(root)
        return Good(name, recipe, settings, root, open_source(recipe, folder))

    return write


@pytest.fixture
def copy(name: str, good: Any, tmp_path: Path) -> Copy:
    return good(name).copied(tmp_path)


@pytest.fixture
def _few_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the check read next to no pixels, where names alone matter: it saves minutes."""
    monkeypatch.setattr(check_values, "MOST_SAMPLES", 1)


NAMES_MATTER = pytest.mark.usefixtures("_few_values")


def pairs(source: FolderSource) -> dict[str, list[tuple[str, ...]]]:
    """The files and label of each sample, in words that do not depend on where they are."""
    return {
        split: [
            (
                sample.id,
                str(sample.label),
                *(str(p.relative_to(source.root)) for each in sample.images for p in each),
                str(sample.mask and sample.mask.relative_to(source.root)),
            )
            for sample in source.samples[split]
        ]
        for split in SPLIT_NAMES
    }


# --------------------------------------------------------------------------- what is good


@RECIPES
def test_a_whole_dataset_is_fine(name: str, copy: Copy, capsys: Any) -> None:
    found = copy.check(capsys, code=0)
    assert not found["problems"]
    counts = {split["name"]: split["samples"] for split in found["division"]["splits"]}
    blank = any(note["hint"] == "dataset.blank decides." for note in found["notes"])
    left = {split: len(copy.good.source.samples[split]) for split in SPLIT_NAMES}
    assert counts == left or blank
    assert found["licence"]
    assert found["download"] or found["fetchable"]


@RECIPES
def test_the_roots_name_is_no_pattern(name: str, good: Any, tmp_path: Path) -> None:
    """Folders above the data named like what loaders look for."""
    whole: Good = good(name)
    root = tmp_path / "train_mask_S1A_20200101" / "val_s2_image_label.tif"
    root.parent.mkdir()
    root.symlink_to(whole.root)
    renamed = whole.recipe.model_copy(
        update={"dataset": whole.recipe.dataset.model_copy(update={"root": root.name})}
    )
    assert pairs(open_source(renamed, root.parent)) == pairs(whole.source)


@NAMES_MATTER
@RECIPES
def test_a_stray_file_shifts_nothing(name: str, copy: Copy, capsys: Any) -> None:
    """One that could be a sample is told, refused or one more; the others stay as they are."""
    image = copy[copy.good.first("train").place]
    stray = image.with_name(f"stray{image.suffix}")
    shutil.copy(image, stray)
    source, said = copy.tried()
    if source is None:
        assert "stray" in said
        copy.listed(capsys, "stray")
        return
    found = {row for rows in pairs(source).values() for row in rows}
    before = {row for rows in pairs(copy.good.source).values() for row in rows}
    assert before <= found
    name = PurePosixPath(copy.good.recipe.dataset.images[_image(copy.good.recipe)].paths[0]).name
    if found == before and set(template_fields(name)) - {"band"}:
        assert "stray" in said
        assert "stray" in json.dumps(copy.check(capsys, code=0)["notes"])


def _image(recipe: Recipe) -> str:
    """The images that a sample is named by."""
    return next(iter(recipe.image_files)).partition(".")[0]


# --------------------------------------------------------------------------- what is not there


@NAMES_MATTER
@RECIPES
def test_no_dataset(name: str, good: Any, tmp_path: Path, capsys: Any) -> None:
    copy = Copy(good(name), tmp_path / good(name).recipe.dataset.root)
    dataset = copy.good.recipe.dataset
    with pytest.raises(DataError) as caught:
        copy.open()
    assert str(copy.root) in caught.value.message
    for fact in (dataset.licence, dataset.size, dataset.homepage):
        assert fact is None or fact in caught.value.message
    assert "--data-root" in caught.value.hint
    copy.listed(capsys, str(copy.root))


@NAMES_MATTER
@RECIPES
def test_one_split_absent(name: str, copy: Copy, capsys: Any) -> None:
    """Of the test split, the images are gone; where all is drawn, they leave labels alone."""
    split = copy.good.recipe.dataset.split
    if split.by == "area":
        pytest.skip("all samples are in all splits")
    if split.by in {"fraction", "scene"} and not copy.good.recipe.has_masks:
        pytest.skip("a draw from the rest is as good")
    samples = copy.good.source.samples["test"]
    for sample in samples:
        for path in {path for dates in sample.images for path in dates}:
            copy[path].unlink(missing_ok=True)
    names = [*(sample.id for sample in samples), "The test split is empty", "No file in"]
    copy.refused(samples[0], *names)
    copy.listed(capsys, *names)


@NAMES_MATTER
@RECIPES
def test_archives_that_are_not_unpacked(name: str, good: Any, tmp_path: Path, capsys: Any) -> None:
    copy = Copy(good(name), tmp_path / good(name).recipe.dataset.root)
    copy.root.mkdir(parents=True)
    archives = []
    for path in copy.good.root.iterdir():
        if path.is_dir():
            archives.append(f"{path.name}.zip")
            (copy.root / archives[-1]).touch()
        else:
            os.link(path, copy.root / path.name)
    copy.refused(copy.good.first("train"), *archives)
    assert set(copy.check(capsys)["archives"]) & set(archives)


@NAMES_MATTER
@RECIPES
def test_one_label_missing(name: str, copy: Copy, capsys: Any) -> None:
    sample, dataset = copy.good.first("train"), copy.good.recipe.dataset
    if copy.good.recipe.has_masks:
        fields = sample.mask_file.fields
        paths = [copy.root / fill_template(path, fields) for path in dataset.masks.paths]
        for path in paths:
            path.unlink(missing_ok=True)
        names = [path.name for path in paths]
    elif dataset.boxes is not None:
        path = copy.root / fill_template(dataset.boxes.paths[0], {"id": sample.id})
        path.unlink()
        names = [path.name]
    elif dataset.labels is not None:
        _drop_row(copy, sample)
        names = [sample.id]
    else:
        pytest.skip("the folder is the label")
    source, said = copy.tried()
    assert any(one in said for one in names), said
    if source is None:
        copy.listed(capsys, *names)
        return
    # Where the recipe says that a dataset may be incomplete, it is told who is left out.
    assert sample.id not in [each.id for split in SPLIT_NAMES for each in source.samples[split]]
    assert any(one in json.dumps(copy.check(capsys, code=0)["notes"]) for one in names)


def _drop_row(copy: Copy, sample: Sample) -> None:
    """Take the row of a sample out of its table."""
    labels = copy.good.recipe.dataset.labels
    for path in (copy.root / each for each in labels.paths):
        if path.suffix == ".parquet":
            from pyarrow import compute, parquet

            table = parquet.read_table(path)
            _write_table(copy, path, table.filter(compute.not_equal(table[labels.id], sample.id)))
        elif path.suffix == ".csv":
            rows = list(csv.reader(io.StringIO(path.read_text())))
            kept = [row for row in rows if sample.id not in "/".join(row)]
            copy.replace(path, "\n".join(",".join(row) for row in kept).encode())


# --------------------------------------------------------------------------- what is damaged


@RECIPES
def test_an_image_cut_short(name: str, copy: Copy) -> None:
    copy.refused(copy.good.first("test"), _cut(copy))


def _cut(copy: Copy) -> str:
    path = copy[copy.good.first("test").place]
    content = path.read_bytes()
    copy.replace(path, content[: len(content) * 3 // 5])
    return path.name


@RECIPES
def test_a_mask_of_another_size(name: str, copy: Copy) -> None:
    if not copy.good.recipe.has_masks:
        pytest.skip("no masks")
    copy.refused(copy.good.first("val"), _widen_mask(copy))


def _widen_mask(copy: Copy) -> str:
    path = copy[copy.good.first("val").mask]
    pixels = _pixels(path)
    _write(path, np.pad(pixels, [(0, 0)] * (pixels.ndim - 1) + [(0, 8)], "edge"))
    return path.name


@RECIPES
def test_a_label_that_no_class_lists(name: str, copy: Copy) -> None:
    label = _spoil_label(copy)
    if copy.good.recipe.has_masks and copy.good.recipe.dataset.masks.unknown == "ignore":
        copy.read(copy.good.first("train"))
        return
    copy.refused(copy.good.first("train"), label)


def _spoil_label(copy: Copy) -> str:
    """Give a training sample a label that means nothing; what messages call it."""
    recipe, sample = copy.good.recipe, copy.good.first("train")
    if recipe.task == "regression":
        pytest.skip("values have no classes")
    if recipe.has_masks:
        return _spoil_mask(recipe, copy[sample.mask])
    if recipe.dataset.boxes is not None:
        path = copy.root / fill_template(recipe.dataset.boxes.paths[0], {"id": sample.id})
        copy.replace(path, path.read_text().replace("<name>", "<name>odd-", 1).encode())
        return "odd-"
    if recipe.task == "classification":
        folder = copy[sample.place].parent
        folder.rename(folder.with_name("odd-folder"))
        return "odd-folder"
    return _spoil_table(copy, sample)


def _spoil_table(copy: Copy, sample: Sample) -> str:
    from pyarrow import array, parquet

    spec = copy.good.recipe.dataset.labels
    path = copy.root / spec.paths[0]
    table = parquet.read_table(path)
    ids, labels = table[spec.id].to_pylist(), table[spec.column].to_pylist()
    labels[ids.index(sample.id)] = ["odd label"]
    place = table.column_names.index(spec.column)
    _write_table(copy, path, table.set_column(place, spec.column, array(labels)))
    return "odd label"


def _write_table(copy: Copy, path: Path, table: Any) -> None:
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    copy.replace(path, buffer.getvalue())


def _spoil_mask(recipe: Recipe, path: Path) -> str:
    pixels = _pixels(path)
    if recipe.by_colour:
        colours = np.array([(1, 102, 53), (255, 0, 0), (0, 0, 0), (255, 255, 255)], np.uint8)
        odd = colours[label_table(recipe)(colour_numbers(colours.T)) == UNKNOWN][0]
        pixels[:3] = odd[:, None, None]
    else:
        odd = 77
        (pixels if pixels.ndim == 2 else pixels[recipe.dataset.masks.band - 1])[...] = odd
    _write(path, pixels)
    return "#{:02x}{:02x}{:02x}".format(*odd) if recipe.by_colour else f"{odd}"


@RECIPES
def test_all_that_is_damaged_is_listed_at_once(name: str, copy: Copy, capsys: Any) -> None:
    recipe = copy.good.recipe
    names = {_cut(copy)}
    if recipe.dataset.split.by == "area" or (
        recipe.dataset.labels and recipe.dataset.labels.windows
    ):
        copy.listed(capsys, *names)
        return  # all splits are of the same files
    if recipe.has_masks:
        names.add(_widen_mask(copy))
        if recipe.task != "regression":
            names.add(_spoil_label(copy))
    found = copy.check(capsys, "--all")
    said = json.dumps(found["problems"] + found["notes"])
    assert [name for name in names if name not in said] == []


def _pixels(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    with rasterio.open(path) as raster:
        return raster.read()


def _write(path: Path, pixels: np.ndarray) -> None:
    path.unlink()
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".png":
        write_image(path, pixels)
    else:
        write_tif(path, pixels)
