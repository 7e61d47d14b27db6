"""Which samples are for training, validation and test: as the dataset says, or as names allow."""

from __future__ import annotations

import csv
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from eosfm_cli.data.splits import SPLIT_NAMES, Key, SplitName, draw, few
from eosfm_cli.data.survey.neighbours import Bounds, touching_groups
from eosfm_cli.data.survey.words import split_of, split_pattern
from eosfm_cli.data.templates import read_fields
from eosfm_cli.recipe import fill_template

SHARE = 0.15
"""Of scenes or samples, each for validation and test."""
_MOST_LIST_BYTES = 50_000_000

Division = dict[SplitName, list[Key]]


@dataclass(frozen=True)
class SplitGuess:
    """How samples are divided."""

    spec: dict[str, Any]
    """`dataset.split` of the recipe."""
    found: str = ""
    """Set where the dataset says so itself."""
    guessed: str = ""
    checks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ground:
    """All that may tell how to divide."""

    root: Path
    keys: tuple[Key, ...]
    """The samples that can be used."""
    rows: tuple[Key, ...]
    """All that the paths describe, also what cannot be used."""
    folder_field: bool
    """Whether `{split}` stands in the paths."""
    scene_fields: tuple[str, ...]
    """Fields of folders above the samples, outermost first."""
    texts: tuple[str, ...]
    names: Mapping[str, Key]
    """Ids and file names -> sample, where that is clear."""
    file_names: tuple[str, ...] = ()
    """How files are called, with the paths' fields."""
    bounds: Mapping[Key, Bounds] = field(default_factory=dict)
    """Where samples lie, with the name of the system."""

    @property
    def others(self) -> bool:
        """Whether the paths describe files that cannot be used: then samples are listed."""
        return len(self.rows) > len(self.keys)


def guess_split(ground: Ground) -> SplitGuess:
    """Divide by folders, by lists, by scenes that names tell, by neighbourhood, or at random."""
    guess = _by_folder(ground) or _by_lists(ground) or _by_scenes(ground) or _by_place(ground)
    guess = guess or _at_random(ground)
    guessed = guess.guessed
    if ground.others and "val" in guess.spec:
        why = "samples are listed by name, as the paths also describe files that are not used"
        guessed = f"{guessed}; {why}" if guessed else why
    return replace(guess, guessed=guessed, checks=(*guess.checks, *_useless_lists(ground)))


# --------------------------------------------------------------------------- folders


def _by_folder(ground: Ground) -> SplitGuess | None:
    if not ground.folder_field:
        return None
    words: dict[str, str] = {}
    for key in ground.keys:
        words.setdefault(split_of(key.split) or "train", key.split)
    if len(words) == 3:
        found = f"split by the folders {', '.join(words[name] for name in SPLIT_NAMES)}"
        if not ground.others:
            named = {n: words[n] for n in SPLIT_NAMES if words[n] != n}
            return SplitGuess({"by": "folder", **named}, found)
        return SplitGuess(_listed(_by_word(ground.keys), ground), found)
    division = _by_word(ground.keys)
    if len(words) < 2 or len(division["train"]) < 2:
        return None
    held = next(word for name, word in words.items() if name != "train")
    division["test"] = division["test"] or division["val"]
    train, val = _share(division["train"], ground)
    return SplitGuess(
        _listed({"train": train, "val": val, "test": division["test"]}, ground),
        f"split by the folders {words['train']} and {held}",
        f"{held} is the test split; {len(val)} of {len(train) + len(val)} samples of "
        f"{words['train']} are for validation",
    )


def _by_word(keys: Iterable[Key]) -> Division:
    division: Division = {name: [] for name in SPLIT_NAMES}
    for key in keys:
        division[split_of(key.split) or "train"].append(key)
    return division


def _share(keys: Sequence[Key], ground: Ground) -> tuple[list[Key], list[Key]]:
    """Training and validation samples of those to train on: whole scenes, where names tell."""
    scene = _scene_of(keys, ground)
    scenes = sorted(set(scene.values()))
    count = min(max(round(SHARE * len(scenes)), 1), len(scenes) - 1)
    chosen = set(random.Random(0).sample(scenes, count))
    return [k for k in keys if scene[k] not in chosen], [k for k in keys if scene[k] in chosen]


