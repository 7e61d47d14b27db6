"""The whole job on made-up scenes: the six commands, and what they are worth compared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from eosfm_cli.data.mini import mapping_scene
from eosfm_cli.data.sources import resolve_root
from eosfm_cli.ensemble.bundle import read_ensemble, write_ensemble
from eosfm_cli.ensemble.specialist import Specialist, build_backbone
from eosfm_cli.errors import unwritable
from eosfm_cli.manifest import SpecialistInfo
from eosfm_cli.progress import Progress
from eosfm_cli.raster.quicklook import draw_quicklook
from eosfm_cli.recipe import load_recipe
from eosfm_cli.results import FitResult, PredictResult, TrainResult
from eosfm_cli.run_dir import write_csv
from eosfm_cli.training.trainer import seed_everything
from eosfm_cli.workflows.ablate import ablate
from eosfm_cli.workflows.emissions import emissions
from eosfm_cli.workflows.export import export
from eosfm_cli.workflows.fit_ensemble import fit_ensemble
from eosfm_cli.workflows.predict import PredictSpec, predict
from eosfm_cli.workflows.train_specialist import train_specialist

SPECIALISTS = ("mini-rgb", "mini-s2", "mini-s1")
TASK = "mini-landcover"
TOP_K = 2

_RUNS = Path("experiments")
_BASELINES = Path("baselines")
_DATA = Path("data")
_COLUMNS = ("model", "mIoU", "parameters", "trainable", "seconds", "energy_kwh")


@dataclass(frozen=True)
class DemoRow:
    """One model of the closing table."""

    model: str
    miou: float
    """Of the test split."""
    parameters: int
    trainable: int
    """Parameters that this model's own training moved."""
    seconds: float
    """Of that training alone."""
    energy_kwh: float


@dataclass(frozen=True)
class DemoResult:
    """Where everything is, and how the models compare."""

    folder: Path
    rows: tuple[DemoRow, ...]
    files: dict[str, Path]


def demo(folder: Path, *, seed: int, progress: Progress) -> DemoResult:
    """Run the six commands on the embedded data inside `folder`, then compare what they made.

    Args:
        folder: Made if it is not there; what is in it stays, and new runs join the old ones.
        seed: Of all training; the scenes are always the same ones.
        progress: Who is told; every command is told as one would type it.

    Raises:
        OutputError: The folder cannot be written.
    """
    with _inside(folder):
        progress.say(f"everything goes into {folder}; the commands below run inside it")
        steps = _Steps(seed, progress)
        for name in SPECIALISTS:
            steps.train(name)
        steps.export()
        full = steps.fit("full ensemble (concat)")
        steps.ablate()
        best = steps.fit(f"top-{TOP_K} ensemble (concat)", top_k=TOP_K)
        map_ = steps.predict()
        _compare(steps)
        rows = tuple(steps.rows)
        write_csv(Path("comparison.csv"), _COLUMNS, map(astuple, rows))
        picture = _draw_map(map_)
        emissions = steps.emissions()
        files = {
            "map": map_.output,
            "map beside input and truth": picture,
            "ablation": full.run / "ablation.png",
            "selection": best.run / "selection.png",
            "comparison": Path("comparison.csv"),
            "emissions": emissions,
            "specialists and fits": _RUNS,
        }
    return DemoResult(folder, rows, {what: folder / path for what, path in files.items()})


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work inside a folder, as someone who typed the commands there would."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class _Steps:
    """The commands, each told as typed and then run through its workflow."""

    def __init__(self, seed: int, progress: Progress) -> None:
        self.seed, self.progress = seed, progress
        self.rows: list[DemoRow] = []

    def _tell(self, command: str) -> None:
        self.progress.say(f"\n$ eosfm {command}{f' --seed {self.seed}' if self.seed else ''}")

    def train(self, name: str, *, epochs: int | None = None, root: Path = _RUNS) -> TrainResult:
        """Train one specialist, or a baseline that is trained like one."""
        options = f" --epochs {epochs}" if epochs else ""
        options += f" --output {root}" if root != _RUNS else ""
        self._tell(f"train-specialist {name}{options}")
        overrides: dict[str, Any] = {"training.seed": self.seed}
        if epochs:
            overrides["training.epochs"] = epochs
        recipe = load_recipe(name, overrides)
        return train_specialist(recipe, root=root, data_root=_DATA, progress=self.progress)

    def export(self) -> None:
        """Gather the specialists into one ensemble."""
        self.progress.say("\n$ eosfm export")
        export(None, root=_RUNS, output=None, progress=self.progress)

    def fit(self, label: str, *, root: Path = _RUNS, **choices: object) -> FitResult:
        """Fit an ensemble to the task and add it to the table."""
        options = "".join(f" --{key.replace('_', '-')} {_typed(v)}" for key, v in choices.items())
        options += f" --output {root}" if root != _RUNS else ""
        self._tell(f"fit-ensemble {TASK}{options}")
        overrides = {f"fit.{key}": value for key, value in choices.items()}
        recipe = load_recipe(TASK, {**overrides, "fit.seed": self.seed})
        result = fit_ensemble(recipe, root=root, data_root=_DATA, progress=self.progress)
        self.add(label, result, parameters=result.parameters)
        return result

    def add(self, label: str, result: FitResult | TrainResult, *, parameters: int) -> None:
        """Add a model to the table."""
        score, cost = result.metrics["mIoU"], result.cost
        self.rows.append(
            DemoRow(label, score, parameters, result.trainable, cost.seconds, cost.energy_kwh)
        )

    def ablate(self) -> None:
        """Leave each specialist of the newest fit out in turn."""
        self.progress.say("\n$ eosfm ablate")
        ablate(None, root=_RUNS, data_root=_DATA, progress=self.progress)

    def predict(self) -> PredictResult:
        """Map the large scene with the newest fit."""
        scene, _ = mapping_scene(_DATA / "mini")
        output = Path(f"{scene.stem}_pred.tif")
        self.progress.say(f"\n$ eosfm predict {scene} --output {output} --overwrite")
        spec = PredictSpec((scene,), output=output, root=_RUNS, overwrite=True)
        return predict(spec, progress=self.progress)[0].result

    def emissions(self) -> Path:
        """Draw what every stage has cost."""
        self.progress.say("\n$ eosfm emissions --csv emissions.csv --plot emissions.png")
        emissions(_RUNS, csv=Path("emissions.csv"), plot=Path("emissions.png"))
        return Path("emissions.png")


