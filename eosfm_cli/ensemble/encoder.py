"""The ensemble encoder: frozen specialists in, one pyramid out (arXiv 2511.21523, section 3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from eosfm_cli.bands import Plan, View, nearest_word, plan_views
from eosfm_cli.ensemble.fusion import FUSIONS
from eosfm_cli.ensemble.selection import NoGates, OpenGates
from eosfm_cli.ensemble.specialist import Specialist, build_backbone
from eosfm_cli.errors import BundleError, UsageError
from eosfm_cli.manifest import SpecialistInfo
from eosfm_cli.recipe import Fusion, Normalize

Features = list[list[Tensor] | None]
"""Per view, the normalised levels `(b, c, h/4·2^-l, w/4·2^-l)`; `None` where left out."""


@dataclass(frozen=True)
class _Slot:
    """One (specialist, view) pair."""

    specialist: int
    view: View


class EosFM(nn.Module):
    """Run the views of every specialist, normalise, select and fuse.

    Differences to the published encoder, on purpose: bands are matched by name, not by count;
    specialists left out count as zero after the normaliser (published: before it, so that they
    went on contributing a constant); selection learns, and what it drops is not computed any more.

    Attributes:
        specialists: What takes part, in order.
        plan: Which views each specialist has of the bands at hand.
        out_channels: Channels per level, fine to coarse.
    """

    def __init__(
        self,
        specialists: Sequence[SpecialistInfo],
        bands: Sequence[str],
        *,
        fusion: Fusion = "concat",
        normalize: Normalize = "batch",
        gated: bool = False,
        out_channels: Sequence[int] | None = None,
    ) -> None:
        """Build the encoder with random specialists; `with_weights` builds a trained one.

        Args:
            specialists: Those to use; the ones that cannot be fed are left out, see `plan`.
            bands: Common names of the input's bands, in order.
            fusion: How the views become one pyramid.
            normalize: `batch` (BatchNorm2d), `layer` (GroupNorm of one group) or `none`; one per
                specialist and level, affine-free, shared by its views.
            gated: Put a learned gate before the fusion of each specialist, to search for the best.
            out_channels: Widths of the pyramid, where the fusion leaves a choice; a model that a
                search has left has those of all specialists searched.

        Raises:
            BandError: No specialist can be fed from `bands`.
        """
        super().__init__()
        self.plan = plan_specialists(specialists, bands)
        usable = {row.specialist for row in self.plan.usable}
        self.specialists = tuple(info for info in specialists if info.name in usable)
        self.frozen = False
        self.slots = tuple(
            _Slot(index, view) for index, row in enumerate(self.plan.usable) for view in row.views
        )
        for index, slot in enumerate(self.slots):
            matrix = torch.tensor(slot.view.matrix)
            self.register_buffer(f"matrix_{index}", matrix, persistent=False)
        self.backbones = nn.ModuleList(
            build_backbone(info.backbone, info.in_chans) for info in self.specialists
        )
        widths = [b.feature_info.channels() for b in self.backbones]
        self.normalisers = nn.ModuleList(
            nn.ModuleList(build_normaliser(normalize, channels) for channels in width)
            for width in widths
        )
        self.gates = OpenGates(self.names) if gated else NoGates()
        self.fusion = FUSIONS[fusion]([widths[s.specialist] for s in self.slots], out_channels)

    @classmethod
    def with_weights(
        cls,
        specialists: Sequence[Specialist],
        bands: Sequence[str],
        *,
        fusion: Fusion = "concat",
        normalize: Normalize = "batch",
        gated: bool = False,
        freeze: bool = True,
    ) -> Self:
        """Build the encoder from trained specialists, frozen unless told otherwise.

        Raises:
            BandError: No specialist can be fed from `bands`.
        """
        infos = [specialist.info for specialist in specialists]
        encoder = cls(infos, bands, fusion=fusion, normalize=normalize, gated=gated)
        states = {specialist.info.name: specialist.state for specialist in specialists}
        for info, backbone in zip(encoder.specialists, encoder.backbones, strict=True):
            backbone.load_state_dict(states[info.name])
        if freeze:
            encoder.freeze()
        return encoder

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the specialists that take part."""
        return tuple(info.name for info in self.specialists)

    @property
    def out_channels(self) -> list[int]:
        """Channels per level, fine to coarse."""
        return self.fusion.out_channels

    # ------------------------------------------------------------------ the paper

    def forward(self, x: Tensor, **_: object) -> list[Tensor]:
        """Encode standardised bands `(b, bands, h, w)` into a pyramid, fine to coarse."""
        return self.combine(self.encode(x))

    def encode(self, x: Tensor) -> Features:
        """Views → features → normalise: the expensive half, which selection does not change."""
        return [
            self._normalise(slot, self._view(index, x)) for index, slot in enumerate(self.slots)
        ]

    def combine(self, features: Features, without: Collection[str] = ()) -> list[Tensor]:
        """Select → fuse: the cheap half.

        Args:
            features: What `encode` gave.
            without: Specialists that count as the neutral element (zero) of the fusion.
        """
        out = {i for i, name in enumerate(self.names) if name in without}
        kept = [
            None if slot.specialist in out else view
            for slot, view in zip(self.slots, features, strict=True)
        ]
        return self.fusion(self._gated(kept))

    def _view(self, index: int, x: Tensor) -> Tensor:
        matrix = getattr(self, f"matrix_{index}")  # (required, available)
        return torch.einsum("ra,bahw->brhw", matrix.to(x.dtype), x)

    def _normalise(self, slot: _Slot, x: Tensor) -> list[Tensor]:
        learning = torch.is_grad_enabled() and not self.frozen
        with torch.set_grad_enabled(learning):
            levels = self.backbones[slot.specialist](x)
        return [
            normaliser(level)
            for normaliser, level in zip(self.normalisers[slot.specialist], levels, strict=True)
        ]

    def _gated(self, features: Features) -> Features:
        gates = self.gates()
        if gates is None:
            return features
        return [
            view and [level * gates[slot.specialist] for level in view]
            for slot, view in zip(self.slots, features, strict=True)
        ]

    # ------------------------------------------------------------------ which specialists

    def keep(self, names: Sequence[str]) -> Self:
        """An encoder of only these specialists, ungated, sharing their weights with this one.

        What the fusion has learned about them is carried over, gates folded into its weights where
        it has any.
        """
        chosen = [i for i, name in enumerate(self.names) if name in set(names)]
        slots = [i for i, slot in enumerate(self.slots) if slot.specialist in chosen]
        gates = self.gates()
        kept = type(self).__new__(type(self))
        nn.Module.__init__(kept)
        kept.specialists = tuple(self.specialists[i] for i in chosen)
        kept.plan = plan_specialists(kept.specialists, self.plan.available)
        kept.frozen = self.frozen
        kept.slots = tuple(
            _Slot(chosen.index(self.slots[i].specialist), self.slots[i].view) for i in slots
        )
        for new, old in enumerate(slots):
            matrix = getattr(self, f"matrix_{old}")
            kept.register_buffer(f"matrix_{new}", matrix, persistent=False)
        kept.backbones = nn.ModuleList(self.backbones[i] for i in chosen)
        kept.normalisers = nn.ModuleList(self.normalisers[i] for i in chosen)
        kept.gates = NoGates()
        factors = [1.0 if gates is None else gates[self.slots[i].specialist].item() for i in slots]
        kept.fusion = self.fusion.keep(slots, factors)
        return kept.train(self.training)

    # ------------------------------------------------------------------ freezing

    def freeze(self) -> None:
        """Keep the specialists' weights as they are; fusion, gates and normalisers go on learning.

        TerraTorch calls this for `freeze_backbone: true`.
        """
        self.frozen = True
        self.backbones.requires_grad_(False)
        self.backbones.eval()

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen specialists stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbones.eval()
        return self


