"""Checkpoints that others made: read without running them, and turned into specialists.

A checkpoint is a pickle, and a pickle is a program. PyTorch's own safe reader comes first; files
that also hold configuration objects go through `_Reader`, which builds tensors and plain containers
and puts an inert `Foreign` in place of everything else. Nothing that a file names is ever imported.
"""

from __future__ import annotations

import math
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
from torch import Tensor

from eosfm_cli.bands import band_name
from eosfm_cli.ensemble.specialist import Specialist, build_backbone, parameter_count
from eosfm_cli.errors import BundleError, EosfmError, UsageError
from eosfm_cli.manifest import SpecialistInfo
from eosfm_cli.recipe import Recipe
from eosfm_cli.words import counted

# --------------------------------------------------------------------------- reading safely

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_MAGIC = 0x1950A86A20F9469CFC6C
"""First value in files from before PyTorch 1.6."""
_DAMAGED = "Copy or export it again; it may be cut short or damaged."


@dataclass(eq=False)
class Foreign:
    """Stands in for an object that a file asks for and that is not built. It does nothing.

    What would have been done to the object is only remembered.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    members: list[Any] = field(default_factory=list)

    def __setitem__(self, key: Any, value: Any) -> None:  # noqa: ANN401 - a pickle's values
        """Remember an item."""
        self.items[key] = value

    def append(self, member: Any) -> None:  # noqa: ANN401 - a pickle's values
        """Remember a member."""
        self.members.append(member)

    add = append


def plain(value: Any) -> Any:  # noqa: ANN401 - a pickle's values
    """The mapping or list that a `Foreign` stands for; any other value as it is."""
    for _ in range(4):
        if not isinstance(value, Foreign):
            break
        value = _meant(value)
    return value


def _meant(foreign: Foreign) -> Any:  # noqa: ANN401 - a pickle's values
    state = foreign.state if isinstance(foreign.state, dict) else {}
    for key in ("_content", "_val"):  # OmegaConf's containers and values
        if key in state:
            return state[key]
    # Subclasses of dict and list, then namespaces.
    return foreign.items or foreign.members or state or foreign


def mapping(value: Any) -> dict[Any, Any]:  # noqa: ANN401 - a pickle's values
    """What `value` maps; nothing if it is no mapping."""
    found = plain(value)
    return found if isinstance(found, dict) else {}


def read_plain(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read a PyTorch file without running anything in it.

    Returns:
        Tensors (on the CPU) in plain containers, and a `Foreign` for every other object.

    Raises:
        BundleError: The file is missing, damaged, or of another kind.
    """
    kind = _kind(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        pass  # the second reader says what is wrong
    try:
        return _read_zip(path) if kind == _ZIP else _read_legacy(path)
    except BundleError:
        raise
    except Exception as error:  # a hostile file raises anything
        raise BundleError(
            f"{path} cannot be read as a PyTorch file ({type(error).__name__}).", hint=_DAMAGED
        ) from None


def _kind(path: Path) -> bytes:
    """The file's first bytes, after refusing what is no PyTorch file at all."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise BundleError(f"There is no file {path}.") from None
    except OSError as error:
        raise BundleError(f"Cannot read {path}: {error.strerror or error}.") from None
    if not start:
        raise BundleError(f"{path} is empty.", hint=_DAMAGED)
    if start == _ZIP:
        _refuse_odd_archives(path)
        return _ZIP
    if start[:1] == _PICKLE:
        return _PICKLE
    raise BundleError(f"{path} is no PyTorch file.", hint="Checkpoints end in .ckpt, .pth or .pt.")


def _refuse_odd_archives(path: Path) -> None:
    """Refuse archives that unpack to more than they are, and those that are programs."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise BundleError(f"{path} is cut short or damaged.", hint=_DAMAGED) from None
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise BundleError(
            f"{path} is a TorchScript program, no checkpoint.",
            hint="Save the model's state_dict with torch.save instead.",
        )
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise BundleError(
            f"{path} unpacks to more than it holds; PyTorch writes no such files.",
            hint="Do not use it if you do not know where it comes from.",
        )


_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    data: torch.UntypedStorage


@dataclass(frozen=True)
class _Builder:
    """One of the few things that a file may have built."""

    build: Callable[..., Any]


def _tensor(
    storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_hooks: object
) -> Tensor:
    # `set_` refuses what lies outside the storage.
    return torch.empty(0, dtype=storage.dtype).set_(
        storage.data, offset, tuple(size), tuple(stride)
    )


def _parameter(tensor: Tensor, *_hooks: object) -> Tensor:
    return tensor


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin1")


def _pairs(*args: Any) -> dict[Any, Any]:  # noqa: ANN401 - a pickle's values
    return dict(*args) if args else {}


_BUILDERS = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": tuple,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": lambda _factory=None, *args: _pairs(*args),
    "builtins.dict": _pairs,
    "builtins.list": list,
    "builtins.tuple": tuple,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "_codecs.encode": _bytes,
}


