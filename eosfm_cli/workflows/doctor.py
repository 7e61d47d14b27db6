"""Whether this machine can do the work, and what would mend it where it cannot."""

from __future__ import annotations

import codecs
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

from eosfm_cli import __version__
from eosfm_cli.carbon import health as carbon
from eosfm_cli.errors import OutputError
from eosfm_cli.progress import Progress
from eosfm_cli.raster import health as raster
from eosfm_cli.results import DoctorResult, Finding, Level
from eosfm_cli.run_dir import check_writable
from eosfm_cli.training import feature_folder
from eosfm_cli.training import health as training

Check = Callable[[], Iterable[Finding]]

_SHOWN = ("torch", "lightning", "terratorch", "torchgeo", "timm", "rasterio")
_WEIGHTS = "timm/convnextv2_atto.fcmae_ft_in1k"
_ANSWER_S = 10
_MOST_LISTED = 8
_GB = 10**9
_LITTLE_DISK, _NO_DISK = 5 * _GB, _GB // 5


def doctor(
    root: Path, *, data_root: Path | None, network: bool, encoding: str | None, progress: Progress
) -> DoctorResult:
    """Look at everything that the work needs. Nothing is made, changed or downloaded.

    Args:
        root: The experiments folder.
        data_root: The folder of the datasets; `EOSFM_DATA` or `data` if not given.
        network: Whether to ask the hub for an answer.
        encoding: Of what is written on the terminal; unknown if not given.
        progress: Who is told.
    """
    data = (data_root or Path(os.environ.get("EOSFM_DATA") or "data")).expanduser()
    checks: list[tuple[str, Check]] = [
        ("Python", check_python),
        ("packages", check_packages),
        ("torch", training.torch_build),
        ("GPU", training.gpu),
        ("processors", training.processors),
        ("memory", training.memory),
        ("shared memory", training.shared_memory),
        ("GDAL", raster.gdal),
        ("formats", raster.formats),
        ("PROJ", raster.proj),
        ("experiments", partial(check_place, root, "error", "--experiments")),
        ("data", partial(check_place, data, "warning", "--data-root")),
        ("datasets", partial(check_datasets, data)),
        ("cache", lambda: check_place(_cache(), "warning", "XDG_CACHE_HOME=")),
        ("features", feature_folder.stored),
        ("temporary", lambda: check_place(Path(tempfile.gettempdir()), "error", "TMPDIR=")),
        ("energy", carbon.cpu_counters),
        ("energy", carbon.gpu_counters),
        ("emissions", carbon.country),
        ("hub", partial(check_hub, network)),
        ("terminal", partial(check_terminal, encoding)),
    ]
    return diagnose(checks, progress)


def diagnose(checks: Sequence[tuple[str, Check]], progress: Progress) -> DoctorResult:
    """Run checks one after the other; one that fails is a finding too."""
    findings: list[Finding] = []
    with progress.step("looking", len(checks)) as step:
        for topic, check in checks:
            findings += [replace(finding, topic=topic) for finding in _run(check)]
            step.advance()
    return DoctorResult(tuple(findings))


def _run(check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # whatever is broken on this machine
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        yield Finding("warning", f"this could not be checked: {type(error).__name__}: {reason}")


# ------------------------------------------------------------------------------ software


def check_python() -> Iterator[Finding]:
    """Whether this Python is new enough."""
    from packaging.specifiers import SpecifierSet

    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    needed = metadata.metadata("eosfm").get("Requires-Python") or ""
    if SpecifierSet(needed).contains(platform.python_version(), prereleases=True):
        yield Finding("ok", text)
    else:
        yield Finding("error", f"{text}; eosfm needs {needed}", "Install eosfm with a newer Python")


def check_packages() -> Iterator[Finding]:
    """Whether everything that eosfm needs is installed, and new enough."""
    from packaging.requirements import Requirement

    wanted = map(Requirement, metadata.requires("eosfm") or ())
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    problems = []
    for requirement in needed:
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            said = f"{found}; eosfm needs {requirement.specifier}" if found else "not installed"
            problems.append(
                Finding("error", f"{requirement.name} {said}", f"pip install -U '{requirement}'")
            )
    listed = ", ".join(f"{name} {_version(name)}" for name in _SHOWN if _version(name))
    yield Finding("ok", f"eosfm {__version__}, {listed}")
    yield from problems


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_terminal(encoding: str | None) -> Iterator[Finding]:
    """Whether names with accents, and signs such as × and ₂, can be written."""
    try:
        name = codecs.lookup(encoding or "").name
    except LookupError:
        name = encoding or "an unknown encoding"
    if name == "utf-8":
        yield Finding("ok", "UTF-8")
    else:
        yield Finding("warning", f"{name}: signs that it lacks show as '?'", "export PYTHONUTF8=1")


# ------------------------------------------------------------------------------ places


def check_place(folder: Path, level: Level, option: str) -> Iterator[Finding]:
    """Whether a folder, which need not be there yet, can be written and has room.

    Args:
        folder: Where something will be written.
        level: What it means if it cannot be.
        option: How to choose another.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    shown = f"{folder}" if there == folder else f"{folder} (not there yet)"
    another = f"Choose another with {option}" + ("" if option.endswith("=") else " FOLDER")
    try:
        check_writable(there)
    except OutputError as error:
        yield Finding(level, f"{shown}: {error.message}", f"{another}, or mend its permissions.")
        return
    free = shutil.disk_usage(there).free
    text = f"{shown}: can be written, {free / _GB:.1f} GB free"
    if free >= _LITTLE_DISK:
        yield Finding("ok", text)
    else:
        yield Finding(level if free < _NO_DISK else "warning", text, f"Free some, or: {another}")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eosfm"


def check_datasets(folder: Path) -> Iterator[Finding]:
    """What datasets there are."""
    if not folder.is_dir():
        if os.environ.get("EOSFM_DATA") or folder.exists():
            yield Finding(
                "warning",
                f"{folder} is no folder",
                "Make it, or say where the datasets are: export EOSFM_DATA=FOLDER",
            )
        else:
            yield Finding("ok", f"none yet in {folder}; the embedded one is made when needed")
        return
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    listed = f"{', '.join(names[:_MOST_LISTED])}{more}" if names else "none yet"
    yield Finding("ok", f"{listed} in {folder}")


def check_hub(network: bool) -> Iterator[Finding]:
    """Whether the hub with pretrained weights answers, if it may be asked."""
    if not network:
        yield Finding("ok", "not asked; only --pretrained needs it, and --network asks it")
        return
    from huggingface_hub import HfApi, constants

    where = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        yield Finding(
            "warning", f"{where} is switched off by HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE"
        )
        return
    try:
        HfApi(token=False).model_info(_WEIGHTS, timeout=_ANSWER_S)
    except Exception as error:  # whatever the hub's library and its transport have in store
        reason = str(error).splitlines()[0] if str(error) else "no answer"
        yield Finding(
            "error",
            f"{where} does not answer: {type(error).__name__}: {reason}",
            "Behind a proxy, export HTTPS_PROXY; for a mirror, HF_ENDPOINT. Without the hub, train "
            "from random weights: --no-pretrained",
        )
    else:
        yield Finding("ok", f"{where} answers")
