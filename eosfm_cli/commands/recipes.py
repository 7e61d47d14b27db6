"""`eosfm recipes`: list, show, copy, validate, new."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eosfm_cli.commands import options
from eosfm_cli.commands.console import (
    ConsoleProgress,
    next_command,
    write_json,
    write_table,
    write_text,
)
from eosfm_cli.commands.options import OUTPUT, example, new_app

if TYPE_CHECKING:
    from eosfm_cli.workflows.new_recipe import NewRecipe, Report

app = new_app(help="List, show, copy, check and draft recipes.", invoke_without_command=True)


@app.callback(epilog=example("eosfm recipes show mini-rgb"))
def recipes(context: typer.Context) -> None:
    """List, show, copy, check and draft recipes.

    A recipe is a YAML file that says what a dataset is and how to train on it.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list", epilog=example("eosfm recipes list --task segmentation"))
def list_(
    task: Annotated[
        Literal["segmentation", "classification", "multilabel", "regression", "change"] | None,
        typer.Option(help="Only this task."),
    ] = None,
    sensor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Only this sensor (sentinel-2) or kind of band (optical, sar)."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """List the recipes that come with eosfm."""
    from eosfm_cli.recipe import list_recipes

    found = list_recipes(task=task, sensor=sensor)
    if json:
        write_json({"recipes": [asdict(summary) for summary in found]})
        return
    if not found:
        ConsoleProgress().warn("no recipe is like that; `eosfm recipes list` shows all.")
        return
    write_table(
        ["recipe", "task", "bands", "classes", "sensors", "licence", "title"],
        [
            [
                summary.name,
                summary.task,
                str(summary.bands),
                str(summary.classes) if summary.classes else None,
                ", ".join(summary.sensors),
                summary.licence,
                summary.title,
            ]
            for summary in found
        ],
    )
    next_command(f"eosfm recipes show {found[0].name}")


@app.command(epilog=example("eosfm recipes show mini-rgb --set training.epochs=5"))
def show(
    name: options.RecipeName,
    as_: Annotated[
        Literal["recipe", "terratorch"],
        typer.Option(
            "--as",
            metavar="FORMAT",
            help="recipe, or terratorch: the equivalent YAML for TerraTorch's command line.",
            rich_help_panel=OUTPUT,
        ),
    ] = "recipe",
    set_: options.Set = None,
    json: options.Json = False,
) -> None:
    """Print a recipe as it would run, with every default filled in."""
    from eosfm_cli.recipe import find_recipe, load_recipe, parse_overrides

    overrides = parse_overrides(set_ or ())
    recipe = load_recipe(name, overrides)
    ConsoleProgress().say(f"from {find_recipe(name)[0]}")
    if as_ == "terratorch":
        from eosfm_cli.workflows.train_config import describe_recipe  # seconds

        text = describe_recipe(recipe, name, overrides)
        if json:
            write_json({"recipe": recipe.name, "terratorch": text})
        else:
            write_text(text)
    elif json:
        write_json(recipe.model_dump(mode="json"))
    else:
        write_text(recipe.to_yaml())


@app.command(epilog=example("eosfm recipes copy mini my-dataset.yaml"))
def copy(
    name: options.RecipeName,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A file or folder.")] = Path(),
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Copy a recipe's file, all its variants with it, to start your own from."""
    from eosfm_cli import run_dir
    from eosfm_cli.errors import UsageError
    from eosfm_cli.recipe import find_recipe, load_recipe

    load_recipe(name)
    source, variant = find_recipe(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already.", hint="--overwrite replaces it.")
    run_dir.write_text(target, source.read_text(encoding="utf-8"))
    if json:
        write_json({"recipe": name, "path": target})
    else:
        write_text(f"{target}\n")
    if variant:
        ConsoleProgress().say(
            f"{name} is a variant in that file: {target.with_stem(f'{target.stem}-{variant}')}"
        )
    next_command(f"eosfm recipes validate {target}")


@app.command(epilog=example("eosfm recipes validate my-dataset.yaml"))
def validate(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Recipes, as YAML files.")],
    json: options.Json = False,
) -> None:
    """Check recipes, every variant of them, and list all errors with their lines."""
    from eosfm_cli.errors import ExitCode

    problems = {file: _problems(file) for file in files}
    if json:
        write_json({"recipes": problems, "valid": not any(problems.values())})
    else:
        write_text("".join(_verdict(file, found) for file, found in problems.items()))
    if any(problems.values()):
        raise typer.Exit(ExitCode.USAGE)


def _problems(file: str) -> list[str]:
    from eosfm_cli.errors import RecipeError
    from eosfm_cli.recipe import load_recipe, variant_names

    problems: dict[str, None] = {}
    try:
        for name in variant_names(file):
            try:
                load_recipe(name)
            except RecipeError as error:
                problems.update(dict.fromkeys(error.message.splitlines()))
    except RecipeError as error:
        problems[error.message] = None
    return list(problems)


def _verdict(file: str, problems: list[str]) -> str:
    if not problems:
        return f"{file}: ok\n"
    return "".join(f"{line}\n" for line in problems)


Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Images with label rasters, or class folders.")
]
NewFile = Annotated[
    Path | None,
    typer.Argument(metavar="OUTPUT.yaml", help="The recipe.", show_default="FOLDER's name"),
]
NewName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the recipe and its specialist are called.",
        show_default="as the file",
        rich_help_panel=OUTPUT,
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Which of the kinds of rasters found are the images.",
        show_default="all that fit",
    ),
]
Masks = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which of the kinds of rasters found is the labels.",
        show_default="the likeliest",
    ),
]


@app.command(epilog=example("eosfm recipes new my-data my-data.yaml"))
def new(
    folder: Folder,
    output: NewFile = None,
    name: NewName = None,
    task: Annotated[
        Literal["segmentation", "classification"] | None,
        typer.Option(help="Where the folder could be for both.", show_default="by what is there"),
    ] = None,
    images: Images = None,
    masks: Masks = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Look at a folder of your own and write a recipe for it.

    Images and labels may lie in two folders or side by side, sensors in parallel folders, classes
    and splits in folders of their own. The recipe works at once; its comments, and the lines on
    stderr, say what was found, what was guessed and what to check.
    """
    from eosfm_cli.workflows.new_recipe import new_recipe

    made = new_recipe(
        folder,
        output,
        name=name,
        overwrite=overwrite,
        progress=ConsoleProgress(),
        task=task,
        images=options.names(images) or (),
        masks=masks,
    )
    _tell(made.report)
    if json:
        write_json(_findings(made))
    else:
        write_text(f"{made.path}\n")
    next_command(f"eosfm train-specialist {shlex.quote(str(made.path))}")


def _tell(report: Report) -> None:
    """Print what was found, guessed and is to be checked, each under its heading."""
    progress = ConsoleProgress()
    for heading in ("found", "guessed", "check"):
        lines = getattr(report, heading)
        for text in [f"{heading}:", *(f"  {line}" for line in lines)] if lines else ():
            progress.say(text)


def _findings(made: NewRecipe) -> dict[str, object]:
    return {
        "recipe": made.recipe.name,
        "path": made.path,
        "task": made.recipe.task,
        **asdict(made.report),
        "samples": made.splits,
        "left_out": made.left_out,
        "strays": made.strays,
        "archives": made.archives,
        "dataset": made.recipe.dataset.model_dump(mode="json", exclude_none=True),
        "bands": made.recipe.bands,
        "classes": [c.model_dump(mode="json", exclude_none=True) for c in made.recipe.classes],
    }
