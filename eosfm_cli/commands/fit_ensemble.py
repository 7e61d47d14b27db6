"""`eosfm fit-ensemble`."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import ConsoleProgress, next_command, write_json, write_table
from eosfm_cli.commands.options import CHOICES, TRAINING, example, new_app
from eosfm_cli.commands.plan import show_plans, tell_estimate
from eosfm_cli.errors import UsageError

if TYPE_CHECKING:
    from eosfm_cli.budget import Budget
    from eosfm_cli.recipe import Recipe, Task
    from eosfm_cli.results import FitResult
    from eosfm_cli.run_dir import RunDir
    from eosfm_cli.sweeps import Value

app = new_app()

Fusion = Literal["concat", "conv1x1", "mlp", "addition", "multiplication"]
Normalize = Literal["batch", "layer", "none"]
Selection = Literal["topk", "smooth"]
Adapt = Literal["rule", "learned"]
SelectBy = Literal["gates", "probe"]
Cache = Literal["auto", "off", "memory", "disk"]

Ensemble = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|NAME",
        help="An ensemble: a file, or hf://OWNER/REPO/FILE. Or what it has to beat: one "
        "specialist's name, scratch, timm:MODEL.",
        show_default="the newest export",
        rich_help_panel=CHOICES,
    ),
]
FusionOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,…",
        help="How the specialists' features are joined: concat, conv1x1, mlp, addition or "
        "multiplication.",
        show_default="the recipe's, concat",
        rich_help_panel=CHOICES,
    ),
]
FuseToMult = Annotated[
    str | None,
    typer.Option(
        metavar="N,…",
        help="Channels after conv1x1 or mlp, in multiples of one specialist's.",
        show_default="the recipe's, 1",
        rich_help_panel=CHOICES,
    ),
]
Project = Annotated[
    bool | None,
    typer.Option(
        "--project",
        help="Learn a projection of each specialist's features.",
        rich_help_panel=CHOICES,
    ),
]
AdaptOption = Annotated[
    Adapt | None,
    typer.Option(
        help="Feed specialists by the rule printed, or learn from there how to mix the bands.",
        show_default="the recipe's, rule",
        rich_help_panel=CHOICES,
    ),
]
SelectionOption = Annotated[
    str | None,
    typer.Option(
        metavar="topk|smooth",
        help="With --top-k: search first (topk), or gates that stay and close (smooth).",
        show_default="the recipe's, topk",
        rich_help_panel=CHOICES,
    ),
]
ScaleFeatures = Annotated[
    bool | None,
    typer.Option(
        "--scale-features",
        help="With --top-k: weight the specialists kept by their learned scores.",
        rich_help_panel=CHOICES,
    ),
]
TopK = Annotated[
    str | None,
    typer.Option(
        metavar="K,…",
        help="Learn which specialists help, and keep this many; all for every one.",
        show_default="the recipe's, all",
        rich_help_panel=CHOICES,
    ),
]
SelectByOption = Annotated[
    str | None,
    typer.Option(
        metavar="gates|probe",
        help="With --top-k: gates that learn find the best, or a linear probe before the fit.",
        show_default="the recipe's, gates",
        rich_help_panel=CHOICES,
    ),
]
LabelFraction = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Use this share of the training labels, 0.1 for a tenth.",
        show_default="the recipe's, 1.0",
        rich_help_panel=TRAINING,
    ),
]
Pretrained = Annotated[
    bool | None,
    typer.Option(
        "--pretrained/--no-pretrained",
        help="Take timm's published weights with timm:MODEL; downloads them.",
        show_default="the recipe's, no-pretrained",
        rich_help_panel=CHOICES,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Fail, instead of warn, if --top-k is more than can be used.",
        rich_help_panel=CHOICES,
    ),
]
NormalizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,…",
        help="How each specialist's features are normalised: batch, layer or none.",
        show_default="the recipe's, batch",
        rich_help_panel=CHOICES,
    ),
]
Specialists = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Only these specialists.", rich_help_panel=CHOICES),
]
Exclude = Annotated[
    str | None,
    typer.Option(metavar="C,D", help="All but these specialists.", rich_help_panel=CHOICES),
]
Freeze = Annotated[
    bool | None,
    typer.Option(
        "--freeze/--no-freeze",
        help="Keep the specialists' weights as they are.",
        show_default="the recipe's, freeze",
        rich_help_panel=CHOICES,
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(
        metavar="N,…",
        help="Seed of weights, order and augmentation.",
        show_default="the recipe's, 0",
        rich_help_panel=TRAINING,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Go on with a run that was stopped, in its folder; or with a sweep, in its own.",
        rich_help_panel=TRAINING,
    ),
]
Augment = Annotated[
    bool | None,
    typer.Option(
        "--augment/--no-augment",
        help="Draw new crops, flipped and turned, in every epoch; the specialists then compute "
        "them anew each time.",
        show_default="the recipe's, no-augment",
        rich_help_panel=TRAINING,
    ),
]
CacheOption = Annotated[
    Cache | None,
    typer.Option(
        "--cache",
        metavar="WHERE",
        help="Where the specialists' features are kept once they are computed: disk, memory, off "
        "for nowhere, or auto for disk where that pays.",
        show_default="the recipe's, auto",
        rich_help_panel=TRAINING,
    ),
]
CacheSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="How much disk the features of all fits may take, as in 20GB; what was used least "
        "lately goes first.",
        show_default="the recipe's, 20GB",
        rich_help_panel=TRAINING,
    ),
]


@app.command(epilog=example("eosfm fit-ensemble mini-landcover --fusion conv1x1 --top-k 2"))
def fit_ensemble(
    recipe: options.RecipeOrRun = None,
    ensemble: Ensemble = None,
    fusion: FusionOption = None,
    fuse_to_mult: FuseToMult = None,
    top_k: TopK = None,
    selection: SelectionOption = None,
    select_by: SelectByOption = None,
    scale_features: ScaleFeatures = None,
    strict: Strict = False,
    normalize: NormalizeOption = None,
    project: Project = None,
    adapt: AdaptOption = None,
    plugin: options.Plugins = None,
    specialists: Specialists = None,
    exclude: Exclude = None,
    freeze: Freeze = None,
    pretrained: Pretrained = None,
    label_fraction: LabelFraction = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    devices: options.Devices = None,
    precision: options.PrecisionOption = None,
    augment: Augment = None,
    cache: CacheOption = None,
    cache_size: CacheSize = None,
    seed: Seed = None,
    data_root: options.DataRoot = None,
    set_: options.Set = None,
    resume: Resume = None,
    max_energy: options.MaxEnergy = None,
    max_co2: options.MaxCo2 = None,
    dry_run: options.DryRun = False,
    output: options.ExperimentsOutput = None,
    json: options.Json = False,
) -> None:
    """Fit the frozen ensemble to a recipe's task.

    Feeds every specialist from the recipe's bands, joins their features and trains a decoder on
    top. The model is one file that `eosfm predict` takes. Bands are matched by name; which
    specialist runs on which bands is printed before the work begins.

    To see what the ensemble is worth, fit what it has to beat in the same way (`--ensemble
    scratch`, one specialist's name, or `timm:MODEL`), then `eosfm compare`.

    Several values with commas between, as in `--fusion concat,conv1x1 --top-k 1,3,all`, fit every
    combination, one after the other from the same features, and show what each gives for what it
    costs in compute, parameters, latency and energy. So may --fusion, --fuse-to-mult, --top-k,
    --selection, --select-by, --normalize and --seed; the budget then is that of all fits.
    """
    axes = _axes(
        fusion=options.words("--fusion", fusion, get_args(Fusion)),
        fuse_to_mult=options.numbers("--fuse-to-mult", fuse_to_mult, least=1),
        top_k=options.numbers("--top-k", top_k, least=1, everything="all"),
        selection=options.words("--selection", selection, get_args(Selection)),
        select_by=options.words("--select-by", select_by, get_args(SelectBy)),
        normalize=options.words("--normalize", normalize, get_args(Normalize)),
        seed=options.numbers("--seed", seed, least=0),
    )
    overrides = options.overrides(
        "fit",
        set_,
        ensemble=ensemble,
        scale_features=scale_features,
        project=project,
        adapt=adapt,
        specialists=options.names(specialists),
        exclude=options.names(exclude),
        freeze=freeze,
        pretrained=pretrained,
        label_fraction=label_fraction,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        devices=options.devices(devices),
        precision=precision,
        augment=augment,
        cache=cache,
        cache_size=cache_size,
    )
    from eosfm_cli.budget import parse_budget

    budget = parse_budget(max_energy, max_co2)
    progress = ConsoleProgress()
    several = {key: values for key, values in axes.items() if len(values) > 1}
    single = {f"fit.{key}": values[0] for key, values in axes.items() if len(values) == 1}
    _refuse_twice(several, overrides)
    overrides = {**single, **overrides}
    where = {"data_root": data_root, "strict": strict, "progress": progress}
    ending = {"dry_run": dry_run, "as_json": json}
    if several or _is_sweep(resume):
        from eosfm_cli.commands.sweep_report import sweep

        options.load_plugins(plugin, progress)
        sweep(recipe, several, overrides, resume, output, budget, **where, **ending)
        return
    run, (loaded,) = options.chosen(resume, "fit", [recipe] if recipe else None, overrides)
    options.load_plugins(plugin, progress)
    _fit(loaded, run, options.root(output, run), budget, **where, **ending)


def _axes(**given: Sequence[Value] | None) -> dict[str, Sequence[Value]]:
    """The options that may take several values, as far as they were given."""
    return {key: values for key, values in given.items() if values is not None}


def _refuse_twice(several: Iterable[str], overrides: Container[str]) -> None:
    for key in several:
        if f"fit.{key}" in overrides:
            option = f"--{key.replace('_', '-')}"
            raise UsageError(
                f"{option} has several values, and --set fit.{key} another one.",
                hint="Say it once.",
            )


def _is_sweep(resume: Path | None) -> bool:
    if resume is None:
        return False
    from eosfm_cli.sweeps import is_sweep

    return is_sweep(resume)


def _fit(
    recipe: Recipe,
    run: RunDir | None,
    root: Path,
    budget: Budget,
    *,
    data_root: Path | None,
    strict: bool,
    progress: ConsoleProgress,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fit one combination of settings."""
    if dry_run:
        from eosfm_cli.workflows.fit_ensemble import plan_fit  # seconds

        plan = plan_fit(recipe, root=root, data_root=data_root, strict=strict, progress=progress)
        show_plans([plan], as_json=as_json)
        return
    from eosfm_cli.workflows.fit_ensemble import fit_ensemble as fit  # seconds

    result = fit(
        recipe,
        root=root,
        data_root=data_root,
        strict=strict,
        progress=progress,
        resume=run,
        budget=budget,
    )
    if as_json:
        write_json(result)
    else:
        write_table(["fitted", result.recipe], _rows(result))
    tell_estimate(result.recipe, result.estimate, result.cost)
    next_command(*(options.within(command, root) for command in what_next(recipe.task, result)))


def what_next(task: Task, result: FitResult) -> list[str]:
    """The commands that can follow this fit."""
    found = ["eosfm ablate" if len(result.specialists) > 1 else "eosfm compare"]
    return [*found, options.predict_command(task)]


_SHOWN = {
    "MAE": "MAE",
    "R2_Score": "R²",
    "Multilabel_F1_Score": "F1, mean over classes",
    "Multilabel_F1_Score_Micro": "F1, over all labels",
}
"""Metrics that stand beside the one by which a task is judged."""


def _rows(result: FitResult) -> list[list[str | None]]:
    searched = result.scores.items()
    score = "probe" if result.selected_by == "probe" else "gate"
    metric, value = figures.main_metric(result.metrics)
    metrics = result.metrics
    classes = {k.removeprefix("IoU_"): v for k, v in metrics.items() if k[:4] == "IoU_"}
    return [
        [f"test {metric}", value],
        *([words, figures.score(metrics[k])] for k, words in _SHOWN.items() if k in metrics),
        *([f"IoU of {name}", figures.score(iou)] for name, iou in classes.items()),
        *(
            [f"F1 of {name}", figures.score(metrics[f"F1_{name}"])]
            for name in classes
            if f"F1_{name}" in metrics
        ),
        ["encoder", result.encoder],
        *([["specialists", ", ".join(result.specialists)]] if len(result.specialists) > 1 else []),
        *([f"{score} of {name}", figures.score(value)] for name, value in searched),
        ["parameters", figures.count(result.parameters)],
        ["trainable", figures.count(result.trainable)],
        *([["label fraction", f"{result.label_fraction:g}"]] if result.label_fraction != 1 else []),
        ["time", figures.duration(result.cost.seconds)],
        ["energy", figures.energy(result.cost.energy_kwh)],
        *([["ensemble", str(result.ensemble)]] if result.ensemble is not None else []),
        ["model", str(result.model)],
    ]