# The pure Python unpickler: its steps can be overridden one by one, and unlike the one in C it
# does not set aside memory for lengths that a file only claims.
class _Reader(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Unpickles tensors and plain containers; everything else becomes a `Foreign`."""

    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]  # noqa: RUF012

    def __init__(
        self, file: IO[bytes], load_storage: Callable[[str, torch.dtype, int], torch.UntypedStorage]
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a pickle's values
        """Map a name to what stands for it; never imports."""
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if full in _BUILDERS:
            return _Builder(_BUILDERS[full])
        if module in {"torch", "torch.storage", "torch.cuda"} and name in _DTYPES:
            return _DTYPES[name]
        return Foreign(full)

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - a pickle's values
        """Find the storage that a tensor lies in."""
        kind, dtype, key, _place, numel, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise pickle.UnpicklingError("no storage")
        return _Storage(dtype, self._load_storage(str(key), dtype, int(numel)))

    def get_extension(self, code: int) -> NoReturn:
        """Refuse extension codes: they stand for whatever this process has registered."""
        raise pickle.UnpicklingError(f"extension code {code}")

    def _made(self, factory: Any, args: Sequence[Any], kwargs: object = None) -> Any:  # noqa: ANN401
        if isinstance(factory, _Builder) and not kwargs:
            return factory.build(*args)
        name = factory.name if isinstance(factory, Foreign) else type(factory).__name__
        return Foreign(name, tuple(args))

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], args)

    def _new_with_keywords(self) -> None:
        kwargs, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], args, kwargs)

    def _build(self) -> None:
        state = self.stack.pop()
        # On anything else, attributes set by a file have no use.
        if isinstance(self.stack[-1], Foreign):
            self.stack[-1].state = state

    def _old_object(self) -> None:
        factory, *args = self.pop_mark()
        self.append(self._made(factory, args))

    def _old_instance(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.append(self._made(self.find_class(module, name), self.pop_mark()))

    dispatch |= {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _new_with_keywords,
        pickle.BUILD[0]: _build,
        pickle.OBJ[0]: _old_object,
        pickle.INST[0]: _old_instance,
    }


def _no_storage(_key: str, _dtype: torch.dtype, _numel: int) -> NoReturn:
    raise pickle.UnpicklingError("a tensor where none belongs")


def _read_zip(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    with zipfile.ZipFile(path) as archive:
        (main,) = (n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1)
        folder = main.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise pickle.UnpicklingError("written on a big-endian machine")

        @cache
        def record(key: str) -> torch.UntypedStorage:
            return _as_storage(archive.read(f"{folder}data/{key}"))

        with archive.open(main) as file:
            return _Reader(file, lambda key, _dtype, _numel: record(key)).load()


def _as_storage(data: bytes) -> torch.UntypedStorage:
    if not data:
        return torch.UntypedStorage(0)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage()


def _read_legacy(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read what PyTorch wrote before 1.6: five pickles, then the storages one after another."""
    storages: dict[str, tuple[torch.UntypedStorage, int]] = {}
    left = path.stat().st_size

    def reserve(key: str, dtype: torch.dtype, numel: int) -> torch.UntypedStorage:
        nonlocal left
        if key not in storages:
            length = numel * dtype.itemsize
            left -= length
            if length < 0 or left < 0:
                raise pickle.UnpicklingError("more tensors than the file is long")
            storages[key] = torch.UntypedStorage(length), dtype.itemsize
        return storages[key][0]

    with path.open("rb") as file:
        magic = _Reader(file, _no_storage).load()
        if magic != _MAGIC:
            asked = ""
            if isinstance(magic, Foreign):
                asked = f"; it asks for {magic.name}, which was not run"
            raise BundleError(
                f"{path} is a pickle that PyTorch did not write{asked}.",
                hint="Do not open it with anything else unless you trust it: pickles run code.",
            )
        _protocol, system = (_Reader(file, _no_storage).load() for _ in range(2))
        if not system.get("little_endian"):
            raise pickle.UnpicklingError("written on a big-endian machine")
        content = _Reader(file, reserve).load()
        for key in _Reader(file, _no_storage).load():
            _fill(*storages[str(key)], file)
    return content


def _fill(storage: torch.UntypedStorage, itemsize: int, file: IO[bytes]) -> None:
    (numel,) = struct.unpack("<q", file.read(8))
    data = file.read(len(storage))
    if numel * itemsize != len(storage) or len(data) != len(storage):
        raise EOFError
    if data:
        storage.copy_(_as_storage(data))


# --------------------------------------------------------------------------- fitting weights


@dataclass(frozen=True)
class _Architecture:
    """What a backbone's state looks like."""

    like: dict[str, Tensor]
    """Parameter -> a tensor of its shape and type, without values."""
    parameters: int

    @property
    def stem(self) -> str:
        """The first convolution's weight, `(out, in, h, w)`."""
        return next(name for name, tensor in self.like.items() if tensor.ndim == 4)


@lru_cache(maxsize=64)
def _architecture(backbone: str, in_chans: int) -> _Architecture:
    try:
        with torch.device("meta"):
            model = build_backbone(backbone, in_chans)
    except UsageError:  # some models compute with values while they are built
        model = build_backbone(backbone, in_chans)
    return _Architecture(model.state_dict(), parameter_count(model))


def fit_state(
    state: Mapping[str, Any], backbone: str, *, who: str, in_chans: int | None = None
) -> tuple[dict[str, Tensor], int, int]:
    """Weights under the backbone's own names, checked to fit it.

    Args:
        state: Weights as found, with whatever prefix (`encoder._timm_module.stem_0.weight`).
        backbone: A timm model.
        who: Whose weights, for messages.
        in_chans: How many channels the first convolution should take; as found if not given.

    Returns:
        The weights, the channels of the input, and the number of parameters.

    Raises:
        BundleError: They do not fit; the first parameter that does not is named.
    """
    try:
        names = list(_architecture(backbone, 3).like)
        stem = _architecture(backbone, 3).stem
    except EosfmError as error:
        raise BundleError(f"{who}: {error.message}", hint=error.hint) from None
    own = _own_names(state, names)
    found = _channels(own.get(stem))
    if in_chans is not None and found not in (None, in_chans):
        raise BundleError(
            f"{who} is said to take {counted(in_chans, 'channel')}; its first convolution ({stem}) "
            f"takes {found}."
        )
    architecture = _architecture(backbone, found or in_chans or 3)
    for problem in _misfits(own, architecture.like):
        raise BundleError(
            f"{who} does not fit {backbone}: {problem}.",
            hint="Was it trained with another backbone, or another version of timm?",
        )
    weights = {name: own[name].detach().clone().contiguous() for name in architecture.like}
    _refuse_not_finite(weights, who)
    return weights, found or in_chans or 3, architecture.parameters


def _channels(weight: Any) -> int | None:  # noqa: ANN401 - a pickle's values
    if isinstance(weight, Tensor) and weight.ndim == 4 and weight.shape[1] > 0:
        return weight.shape[1]
    return None


def _own_names(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The state without the prefix that all its names have before the backbone's own."""
    # torch.compile puts `_orig_mod.` anywhere.
    bare = {str(name).replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    prefix = next(_prefixes(bare, names), "")
    return {name.removeprefix(prefix): tensor for name, tensor in bare.items()}


def _prefixes(bare: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    for own in names:
        if own in bare:
            yield ""
        for name in bare:
            if name.endswith(f".{own}"):
                yield name.removesuffix(own)


def _misfits(own: Mapping[str, Any], like: Mapping[str, Tensor]) -> Iterator[str]:
    yield from (f"{name} is missing" for name in like if name not in own)
    yield from (f"{name} does not belong there" for name in own if name not in like)
    for name, wanted in like.items():
        tensor = own[name]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            yield f"{name} is no plain tensor"
        elif tensor.shape != wanted.shape:
            yield f"{name} is {_shape(tensor)}, expected {_shape(wanted)}"
        elif tensor.is_floating_point() != wanted.is_floating_point():
            yield f"{name} holds {tensor.dtype}, expected {wanted.dtype}"
        # A stride of 0 makes one number look like terabytes.
        elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            yield f"{name} is larger than what is stored of it"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"


def _refuse_not_finite(weights: Mapping[str, Tensor], who: str) -> None:
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise BundleError(
                f"{who} has values that are not finite (NaN or infinity) in {name}.",
                hint="Its training diverged: train it again, with a lower --lr for instance.",
            )


# --------------------------------------------------------------------------- specialists


def read_specialist(
    checkpoint: Path,
    *,
    name: str | None = None,
    recipe: Recipe | None = None,
    summary: Mapping[str, Any] | None = None,
    run: str | None = None,
) -> Specialist:
    """The encoder of a TerraTorch encoder-decoder checkpoint, with what is known about it.

    Args:
        checkpoint: A Lightning checkpoint, from eosfm or plain TerraTorch.
        name: Name of the specialist; the file's if not given.
        recipe: What it was trained on, where eosfm trained it.
        summary: The run's summary: metrics and cost.
        run: Which run it comes from, for the record.

    Raises:
        BundleError: No such encoder can be read from it; the message says what was found.
    """
    content = read_plain(checkpoint)
    hyper = mapping(mapping(content).get("hyper_parameters"))
    arguments = mapping(hyper.get("model_args"))
    _refuse_ensemble(arguments, checkpoint)
    encoder = _encoder_weights(content, checkpoint)
    backbone = recipe.training.backbone if recipe else _backbone(arguments, checkpoint)
    weights, in_chans, parameters = fit_state(
        encoder,
        backbone,
        who=str(checkpoint),
        in_chans=_whole_number(plain(arguments.get("backbone_in_chans"))),
    )
    info = SpecialistInfo(
        name=name or checkpoint.stem,
        backbone=backbone,
        in_chans=in_chans,
        parameters=parameters,
        run=run,
        **(_from_recipe(recipe, in_chans, checkpoint) if recipe else _from_hyper(hyper, in_chans)),
        **_from_summary(summary or {}),
    )
    return Specialist(info, weights)


def _encoder_weights(content: Any, path: Path) -> dict[str, Any]:  # noqa: ANN401 - a file's content
    state = mapping(mapping(content).get("state_dict"))
    if not state:
        hint = "Give a Lightning checkpoint (.ckpt) of a TerraTorch encoder-decoder model."
        if isinstance(content, list):
            hint = f"It looks like an ensemble: eosfm fit-ensemble RECIPE --ensemble {path}"
        raise BundleError(f"{path} holds no Lightning checkpoint: {_seen(content)}.", hint=hint)
    # Around an encoder of two dates stands TerraTorch's wrapper, which has no weights of its own.
    for part in ("model.encoder.encoder.", "model.encoder.", "encoder."):
        names = {str(key).replace("_orig_mod.", ""): tensor for key, tensor in state.items()}
        encoder = {n.removeprefix(part): t for n, t in names.items() if n.startswith(part)}
        if encoder:
            return encoder
    parts = sorted({".".join(name.split(".")[:2]) for name in names})
    raise BundleError(
        f"{path} has no encoder: its parameters are under {', '.join(parts[:8])}.",
        hint="Only TerraTorch encoder-decoder models (model.encoder) hold a specialist.",
    )


def _seen(content: Any) -> str:  # noqa: ANN401 - a file's content
    if isinstance(content, Foreign):
        return f"it asks for {content.name}, which was not run"
    if isinstance(content, dict):
        return f"it has {', '.join(str(key)[:40] for key in list(content)[:8]) or 'nothing'}"
    return f"it holds a {type(content).__name__}"


def _refuse_ensemble(arguments: Mapping[Any, Any], path: Path) -> None:
    if str(plain(arguments.get("backbone"))).removeprefix("terratorch_") == "EosFM":
        raise BundleError(
            f"{path} holds a fitted ensemble, no specialist.",
            hint="Its specialists are in the ensemble that it was made of.",
        )


def _backbone(arguments: Mapping[Any, Any], path: Path) -> str:
    given = plain(arguments.get("backbone"))
    if not isinstance(given, str):
        raise BundleError(
            f"{path} does not say which backbone it has (hyper_parameters.model_args.backbone).",
            hint="Only models that TerraTorch built from a timm backbone can be exported.",
        )
    return given.removeprefix("timm_")


def _whole_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _from_recipe(recipe: Recipe, in_chans: int, path: Path) -> dict[str, Any]:
    if len(recipe.bands) != in_chans:
        raise BundleError(
            f"{path} takes {counted(in_chans, 'channel')}, its recipe has "
            f"{counted(len(recipe.bands), 'band')} "
            f"({', '.join(recipe.bands)})."
        )
    return {
        "bands": recipe.bands,
        "statistics": recipe.statistics and {b: recipe.statistics[b] for b in recipe.bands},
        "recipe": recipe.name,
        "task": recipe.task,
        "classes": recipe.class_names,
        "licence": recipe.dataset.licence,
    }


def _from_hyper(hyper: Mapping[Any, Any], in_chans: int) -> dict[str, Any]:
    """What plain TerraTorch says: names of bands and classes, if they are given."""
    given = plain(mapping(hyper.get("model_args")).get("backbone_bands"))
    bands = tuple(band_name(_word(b)) for b in given) if isinstance(given, list) else ()
    classes = plain(hyper.get("class_names"))
    known = len(bands) == in_chans and None not in bands and len(set(bands)) == in_chans
    return {
        "bands": bands if known else None,
        "classes": tuple(map(str, classes)) if isinstance(classes, list) else (),
    }


def _word(band: Any) -> str:  # noqa: ANN401 - a pickle's values
    """A band's name, also where it is a member of TerraTorch's enumerations."""
    if isinstance(band, Foreign) and len(band.args) == 1:
        return str(band.args[0])
    return str(plain(band))


def _from_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    metrics = summary.get("metrics")
    costs = {key: summary.get(key) for key in ("seconds", "energy_kwh", "emissions_kg")}
    return {
        "metrics": {str(k): v for k, v in metrics.items() if _is_number(v)}
        if isinstance(metrics, dict)
        else {},
        **{key: value for key, value in costs.items() if _is_number(value)},
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
