"""How specialists are trained and the ensemble is fitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from eosfm_cli.recipe.values import Size, Spec, size_in_bytes

Task = Literal["segmentation", "classification", "multilabel", "regression", "change"]
Loss = Literal[
    "ce", "dice", "focal", "lovasz", "bce", "balanced_bce", "mse", "mae", "rmse", "huber"
]
Pooling = Literal["diff", "concat"]

MAP_TASKS: frozenset[Task] = frozenset({"segmentation", "regression", "change"})
"""Tasks that say something of every pixel, and learn it from masks."""
CLASS_MAP_TASKS: frozenset[Task] = frozenset({"segmentation", "change"})
"""Those of them that say a class."""
LOSSES: dict[Task, tuple[Loss, ...]] = {
    "segmentation": ("ce", "dice", "focal", "lovasz"),
    "classification": ("ce", "focal"),
    "multilabel": ("bce", "balanced_bce"),
    "regression": ("mse", "mae", "rmse", "huber"),
    "change": ("ce", "dice", "focal", "lovasz"),
}
"""The losses of each task, its usual one first."""


class TrainingSpec(Spec):
    """What training and fitting have in common."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    loss: Loss | None = None
    """Of TerraTorch; `ce`, or `bce` for several labels and `mse` for values, if not given."""
    decoder: str | None = None
    """Of TerraTorch; UperNetDecoder for maps, IdentityDecoder for classes if not given."""
    decoder_channels: int = Field(128, ge=8)
    augment: bool = True
    """Random flips and quarter turns."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    devices: int | Literal["auto"] = 1
    """How many GPUs, `auto` for all there are; where there is none, processes on the CPU."""
    workers: int = Field(2, ge=0)
    """Processes that read data; 0 reads in the main one."""
    seed: int = Field(0, ge=0, le=2**32 - 1)

    @property
    def fixed_tiles(self) -> bool:
        """Whether the random crops of training are the same in every epoch."""
        return False


class SpecialistSpec(TrainingSpec):
    """Training of one specialist."""

    backbone: str = "convnextv2_atto"
    """A timm model with `features_only`."""
    pretrained: bool = False
    """Start from timm's published weights; asks the network for them."""


Fusion = Literal["concat", "conv1x1", "mlp", "addition", "multiplication"]
Normalize = Literal["batch", "layer", "none"]
Selection = Literal["topk", "smooth"]
Adapt = Literal["rule", "learned"]
SelectBy = Literal["gates", "probe"]


def _off(raw: Any) -> Any:  # noqa: ANN401 - raw YAML
    """What is written: YAML takes a bare `off` for false."""
    return "off" if raw is False else raw


Cache = Annotated[Literal["auto", "off", "memory", "disk"], BeforeValidator(_off)]

SCRATCH, OF_TIMM = "scratch", "timm:"
"""What may stand as `fit.ensemble` for a single encoder that is no specialist."""


