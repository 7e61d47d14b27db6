"""`eosfm evaluate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eosfm_cli.commands import figures, options
from eosfm_cli.commands.console import (
    ConsoleProgress,
    fits,
    next_command,
    write_json,
    write_table,
    write_text,
)
from eosfm_cli.commands.options import OUTPUT, example, new_app
from eosfm_cli.confusion import Confusion
from eosfm_cli.errors import UsageError
from eosfm_cli.precision import Precision
from eosfm_cli.words import counted

if TYPE_CHECKING:
    from eosfm_cli.results import ComparedValues, EvaluationResult, PrecisionChange

app = new_app()

_MOST_MIXUPS = 8
_A_MAP, _A_MODEL = "A map against a reference", "A model on its data"

Subject = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN|MODEL|MAP",
        help="A run folder, a model file (also a pruned one), or the name of a specialist or "
        "recipe; with --reference, a map.",
        show_default="the newest completed run",
    ),
]
Split = Annotated[
    Literal["test", "val"] | None,
    typer.Option(
        "--split", help="Which part of the data.", show_default="test", rich_help_panel=_A_MODEL
    ),
]
OtherRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="Other data, whose classes have the same names or whose values the same unit.",
        show_default="the run's own",
        autocompletion=options.recipe_names,
        rich_help_panel=_A_MODEL,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Tiles at once.",
        show_default="the recipe's",
        rich_help_panel=_A_MODEL,
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        help="Number format of a fitted model: 32-true, or bf16; what it changes is told.",
        show_default="as in the run's own test",
        rich_help_panel=_A_MODEL,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of the recipe that is about the data, as in --set fit.workers=0; may be "
        "repeated.",
        rich_help_panel=_A_MODEL,
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A raster of what is known; other grids are read onto the map's.",
        rich_help_panel=_A_MAP,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="RECIPE",
        help="A recipe that says how the reference writes classes, or a regression's values.",
        show_default="the map's own numbers and names",
        autocompletion=options.recipe_names,
        rich_help_panel=_A_MAP,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Where the results go.",
        show_default="the run's folder, or beside the map",
        rich_help_panel=OUTPUT,
    ),
]


@app.command(epilog=example("eosfm evaluate map.tif --reference truth.tif"))
def evaluate(
    subject: Subject = None,
    split: Split = None,
    recipe: OtherRecipe = None,
    batch_size: BatchSize = None,
    precision: PrecisionOption = None,
    data_root: options.DataRoot = None,
    set_: Set = None,
    plugin: options.Plugins = None,
    reference: Reference = None,
    classes: Classes = None,
    experiments: options.Experiments = None,
    output: Output = None,
    json: options.Json = False,
) -> None:
    """Score a model on its data, or a map, class by class or in the unit of its values.

    A model is scored on its test split, a map against a reference raster. Precision is also called
    the user's accuracy, recall the producer's. Scores, the confusion matrix and its picture are
    written as evaluation.json, evaluation.csv, confusion.csv and confusion.png. Models of several
    labels have the average precision of each, in evaluation.png; values have RMSE, MAE, bias (what
    is predicted less what is known) and R², in scatter.png.
    """
    progress = ConsoleProgress()
    about_models = {
        "--split": split,
        "--recipe": recipe,
        "--batch-size": batch_size,
        "--precision": precision,
        "--data-root": data_root,
        "--set": set_,
        "--plugin": plugin,
    }
    if reference is not None:
        map_ = _map_named(subject, about_models)
        from eosfm_cli.workflows.evaluate_map import evaluate_map

        result = evaluate_map(
            map_,
            reference,
            root=options.root(experiments),
            classes=classes,
            output=output,
            progress=progress,
        )
    else:
        if classes is not None:
            raise UsageError("--classes goes with --reference, for maps.")
        from eosfm_cli.recipe import parse_overrides
        from eosfm_cli.workflows.evaluate_run import evaluate_run  # seconds

        options.load_plugins(plugin, progress)
        result = evaluate_run(
            subject,
            root=options.root(experiments),
            split=split or "test",
            recipe=recipe,
            overrides=parse_overrides(set_ or ()),
            batch_size=batch_size,
            precision=precision,
            data_root=data_root,
            output=output,
            progress=progress,
        )
    if json:
        write_json(result)
    else:
        _show(result)
    for command in _what_next(result, subject):
        next_command(options.within(command, experiments))


def _map_named(subject: str | None, about_models: dict[str, object]) -> Path:
    """The map, where everything else that is given is about maps too."""
    if subject is None:
        raise UsageError(
            "--reference needs a map to compare with.",
            hint="For example: eosfm evaluate map.tif --reference truth.tif",
        )
    wrong = [option for option, value in about_models.items() if value]
    if wrong:
        raise UsageError(
            f"{', '.join(wrong)} cannot go with --reference: a map has neither a recipe nor splits."
        )
    return Path(subject)


def _what_next(result: EvaluationResult, subject: str | None) -> list[str]:
    if result.split is None:
        return []
    is_file = result.subject.suffix == ".safetensors"
    if not is_file and not (result.subject / "model.safetensors").is_file():
        return ["eosfm export"]
    model = f" --model {shlex.quote(str(result.subject))}" if subject else ""
    return [options.predict_command(result.task) + model]


# ------------------------------------------------------------------------------ tables


def _show(result: EvaluationResult) -> None:
    if result.values is not None:
        _show_values(result, result.values)
    elif result.confusion:
        _show_classes(result)
        write_text("\n")
        confusion = Confusion.of([c.name for c in result.classes], result.confusion)
        _show_confusion(confusion, result.unit)
    else:
        _show_labels(result)
    progress = ConsoleProgress()
    for path in (result.json, result.csv, result.confusion_csv, result.png):
        if path is not None:
            progress.say(f"wrote {path}")


def _show_values(result: EvaluationResult, values: ComparedValues) -> None:
    """How far they are off, in their unit, and what was compared."""
    metrics, unit = result.metrics, values.reference.unit
    scores = [_value(metrics["RMSE"], unit), _value(metrics["MAE"], unit)]
    scores.append(_value(metrics["Bias"], unit, sign="+"))
    scores += [figures.score(metrics["R2_Score"]), f"{values.pixels:,}"]
    write_table(["RMSE", "MAE", "bias", "R²", "pixels"], [scores])
    write_text("\n")
    rows = [
        [whose, *(_value(number) for number in (one.min, one.mean, one.max))]
        for whose, one in (("reference", values.reference), ("predicted", values.predicted))
    ]
    title = f"{values.reference.name} ({unit})" if unit else values.reference.name
    write_table([title, "min", "mean", "max"], rows)
    if result.change is not None:
        write_text(_change(result.change, result.unit, unit))


def _value(value: float, unit: str | None = None, *, sign: str = "") -> str:
    """A number in its unit, with four digits."""
    large = abs(value) >= 10_000
    text = f"{value:{sign},.0f}" if large else f"{value:{sign}#.4g}".rstrip(".")
    return f"{text} {unit}" if unit else text


def _show_labels(result: EvaluationResult) -> None:
    """Scores of each label, and of all of them as the mean over labels."""
    metrics = result.metrics
    rows = [
        [
            c.name,
            _score(c.ap),
            _score(c.f1),
            _score(c.precision),
            _score(c.recall),
            f"{c.reference:,}",
        ]
        for c in result.classes
    ]
    names = ("mAP", "Multilabel_F1_Score", "Multilabel_Precision", "Multilabel_Recall")
    mean = ["mean", *(figures.score(metrics[name]) for name in names), None]
    write_table(["class", "AP", "F1", "precision", "recall", result.unit], rows, total=mean)
    if result.change is not None:
        write_text(_change(result.change, "labels"))
    write_text(f"F1 over all labels together: {metrics['Multilabel_F1_Score_Micro']:.3f}\n")
    if absent := sum(not c.reference for c in result.classes):
        classes = counted(absent, "class", "classes")
        ConsoleProgress().say(f"in no sample, and 0 in the mean of AP: {classes}")


def _show_classes(result: EvaluationResult) -> None:
    """Scores of each class, and of all of them as the mean over classes."""
    maps, metrics = result.task != "classification", result.metrics
    rows = [
        [
            c.name,
            *([_score(c.iou)] if maps else []),
            _score(c.f1),
            _score(c.precision),
            _score(c.recall),
            f"{c.reference:,}",
        ]
        for c in result.classes
    ]
    mean = [
        "mean",
        *([figures.score(metrics["mIoU"])] if maps else []),
        *(figures.score(metrics[name]) for name in ("F1_Score", "Precision", "Accuracy")),
        f"{sum(c.reference for c in result.classes):,}",
    ]
    columns = ["class", *(["IoU"] if maps else []), "F1", "precision", "recall", result.unit]
    write_table(columns, rows, total=mean)
    overall = metrics["Pixel_Accuracy" if maps else "Accuracy_Micro"]
    if result.change is not None:
        write_text(_change(result.change, result.unit))
    write_text(f"right in all: {figures.share(overall)} of the {result.unit}\n")


def _change(change: PrecisionChange, unit: str, of_values: str | None = None) -> str:
    """What bf16 changes."""
    if change.share_changed is None:
        what = f"values differ by {_value(change.difference or 0.0, of_values)} on average"
    else:
        told = "are told otherwise" if unit == "labels" else "get another class"
        what = f"{change.share_changed:.3%} of the {unit} {told}"
    return (
        f"{change.metric}: {change.found:.5f} in {change.precision}, {change.in_32_bits:.5f} in 32 "
        f"bits ({change.found - change.in_32_bits:+.5f}); {what}\n"
    )


def _score(value: float | None) -> str | None:
    return None if value is None else figures.score(value)


def _show_confusion(confusion: Confusion, unit: str) -> None:
    columns = ["reference \\ predicted", *confusion.names]
    rows = [
        [name, *map(_percent, shares)]
        for name, shares in zip(confusion.names, confusion.shares, strict=True)
    ]
    if fits(columns, rows):
        write_text(f"% of each reference class's {unit}:\n")
        write_table(columns, rows)
    else:
        _show_mixups(confusion, unit)


def _show_mixups(confusion: Confusion, unit: str) -> None:
    mixups = confusion.mixups()
    if not mixups:
        write_text("no class was taken for another\n")
        return
    rows = [[m.reference, m.predicted, figures.share(m.share), f"{m.count:,}"] for m in mixups]
    write_text("most often taken for another (confusion.csv has all):\n")
    write_table(["reference", "taken for", "share", unit], rows[:_MOST_MIXUPS])


def _percent(share: float | None) -> str | None:
    if share is None:
        return None
    return "0" if share == 0 else f"{share * 100:.1f}"