def _scene_of(keys: Sequence[Key], ground: Ground) -> dict[Key, str]:
    found = find_scenes(keys, ground.scene_fields)
    return found.scene_of if found else {key: f"{key.split}/{key.id}" for key in keys}


# --------------------------------------------------------------------------- lists


@dataclass(frozen=True)
class _Lists:
    """Text files, or one table, that name samples."""

    files: dict[str, str]
    """Split -> file; of a table the same for all."""
    division: dict[str, list[Key]]
    absent: int
    """How many entries name no sample."""
    direct: bool = False
    """Whether the loader can read the files themselves."""
    entry: str | None = None
    """How the files write a sample, if not by its id or file name."""


def _by_lists(ground: Ground) -> SplitGuess | None:
    families = [lists for lists in _families(ground) if _usable(lists)]
    if not families:
        return None
    best = max(families, key=lambda f: (len(f.division), sum(map(len, f.division.values()))))
    checks = [
        f"other lists are there: {few([', '.join(f.files.values())])}"
        for f in families
        if f is not best
    ]
    if best.absent:
        checks.append(f"the lists name {best.absent} samples that are not here or not complete")
    listed = sum(map(len, best.division.values()))
    if listed < len(ground.keys):
        checks.append(f"{len(ground.keys) - listed} samples are in no list and stay unused")
    checks += _torn_scenes(best.division, ground)
    files = ", ".join(dict.fromkeys(best.files.values()))
    spec, guessed = _list_spec(best, ground)
    return SplitGuess(spec, f"split by the lists {files}", guessed, tuple(checks))


def _usable(lists: _Lists) -> bool:
    """Whether there is something to train on and something else to test on, and no overlap."""
    keys = [key for part in lists.division.values() for key in part]
    filled = {name for name, part in lists.division.items() if part}
    enough = len(lists.division.get("train", ())) + len(filled) > 3
    return "train" in filled and len(filled) > 1 and enough and len(set(keys)) == len(keys)


def _useless_lists(ground: Ground) -> Iterator[str]:
    """Sentences on lists that look like splits and cannot serve as such."""
    for lists in _families(ground):
        keys = [key for part in lists.division.values() for key in part]
        files = ", ".join(dict.fromkeys(lists.files.values()))
        if not keys:
            yield f"{files} name no sample here and are not used"
        elif len(set(keys)) < len(keys):
            yield f"{files} name {len(keys) - len(set(keys))} samples twice and are not used"


def _list_spec(lists: _Lists, ground: Ground) -> tuple[dict[str, Any], str]:
    filled = {name: part for name, part in lists.division.items() if part}
    skip = {"absent": "skip"} if lists.absent else {}
    if len(filled) == 3:
        if lists.direct:
            entry = {"entry": lists.entry} if lists.entry else {}
            return {"by": "list", **{n: lists.files[n] for n in SPLIT_NAMES}, **entry, **skip}, ""
        return _listed({name: filled[name] for name in SPLIT_NAMES}, ground), ""
    held = next(name for name in filled if name != "train")
    train, val = _share(filled["train"], ground)
    guessed = f"the {held} list is for the test, a share of the training list for validation"
    return _listed({"train": train, "val": val, "test": filled[held]}, ground), guessed


