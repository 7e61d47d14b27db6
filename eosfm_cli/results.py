"""What each workflow hands back: numbers, names and paths, no tensors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eosfm_cli.confusion import ClassScore

if TYPE_CHECKING:  # reading a manifest takes pydantic, which not every command needs
    from eosfm_cli.bands import Plan
    from eosfm_cli.manifest import EnsembleManifest, ModelManifest


@dataclass(frozen=True)
class Cost:
    """What a piece of work took."""

    seconds: float = 0.0
    energy_kwh: float = 0.0
    emissions_kg: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.energy_kwh + other.energy_kwh,
            self.emissions_kg + other.emissions_kg,
        )

    def times(self, factor: float) -> Cost:
        """So many times as much."""
        return Cost(self.seconds * factor, self.energy_kwh * factor, self.emissions_kg * factor)


@dataclass(frozen=True)
class PhasePlan:
    """What one training would be, from a few steps of it."""

    name: str
    epochs: int
    steps: int
    step_seconds: float
    seconds: float
    """Of all epochs, their validation and the test."""
    parameters: int
    trainable: int
    memory_bytes: int
    """Peak of the GPU's memory, or without one of the process's; 0 if it cannot be told."""
    stored_bytes: int = 0
    """Of features that it leaves in the user's cache."""


@dataclass(frozen=True)
class WorkPlan:
    """What a command would do: the result of `--dry-run`."""

    recipe: str
    data: Path
    bands: tuple[str, ...]
    samples: dict[str, int]
    """Split -> images."""
    tiles: dict[str, int]
    """Split -> tiles; of an epoch for training."""
    batch: tuple[int, int, int, int]
    """Tiles, bands, height, width."""
    phases: tuple[PhasePlan, ...]
    specialists: tuple[str, ...] = ()
    """Those that would run; of a fit."""
    watts: float = 0.0
    """The mean power of the steps that were tried; 0 where it cannot be told."""
    g_per_kwh: float = 0.0
    """Of the electricity."""

    @property
    def energy_kwh(self) -> float:
        """Of all phases, at that power."""
        return self.watts * self.seconds / 3.6e6

    @property
    def emissions_kg(self) -> float:
        """Of all phases."""
        return self.energy_kwh * self.g_per_kwh / 1000

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def disk_bytes(self) -> int:
        """Of checkpoints: weights of the best epoch, and of the last one with what AdamW keeps."""
        return sum(8 * phase.parameters + 8 * phase.trainable for phase in self.phases)


@dataclass(frozen=True)
class TrainResult:
    """One trained specialist."""

    specialist: str
    run: Path
    metrics: dict[str, float]
    """Of the test split: the task's own, such as `mIoU` for segmentation, and others."""
    parameters: int
    """Of the encoder, which is what an ensemble takes."""
    trainable: int
    """Of the encoder with its decoder and head."""
    cost: Cost
    split: str | None = "test"
    """What was measured on: `val` where there is no test split, `None` where there is neither."""
    specialists: tuple[str, ...] = ()
    """Those of the ensemble that was fitted, where a Lightning YAML trains no specialist."""
    estimate: Cost | None = None
    """What it was expected to take, once its first epoch was over."""


@dataclass(frozen=True)
class ExportResult:
    """One ensemble file."""

    path: Path
    specialists: tuple[str, ...]
    skipped: dict[str, str]
    """Run or checkpoint -> why it is not in the ensemble."""
    parameters: int
    repeated: tuple[str, ...] = ()
    """Specialists taken once only, as others have the same weights."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Name in the ensemble -> name before, where another has that."""
    card: Path | None = None


@dataclass(frozen=True)
class MergeResult:
    """One ensemble out of several."""

    path: Path
    specialists: tuple[str, ...]
    sources: dict[str, str]
    """Specialist -> the file that it first came in."""
    repeated: tuple[str, ...]
    """Specialists taken once only, as others have the same weights."""
    renamed: dict[str, str]
    """Name in the ensemble -> name before, where another has that."""
    parameters: int
    licence: str | None
    """The strictest that is stated."""
    unlicensed: tuple[str, ...]
    """Specialists that state no licence."""
    card: Path | None


