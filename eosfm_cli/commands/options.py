"""Options that commands share; each means the same everywhere.

    RECIPE               a shipped recipe (`mini-rgb`) or a path to a YAML file
    --epochs             passes over the training data
    --batch-size         tiles per step
    --lr                 learning rate
    --seed               of everything random
    --devices            how many GPUs
    --precision          number format of training
    --data-root          folder that holds the datasets
    --set                any key of the recipe
    --plugin             a user's own code
    --experiments        the project's folder of runs
    --output, -o         where the result goes: one file, or for runs the experiments folder
    --resume             the folder of a run to go on with
    --max-energy         where a run stops, by its energy
    --max-co2            where a run stops, by its CO₂
    --dry-run            show the plan, keep nothing
    --card               also write a model card
    --overwrite          replace what is there
    --json               one JSON object on stdout

Numbers have no default here: what is not given stays as the recipe has it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eosfm_cli.errors import UsageError
from eosfm_cli.run_dir import COMMANDS, Kind, RunDir, experiments_dir

if TYPE_CHECKING:
    from eosfm_cli.progress import Progress
    from eosfm_cli.recipe import Recipe

TRAINING, DATA, CHOICES, OUTPUT = "Training", "Data", "The ensemble", "Output"

Precision = Literal["32-true", "16-mixed", "bf16-mixed"]


def recipe_names(incomplete: str) -> list[str]:
    """Complete a recipe's name; completion never fails."""
    try:
        from eosfm_cli import recipe

        return [name for name in recipe.recipe_names() if name.startswith(incomplete)]
    except Exception:
        return []


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name (`eosfm recipes list`) or a YAML file.",
        autocompletion=recipe_names,
    ),
]
RecipeOrRun = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name (`eosfm recipes list`) or a YAML file.",
        show_default=False,
        autocompletion=recipe_names,
    ),
]


def _once(given: list[str] | None) -> list[str] | None:
    """What is named twice is meant once."""
    return given and list(dict.fromkeys(given))


RecipeNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE",
        help="Recipes' names (`eosfm recipes list`) or YAML files.",
        show_default=False,
        callback=_once,
        autocompletion=recipe_names,
    ),
]


def _from_recipe(value: object) -> str:
    return f"the recipe's, {value}"


Epochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Passes over the training data.",
        show_default=_from_recipe(20),
        rich_help_panel=TRAINING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Tiles per step.",
        show_default=_from_recipe(8),
        rich_help_panel=TRAINING,
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="RATE",
        help="Learning rate.",
        show_default=_from_recipe(0.001),
        rich_help_panel=TRAINING,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Seed of weights, order and augmentation.",
        show_default=_from_recipe(0),
        rich_help_panel=TRAINING,
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="How many GPUs, auto for all; without one, the CPU.",
        show_default=_from_recipe(1),
        rich_help_panel=TRAINING,
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        metavar="FORMAT",
        help="Number format: 32-true, 16-mixed or bf16-mixed.",
        show_default=_from_recipe("32-true"),
        rich_help_panel=TRAINING,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder that holds the datasets.",
        show_default="$EOSFM_DATA or data",
        rich_help_panel=DATA,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Go on with a run that was stopped, in its folder.",
        rich_help_panel=TRAINING,
    ),
]
MaxEnergy = Annotated[
    str | None,
    typer.Option(
        metavar="AMOUNT",
        help="Stop when a run has used this much energy, as in 0.5kWh, and keep its best epoch.",
        rich_help_panel=TRAINING,
    ),
]
MaxCo2 = Annotated[
    str | None,
    typer.Option(
        "--max-co2",
        metavar="AMOUNT",
        help="Stop when a run has caused this much CO₂, as in 100g, and keep its best epoch.",
        rich_help_panel=TRAINING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would be done, how long it takes and with what energy; keep nothing.",
        rich_help_panel=OUTPUT,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any key of the recipe, as in --set tile.size=128; may be repeated.",
        rich_help_panel=DATA,
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="Your own code for feeding specialists; may be repeated.",
        rich_help_panel=DATA,
    ),
]
ExperimentsOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "--experiments",
        "-o",
        metavar="FOLDER",
        help="The project's folder of runs.",
        show_default="$EOSFM_EXPERIMENTS or experiments",
        rich_help_panel=OUTPUT,
    ),
]
Experiments = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The project's folder of runs.",
        show_default="$EOSFM_EXPERIMENTS or experiments",
        rich_help_panel=DATA,
    ),
]
Card = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.md",
        help="Also write a model card, as the Hugging Face hub reads it.",
        rich_help_panel=OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=OUTPUT),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=OUTPUT),
]


