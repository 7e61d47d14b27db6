"""The ensemble encoder: frozen specialists in, one pyramid out (arXiv 2511.21523, section 3)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from eosfm_cli.bands import BANDS, Bands, Plan, View, named, nearest_word, plan_views
from eosfm_cli.ensemble.adaptation import LearnedAdapter, build_adapter, folded
from eosfm_cli.ensemble.fast_convnext import fast
from eosfm_cli.ensemble.fusion import Conv1x1, Mlp, Scaling, added, build_fusion
from eosfm_cli.ensemble.projection import as_scaling, build_refiners, is_scaling
from eosfm_cli.ensemble.selection import Gating, NoGates, build_gates
from eosfm_cli.ensemble.specialist import Specialist, build_backbone
from eosfm_cli.ensemble.strategies import own_views
from eosfm_cli.errors import BandError, UsageError
from eosfm_cli.manifest import EncoderInfo, SpecialistInfo

Features = list[list[Tensor] | None]
"""Per view, the levels `(b, c, h/4·2^-l, w/4·2^-l)`; `None` where left out."""


@dataclass(frozen=True)
class _Slot:
    """One (specialist, view) pair."""

    specialist: int
    view: View


class EnsembleEncoder(nn.Module):
    """Run the views of every specialist, normalise, project, select and fuse.

    Attributes:
        specialists: What takes part, in order.
        plan: Which views each specialist has of the bands at hand.
        left_out: Positions of specialists that are not computed and count as the neutral element
            of the fusion.
        out_channels: Channels per level, fine to coarse.
    """

    def __init__(
        self,
        specialists: Sequence[SpecialistInfo],
        bands: Bands,
        options: EncoderInfo | None = None,
        *,
        declared: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Build the encoder with random specialists; `with_weights` builds a trained one.

        Args:
            specialists: Those to use; the ones that cannot be fed are left out, see `plan`.
            bands: Common names of the input's bands, in order, or how many there are.
            options: How it is put together; the defaults of a recipe if not given.
            declared: View -> bands, as a recipe declares them.

        Raises:
            BandError: No specialist can be fed from `bands`.
            UsageError: The specialists' widths do not go together, or a user's strategy fails.
            BundleError: The options ask for a strategy that is not loaded.
        """
        super().__init__()
        self.options = options or EncoderInfo()
        self.frozen, self.left_out = False, frozenset[int]()
        known = self.options.views
        self.plan = plan_specialists(specialists, bands, declared=declared, known=known)
        self._take(specialists)
        self.adapters = nn.ModuleList(
            build_adapter(slot.view, self.options.adapt) for slot in self.slots
        )
        self.backbones = nn.ModuleList(
            fast(build_backbone(info.backbone, info.in_chans)) for info in self.specialists
        )
        widths = [backbone.feature_info.channels() for backbone in self.backbones]
        self.normalisers, self.projections = build_refiners(
            widths, self.options.normalize, project=self.options.project
        )
        self.gates = build_gates(
            self.options.gates,
            self.names,
            self.options.top_k,
            weigh=self.options.scale_features,
        )
        of_slots = [slot.specialist for slot in self.slots]
        self.fusion = build_fusion(
            self.options, [widths[i] for i in of_slots], [self.names[i] for i in of_slots]
        )

    def _take(self, specialists: Sequence[SpecialistInfo]) -> None:
        usable = {row.specialist: row.views for row in self.plan.usable}
        self.specialists = tuple(info for info in specialists if info.name in usable)
        self.slots = tuple(
            _Slot(index, view)
            for index, info in enumerate(self.specialists)
            for view in usable[info.name]
        )

    @classmethod
    def with_weights(
        cls,
        specialists: Sequence[Specialist],
        bands: Bands,
        options: EncoderInfo | None = None,
        *,
        declared: Mapping[str, Sequence[str]] | None = None,
        freeze: bool = True,
    ) -> EnsembleEncoder:
        """Build the encoder from trained specialists, frozen unless told otherwise.

        Raises:
            BandError: No specialist can be fed from `bands`.
            UsageError: The specialists' widths do not go together, or a user's strategy fails.
        """
        infos = [specialist.info for specialist in specialists]
        encoder = EnsembleEncoder(infos, bands, options, declared=declared)
        encoder.load_specialists(specialists)
        if freeze:
            encoder.freeze()
        return encoder

    def load_specialists(self, specialists: Sequence[Specialist]) -> None:
        """Take the weights of those that take part."""
        states = {specialist.info.name: specialist.state for specialist in specialists}
        for info, backbone in zip(self.specialists, self.backbones, strict=True):
            backbone.load_state_dict(states[info.name])

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
        if self.training or not self.fusion.additive:
            return self.combine(self.encode(x))
        return self.complete(self._sum(x))

    def encode(self, x: Tensor) -> Features:
        """Views → features → normalise → project: the expensive half."""
        return self.refine(self.extract(x))

    def extract(self, x: Tensor) -> Features:
        """Views → features: what never changes while specialists are frozen."""
        return list(self._extracted(x))

    def _extracted(self, x: Tensor) -> Iterator[list[Tensor] | None]:
        running = self._running()
        for index, slot in enumerate(self.slots):
            yield self.run(index, x) if slot.specialist in running else self._absent(index, x)

    def refine(self, features: Features) -> Features:
        """Normalise → project."""
        return [
            levels and self._refined(slot, levels)
            for slot, levels in zip(self.slots, features, strict=True)
        ]

    def combine(self, features: Features, without: Collection[str] = ()) -> list[Tensor]:
        """Select → fuse: the cheap half.

        Args:
            features: What `encode` gave.
            without: Specialists that count as the neutral element of the fusion.
        """
        out = {i for i, name in enumerate(self.names) if name in without}
        views = [
            None if slot.specialist in out else levels
            for slot, levels in zip(self.slots, features, strict=True)
        ]
        nobody = all(view is None for view in views)
        pyramid = self._neutral(features) if nobody else self.fusion(self._gated(views))
        if self.training and (self.gates.running() is not None or None in views):
            pyramid[0] = pyramid[0] + self._nothing()
        return pyramid

    def contributions(self, features: Features) -> Features | None:
        """What each specialist adds to the sum that an additive fusion makes, gates included.

        Args:
            features: What `encode` gave.

        Returns:
            Per specialist the levels of its views' sum, `None` where it was left out; for
            `complete`, once any of them are added up. `None` for fusions that do not add.
        """
        if not self.fusion.additive:
            return None
        sums: Features = [None] * len(self.specialists)
        for index, levels in enumerate(features):
            if levels is not None:
                place = self.slots[index].specialist
                sums[place] = added(sums[place], self._terms(index, levels))
        return sums

    def complete(self, sums: Sequence[Tensor]) -> list[Tensor]:
        """The pyramid of a sum of contributions."""
        return self.fusion.finish(sums)

    def _sum(self, x: Tensor) -> list[Tensor]:
        """Views → … → the sum, and of one view after the other only its part is held."""
        sums = None
        for index, levels in enumerate(self._extracted(x)):
            if levels is not None:
                refined = self._refined(self.slots[index], levels)
                sums = added(sums, self._terms(index, refined))
        return sums

    def _terms(self, index: int, levels: list[Tensor]) -> list[Tensor]:
        gated = self._through_gate(self.gates(), self.slots[index], levels)
        return self.fusion.terms(index, gated)

    def _running(self) -> set[int]:
        """Whom to compute: not what is left out, nor what selection has dropped."""
        chosen = self.gates.running()
        everybody = range(len(self.specialists))
        return set(everybody if chosen is None else chosen) - self.left_out

    def run(self, index: int, x: Tensor) -> list[Tensor]:
        """The features of one of `slots`."""
        adapter, backbone = self.adapters[index], self.backbones[self.slots[index].specialist]
        learning = torch.is_grad_enabled() and (adapter.learns or not self.frozen)
        with torch.set_grad_enabled(learning):
            return list(adapter(backbone, x))

    def _absent(self, index: int, x: Tensor) -> list[Tensor] | None:
        """What stands for the features of a specialist that does not run."""
        del index, x  # for encoders that compute it all the same
        return None

    def _refined(self, slot: _Slot, levels: list[Tensor]) -> list[Tensor]:
        normalisers = self.normalisers[slot.specialist]
        levels = [norm(level) for norm, level in zip(normalisers, levels, strict=True)]
        if not self.projections:
            return levels
        projections = self.projections[slot.specialist]
        return [project(level) for project, level in zip(projections, levels, strict=True)]

    def _gated(self, views: Features) -> Features:
        gating = self.gates()
        return [
            levels and self._through_gate(gating, slot, levels)
            for slot, levels in zip(self.slots, views, strict=True)
        ]

    def _through_gate(
        self, gating: Gating | None, slot: _Slot, levels: list[Tensor]
    ) -> list[Tensor]:
        if gating is None:
            return levels
        levels = [level * gating.weight[slot.specialist] for level in levels]
        if gating.rest is None or self.fusion.neutral == 0:
            return levels
        rest = (gating.rest * self.fusion.neutral)[slot.specialist]
        return [level + rest for level in levels]

    def _neutral(self, features: Features) -> list[Tensor]:
        """What is fused of nobody, in the shapes of somebody's features."""
        index = next(i for i, levels in enumerate(features) if levels is not None)
        if self.fusion.additive:
            terms = self.fusion.terms(index, features[index])
            return self.fusion.finish([torch.zeros_like(level) for level in terms])
        neutral = [torch.full_like(level, self.fusion.neutral) for level in features[index]]
        return self.fusion([neutral if i == index else None for i in range(len(features))])

    def _nothing(self) -> Tensor:
        """Zero, by way of every weight: training on several devices waits for all gradients."""
        return 0.0 * sum(p.sum() for p in self.parameters() if p.requires_grad)

    # ------------------------------------------------------------------ which specialists

    def keep(self, names: Collection[str]) -> EnsembleEncoder:
        """An encoder of only these specialists, sharing their weights with this one.

        It gives what this one gives `without` the others; under `concat` their channels go. The
        gates of a search go too, folded into the fusion's weights where it has any.
        """
        chosen = [i for i, name in enumerate(self.names) if name in names]
        slots = [i for i, slot in enumerate(self.slots) if slot.specialist in chosen]
        gates, factors = self.gates.keep(chosen)
        kept = self._of(chosen)
        kept.adapters = nn.ModuleList(self.adapters[i] for i in slots)
        kept.backbones = nn.ModuleList(self.backbones[i] for i in chosen)
        kept.normalisers = nn.ModuleList(self.normalisers[i] for i in chosen)
        kept.projections = nn.ModuleList(self.projections[i] for i in chosen if self.projections)
        kept.gates = gates
        per_slot = [factors[chosen.index(self.slots[i].specialist)] for i in slots]
        kept.fusion = self.fusion.keep(slots, per_slot)
        return kept.train(self.training)

    def at_level(self, level: int) -> EnsembleEncoder:
        """What refines and combines features of one level alone, with the weights of this one."""
        alone = copy.copy(self)
        alone._modules = {
            **self._modules,
            "normalisers": _at_level(self.normalisers, level),
            "projections": _at_level(self.projections, level),
            "fusion": self.fusion.at_level(level),
        }
        return alone

    def _of(self, chosen: Sequence[int]) -> EnsembleEncoder:
        """An encoder of these specialists without any module yet."""
        bare = EnsembleEncoder.__new__(EnsembleEncoder)
        nn.Module.__init__(bare)
        names = {self.names[i] for i in chosen}
        bare.options, bare.frozen = self.options, self.frozen
        bare.left_out = frozenset(n for n, i in enumerate(chosen) if i in self.left_out)
        bare.plan = Plan(
            self.plan.available, tuple(row for row in self.plan.rows if row.specialist in names)
        )
        bare._take(self.specialists)
        return bare

    def describe(self) -> EncoderInfo:
        """How it is put together, for the file of a model: what `options` take to build it again.

        Learned views stand there as they are now.
        """
        hidden = getattr(self.fusion, "hidden_channels", None)
        views: dict[str, list[View]] = {name: [] for name in self.names}
        for slot, adapter in zip(self.slots, self.adapters, strict=True):
            views[self.names[slot.specialist]].append(_current(slot.view, adapter))
        return self.options.model_copy(
            update={
                "gates": self.gates.kind,
                "out_channels": tuple(self.out_channels),
                "hidden_channels": hidden and tuple(hidden),
                "views": {name: tuple(found) for name, found in views.items()},
            }
        )

    # ------------------------------------------------------------------ freezing and folding

    def freeze(self) -> None:
        """Keep the specialists' weights as they are; all that stands on them goes on learning.

        TerraTorch calls this for `freeze_backbone: true`.
        """
        self.frozen = True
        self.backbones.requires_grad_(False)
        self.backbones.eval()

    def unfreeze(self) -> None:
        """Let the specialists learn as well."""
        self.frozen = False
        self.backbones.requires_grad_(True)
        self.backbones.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen specialists stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbones.eval()
        return self

    def fold(self) -> None:
        """Put into weights what stays as it is from now on, to predict faster.

        Every view's matrix goes into its specialist's first convolution; batch normalisation and
        gates go into the fusion where that begins with a convolution, so that `encode` gives
        features as they come from the specialists. The encoder has to be in evaluation mode, and
        is not to learn or to be written any more.
        """
        self.adapters = nn.ModuleList(
            folded(adapter, self.backbones[slot.specialist])
            for slot, adapter in zip(self.slots, self.adapters, strict=True)
        )
        if isinstance(self.fusion, Conv1x1 | Mlp):
            self._fold_into(self.fusion)

    @torch.no_grad()
    def _fold_into(self, fusion: Conv1x1 | Mlp) -> None:
        """Have the fusion take normalisers and gates over, as far as they only scale."""
        scalings = [[Scaling(1.0)] * len(fusion.out_channels) for _ in self.specialists]
        for i, normalisers in enumerate(() if self.projections else self.normalisers):
            if all(is_scaling(norm) for norm in normalisers):
                scalings[i] = [as_scaling(norm) for norm in normalisers]
                self.normalisers[i] = nn.ModuleList(nn.Identity() for _ in normalisers)
        gating = None if self.gates.running() is not None else self.gates()
        factors = [1.0] * len(self.specialists) if gating is None else gating.weight
        if gating is not None:
            self.gates = NoGates()
        slots = [slot.specialist for slot in self.slots]
        self.fusion = fusion.folded([[s.times(factors[i]) for s in scalings[i]] for i in slots])