@dataclass(frozen=True)
class Inspection:
    """What a file says about itself."""

    path: Path
    kind: Literal["ensemble", "model", "specialist"]
    manifest: EnsembleManifest | ModelManifest
    bytes: int
    parameters: int
    """Of all specialists, and of what stands on them in a model."""
    licence: str | None
    """The strictest that is stated, by the specialists and the data that a model was fitted on."""
    unlicensed: tuple[str, ...]
    """Which of them state none."""
    cost: Cost
    """Of training the specialists, and of fitting them."""
    new: Cost
    """What of it was done for this file; the rest was there before."""
    unmeasured: tuple[str, ...]
    """The work whose energy the file does not tell."""
    plan: Plan | None = None
    """How they see the bands that were asked about."""
    matching: str | None = None
    """How those bands were found."""
    card: Path | None = None
    address: str | None = None
    """Of a file on the hub, with the version that was fetched."""

    @property
    def name(self) -> str:
        """What to call the file."""
        return self.address or str(self.path)


SelectedBy = Literal["gates", "probe"]


@dataclass(frozen=True)
class FitResult:
    """One fitted model."""

    recipe: str
    run: Path
    model: Path
    ensemble: Path | None
    specialists: tuple[str, ...]
    """Those in the model, in order."""
    scores: dict[str, float]
    """Score of every specialist looked at, best first; empty without `top_k`."""
    metrics: dict[str, float]
    parameters: int
    trainable: int
    cost: Cost
    encoder: str = ""
    """What it stands on: an ensemble of so many, one specialist, or a baseline."""
    label_fraction: float = 1.0
    """Share of the training labels that was used."""
    selected_by: SelectedBy | None = None
    """What gave the scores."""
    estimate: Cost | None = None
    """What it was expected to take, once its first epoch was over."""


@dataclass(frozen=True)
class ProbeScore:
    """How much of a task's labels a linear map of one specialist's features tells."""

    specialist: str
    score: float
    """The task's metric on validation tiles, of maps in coarse cells."""
    low: float
    """The lower end of its 95 % interval."""
    high: float
    seconds: float
    parameters: int


@dataclass(frozen=True)
class RankRow:
    """One specialist, and what a linear probe says of it."""

    specialist: str
    score: float
    low: float
    high: float
    seconds: float
    parameters: int
    views: tuple[str, ...]
    """Names of its views of the recipe's bands."""
    exact: bool
    """Whether these are its own bands."""


@dataclass(frozen=True)
class RankResult:
    """Specialists by what a linear probe says of them, best first."""

    recipe: str
    task: str
    metric_name: str
    ensemble: Path | None
    tiles: dict[str, int]
    """Split -> tiles looked at."""
    cell: int | None
    """Edge in pixels of the cells in which maps were told apart."""
    rows: tuple[RankRow, ...]
    left_out: dict[str, str]
    """Specialist -> why it cannot run on the recipe's bands."""
    cost: Cost


@dataclass(frozen=True)
class CompareRow:
    """One fit, as far as it can be compared."""

    run: Path
    encoder: str
    """What it stands on: an ensemble of so many, one specialist, or a baseline."""
    fusion: str | None
    """Of several specialists."""
    top_k: int | None
    select_by: str | None
    """What chose the `top_k`."""
    label_fraction: float
    seed: int
    score: float
    """On the test split."""
    parameters: int
    trainable: int
    seconds: float
    energy_kwh: float
    differs: str
    """Other settings in which it differs from runs of the table."""
    test: str
    """Which test split it was measured on."""


@dataclass(frozen=True)
class CompareGroup:
    """Runs that differ by their seed alone."""

    runs: tuple[CompareRow, ...]
    """The newest first; of runs with one seed, the newest counts."""
    seeds: tuple[int, ...]
    score: float
    """The mean over seeds."""
    spread: float | None
    """The standard deviation over seeds; `None` of a single one."""
    seconds: float
    """The mean over seeds."""
    energy_kwh: float


