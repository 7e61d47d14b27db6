"""Few labels: a seeded share of the training tiles, as if no others were labelled."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from eosfm_cli.data.tiles import TileDataset, TileKey
from eosfm_cli.errors import DataError
from eosfm_cli.progress import Progress
from eosfm_cli.recipe import Recipe

if TYPE_CHECKING:
    from eosfm_cli.data.datamodule import TileDataModule
    from eosfm_cli.data.folder import Sample

_LEAST = 2
"""Training tiles, as normalising over a batch needs them."""


class ChosenTiles(Dataset[dict[str, Any]]):
    """Some tiles of a split, under numbers of their own.

    Args:
        tiles: All of the split.
        chosen: Which of them, by index.
    """

    def __init__(self, tiles: TileDataset, chosen: Sequence[int]) -> None:
        self._tiles, self._chosen = tiles, list(chosen)

    def __len__(self) -> int:
        """Count the chosen tiles."""
        return len(self._chosen)

    def __getitem__(self, key: TileKey) -> dict[str, Any]:
        """Read one tile.

        Raises:
            DataError: A file is damaged, or has labels that the recipe does not list.
        """
        return self._tiles[self._key(key)]

    def __getitems__(self, keys: Sequence[TileKey]) -> list[dict[str, Any]] | DataError:
        """Read a batch; what is wrong with the data comes back as a value."""
        return self._tiles.__getitems__([self._key(key) for key in keys])

    def described(self, keys: Sequence[TileKey]) -> list[dict[str, Any]]:
        """Tiles without their images."""
        return self._tiles.described([self._key(key) for key in keys])

    def facts(self) -> Iterator[object]:
        """All that the pixels of the tiles follow from."""
        return self._tiles.facts(self._chosen)

    def _key(self, key: TileKey) -> TileKey:
        if isinstance(key, tuple):
            return key[0], self._chosen[key[1]]
        return self._chosen[key]


def keep_labels(data: TileDataModule, share: float, *, seed: int, progress: Progress) -> None:
    """Train on a share of the labels alone; validation, test and statistics stay as they are.

    Where images are cut into a grid of tiles with masks, each image gives its share of them.
    Random crops could see all of an image, and whole images have one label: there, images are
    drawn, of each scene or class its share, at least one sample per class.

    Args:
        data: Its training tiles become fewer.
        share: Of the training labels; 1 keeps all.
        seed: Fixes which ones stay.
        progress: Told how many stay.
    """
    if share == 1:
        return
    recipe, samples = data.recipe, data.source.samples["train"]
    owners = data.dataset("train").sample_numbers
    if recipe.has_masks and recipe.tile.train == "grid" and len(owners) > len(samples):
        chosen = draw_share(owners, share, seed)
        kept = {owners[index] for index in chosen}
        words = (
            f"{len(chosen)} of {len(owners)} training tiles, from {len(kept)} of "
            f"{len(samples)} images"
        )
    else:
        kept = set(_draw_images(samples, recipe, share, seed))
        chosen = [index for index, owner in enumerate(owners) if owner in kept]
        words = f"{len(kept)} of {len(samples)} training images"
    progress.say(f"label fraction {share:g}: {words}")
    data.keep_training_tiles(chosen, sorted(kept))


def _draw_images(samples: Sequence[Sample], recipe: Recipe, share: float, seed: int) -> list[int]:
    if recipe.has_masks:
        return draw_share([sample.scene for sample in samples], share, seed)
    labels = [sample.label for sample in samples]
    held = [set(label) if isinstance(label, tuple) else {label} for label in labels]
    strata = [0] * len(labels) if recipe.task == "multilabel" else labels
    return with_every_class(draw_share(strata, share, seed), held, seed)


def draw_share(strata: Sequence[Hashable], share: float, seed: int) -> list[int]:
    """Draw positions, of every stratum as nearly the same share as whole numbers allow.

    Args:
        strata: What each position belongs to.
        share: Between 0 and 1.
        seed: Fixes the draw.

    Returns:
        Sorted; a share of all of them, two at least if there are as many.
    """
    count = min(len(strata), max(round(share * len(strata)), _LEAST))
    members: dict[Hashable, list[int]] = defaultdict(list)
    for position, stratum in enumerate(strata):
        members[stratum].append(position)
    rng = random.Random(seed)
    groups = list(members.values())
    rng.shuffle(groups)  # so that equal claims to what is left over are settled by chance
    due = [count * len(group) / len(strata) for group in groups]
    by_claim = sorted(range(len(groups)), key=lambda i: int(due[i]) - due[i])
    more = set(by_claim[: count - sum(map(int, due))])
    sizes = [int(amount) + (i in more) for i, amount in enumerate(due)]
    drawn = (rng.sample(group, size) for group, size in zip(groups, sizes, strict=True))
    return sorted(position for group in drawn for position in group)


def with_every_class(
    chosen: Sequence[int], held: Sequence[Collection[Hashable]], seed: int
) -> list[int]:
    """The chosen positions, and one more for each class that none of them holds.

    Args:
        chosen: Positions in `held`.
        held: Classes of every position.
        seed: Fixes which ones are added.
    """
    found, rest = set(chosen), [i for i in range(len(held)) if i not in set(chosen)]
    known = {one for position in found for one in held[position]}
    random.Random(seed).shuffle(rest)
    for position in rest:
        if set(held[position]) - known:
            found.add(position)
            known |= set(held[position])
    return sorted(found)