def _at_level(parts: nn.ModuleList, level: int) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleList([of_specialist[level]]) for of_specialist in parts)


def _current(view: View, adapter: nn.Module) -> View:
    if not isinstance(adapter, LearnedAdapter):
        return view
    matrix = tuple(tuple(row) for row in adapter.matrix.tolist())
    name = view.name if view.name.endswith(_LEARNED) else view.name + _LEARNED
    return replace(view, name=name, matrix=matrix)


_LEARNED = ", learned"


def plan_specialists(
    specialists: Sequence[SpecialistInfo],
    bands: Bands,
    *,
    declared: Mapping[str, Sequence[str]] | None = None,
    known: Mapping[str, Sequence[View]] | None = None,
) -> Plan:
    """Plan which views each specialist has of `bands`.

    Args:
        specialists: Those without names for their bands are fed by the published rules.
        bands: Common names in order, or how many there are.
        declared: View -> bands, as a recipe declares them.
        known: Specialist -> views, as a model's file says them.

    Raises:
        BandError: No specialist can be fed, or a band is unknown.
        UsageError: A user's strategy fails.
    """
    for band in () if isinstance(bands, int) else named(bands):
        if band not in BANDS:
            near = nearest_word(band, BANDS)
            raise BandError(
                f"Unknown band {band!r}." + (f" Did you mean {near!r}?" if near else "")
            )
    wanted = [(info.name, info.wants) for info in specialists]
    return plan_views(wanted, bands, declared=declared, own=own_views, known=known)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attribute
    """`EosFM`, the encoder under the published project's arguments, which stands on this module."""
    if name == "EosFM":
        from eosfm_cli.ensemble.published import EosFM

        return EosFM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