@dataclass(frozen=True)
class CompareResult:
    """Fits of one task side by side."""

    task: str
    metric_name: str
    groups: tuple[CompareGroup, ...]
    """Best first."""
    tests: tuple[str, ...]
    """The test splits; scores compare within one."""
    left_out: dict[str, str]
    """Run -> why it is not in the table."""
    csv: Path | None = None


TradeOff = Literal["compute", "parameters", "latency", "energy"]
"""What a score is weighed against; compute tells the Pareto set that is named."""


@dataclass(frozen=True)
class SweepRow:
    """One combination of a sweep's settings, its seeds taken together."""

    title: str
    """What tells it from the others."""
    settings: dict[str, Any]
    """Key of `fit` -> value."""
    runs: tuple[Path, ...]
    """One for each seed."""
    seeds: tuple[int, ...]
    score: float
    """On the test split; the mean over seeds."""
    spread: float | None
    """The standard deviation over seeds; `None` of a single one."""
    specialists: tuple[str, ...]
    """Those in the model; of several seeds in any of the models."""
    parameters: int
    trainable: int
    flops_per_pixel: float
    """Floating-point operations of the whole model on one tile, a multiplication and an addition
    counted as two."""
    latency: float
    """Seconds for one tile."""
    seconds: float
    """What the fit took."""
    energy_kwh: float
    pareto: tuple[TradeOff, ...] = ()
    """Against which of them no other combination beats it."""

    def cost(self, kind: TradeOff) -> float:
        """What it costs in one respect."""
        return {
            "compute": self.flops_per_pixel,
            "parameters": float(self.parameters),
            "latency": self.latency,
            "energy": self.energy_kwh,
        }[kind]


@dataclass(frozen=True)
class SweepFailure:
    """A combination that could not be fitted."""

    title: str
    message: str
    hint: str | None
    exit_code: int


SweepState = Literal["completed", "failed", "interrupted", "budget"]


@dataclass(frozen=True)
class SweepResult:
    """Fits of one recipe with several settings, and what each gives for what it costs."""

    recipe: str
    task: str
    metric_name: str
    folder: Path
    state: SweepState
    """`completed`, or why not all of it is there."""
    axes: tuple[str, ...]
    """The settings in which the combinations differ, but for the seed."""
    rows: tuple[SweepRow, ...]
    """Best first."""
    failed: tuple[SweepFailure, ...]
    missing: tuple[str, ...]
    """Combinations that were not fitted, or not to their end."""
    tile: int
    """Edge in pixels of the tile on which compute and latency were measured."""
    machine: str
    """Where latency was measured."""
    cost: Cost
    """Of all runs."""
    resume: str | None
    """What to type to go on with those that are missing."""
    csv: Path
    json: Path
    png: Path


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would do: the result of `--dry-run`."""

    recipe: str
    plans: dict[str, WorkPlan]
    """Combination -> what its fit would take; a search that several share counts in the first."""
    failed: tuple[SweepFailure, ...]

    @property
    def cost(self) -> Cost:
        """Of all fits."""
        return sum(
            (Cost(p.seconds, p.energy_kwh, p.emissions_kg) for p in self.plans.values()), Cost()
        )

    @property
    def disk_bytes(self) -> int:
        """Of all runs."""
        return sum(plan.disk_bytes for plan in self.plans.values())


NONE_LEFT_OUT = "none left out"
"""What tables call the full model beside those that lack a specialist."""


Verdict = Literal["helps", "unclear", "harms"]


@dataclass(frozen=True)
class AblationRow:
    """What a specialist is worth, or several together."""

    specialist: str
    """Its name; of several `A + B`."""
    metric: float | None
    """The task's metric without it, or with it alone; a Shapley value has none."""
    change: float
    """That metric against the full model's; as a Shapley value, what it adds to it on average."""
    low: float | None
    """Where the 95 % interval of the change begins; `None` where too few samples tell."""
    high: float | None
    parameters: int
    seconds: float
    """Which its encoder took, of the pass over the test split."""
    time_share: float
    """Of what the full model takes."""
    energy_kwh: float
    """What that time takes, at the ablation's mean power."""
    verdict: Verdict | None
    """What the interval says of it; alone, a specialist cannot show that it helps others."""


