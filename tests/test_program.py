"""Models start as programs that torch alone runs, and give what they give through TerraTorch."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from eosfm_cli.errors import BundleError, UsageError
from eosfm_cli.manifest import DecoderInfo, ModelManifest, read_manifest
from eosfm_cli.progress import Silent
from eosfm_cli.raster.program import Exported, Program, keep_program, load_scorer
from eosfm_cli.raster.program_store import ProgramStore
from eosfm_cli.raster.scoring import (
    Scorer,
    choose_device,
    difference,
    has_bf16,
    refuse_precision,
)
from eosfm_cli.recipe import Recipe
from eosfm_cli.training.model import load_model
from eosfm_cli.training.program import Disagreeing, build_module, disagreement
from tests.fits import BANDS, UPERNET, tiny_recipe, write_fit
from tests.rasters import write_tif

SPECIALISTS = {"rgb": ("red", "green", "blue"), "s1": ("vv", "vh")}
CPU = torch.device("cpu")


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)

    @property
    def all(self) -> str:
        return "\n".join(self.said + self.warned)


@dataclass
class Kept:
    """A model and the cache that its program is in."""

    path: Path
    manifest: ModelManifest
    cache: Path


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProgramStore:
    """An empty cache."""
    monkeypatch.delenv("EOSFM_PROGRAMS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ProgramStore(tmp_path / "cache" / "eosfm" / "programs")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A model whose program, with disagreement, is there."""
    folder = tmp_path_factory.mktemp("kept")
    path, manifest = written(folder, "segmentation", fusion="concat")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EOSFM_PROGRAMS", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        told = Told()
        load_scorer(path, manifest, make=build_module, disagreement=True, progress=told)
    assert told.said[-1] == "preparing the model for quick starts, once"
    return Kept(path, manifest, folder / "cache")