def _families(ground: Ground) -> Iterator[_Lists]:
    """Files whose names differ by the word for a split only, and tables with a column of splits."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in ground.texts:
        for match in re.finditer(r"[A-Za-z]+", PurePosixPath(path).name):
            if name := split_of(match[0]):
                start = len(path) - len(PurePosixPath(path).name)
                shape = path[: start + match.start()] + "*" + path[start + match.end() :]
                found[shape].setdefault(name, path)
                break
        else:
            if path.lower().endswith((".csv", ".tsv")) and (table := _table(path, ground)):
                yield table
    for files in found.values():
        if len(files) > 1:
            yield _lists(files, ground)


def _lists(files: dict[str, str], ground: Ground) -> _Lists:
    division: dict[str, list[Key]] = {}
    known: list[str] = []
    absent, direct = 0, not ground.others
    for name, path in files.items():
        entries, plain = _entries(ground.root / path, ground)
        samples = {entry: key for entry in entries if (key := _sample(entry, ground))}
        division[name] = list(dict.fromkeys(samples.values()))
        known += samples
        absent += sum(1 for entry in entries if entry not in samples)
        direct &= plain
    entry = _entry(known, ground) if direct else None
    return _Lists(files, division, absent, direct and entry is not None, entry or None)


def _entry(entries: Sequence[str], ground: Ground) -> str | None:
    """How lists write samples: empty if the loader understands it as it is, `None` if it cannot."""
    ids = {key.id for key in ground.keys}
    if all(_any_form(entry, ids.__contains__) for entry in entries):
        return ""
    names = [
        *ground.file_names,
        *(str(PurePosixPath(n).with_suffix("")) for n in ground.file_names),
    ]
    return next(
        (
            name
            for name in names
            if all(_any_form(entry, lambda t, n=name: read_fields(n, t)) for entry in entries)
        ),
        None,
    )


def _any_form(entry: str, test: Callable[[str], object]) -> bool:
    """Whether an entry, its file name or the name without ending passes a test."""
    path = PurePosixPath(entry)
    return any(test(text) for text in (entry, path.name, path.stem))


def _rows(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MOST_LIST_BYTES:
            return []
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [s for line in lines if (s := line.strip()) and not s.startswith("#")]


def _entries(path: Path, ground: Ground) -> tuple[list[str], bool]:
    """What a list names, and whether its lines are just that."""
    lines = _rows(path)
    if 2 * sum(1 for line in lines if _sample(line, ground)) >= len(lines):
        return lines, True
    return _best_column([re.split(r"[,;\t ]+", line) for line in lines], ground), False


def _best_column(rows: Sequence[Sequence[str]], ground: Ground) -> list[str]:
    """The column that names most samples, without a heading."""
    columns = zip(*(row for row in rows if len(row) == len(rows[0])), strict=True) if rows else ()
    counted = [(sum(1 for cell in c if _sample(cell, ground)), list(c)) for c in columns]
    count, best = max(counted, key=lambda each: each[0], default=(0, []))
    if 2 * count < len(best):
        return []
    return best if _sample(best[0], ground) else best[1:]


def _sample(entry: str, ground: Ground) -> Key | None:
    path = PurePosixPath(entry.strip("\"' "))
    texts = (str(path), path.name, path.stem)
    return next((ground.names[text] for text in texts if text in ground.names), None)


def _table(path: str, ground: Ground) -> _Lists | None:
    """A table with one column that names samples and one that names their splits."""
    lines = _rows(ground.root / path)
    rows = list(csv.reader(lines, delimiter="\t" if path.lower().endswith(".tsv") else ","))
    rows = [[cell.strip() for cell in row] for row in rows if len(row) == len(rows[0])]
    columns = list(zip(*rows, strict=True)) if rows else []
    by_split = [c for c in columns if sum(1 for cell in c if split_of(cell)) >= len(c) - 1 > 1]
    by_name = max(columns, key=lambda c: sum(1 for cell in c if _sample(cell, ground)), default=())
    division: dict[str, list[Key]] = defaultdict(list)
    absent = 0
    for entry, word in zip(by_name, by_split[0], strict=True) if by_split else ():
        name, key = split_of(word), _sample(entry, ground)
        if name and key:
            division[name].append(key)
        absent += name is not None and key is None
    files = dict.fromkeys(SPLIT_NAMES, path)
    return _Lists(files, dict(division), absent) if division else None


def _torn_scenes(division: Mapping[str, Sequence[Key]], ground: Ground) -> Iterator[str]:
    """A sentence, where lists put parts of one scene on both sides."""
    keys = [key for part in division.values() for key in part]
    found = find_scenes(keys, ground.scene_fields)
    if found is None:
        return
    sides: dict[str, set[str]] = defaultdict(set)
    for name, part in division.items():
        for key in part:
            sides[found.scene_of[key]].add(name)
    torn = sorted(scene for scene, names in sides.items() if len(names) > 1)
    if torn:
        yield (
            f"the lists put parts of {len(torn)} of {len(sides)} scenes ({few(torn, 3)}) into "
            "several splits: neighbours are alike, so scores may flatter"
        )


def _listed(division: Mapping[str, Sequence[Key]], ground: Ground) -> dict[str, Any]:
    """A split that names every sample; with its folder where the id alone is not clear."""
    keys = [key for name in SPLIT_NAMES for key in division[name]]
    entry = None
    if len({key.id for key in ground.rows}) < len(ground.rows):
        fields = [f for f in ("split", "class") if keys[0].fields.get(f)]
        names = [name for name, _ in keys[0].others] or ["id"]
        entry = "/".join(f"{{{name}}}" for name in (*fields, *names))
    lists = {
        name: [fill_template(entry, key.fields) if entry else key.id for key in sorted(part)]
        for name, part in division.items()
    }
    return {"by": "list", **lists, **({"entry": entry} if entry else {})}


# --------------------------------------------------------------------------- scenes


@dataclass(frozen=True)
class Scenes:
    """Scenes that the names tell."""

    pattern: str
    """Its first group, found in an id, is the scene."""
    scene_of: dict[Key, str]

    @property
    def names(self) -> list[str]:
        """All of them, sorted."""
        return sorted(set(self.scene_of.values()))


_POSITION = r"[xyrcptuvXYRCPTUV]?-?\d+"
_TAIL = re.compile(rf"(?:[_\-. ]+{_POSITION})+$")


def find_scenes(keys: Sequence[Key], folders: Sequence[str]) -> Scenes | None:
    """Scenes by their folders, or by what ids begin with before numbers; at least three of them."""
    for pattern in (*_folder_patterns(keys, folders), *_name_patterns([key.id for key in keys])):
        compiled = re.compile(pattern)
        matches = {key: compiled.search(key.id) for key in keys}
        if not all(matches.values()):
            continue
        scene_of = {key: match[1] for key, match in matches.items() if match}
        if 3 <= len(set(scene_of.values())) <= len(keys) // 2:
            return Scenes(pattern, scene_of)
    return None


def _folder_patterns(keys: Sequence[Key], folders: Sequence[str]) -> Iterator[str]:
    """A pattern for the outermost folder that samples are divided by."""
    for field_name in folders[:1]:
        values = {dict(key.others).get(field_name, "") for key in keys}
        if all(values) and len(values) >= 3:
            dashes = {value.count("_") for value in values}
            if len(dashes) == 1:
                yield rf"^((?:[^_]+_){{{dashes.pop()}}}[^_]+)_"
            yield "^(" + "|".join(map(re.escape, sorted(values, key=lambda v: -len(v)))) + ")_"


def _name_patterns(ids: Sequence[str]) -> Iterator[str]:
    """Patterns that cut more and more numbers off the end, coarse scenes first."""
    tails = [_TAIL.search(text) for text in ids]
    longest = min((len(re.findall(r"[_\-. ]+", m[0])) if m else 0 for m in tails), default=0)
    yield from (rf"^(.+?){_one_tail(ids, n)}$" for n in range(longest, 0, -1))
    yield r"^(.*?[A-Za-z])\d+$"


def _one_tail(ids: Sequence[str], parts: int) -> str:
    """The end of ids, so many numbers with their separators; plain where all are plain."""
    plain = r"_\d+" * parts
    if all(re.search(plain + "$", text) for text in ids):
        return plain
    return rf"(?:[_\-. ]+{_POSITION}){{{parts}}}"


def _by_scenes(ground: Ground) -> SplitGuess | None:
    found = find_scenes(ground.keys, ground.scene_fields)
    if found is None:
        return None
    said = _splits_in_names(found.names)
    spec = {"by": "scene", "pattern": found.pattern, **(said or {"val": SHARE, "test": SHARE})}
    shares = (tuple(said["val"]), tuple(said["test"])) if said else (SHARE, SHARE)
    val, test = draw(found.names, *shares, 0)  # as the loader will
    sides: dict[str, SplitName] = {**dict.fromkeys(val, "val"), **dict.fromkeys(test, "test")}
    division: Division = {name: [] for name in SPLIT_NAMES}
    for key, scene in found.scene_of.items():
        division[sides.get(scene, "train")].append(key)
    scenes = found.names
    guessed = f"split by {len(scenes)} scenes that the names tell: {few(scenes, 3)}"
    if said:
        guessed = f"split by the names: {few(scenes, 3)}"
    checks = _touching_apart(division, ground)
    return SplitGuess(
        _listed(division, ground) if ground.others else spec, "", guessed, tuple(checks)
    )


def _splits_in_names(scenes: Sequence[str]) -> dict[str, list[str]] | None:
    """Scenes for validation and test, where every scene's name says what it is for."""
    words = {scene: found[1] for scene in scenes if (found := split_pattern(scene))}
    parts = {n: [s for s, word in words.items() if split_of(word) == n] for n in SPLIT_NAMES}
    if len(words) < len(scenes) or not all(parts.values()):
        return None
    return {"val": parts["val"], "test": parts["test"]}


