"""A fitted model as a program that torch alone runs: `predict` starts without TerraTorch.

A program is made of the model's module once, by `torch.export`, and kept in the user's cache under
a key that changes with whatever it was made of. It is a cache and no format: a model is always its
safetensors file. What a user's own strategy does becomes part of the program.

Kept is the exported graph of operators, which is read in a moment; torch's own format of programs
takes as long to read as TerraTorch takes to import.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule

import eosfm_cli
from eosfm_cli.errors import BundleError, OutputError, is_out_of_memory
from eosfm_cli.manifest import ModelManifest, read_manifest
from eosfm_cli.precision import Precision
from eosfm_cli.progress import Progress
from eosfm_cli.raster.program_store import DamagedError, ProgramStore, UntrustedError
from eosfm_cli.raster.scoring import (
    Runs,
    Scorer,
    best_device,
    describe_device,
    difference,
)
from eosfm_cli.recipe import MAP_TASKS
from eosfm_cli.words import counted

Maker = Callable[[Path, bool, Precision], nn.Module]
"""Builds a model's module from its file through TerraTorch; see `training.program.build_module`."""

_HERE = Path(__file__)
_MOST_AT_ONCE = 65536
_EXAMPLE = (64, 96)
"""Height and width that a program for any size is made at; below 64 there is nothing to halve."""
_OTHER_SIZES = ((64, 64), (96, 160))
_LONGEST_REASON = 200
Tolerance = dict[str, float]
_TOLERANCE: dict[Precision, Tolerance] = {
    "32-true": {"rtol": 1e-5, "atol": 1e-6},
    "bf16": {"rtol": 1e-2, "atol": 1e-2},
}
"""Up to where a program gives what its module gives."""


def load_scorer(
    path: Path,
    manifest: ModelManifest,
    *,
    make: Maker,
    disagreement: bool = False,
    device: torch.device | None = None,
    batch_size: int | None = None,
    precision: Precision = "32-true",
    progress: Progress,
) -> Scorer:
    """Make a fitted model ready to compute, from its program where there is one.

    Args:
        path: The model's file.
        manifest: What the file says about itself.
        make: Builds the module where there is no program yet, or none can be kept.
        disagreement: Whether to tell how far the specialists differ, too.
        device: Where to compute; the GPU if there is one, if not given.
        batch_size: Windows at once; as many as go well if not given.
        precision: What `make` builds the module for. Of `bf16` it is told what it changes in the
            first windows.
        progress: Told of the device, and of what is prepared or cannot be.

    Raises:
        BundleError: The file is damaged.
    """
    device = device or best_device()
    progress.say(f"device: {describe_device(device)}")
    if disagreement and len(manifest.specialists) == 1:
        progress.say("the model has one specialist: its disagreement is 0 everywhere")
    model = _Model(path, manifest, make, disagreement, progress, precision)
    scorer = Scorer(
        model.ready(device),
        device,
        batch_size,
        lambda size: progress.warn(
            f"Memory ran out; going on with {counted(size, 'window')} at once."
        ),
        manifest.task,
        disagreement=disagreement,
    )
    if precision != "32-true":
        scorer.compare = partial(_tell_difference, scorer, model)
    return scorer


def _tell_difference(
    scorer: Scorer,
    model: _Model,
    windows: Sequence[NDArray[np.float32]],
    scores: Sequence[NDArray[np.float32]],
) -> None:
    """Compute windows in 32 bits too, and say how far the scores differ."""
    precise = Scorer(
        replace(model, precision="32-true").ready(scorer.device),
        scorer.device,
        scorer.batch_size,
        scorer.on_smaller_batch,
        model.manifest.task,
        disagreement=scorer.disagreement,
    )
    found, wanted = scorer.classes_in(scores), scorer.classes_in(precise.score(windows))
    told = difference(model.manifest.task, found, wanted)
    model.progress.say(f"{model.precision} against 32 bits, on the first windows: {told}")


def keep_program(path: Path, *, make: Maker, progress: Progress) -> None:
    """Make the program of a model that was just fitted, so that its first use starts quickly.

    What goes wrong is told and no more: the model is complete without it.
    """
    store = ProgramStore.of_user()
    if store is None:
        return
    try:
        manifest = read_manifest(path)
        model = _Model(path, manifest, make, disagreement=False, progress=progress)
        if model.read(store) is None:
            model.prepared(store)
    except Exception as error:  # a fit is not lost because something else went wrong
        progress.warn(f"The model was not prepared for quick starts: {_reason(error)}")


class NoProgramError(Exception):
    """A module that cannot become a program; its text says why.

    Args:
        reason: Why.
        lasting: Whether another try would end in the same way.
    """

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


