"""What the README says is true: its commands, its recipe, its picture."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from eosfm_cli.commands.app import COMMANDS, load_command, main
from eosfm_cli.recipe import load_recipe

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(text: str) -> list[list[str]]:
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("eosfm ")]
    return [words[1:] for words in lines]


EVERY = [
    words
    for block in re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)
    for words in commands(block)
]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_is_one_that_eosfm_takes(words: list[str]) -> None:
    name, *rest = words
    command = load_command(name)
    if isinstance(command, typer.core.TyperGroup):
        command = command.commands[rest.pop(0)]
    command.make_context(name, rest)


def test_all_six_are_there() -> None:
    (six,) = (block for block in blocks("bash") if "eosfm ablate" in block)
    wanted = ["train-specialist", "export", "fit-ensemble", "ablate", "predict", "emissions"]
    assert [words[0] for words in commands(six)] == wanted
    assert set(wanted) <= set(COMMANDS)


def test_the_recipe_loads_with_its_variant(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "mine.yaml")).bands[-1] == "vh"
    assert load_recipe(str(tmp_path / "mine-rgb.yaml")).bands == ("red", "green", "blue")


def test_the_picture_is_there() -> None:
    (path,) = re.findall(r"!\[[^]]*\]\(([^)]*)\)", README)
    assert (Path(__file__).parents[1] / path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_six_commands_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (six,) = (block for block in blocks("bash") if "eosfm ablate" in block)
    for words in commands(six):
        assert main(words) == 0, words
    assert (tmp_path / "data/mini/landcover/scenes/south-map_pred.tif").is_file()