def _touching_apart(division: Mapping[SplitName, Sequence[Key]], ground: Ground) -> Iterator[str]:
    side = {key: name for name, part in division.items() for key in part}
    torn = [
        group
        for group in touching_groups(ground.bounds)
        if len({side[key] for key in group if key in side}) > 1
    ]
    if torn:
        yield (
            f"{sum(map(len, torn))} samples touch each other on the ground across splits, "
            f"{few(sorted(key.id for key in torn[0]), 3)} for instance: scores may flatter"
        )


# --------------------------------------------------------------------------- neighbours, chance


def _by_place(ground: Ground) -> SplitGuess | None:
    """Groups of tiles that touch each other stay whole; they have to be listed."""
    groups = touching_groups(ground.bounds)
    together = [group for group in groups if len(group) > 1]
    if len(ground.bounds) < len(ground.keys) or not together or len(groups) < 3:
        return None
    division = _dealt(groups)
    if not all(division.values()):
        return None
    guessed = (
        f"names do not tell scenes, places do: {len(ground.keys)} samples are {len(groups)} groups "
        "that touch on the ground; each group is in one split"
    )
    return SplitGuess(_listed(division, ground), "", guessed)


def _dealt(groups: Sequence[Sequence[Key]]) -> Division:
    """Groups dealt to splits in a seeded order until validation and test have their share."""
    shuffled = sorted(map(sorted, groups))
    random.Random(0).shuffle(shuffled)
    wanted = max(round(SHARE * sum(map(len, groups))), 1)
    division: Division = {name: [] for name in SPLIT_NAMES}
    shuffled.sort(key=len)  # stable: small groups first, so that shares are met closely
    biggest = shuffled.pop()
    for group in shuffled:
        name = next((n for n in ("val", "test") if len(division[n]) < wanted), "train")
        division[name] += group
    division["train"] += biggest
    return division


def _at_random(ground: Ground) -> SplitGuess:
    spec: dict[str, Any] = {"by": "fraction", "val": SHARE, "test": SHARE}
    if ground.others:
        spec = _listed(_drawn(ground.keys), ground)
    touching = sum(len(g) for g in touching_groups(ground.bounds) if len(g) > 1)
    neighbours = (
        f"{touching} of {len(ground.keys)} samples touch others on the ground"
        if touching
        else "if samples are neighbours, they stand on both sides"
    )
    return SplitGuess(
        spec,
        "",
        "split at random: names tell no scenes",
        (f"the split is random: {neighbours}, and scores flatter",),
    )


def _drawn(keys: Sequence[Key]) -> Division:
    shuffled = sorted(keys)
    random.Random(0).shuffle(shuffled)
    count = max(round(SHARE * len(shuffled)), 1)
    parts = {"val": shuffled[:count], "test": shuffled[count : 2 * count]}
    return {"train": shuffled[2 * count :], **parts}
