"""The ensemble encoder under the published project's arguments and parameter names.

`EosFM` is what a TerraTorch YAML of the published project builds. With the same weights it gives
what the published encoder gives wherever that is right; `legacy=True` gives it everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn

from eosfm_cli.bands import Bands, nearest_word, parse_bands
from eosfm_cli.ensemble.bundle import from_entries, read_ensemble, with_unique_names
from eosfm_cli.ensemble.encoder import EnsembleEncoder, choose_specialists
from eosfm_cli.ensemble.fusion import Conv1x1, Mlp
from eosfm_cli.ensemble.hub import locate
from eosfm_cli.ensemble.learning import keep_learning
from eosfm_cli.ensemble.selection import OpenGates, PublishedGates, SmoothGates, TopK
from eosfm_cli.ensemble.specialist import Specialist
from eosfm_cli.errors import BundleError, UsageError
from eosfm_cli.manifest import EncoderInfo
from eosfm_cli.recipe import Adapt, Fusion, Selection
from eosfm_cli.words import counted

Files = str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[tuple[Any, ...]]
SPARSITY = 0.05
"""Weight of the selection's penalty, which no loss of TerraTorch's contains."""


class EosFM(EnsembleEncoder):
    """The ensemble encoder, built from an ensemble's file.

    It differs from the published one on purpose, and `legacy=True` undoes that: `topk` learns
    (published: its scores get no gradient) and chooses among the specialists that can run
    (published: among all in the file); ablated and unselected specialists are not computed and
    count as the fusion's neutral element (published: ablated features are zeros that go through
    normaliser and projection, and under multiplication a zero makes everything zero).
    """

    def __init__(
        self,
        model_weights: Files,
        in_chans: int | None = None,
        *,
        freeze: bool = True,
        normalize_features: bool = True,
        normalization_type: str = "batch",
        projection_layer: bool = False,
        feature_fusion: str | None = None,
        fuse_to_mult: int | None = 1,
        max_encoders: int | None = None,
        encoder_selection_mode: str = "topk",
        scale_features: bool = False,
        ablate_encoders: Sequence[int | str] | None = None,
        bands: Sequence[str] | None = None,
        adapt: Adapt = "rule",
        search_steps: int = 500,
        legacy: bool = False,
    ) -> None:
        """Read an ensemble and build its encoder.

        Args:
            model_weights: An ensemble's file in either format, here or on the hub (`hf://…`), or
                several to join; or the list of `(in_chans, state_dict, config)` itself.
            in_chans: How many bands the input has; specialists are fed by the published rules.
            freeze: Keep the specialists' weights as they are.
            normalize_features: Normalise each specialist's features.
            normalization_type: `batch` (BatchNorm2d) or `layer` (GroupNorm of one group).
            projection_layer: Put a 1×1 convolution and a leaky ReLU behind each normaliser.
            feature_fusion: `conv1x1`, `mlp`, `addition` or `multiplication`; concatenation if not
                given.
            fuse_to_mult: Width of what `conv1x1` and `mlp` give, in multiples of the first
                specialist's.
            max_encoders: Select so many specialists; no selection if not given.
            encoder_selection_mode: `topk`, or `smooth` for gates driven towards so many.
            scale_features: Weight features by the scores themselves.
            ablate_encoders: Positions (counted from 0) or names of specialists to leave out.
            bands: Names of the input's bands, in order: specialists are fed by name.
            adapt: `learned` trains how bands are mixed for each specialist.
            search_steps: Training steps until the choice of `topk` is final.
            legacy: Give what the published encoder gives.

        Raises:
            UsageError: An argument is unknown or does not go with the others.
            BandError: No specialist can be fed.
            BundleError: A file is damaged or no ensemble.
        """
        everybody = _read(model_weights)
        top_k = _whole("max_encoders", max_encoders)
        mode = _word("encoder_selection_mode", encoder_selection_mode, get_args(Selection))
        options = EncoderInfo(
            fusion=_word("feature_fusion", feature_fusion or "concat", get_args(Fusion)),
            fuse_to_mult=_whole("fuse_to_mult", fuse_to_mult) or 1,
            normalize=_word("normalization_type", normalization_type, ("batch", "layer"))
            if normalize_features
            else "none",
            project=projection_layer,
            adapt=_word("adapt", adapt, get_args(Adapt)),
        )
        super().__init__([s.info for s in everybody], _input(in_chans, bands), options)
        self.legacy = legacy
        self._file_names = tuple(specialist.info.name for specialist in everybody)
        self.load_specialists(everybody)
        self.left_out = self._ablated(everybody, ablate_encoders or ())
        if top_k is not None:
            self.gates = self._selector(top_k, mode, weigh=scale_features, steps=search_steps)
        for part in (self.adapters, self.normalisers, self.projections, self.gates, self.fusion):
            keep_learning(part)
        if freeze:
            self.freeze()

    def train(self, mode: bool = True) -> Self:
        """Set training mode; specialists that somebody froze weight by weight are frozen ones."""
        if not any(weight.requires_grad for weight in self.backbones.parameters()):
            self.frozen = True
        return super().train(mode)

    def _ablated(
        self, everybody: Sequence[Specialist], ablate: Sequence[int | str]
    ) -> frozenset[int]:
        if not ablate:
            return frozenset()
        left = choose_specialists(everybody, None, [str(word) for word in ablate])
        names = {specialist.info.name for specialist in left}
        out = frozenset(i for i, name in enumerate(self.names) if name not in names)
        if len(out) == len(self.names) and not self.legacy:
            raise UsageError(
                "ablate_encoders leaves no specialist that can run.",
                hint=f"These can run: {', '.join(self.names)}.",
            )
        return out

    def _selector(self, top_k: int, mode: str, *, weigh: bool, steps: int) -> nn.Module:
        if self.legacy:
            taking_part = [self._file_names.index(name) for name in self.names]
            return PublishedGates(len(self._file_names), taking_part, top_k, mode, weigh=weigh)
        usable = len(self.names) - len(self.left_out)
        if top_k > usable:
            warnings.warn(
                f"max_encoders is {top_k}, and {counted(usable, 'specialist')} can run: "
                "all are kept.",
                stacklevel=3,
            )
        if mode == "topk":
            gates = TopK(self.names, top_k, weigh=weigh, search_steps=steps, barred=self.left_out)
        else:
            gates = SmoothGates(
                self.names, top_k, weigh=weigh, barred=self.left_out, as_published=True
            )
        gates.sparsity = SPARSITY
        return gates

    def keep(self, names: Collection[str]) -> EnsembleEncoder:
        """An encoder of only these specialists, see `EnsembleEncoder.keep`.

        Raises:
            UsageError: With `legacy`, specialists left out go on contributing.
        """
        if self.legacy:
            raise UsageError(
                "An encoder with legacy=True cannot be pruned: what is left out goes on counting.",
                hint="Build it without legacy.",
            )
        return super().keep(names)

    def _absent(self, index: int, x: Tensor) -> list[Tensor] | None:
        if not self.legacy:
            return None
        return [torch.zeros_like(level) for level in self.run(index, x)]

    # ------------------------------------------------------------------ published parameters

    @torch.no_grad()
    def load_published_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Take parameters of the published encoder; what is not named stays as it is.

        `feature_fusion.<level>.*` (`mlp`: `.0` and `.2` are its two convolutions),
        `feature_projections.<specialist>.<level>.0.*` and `encoder_selector.specialists_weights`;
        specialists are counted as in the file. Loaded scores are final: no search goes on.

        Raises:
            BundleError: A name is unknown to an encoder with these options, or a shape differs.
        """
        for name, tensor in parameters.items():
            bare = name.removeprefix("param.")
            if bare == "encoder_selector.specialists_weights":
                self._load_scores(name, tensor)
                continue
            part, *place = bare.split(".")
            targets = self._targets(part, place)
            if targets is None:
                raise BundleError(
                    f"An encoder with these options has no parameter {name!r}.",
                    hint="Were the parameters saved with another fusion or projection?",
                )
            _copy(tensor, targets, name)

    def _load_scores(self, name: str, scores: Tensor) -> None:
        if not isinstance(self.gates, PublishedGates | OpenGates):
            raise BundleError(f"An encoder without max_encoders has no parameter {name!r}.")
        _copy(scores, [torch.empty(len(self._file_names))], name)
        if isinstance(self.gates, PublishedGates):
            self.gates.scores.copy_(scores)
            return
        self.gates.scores.copy_(scores[[self._file_names.index(name) for name in self.names]])
        if isinstance(self.gates, TopK):
            self.gates.settle()

    def _targets(self, part: str, place: Sequence[str]) -> list[Tensor] | None:
        """Where a published parameter goes: tensors that stand side by side in it."""
        kind = place[-1] if place else ""
        if kind not in ("weight", "bias") or not all(n.isdecimal() for n in place[:-1]):
            return None
        where = [int(n) for n in place[:-1]]
        if part == "feature_fusion":
            return _fusion_targets(self.fusion, where, kind)
        if part == "feature_projections" and self.options.project and len(where) == 3:
            return self._projection_targets(where[0], where[1], kind)
        return None

    def _projection_targets(self, specialist: int, level: int, kind: str) -> list[Tensor] | None:
        if specialist >= len(self._file_names):
            return None
        name = self._file_names[specialist]
        if name not in self.names:
            return []  # it cannot run on these bands
        levels = self.projections[self.names.index(name)]
        return [getattr(levels[level][0], kind)] if level < len(levels) else None


