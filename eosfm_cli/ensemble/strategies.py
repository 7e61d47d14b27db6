"""Users' own code for feeding specialists: `BandAdaptationStrategy`.

A strategy says which bands it makes of which, by number or by name, and comes before the built-in
rules. What is linear becomes a matrix and goes into the model file; anything else runs as it is,
and the model needs the code again.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from eosfm_cli.bands import Bands, View, band_name, named, nearest_word
from eosfm_cli.errors import BundleError, UsageError
from eosfm_cli.words import counted

ENTRY_POINTS = "eosfm.strategies"
_SIZE = 8
"""Pixels along the edge of what strategies are tried on."""


class BandAdaptationStrategy(ABC):
    """Makes a specialist's input from the bands at hand; subclass it and `register_strategy`.

    Attributes:
        required_bands: What the specialist takes: how many bands, or their names in order.
        available_bands: What `adapt` is given: all bands where there are so many, or these by name.
    """

    required_bands: ClassVar[int | Sequence[str]]
    available_bands: ClassVar[int | Sequence[str]]

    @abstractmethod
    def adapt(self, features: Tensor) -> Tensor:
        """Make `(b, required, h, w)` of standardised `(b, available, h, w)`."""


_registered: dict[str, tuple[type[BandAdaptationStrategy], str | None]] = {}
"""Strategy -> its class and the plugin that it came with."""
_plugin: ContextVar[str | None] = ContextVar("plugin", default=None)


def register_strategy(strategy: type[BandAdaptationStrategy]) -> type[BandAdaptationStrategy]:
    """Use a strategy wherever its bands fit; a class decorator.

    Raises:
        UsageError: It does not say its bands, or another plugin has one of the same name.
    """
    for key in ("required_bands", "available_bands"):
        _check_bands(strategy, key)
    name, plugin = strategy.__name__, _plugin.get()
    other = _registered.get(name)
    if other is not None and other[1] != plugin:
        raise UsageError(
            f"Two plugins have a strategy named {name}: {other[1]} and {plugin}.",
            hint="Rename one of the classes.",
        )
    _registered[name] = (strategy, plugin)
    return strategy


def _check_bands(strategy: type[BandAdaptationStrategy], key: str) -> None:
    bands = getattr(strategy, key, None)
    if isinstance(bands, int) and not isinstance(bands, bool) and bands > 0:
        return
    if not isinstance(bands, list | tuple) or not bands:
        raise UsageError(
            f"Strategy {strategy.__name__} needs {key}: how many bands, or their names.",
            hint=f"As in {key} = 3 or {key} = ('red', 'green', 'blue').",
        )
    for name in bands:
        if band_name(str(name)) is None:
            raise UsageError(f"Strategy {strategy.__name__}: unknown band {name!r} in {key}.")


def load_plugin(path: Path) -> tuple[str, ...]:
    """Run a user's Python file, which registers strategies; their names.

    Raises:
        UsageError: There is no such file, it fails, or it registers nothing.
    """
    spec = importlib.util.spec_from_file_location(f"eosfm_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(
            f"There is no plugin {path}.", hint="A plugin is a Python file, ending in .py."
        )
    token = _plugin.set(path.name)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except UsageError:
        raise
    except Exception as error:  # a user's code raises anything
        raise UsageError(f"Plugin {path} failed: {_blame(error, path)}.") from error
    finally:
        _plugin.reset(token)
    names = tuple(name for name, (_, plugin) in _registered.items() if plugin == path.name)
    if not names:
        raise UsageError(
            f"Plugin {path} registers no strategy.",
            hint="Put @register_strategy before a subclass of BandAdaptationStrategy.",
        )
    return names


def _blame(error: Exception, path: Path | None = None) -> str:
    """What went wrong in a user's code, and in which of its lines."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if path is None or Path(frame.filename) == path
    ]
    where = f"line {frames[-1].lineno}: " if frames else ""
    return f"{where}{type(error).__name__}: {error}"