@dataclass(frozen=True)
class AblationResult:
    """What each specialist of a fitted model is worth."""

    run: Path
    model: Path
    task: str
    mode: str
    """`leave-one-out`, `only-one` or `shapley`."""
    metric_name: str
    full: float
    """With all specialists."""
    parameters: int
    """Of all specialists."""
    rows: tuple[AblationRow, ...]
    """The one that is needed most first; several together last."""
    samples: int
    """Images of the test split, over which the intervals are."""
    coalitions: int
    """How many sets of specialists were scored."""
    dispensable: tuple[str, ...]
    """Whom nothing shows to help."""
    suggestion: str | None
    """What to type to do without them."""
    csv: Path
    json: Path
    png: Path
    cost: Cost


@dataclass(frozen=True)
class PruneResult:
    """A model or an ensemble with fewer specialists."""

    path: Path
    kind: Literal["model", "ensemble"]
    source: Path
    specialists: tuple[str, ...]
    """Those that are left."""
    left_out: tuple[str, ...]
    parameters: int
    """Of what is left, in a model with what stands on the specialists."""
    parameters_before: int
    difference: float | None
    """The largest between what a model gives and what the source gives without those left out."""
    task: str | None
    """What a model is for."""
    metrics: dict[str, float]
    """Of a model on its test split, where it was measured."""


@dataclass(frozen=True)
class PredictResult:
    """One mapped scene."""

    input: str
    output: Path
    quicklook: Path | None
    width: int
    height: int
    windows: int
    shares: dict[str, float]
    """Class -> share of the mapped pixels."""
    nodata_share: float
    cost: Cost
    values: ValueSummary | None = None
    """Of a map of values, which has no classes."""
    products: dict[str, Path] = field(default_factory=dict)
    """What was made beside the map: `probabilities`, `confidence`, `disagreement` -> its file."""
    vector: Path | None = None
    polygons: int | None = None
    estimate: Cost | None = None
    """What it was expected to take, once its first row of windows was over."""


SceneState = Literal["mapped", "planned", "there", "skipped", "failed"]


@dataclass(frozen=True)
class SceneOutcome:
    """What became of one of the scenes that were to be mapped."""

    input: str
    state: SceneState
    """`planned`: it would be mapped; `there`: the map was finished before; `skipped`: it does not
    touch the area asked for."""
    output: Path
    seconds: float = 0.0
    result: PredictResult | MapPlan | None = None
    """Of a scene that was mapped or planned."""
    error: Exception | None = None
    """Of one that failed or was skipped."""


@dataclass(frozen=True)
class MapPlan:
    """What mapping a scene would take: the result of `--dry-run`."""

    input: str
    outputs: tuple[Path, ...]
    width: int
    height: int
    windows: int
    window: tuple[int, int]
    """Height and width of what the model sees at once."""
    computed: int
    """Windows that probably have data, and are computed."""
    batch_size: int
    seconds: float
    """Of computing all windows, from those that were tried."""
    energy_kwh: float
    """At the power that those drew."""
    emissions_kg: float
    memory_bytes: int
    """Peak of the GPU's memory, or without one of the process's; 0 if it cannot be told."""
    disk_bytes: int
    """At most, while the maps are made."""
    free_bytes: int
    """What the disk has left."""


@dataclass(frozen=True)
class ValueSummary:
    """What the pixels of a map of values hold."""

    name: str
    unit: str | None
    min: float
    mean: float
    max: float


@dataclass(frozen=True)
class LabelledImage:
    """What a model says of one image as a whole."""

    input: str
    classes: tuple[str, ...]
    """The likeliest class, or of several labels all that are likelier than not."""
    probabilities: dict[str, float]
    """Of every class; empty where the image has no pixel with data."""
    map: Path | None
    """A pixel for each tile, of images larger than one."""