def _fusion_targets(fusion: nn.Module, where: list[int], kind: str) -> list[Tensor] | None:
    """Where a parameter of the published fusion goes; `where` is level, and layer for `mlp`."""
    if isinstance(fusion, Mlp) and len(where) == 2 and where[1] in (0, 2):
        if where[0] >= len(fusion.second):
            return None
        if where[1] == 2:
            return [getattr(fusion.second[where[0]], kind)]
        fusion, where = fusion.first, where[:1]
    if not isinstance(fusion, Conv1x1) or len(where) != 1 or where[0] >= len(fusion.bias):
        return None
    (level,) = where
    if kind == "bias":
        return [fusion.bias[level][:, 0, 0]]
    return [view[level].weight for view in fusion.views]


def _copy(tensor: Tensor, targets: Sequence[Tensor], name: str) -> None:
    """Copy a tensor into the ones that stand side by side in it."""
    if not targets:
        return
    shape = list(targets[0].shape)
    if len(targets) > 1:
        shape[1] = sum(target.shape[1] for target in targets)
    if list(tensor.shape) != shape:
        raise BundleError(
            f"{name} is {list(tensor.shape)}, expected {shape}.",
            hint="Was it saved for other bands or other specialists?",
        )
    widths = [target.shape[1] for target in targets] if len(targets) > 1 else None
    parts = [tensor] if widths is None else tensor.split(widths, dim=1)
    for target, part in zip(targets, parts, strict=True):
        target.copy_(part)


