"""Ensembles on the Hugging Face hub, named as `hf://OWNER/REPO/FILE@REVISION`.

The network is asked only where somebody names such an address, and a file that was fetched before
is used without it. Where to ask (HF_ENDPOINT), who asks (HF_TOKEN), and where files are kept
(HF_HOME) is set as for every other program that uses the hub.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import eosfm_cli
from eosfm_cli.errors import DataError, OutputError, UsageError
from eosfm_cli.progress import Progress, Silent

OFFLINE_VARIABLE = "EOSFM_OFFLINE"
_LIBRARY = "eosfm"
_PATIENCE_S = 10
_SCHEME = re.compile(r"hf:/{1,2}")
"""With one slash too: that is what becomes of an address that was taken for a path."""
_HOW = "Write it as hf://OWNER/REPO/FILE, or hf://OWNER/REPO/FILE@REVISION for a certain version."
_PART = r"[\w.-]+"
_ADDRESS = re.compile(rf"({_PART}/{_PART})/([^@]+?)(?:@([^@\s]+))?")


@dataclass(frozen=True)
class Located:
    """A file at hand, and how others would name it."""

    path: Path
    origin: str
    """The address on the hub with the version that was fetched, or the file's bare name."""


def is_address(text: str | Path) -> bool:
    """Whether something names a file on the hub rather than on this machine."""
    return _SCHEME.match(str(text)) is not None


def locate(text: str | Path, progress: Progress | None = None) -> Located:
    """Find a file by path or address; one on the hub is fetched unless it was before.

    Args:
        text: A path, or `hf://OWNER/REPO/FILE`, with `@REVISION` for a branch, tag or commit.
        progress: Told which version of a file on the hub is taken.

    Raises:
        UsageError: The address is incomplete.
        DataError: There is no such file on the hub, or it cannot be had.
    """
    if not is_address(text):
        return Located(Path(text), Path(text).name)
    address = _Address.parse(str(text))
    progress = progress or Silent()
    path = _fetch(address, progress)
    commit = path.parts[-1 - len(Path(address.file).parts)]
    found = Located(path, f"hf://{address.repository}/{address.file}@{commit}")
    progress.say(f"from the hub: {found.origin}")
    return found


@dataclass(frozen=True)
class _Address:
    repository: str
    file: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> _Address:
        """Take an address apart.

        Raises:
            UsageError: A part is missing.
        """
        found = _ADDRESS.fullmatch(_SCHEME.sub("", text))
        if found is None or {".", ".."} & set(re.split(r"[/@]", text)):
            raise UsageError(f"{text} is no complete address on the hub.", hint=_HOW)
        return cls(*found.groups())

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repository}/{self.file}{revision}"


def _is_offline() -> bool:
    """Whether the user wants no network, by our switch or the hub library's own."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return HF_HUB_OFFLINE or os.environ.get(OFFLINE_VARIABLE, "0") not in {"", "0"}


def _fetch(address: _Address, progress: Progress) -> Path:
    """The file in the hub's cache, put there now if need be."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    # The hub is to hear which file is wanted, and nothing about this machine.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        problem = None if _is_offline() else _ask(address)
        if _is_offline() or problem is not None:
            return _earlier_copy(address, problem, progress)
        return _download(address)
    except HFValidationError as error:
        reason = _said(error)
        raise UsageError(f"{address} is no address on the hub: {reason}.", hint=_HOW) from None


def _ask(address: _Address) -> Exception | None:
    """Why the hub does not give a file, if it does not.

    Asked once and not, as the download would, again and again for minutes: clusters often have no
    network.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        url = hf_hub_url(address.repository, address.file, revision=address.revision)
        get_hf_file_metadata(
            url, library_name=_LIBRARY, library_version=eosfm_cli.__version__, timeout=_PATIENCE_S
        )
    except HFValidationError:
        raise
    except Exception as error:  # of whichever library talks to the hub in its present version
        return error
    return None


def _download(address: _Address) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(
            address.repository,
            address.file,
            revision=address.revision,
            library_name=_LIBRARY,
            library_version=eosfm_cli.__version__,
        )
    except Exception as error:  # as in `_ask`
        if isinstance(error, OSError) and error.errno is not None:
            raise _not_kept(address, error) from None
        raise _refused(address, error) from None
    return Path(found)


def _earlier_copy(address: _Address, problem: Exception | None, progress: Progress) -> Path:
    """What was fetched before, without asking anybody."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(address.repository, address.file, revision=address.revision)
    if not isinstance(found, str):
        raise _offline(address) if problem is None else _refused(address, problem)
    if problem is not None:
        progress.say(f"{_refused(address, problem).message} Taking the copy fetched before.")
    return Path(found)


def _offline(address: _Address) -> DataError:
    return DataError(
        f"{address} was not fetched before, and {OFFLINE_VARIABLE} or HF_HUB_OFFLINE says to stay "
        "offline.",
        hint="Fetch it once with a connection, or name a file on this machine.",
    )


def _refused(address: _Address, error: Exception) -> DataError:
    """What the hub's refusal means, or its silence."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, token = f"The repository {address.repository}", "set HF_TOKEN to a token that may"
    match error:
        case GatedRepoError():
            said = f"{repository} is only for those who were granted access to it."
            hint = f"Ask for access on its page, and {token} read it."
        case DisabledRepoError():
            said, hint = f"{repository} was disabled on the hub.", None
        case RevisionNotFoundError():
            said = f"{repository} has no version {address.revision or 'main'!r}."
            hint = "A version is a branch, a tag or a commit; leave it out to take the newest."
        case EntryNotFoundError():
            said = f"{repository} has no file {address.file!r}."
            hint = "Its page on the hub lists those it has."
        case RepositoryNotFoundError():
            said = f"There is no repository {address.repository} on the hub, or it is private."
            hint = f"Check the name; for a private one, {token} read it."
        case HfHubHTTPError() if 400 <= (status := error.response.status_code) < 500:
            said = f"{address} cannot be fetched: the hub refuses it (status {status})."
            hint = f"Should it be for you, {token} read it."
        case _:
            said = f"{address} cannot be fetched from the hub ({_said(error)})."
            hint = (
                "Check the connection (and HF_ENDPOINT, if it is set), or name a file on this "
                "machine. What was fetched once is used without a connection."
            )
    return DataError(said, hint=hint)


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _not_kept(address: _Address, error: OSError) -> OutputError:
    where = f" ({error.filename})" if error.filename else ""
    return OutputError(
        f"{address} cannot be kept on this machine: {error.strerror}{where}.",
        hint="HF_HOME says where files from the hub are kept; check free space and permissions.",
    )