def new_app(**settings: Any) -> typer.Typer:  # noqa: ANN401 - Typer's own arguments
    """The Typer app that a command's module offers to the top-level one."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


def example(line: str) -> str:
    """The example at the end of a command's help."""
    return f"**Example:** `{line}`"


def overrides(section: str, pairs: Sequence[str] | None, **given: object) -> dict[str, Any]:
    """Lay the options that were given, then `--set`, over a section of the recipe.

    Args:
        section: `training` or `fit`; where the options' keys stand in the recipe.
        pairs: `--set`, with whole keys; they win.
        given: Option -> value, `None` where it was not given.
    """
    from eosfm_cli.recipe import parse_overrides

    options = {f"{section}.{key}": value for key, value in given.items() if value is not None}
    return {**options, **parse_overrides(pairs or ())}


def devices(value: str | None) -> int | str | None:
    """`--devices` as the recipe has it."""
    return int(value) if value is not None and value.isdecimal() else value


def names(value: str | None) -> list[str] | None:
    """A comma-separated option as a list."""
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


def words(option: str, value: str | None, valid: Sequence[str]) -> list[str] | None:
    """A comma-separated option of words that are known.

    Raises:
        UsageError: One of them is not.
    """
    found = _members(option, value)
    for member in found or ():
        if member not in valid:
            from eosfm_cli.bands import nearest_word

            near = nearest_word(member, valid)
            raise UsageError(
                f"{option} {member!r} is not known." + (f" Did you mean {near!r}?" if near else ""),
                hint=f"{option} takes {', '.join(valid)}, or several of them with commas between.",
            )
    return found


def numbers(
    option: str, value: str | None, *, least: int, everything: str | None = None
) -> list[int | None] | None:
    """A comma-separated option of whole numbers.

    Args:
        option: As typed.
        value: What was given.
        least: The smallest number that is valid.
        everything: A word that stands for `None`.

    Raises:
        UsageError: One of them is no such number.
    """
    found = _members(option, value)
    return found if found is None else [_number(option, one, least, everything) for one in found]


def _number(option: str, member: str, least: int, everything: str | None) -> int | None:
    if member == everything:
        return None
    if member.isdecimal() and int(member) >= least:
        return int(member)
    also = f", {everything}" if everything else ""
    raise UsageError(
        f"{option} {member!r} is no whole number from {least} on.",
        hint=f"{option} takes one{also}, or several with commas between.",
    )


def _members(option: str, value: str | None) -> list[str] | None:
    found = names(value)
    if found is not None and not found:
        raise UsageError(f"{option} {value!r} names nothing.")
    return None if found is None else list(dict.fromkeys(found))


def chosen(
    resume: Path | None, kind: Kind, given: Sequence[str] | None, overrides: Mapping[str, Any]
) -> tuple[RunDir | None, list[Recipe]]:
    """The run to go on with, if any, and the recipes to work on.

    Raises:
        UsageError: Neither a recipe nor a run is named, or the run cannot be gone on with.
    """
    from eosfm_cli.recipe import load_recipe

    if resume is not None:
        from eosfm_cli.workflows.resuming import resumed

        run, recipe = resumed(resume, kind, given or (), overrides)
        return run, [recipe]
    if not given:
        command = f"eosfm {COMMANDS[kind]}"
        raise UsageError(
            "Missing argument 'RECIPE'.",
            hint=f"Name one (`eosfm recipes list`), or go on with a run: {command} --resume RUN",
        )
    return None, [load_recipe(name, overrides) for name in given]


def load_plugins(files: Sequence[Path] | None, progress: Progress) -> None:
    """Run the user's own code, before anything that may need it."""
    if files:
        from eosfm_cli.workflows.plugins import load_plugins as load  # seconds

        load(files, progress)


def root(given: Path | None, run: RunDir | None = None) -> Path:
    """The project's folder of runs; that of a run which is gone on with."""
    return run.experiments if run is not None and given is None else experiments_dir(given)


def predict_command(task: str) -> str:
    """What to type to use a fitted model of a task."""
    return {
        "change": "eosfm predict after.tif --before before.tif",
        "classification": "eosfm predict image.tif",
        "multilabel": "eosfm predict image.tif",
    }.get(task, "eosfm predict scene.tif")


def within(command: str, experiments: Path | None) -> str:
    """A command to type next, about the same project."""
    if experiments is None or experiments == experiments_dir():
        return command
    return f"{command} --experiments {shlex.quote(str(experiments))}"
