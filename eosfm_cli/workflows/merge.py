"""Make one ensemble of several, such as those of several institutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from eosfm_cli.ensemble.bundle import read_ensemble, write_ensemble, writer_for
from eosfm_cli.ensemble.gathering import described, from_file, gather
from eosfm_cli.ensemble.hub import Located, locate
from eosfm_cli.errors import UsageError
from eosfm_cli.licences import strictest
from eosfm_cli.progress import Progress
from eosfm_cli.results import MergeResult
from eosfm_cli.workflows.card import check_card, write_ensemble_card


def merge(
    ensembles: Sequence[str],
    *,
    root: Path,
    output: Path | None = None,
    overwrite: bool = False,
    card: Path | None = None,
    progress: Progress,
) -> MergeResult:
    """Write the specialists of several ensembles into one file, in the order given.

    Args:
        ensembles: Files in either format, or addresses on the hub.
        root: The experiments folder.
        output: The file; `root/merged.safetensors` if not given. Its suffix says the format.
        overwrite: Whether the file may be there already.
        card: Where to write a model card.
        progress: Told of everything taken once or renamed.

    Raises:
        UsageError: Fewer than two are named, or the output is one of them or already there.
        BundleError: One of them cannot be used; nothing is written.
        OutputError: A place cannot be written.
    """
    path = output or root / "merged.safetensors"
    writer_for(path)
    check_card(card)
    _refuse_too_few(ensembles)
    located = [locate(text, progress) for text in ensembles]
    refuse_to_replace(path, [one.path for one in located], overwrite=overwrite)
    parts = [
        from_file(read_ensemble(one.path, progress), origin)
        for one, origin in zip(located, _origins(located), strict=True)
    ]
    gathered = gather(chain(*parts), progress)
    for specialist in gathered.specialists:
        progress.say(f"Took {described(specialist.info)}")
    write_ensemble(path, gathered.specialists, named=True)
    infos = tuple(specialist.info for specialist in gathered.specialists)
    write_ensemble_card(card, infos, path, root=root)
    return MergeResult(
        path=path,
        specialists=tuple(info.name for info in infos),
        sources={info.name: info.source or "" for info in infos},
        repeated=gathered.repeated,
        renamed=gathered.renamed,
        parameters=sum(info.parameters for info in infos),
        licence=strictest(info.licence for info in infos),
        unlicensed=tuple(info.name for info in infos if not info.licence),
        card=card,
    )


def _refuse_too_few(ensembles: Sequence[str]) -> None:
    if len(ensembles) < 2:
        raise UsageError(
            "Merging takes two ensembles or more.",
            hint="To write one in another format: eosfm export FILE --output OTHER.pth",
        )


def refuse_to_replace(path: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Check that what is about to be written is none of what is read.

    Raises:
        UsageError: It is, or it is there already and must not be overwritten.
    """
    if not path.exists():
        return
    if any(one.exists() and path.samefile(one) for one in inputs):
        raise UsageError(f"{path} is one of the inputs.", hint="Choose another --output.")
    if not overwrite:
        raise UsageError(
            f"{path} is already there.", hint="Replace it with --overwrite, or name --output."
        )


def _origins(located: Sequence[Located]) -> list[str]:
    """Where each came from: the file's name, with its folder where two files have one name."""
    different = {(one.path.absolute(), one.origin) for one in located}
    names = Counter(origin for _, origin in different)
    return [
        f"{one.path.absolute().parent.name}/{one.origin}"
        if names[one.origin] > 1 and one.origin == one.path.name
        else one.origin
        for one in located
    ]