def build_normaliser(kind: Normalize, channels: int) -> nn.Module:
    """An affine-free normaliser of `(b, channels, h, w)`."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, affine=False)
    if kind == "layer":
        return nn.GroupNorm(1, channels, affine=False)
    return nn.Identity()


def plan_specialists(specialists: Sequence[SpecialistInfo], bands: Sequence[str]) -> Plan:
    """Plan which views each specialist has of `bands`.

    Raises:
        BandError: No specialist can be fed.
        BundleError: A specialist does not say which bands it wants.
    """
    for info in specialists:
        if info.bands is None:
            raise BundleError(
                f"Specialist {info.name!r} says how many bands it wants ({info.in_chans}), "
                "not which.",
                hint="Export it again from its run folder, so that the bands' names travel along.",
            )
    return plan_views([(info.name, info.bands or ()) for info in specialists], bands)


def choose_specialists(
    specialists: Sequence[Specialist],
    only: Sequence[str] | None,
    exclude: Sequence[str],
) -> tuple[Specialist, ...]:
    """The specialists named in `only` (all, if `None`) without those in `exclude`.

    Names or positions (counted from 0) are understood.

    Raises:
        UsageError: A name is unknown, or nothing is left.
    """
    names = [specialist.info.name for specialist in specialists]
    wanted = {_known(word, names) for word in only} if only is not None else set(names)
    wanted -= {_known(word, names) for word in exclude}
    if not wanted:
        raise UsageError("No specialist is left.", hint=f"There are: {', '.join(names)}.")
    return tuple(s for s in specialists if s.info.name in wanted)


def _known(word: str, names: Sequence[str]) -> str:
    if word in names:
        return word
    if word.isdecimal() and int(word) < len(names):
        return names[int(word)]
    near = nearest_word(word, names)
    raise UsageError(
        f"There is no specialist {word!r} in the ensemble."
        + (f" Did you mean {near!r}?" if near else ""),
        hint=f"There are: {', '.join(names)}.",
    )