@pytest.fixture
def there(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """The same, with the cache that it is in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept.cache))
    return kept


def nobody(path: Path, disagreement: bool, precision: str = "32-true") -> nn.Module:
    pytest.fail("the model was built again")


def draw(count: int, *shape: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32))


# --------------------------------------------------------------------------- every task


def recipe_of(task: str) -> Recipe:
    tile = {"size": 64}
    if task == "segmentation":
        return tiny_recipe(tile=tile)
    if task == "regression":
        return tiny_recipe(task=task, tile=tile, classes=[], target={"name": "h", "unit": "m"})
    split = {"by": "list", "train": ["a"], "val": ["b"], "test": ["c"]}
    dataset: dict[str, Any] = {"root": "x", "split": split}
    if task == "change":
        dataset["masks"] = {"path": "m/{id}.tif"}
        dataset["images"] = {
            "before": {"path": "A/{id}.tif", "bands": BANDS, "date": 1},
            "after": {"path": "B/{id}.tif", "bands": BANDS, "date": 2},
        }
    elif task == "classification":
        dataset["images"] = {"s": {"path": "{class}/{id}.tif", "bands": BANDS}}
    else:
        dataset["images"] = {"s": {"path": "images/{id}.tif", "bands": BANDS}}
        dataset["labels"] = {"path": "labels.csv", "id": "image", "column": "labels"}
    return tiny_recipe(task=task, tile=tile, dataset=dataset)


def written(folder: Path, task: str, **options: Any) -> tuple[Path, ModelManifest]:
    whole = task in ("classification", "multilabel")
    decoder = DecoderInfo(name="IdentityDecoder") if whole else UPERNET
    path = write_fit(folder / task, recipe_of(task), SPECIALISTS, decoder=decoder, **options).model
    return path, read_manifest(path)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("task", "disagrees", "options"),
    [
        pytest.param("regression", False, {"fusion": "multiplication"}, marks=SLOW),
        ("classification", False, {"fusion": "concat"}),
        pytest.param("multilabel", True, {"fusion": "addition"}, marks=SLOW),
        pytest.param("change", True, {"fusion": "concat", "adapt": "learned"}, marks=SLOW),
        pytest.param("regression", True, {"fusion": "mlp"}, marks=SLOW),
        pytest.param(
            "segmentation", False, {"fusion": "conv1x1", "gates": "smooth", "top_k": 2}, marks=SLOW
        ),
    ],
)
def test_a_program_gives_what_the_model_gives(
    task: str, disagrees: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    path, manifest = written(tmp_path, task, **options)
    told = Told()
    load_scorer(path, manifest, make=build_module, disagreement=disagrees, progress=told)
    assert told.said[-1] == "preparing the model for quick starts, once"
    assert told.warned == []
    compare(path, manifest, disagrees)


def test_a_program_gives_the_same_scores_and_disagreement(there: Kept) -> None:
    compare(there.path, there.manifest, disagrees=True)


def compare(path: Path, manifest: ModelManifest, disagrees: bool) -> None:
    """Compare the program that is kept with the model."""
    told = Told()
    scorer = load_scorer(path, manifest, make=nobody, disagreement=disagrees, progress=told)
    assert len(told.said) == 1  # the device
    assert isinstance(scorer.module, Program)
    module = build_module(path, disagrees)
    direct = Scorer(module, CPU, None, told.warn, manifest.task, disagreement=disagrees)
    dates = () if manifest.pooling is None else (2,)
    whole = manifest.task in ("classification", "multilabel")
    for size in [(64, 64)] if whole else [(64, 64), (96, 160)]:
        windows = draw(3, len(BANDS), *dates, *size)
        found, expected = np.stack(scorer.score(windows)), np.stack(direct.score(windows))
        planes = (len(manifest.classes) or 1) + disagrees
        assert found.shape == (3, planes, *(() if whole else size))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        if disagrees:
            assert found[:, -1].max() > 0
            assert (
                manifest.task == "regression" or ((found[:, -1] >= 0) & (found[:, -1] <= 1)).all()
            )


@pytest.mark.slow
def test_bf16_has_a_program_of_its_own_and_tells_what_it_changes(
    kept: Kept, store: ProgramStore
) -> None:
    """Any machine can compute in bf16, if slowly."""
    told = Told()
    options = {"disagreement": True, "precision": "bf16", "progress": told}
    scorer = load_scorer(kept.path, kept.manifest, make=build_module, **options)
    assert isinstance(scorer.module, Program)
    assert told.said[-1] == "preparing the model for quick starts, once"
    zeros = np.zeros((len(BANDS), 64, 64), np.float32)
    scorer.score([zeros])
    assert len(told.said) == 2  # nothing stands in these windows
    windows = draw(2, len(BANDS), 64, 96)
    found = np.stack(scorer.score(windows))
    assert re.fullmatch(
        r"bf16 against 32 bits, on the first windows: \d+\.\d{3}% of the classes differ",
        told.said[-1],
    )
    scorer.score(windows)
    assert len(told.said) == 4  # of which one is about the program of 32 bits
    direct = Scorer(build_module(kept.path, True), CPU, 2, told.warn, disagreement=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(direct.score(windows)), atol=0.1)
    assert not np.array_equal(found, np.stack(direct.score(windows)))
    assert len(list(store.folder.iterdir())) == 2


def test_differences_in_words() -> None:
    one, other = np.array([[0.6, 0.2, 0.9]]), np.array([[0.4, 0.3, 0.8]])
    assert difference("multilabel", one, other) == "33.333% of the labels differ"
    assert difference("regression", one, other) == "values differ by 0.133 on average"
    one, other = np.vstack([one, 1 - one]), np.vstack([other, 1 - other])
    assert difference("segmentation", one, other) == "33.333% of the classes differ"


def test_bf16_is_refused_where_the_hardware_only_imitates_it() -> None:
    refuse_precision("32-true", CPU)
    if has_bf16(CPU):
        refuse_precision("bf16", CPU)
    else:
        with pytest.raises(UsageError, match="This CPU has no instructions for bf16"):
            refuse_precision("bf16", CPU)


def test_disagreement_leaves_the_scores_as_they_are(there: Kept) -> None:
    fitted = load_model(there.path)
    x = torch.from_numpy(np.stack(draw(2, len(BANDS), 64, 64)))
    with torch.inference_mode():
        logits, apart = Disagreeing(fitted).eval()(x)
        torch.testing.assert_close(logits, fitted.module(x))
        encoder = fitted.module.model.encoder
        answers = []
        for name in encoder.names:  # the other way round: the others are not even computed
            encoder.left_out = frozenset(i for i, n in enumerate(encoder.names) if n != name)
            answers.append(fitted.module(x))
    torch.testing.assert_close(apart, disagreement(answers, "segmentation"), rtol=1e-4, atol=1e-5)


def test_a_program_runs_on_another_device(there: Kept) -> None:
    meta = torch.device("meta")
    (file,) = (there.cache / "eosfm" / "programs").iterdir()
    exported = Exported(*torch.load(file, weights_only=False))
    program = Program(exported, meta, lambda: pytest.fail("odd size"))
    logits, apart = program(torch.empty(5, len(BANDS), 64, 128, device=meta))
    assert (logits.device.type, logits.shape) == ("meta", (5, 3, 64, 128))
    assert (apart.device.type, apart.shape) == ("meta", (5, 64, 128))


def test_windows_that_are_too_small_for_the_program(there: Kept) -> None:
    told = Told()
    scorer = load_scorer(
        there.path, there.manifest, make=build_module, disagreement=True, progress=told
    )
    windows = draw(2, len(BANDS), 32, 64)
    direct = Scorer(build_module(there.path, True), CPU, 2, told.warn)
    np.testing.assert_allclose(scorer.score(windows), direct.score(windows), rtol=1e-5, atol=1e-6)
    assert "through TerraTorch" in told.said[-1]


# --------------------------------------------------------------------------- disagreement


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 100))
def test_disagreement_is_a_share(specialists: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    answers = [9 * torch.randn(2, classes, 3, 3, generator=generator) for _ in range(specialists)]
    for task in ("segmentation", "multilabel"):
        found = disagreement(answers, task)
        assert found.shape == (2, 3, 3)
        assert ((found >= 0) & (found <= 1)).all()
        assert disagreement(answers[:1] * 3, task).abs().max() < 1e-6


def test_disagreement_by_hand() -> None:
    sure = torch.eye(3)[:, :, None, None] * 100  # three answers, one pixel, each of another class
    answers = [sure[i : i + 1] for i in range(3)]
    assert disagreement(answers, "segmentation").item() == pytest.approx(1)
    # two of three specialists agree: H(1/3, 2/3) of at most log 3
    expected = (math.log(3) - 2 / 3 * math.log(2)) / math.log(3)
    found = disagreement([answers[0], answers[1], answers[1]], "segmentation")
    assert found.item() == pytest.approx(expected)
    values = [torch.full((1, 1, 1), value) for value in (1.0, 3.0)]
    assert disagreement(values, "regression").item() == 1
    assert disagreement(values[:1], "regression").item() == 0


# --------------------------------------------------------------------------- the cache


class Steps(nn.Module):
    """Tells three classes apart by the first band."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.arange(3.0)[:, None, None] + offset)

    def forward(self, x: Tensor) -> Tensor:
        return -((x[:, :1] - self.levels) ** 2)


class Erratic(Steps):
    """Does what depends on the values of its input, which no program can."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if float(x.mean()) > 0 else 1)


class Made:
    """Builds a module and counts how often."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.times = module, 0

    def __call__(self, path: Path, disagreement: bool, precision: str) -> nn.Module:
        self.times += 1
        return self.module


MANIFEST = ModelManifest.model_validate(
    {
        "recipe": "cover",
        "title": "Land cover",
        "task": "segmentation",
        "bands": ["red"],
        "statistics": {"red": {"mean": 0.0, "std": 1.0}},
        "classes": [{"name": name} for name in ("water", "wood", "town")],
        "ignore_index": 255,
        "tile_size": 64,
        "encoder": {},
        "specialists": [{"name": "s2", "backbone": "x", "in_chans": 1, "bands": ["red"]}],
        "decoder": {"name": "d"},
    }
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def load(path: Path, make: Callable[[Path, bool, str], nn.Module], **options: Any) -> Told:
    told = Told()
    scorer = load_scorer(path, MANIFEST, make=make, progress=told, **options)
    windows = draw(3, 1, 64, 96)
    expected = Scorer(make.module if isinstance(make, Made) else Steps(), CPU, 2, told.warn)
    np.testing.assert_allclose(scorer.score(windows), expected.score(windows), rtol=1e-5)
    return told


def test_a_program_is_made_once_and_for_its_user_alone(model: Path, store: ProgramStore) -> None:
    made = Made(Steps())
    assert "once" in load(model, made).all
    assert "once" not in load(model, nobody).all
    assert made.times == 1
    (file,) = store.folder.iterdir()
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_changed_model_has_another_program(model: Path) -> None:
    load(model, Made(Steps()))
    model.write_bytes(b"other weights")
    made = Made(Steps(0.5))
    assert "once" in load(model, made).all
    assert made.times == 1


def test_a_damaged_program_is_made_anew(model: Path, store: ProgramStore) -> None:
    load(model, Made(Steps()))
    (file,) = store.folder.iterdir()
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", flipped(whole)):
        file.write_bytes(content)
        told, made = load(model, made := Made(Steps())), made
        assert "damaged" in told.warned[0]
        assert "once" in told.all
        assert made.times == 1
        load(model, nobody)


def flipped(content: bytes) -> bytes:
    """The same with a bit of the weights turned around: nothing but a checksum shows it."""
    at = content.index(np.arange(3, dtype=np.float32).tobytes())
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_an_archive_that_is_no_program_is_damaged(model: Path, store: ProgramStore) -> None:
    load(model, Made(Steps()))
    (file,) = store.folder.iterdir()
    torch.save({"a": 1}, file)
    told = load(model, Made(Steps()))
    assert "damaged" in told.warned[0]
    load(model, nobody)


def belong_to_another(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 12345, 12345)


def open_to_others(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("spoil", [belong_to_another, open_to_others])
def test_a_program_that_others_may_have_written_is_not_run(
    spoil: Callable[[Path], None], model: Path, store: ProgramStore
) -> None:
    load(model, Made(Steps()))
    (file,) = store.folder.iterdir()
    spoil(file)
    told = load(model, Made(Steps()))
    assert "not used" in told.warned[0]
    assert file.stat().st_uid == os.geteuid()
    assert load(model, nobody).warned == []


def test_a_program_is_not_read_through_a_link(
    model: Path, store: ProgramStore, tmp_path: Path
) -> None:
    load(model, Made(Steps()))
    (file,) = store.folder.iterdir()
    file.rename(tmp_path / "elsewhere.pt2")
    file.symlink_to(tmp_path / "elsewhere.pt2")
    told = load(model, Made(Steps()))
    assert told.warned
    assert not file.is_symlink()


def test_a_folder_of_another_user_is_not_used(
    model: Path, store: ProgramStore, tmp_path: Path
) -> None:
    load(model, Made(Steps()))
    store.folder.rename(tmp_path / "elsewhere")
    store.folder.symlink_to(tmp_path / "elsewhere")
    made = Made(Steps())
    told = load(model, made)
    assert "is a link" in told.warned[0]
    assert "through TerraTorch" in told.said[-1]
    assert made.times == 1


def test_a_cache_that_cannot_be_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        made = Made(Steps())
        told = load(model, made)
        assert made.times == 1
        assert len(told.said) == 2
        assert "no quick starts" in told.said[1]
        assert told.warned == []


def test_a_cache_that_is_off(
    model: Path, store: ProgramStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EOSFM_PROGRAMS", "off")
    assert len(load(model, Made(Steps())).said) == 1
    keep_program(model, make=nobody, progress=Silent())
    assert not store.folder.exists()


def test_what_cannot_become_a_program_is_tried_once(model: Path, store: ProgramStore) -> None:
    first, second = load(model, Made(Erratic())), load(model, Made(Erratic()))
    assert "once" in first.said[1]
    assert "through TerraTorch" in first.said[2]
    assert len(second.said) == 2
    assert second.said[1] == first.said[2]
    assert not list(store.folder.glob("*.pt2"))


def test_a_program_that_gives_something_else_is_not_kept(model: Path, store: ProgramStore) -> None:
    class Moody(Steps):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (0 if torch.compiler.is_exporting() else 1)

    told = load(model, Made(Moody()))
    assert "other results" in told.said[-1]
    assert not list(store.folder.glob("*.pt2"))


def test_the_newest_programs_are_kept(store: ProgramStore) -> None:
    store.prepare()
    for number in range(25):
        store.write(f"key-{number}", lambda path: path.write_text("x"))
        os.utime(store.folder / f"key-{number}.pt2", (number, number))
    store.note_failure("last", "because")
    kept = {path.stem for path in store.folder.iterdir()}
    assert kept == {"last", *(f"key-{number}" for number in range(6, 25))}


def test_a_fit_is_not_lost_over_its_program(model: Path) -> None:
    told = Told()
    keep_program(model, make=nobody, progress=told)  # the file is no model
    assert "not prepared" in told.warned[0]


def test_a_model_that_is_gone(model: Path) -> None:
    model.unlink()
    with pytest.raises(BundleError, match="Cannot read"):
        load_scorer(model, MANIFEST, make=nobody, progress=Silent())


def test_a_model_of_one_specialist_is_told_of(model: Path) -> None:
    told = Told()
    load_scorer(model, MANIFEST, make=Made(Steps()), disagreement=True, progress=told)
    assert any("one specialist" in text for text in told.said)


# --------------------------------------------------------------------------- batches and devices


def test_a_batch_has_about_as_many_pixels_whatever_the_window() -> None:
    scorer = Scorer(Steps(), CPU, None, lambda size: None)
    for edge, size in ((64, 128), (256, 8), (512, 2), (2048, 1)):
        scorer.fit_to(1, edge, edge)
        assert scorer.batch_size == size
    given_size = Scorer(Steps(), CPU, 3, lambda size: None)
    given_size.fit_to(1, 64, 64)
    assert given_size.batch_size == 3


def test_devices_by_name() -> None:
    assert choose_device("cpu") == CPU
    if torch.cuda.is_available():
        assert choose_device("auto") == choose_device("cuda")
    else:
        assert choose_device("auto") == CPU
        with pytest.raises(UsageError, match="no GPU"):
            choose_device("cuda")


# --------------------------------------------------------------------------- the command

RUN_AND_LIST = """
import json, sys
from eosfm_cli.commands.app import main
code = main(sys.argv[1:])
print("\\n" + json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.slow
def test_predict_starts_without_terratorch(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "segmentation")
    keep_program(path, make=build_module, progress=Silent())
    scene = write_tif(tmp_path / "scene.tif", np.ones((len(BANDS), 100, 90), np.float32))
    words = ("predict", str(scene), "--model", str(path), "--bands", ",".join(BANDS))
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    assert not {"terratorch", "timm", "lightning", "torchgeo"} & set(modules)