def _read(files: Files) -> tuple[Specialist, ...]:
    given = [files] if isinstance(files, str | PathLike) else list(files)
    if not given:
        raise UsageError("model_weights names no ensemble.", hint="Make one with eosfm export.")
    if not all(isinstance(path, str | PathLike) for path in given):
        return from_entries(given)
    paths = [locate(Path(path)).path for path in given]  # fetched, where on the hub
    return with_unique_names(s for path in paths for s in read_ensemble(path))


def _input(in_chans: int | None, bands: Sequence[str] | None) -> Bands:
    if bands is None:
        count = _whole("in_chans", in_chans)
        if count is None:
            raise UsageError(
                "EosFM needs in_chans: how many bands the input has.",
                hint="In a TerraTorch YAML it is called backbone_in_chans.",
            )
        return count
    names = parse_bands(",".join(map(str, bands)))
    if in_chans not in (None, len(names)):
        raise UsageError(f"in_chans is {in_chans}, and bands names {len(names)}.")
    return names


def _whole(key: str, value: Any) -> int | None:  # noqa: ANN401 - from a YAML
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{key} should be a whole number of at least 1, not {value!r}.")
    return value


def _word(key: str, value: Any, words: Sequence[str]) -> Any:  # noqa: ANN401 - from a YAML
    if value in words:
        return value
    near = nearest_word(str(value), words)
    raise UsageError(
        f"{key}: there is no {value!r}." + (f" Did you mean {near!r}?" if near else ""),
        hint=f"There are: {', '.join(words)}.",
    )