def _typed(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _compare(steps: _Steps) -> None:
    """Fit what the ensemble has to beat, the same way, outside the project's own runs."""
    steps.progress.say("\nwhat it has to beat:")
    ensemble = str(_RUNS / "ensemble.safetensors")
    for name in SPECIALISTS:
        steps.fit(f"{name} alone", root=_BASELINES, ensemble=ensemble, specialists=(name,))
    random = _write_random_ensemble(Path(ensemble), _BASELINES / "random.safetensors", steps.seed)
    steps.progress.say(f"\n{random}: the same specialists with random weights")
    steps.fit("random ensemble (concat)", root=_BASELINES, ensemble=str(random))
    scratch = steps.train(TASK, epochs=_epochs_from_scratch(), root=_BASELINES)
    steps.add("one encoder on all bands, from scratch", scratch, parameters=scratch.trainable)


def _epochs_from_scratch() -> int:
    """As long as a specialist and the fit on it together."""
    return load_recipe(SPECIALISTS[0]).training.epochs + load_recipe(TASK).fit.epochs


def _write_random_ensemble(source: Path, path: Path, seed: int) -> Path:
    """The same ensemble with untrained weights, to see what training the specialists brought."""
    seed_everything(seed)
    specialists = [
        Specialist(
            SpecialistInfo(
                name=f"random-{s.info.name}",
                backbone=s.info.backbone,
                in_chans=s.info.in_chans,
                bands=s.info.bands,
                parameters=s.info.parameters,
            ),
            build_backbone(s.info.backbone, s.info.in_chans).state_dict(),
        )
        for s in read_ensemble(source)
    ]
    write_ensemble(path, specialists)
    return path


def _draw_map(result: PredictResult) -> Path:
    recipe = load_recipe(TASK)
    scene, truth = mapping_scene(resolve_root(recipe, _DATA))
    picture = Path("map.png")
    draw_quicklook(
        picture,
        prediction=result.output,
        classes=recipe.classes,
        title=f"{recipe.title}: top-{TOP_K} ensemble",
        scene=scene,
        truth=truth,
        shares=result.shares,
    )
    return picture