@cache
def load_installed_strategies() -> None:
    """Register the strategies of installed packages, once.

    Raises:
        UsageError: One of them cannot be imported.
    """
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        token = _plugin.set(point.value)
        try:
            point.load()
        except UsageError:
            raise
        except Exception as error:  # somebody's code raises anything
            raise UsageError(
                f"The installed plugin {point.name} ({point.value}) failed: {_blame(error)}.",
                hint="Update or remove the package it comes with.",
            ) from error
        finally:
            _plugin.reset(token)


def find_strategy(name: str, plugin: str | None) -> BandAdaptationStrategy:
    """A strategy that a model asks for.

    Raises:
        BundleError: It is not loaded.
    """
    load_installed_strategies()
    if name not in _registered:
        near = nearest_word(name, _registered)
        raise BundleError(
            f"The model feeds a specialist through the strategy {name}, which is not loaded."
            + (f" Did you mean {near}?" if near else ""),
            hint=f"Load it with --plugin {plugin or 'FILE.py'}",
        )
    return _registered[name][0]()


def own_views(required: Bands, available: Bands) -> tuple[View, ...]:
    """The views that registered strategies give a specialist; none where none fits.

    Raises:
        UsageError: A strategy fails on the bands that it says it takes.
    """
    load_installed_strategies()
    return tuple(
        _view(strategy, plugin, required, available)
        for strategy, plugin in _registered.values()
        if _fits(strategy.required_bands, required, exactly=True)
        and _fits(strategy.available_bands, available, exactly=False)
    )


def _fits(said: int | Sequence[str], bands: Bands, *, exactly: bool) -> bool:
    if isinstance(said, int):
        return said == len(named(bands))
    wanted = _names(said)
    return not isinstance(bands, int) and (
        wanted == tuple(bands) if exactly else set(wanted) <= set(bands)
    )


def _names(said: Sequence[str]) -> tuple[str, ...]:
    return tuple(band_name(str(name)) or str(name) for name in said)


def _view(
    strategy: type[BandAdaptationStrategy], plugin: str | None, required: Bands, available: Bands
) -> View:
    at_hand = named(available)
    said = strategy.available_bands
    picked = at_hand if isinstance(said, int) else _names(said)
    gather = torch.tensor([[float(one == other) for other in at_hand] for one in picked])
    matrix = _as_matrix(strategy, len(picked), len(named(required)))
    if matrix is not None:
        return View(strategy.__name__, _rows(matrix @ gather), exact=True)
    return View(
        strategy.__name__, _rows(gather), exact=True, strategy=strategy.__name__, plugin=plugin
    )


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


@torch.no_grad()
def _as_matrix(
    strategy: type[BandAdaptationStrategy], available: int, required: int
) -> Tensor | None:
    """The matrix that a strategy is, `(required, available)`; `None` if it is none.

    Each band alone, at one everywhere, gives a column; pixels at random tell whether that is all.
    """
    units = torch.eye(available)[:, :, None, None].expand(-1, -1, _SIZE, _SIZE)
    matrix = _adapted(strategy, units.clone(), required)[:, :, 0, 0].T
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(4, available, _SIZE, _SIZE, generator=generator)
    linear = torch.einsum("ra,bahw->brhw", matrix, x)
    same = torch.allclose(_adapted(strategy, x.clone(), required), linear, rtol=1e-4, atol=1e-5)
    return matrix if same and bool(matrix.isfinite().all()) else None


def _adapted(strategy: type[BandAdaptationStrategy], x: Tensor, required: int) -> Tensor:
    try:
        found = strategy().adapt(x)
    except Exception as error:  # a user's code raises anything
        raise UsageError(
            f"Strategy {strategy.__name__} fails on {counted(x.shape[1], 'band')}: {_blame(error)}."
        ) from error
    expected = (x.shape[0], required, *x.shape[2:])
    if not isinstance(found, Tensor) or tuple(found.shape) != expected:
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UsageError(
            f"Strategy {strategy.__name__} gives {given}, expected {expected} "
            "(samples, bands, height, width).",
            hint="Its adapt makes required_bands bands and keeps height and width.",
        )
    return found.float()