@dataclass(frozen=True)
class LabelResult:
    """Images, and what a model says of each."""

    images: tuple[LabelledImage, ...]
    table: Path
    cost: Cost
    failed: dict[str, str] = field(default_factory=dict)
    """Image -> why it could not be read."""
    skipped: tuple[str, ...] = ()
    """Images that do not touch the area asked for."""


@dataclass(frozen=True)
class PrecisionChange:
    """What another number format than 32 bits changes in what a model tells."""

    precision: str
    metric: str
    in_32_bits: float
    found: float
    """In the other format."""
    share_changed: float | None = None
    """Of all pixels, samples or labels that are known, those that are told otherwise."""
    difference: float | None = None
    """Of values, by how much they differ on average."""


@dataclass(frozen=True)
class LabelScore:
    """How well one of the labels was found that a sample may have several of."""

    name: str
    ap: float | None
    """Average precision, over all thresholds; the other scores are of a probability above one
    half."""
    f1: float | None
    precision: float | None
    recall: float | None
    reference: int
    """How many samples show it."""
    predicted: int
    """How many are said to."""


@dataclass(frozen=True)
class ComparedValues:
    """Values that were set against those that are known."""

    pixels: int
    reference: ValueSummary
    predicted: ValueSummary


@dataclass(frozen=True)
class EvaluationResult:
    """How well a model or a map agrees with what is known."""

    subject: Path
    """The run's folder, or the map."""
    reference: str
    """The recipe whose data is known, or the reference raster."""
    split: str | None
    """Of the recipe; a raster has none."""
    task: str
    unit: str
    """What is counted: pixels or samples."""
    metrics: dict[str, float]
    """Over all classes, by the names that a run's summary has."""
    left_out: dict[str, int]
    """Why pixels are not counted -> how many."""
    json: Path
    csv: Path
    png: Path
    cost: Cost
    classes: tuple[ClassScore, ...] | tuple[LabelScore, ...] = ()
    """None of values."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Rows are the reference's classes, columns the predicted ones, both in `classes`' order; none
    of values and of several labels."""
    confusion_csv: Path | None = None
    values: ComparedValues | None = None
    """Where values were compared, and no classes."""
    change: PrecisionChange | None = None
    """Where a precision was asked for that is not 32 bits."""


MAIN_METRICS = ("mIoU", "mAP", "RMSE", "Accuracy", "Multilabel_F1_Score")
"""The metrics by which tasks are judged; a run is judged by the first that it has."""

_ERRORS = frozenset({"RMSE", "MSE", "MAE", "loss"})


def lower_is_better(metric: str) -> bool:
    """Whether a metric is an error, so that less of it is better."""
    return metric in _ERRORS


@dataclass(frozen=True)
class RunRow:
    """One run, as far as its folder tells."""

    kind: str
    name: str
    run: Path
    state: str
    """How it ended; `damaged` if it does not say, `foreign` if eosfm did not make it."""
    metric: str | None
    """By which its task is judged."""
    score: float | None
    """Of the test split."""
    bytes: int
    """On disk."""
    seconds: float | None
    energy_kwh: float | None
    started: str
    """ISO 8601; for folders that do not say, when they changed last."""
    encoder: str | None = None
    """What a fit stands on."""


@dataclass(frozen=True)
class RunsResult:
    """The runs of a project, newest first."""

    rows: tuple[RunRow, ...]
    left_out: int
    """Runs beyond the limit."""
    resume: str | None
    """What to type to go on with the newest unfinished run."""


Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    text: str
    fix: str | None = None
    topic: str = ""


@dataclass(frozen=True)
class DoctorResult:
    """Whether this machine can do the work."""

    findings: tuple[Finding, ...]

    def count(self, level: Level) -> int:
        """How many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)


def to_json(value: Any) -> Any:  # noqa: ANN401 - any result
    """A result as plain JSON values."""
    if hasattr(value, "__dataclass_fields__"):
        return to_json(asdict(value))
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return value