class FitSpec(TrainingSpec):
    """Fitting the frozen ensemble to a task."""

    augment: bool = False
    """New crops in every epoch, flipped and turned; without it all epochs have the same tiles."""
    ensemble: str | None = None
    """An ensemble file; the newest export if not given. Or what to compare an ensemble with: the
    name of one of its specialists, `scratch` for one encoder trained from random weights on all
    the bands (`training.backbone`), `timm:MODEL` for any model of timm on them."""
    pretrained: bool = False
    """Take timm's published weights with `timm:MODEL`; asks the network for them."""
    label_fraction: float = Field(1.0, gt=0, le=1)
    """Share of the training labels that is used."""
    specialists: tuple[str, ...] | None = None
    """Only these specialists."""
    exclude: tuple[str, ...] = ()
    """All but these specialists."""
    fusion: Fusion = "concat"
    fuse_to_mult: int = Field(1, ge=1)
    """Width of what `conv1x1` and `mlp` give, in multiples of the first specialist's."""
    normalize: Normalize = "batch"
    project: bool = False
    """Put a learned 1×1 convolution behind each specialist's normaliser."""
    adapt: Adapt = "rule"
    """`learned` trains how bands are mixed for each specialist, starting from the rule."""
    top_k: int | None = Field(None, ge=1)
    """Keep this many specialists; all if not given."""
    selection: Selection = "topk"
    """How the `top_k` are found: by a search before the fit, or by gates that stay and close."""
    select_by: SelectBy = "gates"
    """What finds the `top_k`: gates that learn, or a linear probe of each specialist before."""
    scale_features: bool = False
    """Weight the features of the specialists kept by their learned scores."""
    search_epochs: int | None = Field(None, ge=1)
    """Epochs of search before the best `top_k` are kept; half of `epochs` if not given."""
    sparsity: float = Field(0.05, ge=0)
    """Weight of the penalty that closes gates: L1, or for `smooth` the distance from `top_k`."""
    freeze: bool = True
    """Keep the specialists' weights as they are; not of `scratch`, whose weights are random."""
    cache: Cache = "auto"
    """Where the frozen specialists' features are kept, which are computed once: on disk for this
    fit and others, in memory for this one, or not at all; `auto` where it pays."""
    cache_size: Size = "20GB"
    """The most that features may take on disk or in memory; those used longest ago go first."""

    @model_validator(mode="before")
    @classmethod
    def _scratch_learns(cls, raw: Any) -> Any:  # noqa: ANN401 - raw YAML
        if isinstance(raw, dict) and raw.get("ensemble") == SCRATCH:
            return {"freeze": False, **raw}
        return raw

    @property
    def fixed_tiles(self) -> bool:
        """Whether the random crops of training are the same in every epoch."""
        return not self.augment

    @property
    def cache_bytes(self) -> int:
        """`cache_size` in bytes."""
        return size_in_bytes(self.cache_size)

    @property
    def epochs_of_search(self) -> int:
        """How long the gates are open before the best `top_k` are kept."""
        return self.search_epochs or max(1, self.epochs // 2)


def without_effect(fit: FitSpec) -> Iterator[str]:
    """What is said about a fit and changes nothing in it, or cannot be."""
    if fit.fuse_to_mult != 1 and fit.fusion not in ("conv1x1", "mlp"):
        yield f"fit.fuse_to_mult: only fusion conv1x1 and mlp take it, not {fit.fusion}"
    if fit.top_k is None and fit.selection == "smooth":
        yield "fit.selection: smooth needs fit.top_k (--top-k), how many gates to keep open"
    if fit.top_k is None and fit.scale_features:
        yield "fit.scale_features: there are scores only where fit.top_k (--top-k) selects"
    if fit.ensemble == SCRATCH and fit.freeze:
        yield "fit.freeze: scratch starts from random weights, which have to learn (--no-freeze)"
    if fit.pretrained and not (fit.ensemble or "").startswith(OF_TIMM):
        yield "fit.pretrained: only an ensemble of 'timm:MODEL' has published weights to take"
    single = fit.ensemble == SCRATCH or (fit.ensemble or "").startswith(OF_TIMM)
    for key in ("specialists", "exclude"):
        if single and getattr(fit, key):
            yield f"fit.{key}: {fit.ensemble} is one encoder, of which nothing can be chosen"
    if fit.select_by == "probe":
        yield from _without_effect_of_a_probe(fit)


def _without_effect_of_a_probe(fit: FitSpec) -> Iterator[str]:
    if fit.top_k is None:
        yield "fit.select_by: probe needs fit.top_k (--top-k), how many specialists to keep"
    if fit.selection == "smooth":
        yield "fit.selection: a probe chooses before the fit, smooth gates during it; take one"
    if fit.scale_features:
        yield "fit.scale_features: a probe leaves no learned scores; it needs select_by: gates"
