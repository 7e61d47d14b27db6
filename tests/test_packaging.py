"""An installed eosfm works in any folder, from a wheel and editable, recipes included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def call(*command: object, cwd: Path = ROOT) -> str:
    surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A wheel built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture
def bin_folder(tmp_path) -> Path:
    """The commands of a fresh environment that sees the dependencies, but no eosfm."""
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return tmp_path / "venv" / "bin"


def install(bin_folder: Path, *what: object) -> None:
    pip = [sys.executable, "-m", "pip", "--python", bin_folder / "python", "install", "--no-index"]
    call(*pip, "--no-deps", "--no-build-isolation", "--ignore-installed", *what)


def names_listed(bin_folder: Path, folder: Path) -> set[str]:
    folder.mkdir()
    found = json.loads(call(bin_folder / "eosfm", "recipes", "list", "--json", cwd=folder))
    return {entry["name"] for entry in found["recipes"]}


def where_from(bin_folder: Path, folder: Path) -> Path:
    look = "import eosfm_cli; print(eosfm_cli.__file__)"
    return Path(call(bin_folder / "python", "-c", look, cwd=folder).strip())


def test_the_wheel_has_package_recipes_and_licence_and_nothing_else(built):
    names = zipfile.ZipFile(built).namelist()
    assert "eosfm_cli/recipes/mini.yaml" in names
    assert "eosfm_cli/commands/app.py" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"eosfm_cli", "eosfm"}


def test_the_wheel_works_in_an_empty_folder(built, bin_folder, tmp_path):
    install(bin_folder, built)
    assert "mini-rgb" in names_listed(bin_folder, tmp_path / "empty")
    where = call(
        bin_folder / "python", "-c", "import eosfm_cli; print(eosfm_cli.__file__)", cwd=tmp_path
    )
    assert where.startswith(str(tmp_path))


def test_an_editable_install_works_in_an_empty_folder(bin_folder, tmp_path):
    install(bin_folder, "-e", ROOT)
    assert "mini-rgb" in names_listed(bin_folder, tmp_path / "empty")
    where = call(
        bin_folder / "python", "-c", "import eosfm_cli; print(eosfm_cli.__file__)", cwd=tmp_path
    )
    assert where.strip() == str(ROOT / "eosfm_cli" / "__init__.py")


def test_constraints_pin_everything_and_name_no_place():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(line.count("==") == 1 for line in pins)
    assert not [line for line in lines if "://" in line or "@" in line or "/" in line]