@dataclass(frozen=True)
class Exported:
    """A module as a graph of torch's operators."""

    graph: GraphModule
    """Gives a tuple."""
    sizes: tuple[tuple[int, int], ...]
    """Per dimension of the windows, the least and the most that the graph takes."""

    def takes(self, x: Tensor) -> bool:
        """Whether the graph was made for windows like these."""
        return all(low <= n <= high for n, (low, high) in zip(x.shape, self.sizes, strict=True))


class Program:
    """Runs a program, and the module that it was made of on sizes that the program does not take.

    Args:
        exported: The program.
        device: Where to compute.
        module: The module, or what builds it when it is needed.
    """

    def __init__(
        self, exported: Exported, device: torch.device, module: Callable[[], nn.Module]
    ) -> None:
        self._exported, self._graph = exported, _moved(exported.graph, device)
        self._device, self._module = device, cache(module)

    def __call__(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the module gives."""
        if not self._exported.takes(x):
            return self._module().to(self._device)(x)
        output = self._graph(x)
        return output[0] if len(output) == 1 else output


@dataclass(frozen=True)
class _Model:
    """A model's file, about to run."""

    path: Path
    manifest: ModelManifest
    make: Maker
    disagreement: bool
    progress: Progress
    precision: Precision = "32-true"

    def ready(self, device: torch.device) -> Runs:
        """Its program, made first if need be; its module where there can be none."""
        store = ProgramStore.of_user()
        if store is None:
            return self.module()
        found: Exported | nn.Module = self.read(store) or self.prepared(store)
        if isinstance(found, nn.Module):
            return found
        return Program(found, device, self._module_for_odd_sizes)

    def module(self) -> nn.Module:
        """The module, through TerraTorch."""
        return self.make(self.path, self.disagreement, self.precision)

    def _module_for_odd_sizes(self) -> nn.Module:
        self.progress.say("windows of this size are computed through TerraTorch")
        return self.module()

    @cached_property
    def key(self) -> str:
        """Changes with all that the program is made of."""
        kind = "disagreement" if self.disagreement else "plain"
        parts = (_content(self.path), kind, self.precision, torch.__version__, *_made_by())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def read(self, store: ProgramStore) -> Exported | None:
        """The program that is kept; `None` if there is none that can be used."""
        try:
            file = store.open(self.key)
            if file is None:
                return None
            with file:
                exported = _load(file)
        except UntrustedError as error:
            self.progress.warn(f"What was prepared for quick starts is not used: {error}.")
            return None
        except DamagedError as error:
            self.progress.warn(f"What was prepared for quick starts is damaged: {error}.")
            return None
        store.used(self.key)
        return exported

    def prepared(self, store: ProgramStore) -> Exported | nn.Module:
        """Make the program and keep it; the module if that fails."""
        try:
            store.prepare()
            problem = store.failure(self.key)
        except OutputError as error:
            problem = error.message
        if problem is not None:
            self._say_slow(problem)
            return self.module()
        self.progress.say("preparing the model for quick starts, once")
        module = self.module()
        try:
            return self._kept(module, store)
        except OutputError as error:
            self._say_slow(error.message)
        except NoProgramError as error:
            self._say_slow(str(error))
            if error.lasting:
                with suppress(OutputError):  # then the next use tries again
                    store.note_failure(self.key, str(error))
        return module

    def _say_slow(self, why: str) -> None:
        self.progress.say(f"no quick starts, the model runs through TerraTorch: {why}")

    def _kept(self, module: nn.Module, store: ProgramStore) -> Exported:
        """The module's program as it was read back from the store.

        Raises:
            NoProgramError: It cannot be made, or gives something else.
            OutputError: It cannot be kept.
        """
        shape = _Shape.of(self.manifest)
        exported = export(module, shape)
        read: list[Exported] = []

        def write(path: Path) -> None:
            _save(exported, path)
            with path.open("rb") as file:
                read.append(_load(file))
            _check_same(read[0], module, shape, _TOLERANCE[self.precision])

        store.write(self.key, write)
        return read[0]


# --------------------------------------------------------------------------- keys


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"Cannot read {path}: {error.strerror or error}.") from None


@cache
def _made_by() -> tuple[str, ...]:
    """The versions of what builds models; of ourselves also the code, which may be a checkout."""
    package = Path(eosfm_cli.__file__).parent
    code = hashlib.sha256()
    parts = (package.glob(files) for files in ("*.py", "ensemble/*.py", "training/*.py"))
    for path in sorted((*chain.from_iterable(parts), _HERE)):
        code.update(path.read_bytes())
    versions = (importlib.metadata.version(name) for name in ("terratorch", "timm"))
    return (eosfm_cli.__version__, code.hexdigest(), *versions)


# --------------------------------------------------------------------------- programs


@dataclass(frozen=True)
class _Shape:
    """What a model's windows look like."""

    before: tuple[int, ...]
    """Bands, and dates where there are two."""
    size: tuple[int, int] | None
    """Height and width, of models that tell whole images; `None` for any."""
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @classmethod
    def of(cls, manifest: ModelManifest) -> _Shape:
        before = (len(manifest.bands),) if manifest.pooling is None else (len(manifest.bands), 2)
        fixed = manifest.task not in MAP_TASKS
        return cls(before, (manifest.tile_size,) * 2 if fixed else None)

    def draw(self, count: int, size: tuple[int, int]) -> Tensor:
        """Random windows."""
        return torch.randn(count, *self.before, *(self.size or size), generator=self.generator)

    def dynamic(self) -> dict[int, object]:
        """Which dimensions may be of another size than in the example."""
        varies: dict[int, object] = {0: Dim("windows", min=1, max=_MOST_AT_ONCE)}
        if self.size is None:
            height = 1 + len(self.before)
            varies |= {height: Dim.AUTO, height + 1: Dim.AUTO}
        return varies


def export(module: nn.Module, shape: _Shape) -> Exported:
    """Make a program of a module.

    Raises:
        NoProgramError: It does what no program can.
    """
    example = (shape.draw(3, _EXAMPLE),)
    with _refused(), torch.no_grad():
        found = torch.export.export(
            module, example, dynamic_shapes=(shape.dynamic(),), strict=False
        )
        return Exported(_plain(found), tuple(_sizes(found)))


def _plain(exported: ExportedProgram) -> GraphModule:
    """The graph with its weights and nothing else, which can be written."""
    bound = exported.module(check_guards=False)
    graph = Graph()
    graph.output(graph.graph_copy(bound.graph, {}))
    return GraphModule(bound, graph).requires_grad_(False)


def _sizes(exported: ExportedProgram) -> Iterator[tuple[int, int]]:
    """Per dimension of the input, the least and the most that was found to give the same graph."""
    (name,) = exported.graph_signature.user_inputs
    (node,) = (node for node in exported.graph.nodes if node.name == name)
    symbols = [n.node.expr for n in node.meta["val"].shape if isinstance(n, torch.SymInt)]
    if len(set(symbols)) < len(symbols):
        raise NoProgramError("it takes square windows alone")
    for size in node.meta["val"].shape:
        if isinstance(size, int):
            yield size, size
        else:
            found = exported.range_constraints[size.node.expr]
            yield int(found.lower), int(found.upper) if found.upper.is_Integer else sys.maxsize


def _moved(graph: GraphModule, device: torch.device) -> GraphModule:
    """The graph on a device: its weights, and the tensors that it makes."""
    for node in graph.graph.nodes:
        if node.kwargs.get("device") is not None:
            node.update_kwarg("device", device)
    graph.recompile()
    return graph.to(device)


def _check_same(exported: Exported, module: nn.Module, shape: _Shape, tolerance: Tolerance) -> None:
    """Compare a program with what it was made of, on other sizes and numbers of windows.

    Raises:
        NoProgramError: They differ.
    """
    for count, size in enumerate(_OTHER_SIZES, 1):
        windows = shape.draw(count, size)
        with _refused(), torch.inference_mode():
            output = module(windows)
            expected = output if isinstance(output, tuple) else (output,)
            pairs = list(zip(exported.graph(windows), expected, strict=True))
        if not all(torch.allclose(a, b, **tolerance, equal_nan=True) for a, b in pairs):
            raise NoProgramError("its program gives other results than the model")


def _save(exported: Exported, path: Path) -> None:
    """Write a program.

    Raises:
        OutputError: The disk is full.
    """
    try:
        torch.save((exported.graph, exported.sizes), path)
    except RuntimeError as error:  # the writer hides what the file system said
        raise OutputError(f"Cannot write {path.parent}: {_reason(error)}.") from None


def _load(file: BinaryIO) -> Exported:
    """Read a program.

    Raises:
        DamagedError: It cannot be read.
    """
    try:
        with _quietly():
            # The store lets only files through that this user has written.
            graph, sizes = torch.load(file, weights_only=False)
    except Exception as error:  # the reader raises anything
        if is_out_of_memory(error):
            raise
        raise DamagedError(_reason(error)) from None
    return Exported(graph, sizes)


@contextmanager
def _refused() -> Iterator[None]:
    """Say what the exporter, or an exported program, does not take."""
    try:
        with _quietly():
            yield
    except Exception as error:  # tracing runs other people's code in unforeseen ways
        if isinstance(error, NoProgramError):
            raise
        reason = _reason(error)
        raise NoProgramError(reason, lasting=not is_out_of_memory(error)) from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch's notes about its own workings from users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    """The first line of an error, not too long."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
