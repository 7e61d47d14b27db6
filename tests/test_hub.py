"""Ensembles on the hub: fetched once, by the address that the user names, or refused in words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from checkpoints import tiny_specialist

from eosfm_cli.ensemble.bundle import write_ensemble
from eosfm_cli.ensemble.hub import is_address, locate
from eosfm_cli.errors import UsageError
from tests.hub import COMMIT, TOKEN, Hub, serving
from tests.test_startup import HEAVY, environment

# Where the hub is, is read when its library is imported: every case needs a process of its own.
RUN_EACH = """
import contextlib, io, json, sys
from eosfm_cli.commands.app import main
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    modules = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps([code, out.getvalue(), err.getvalue(), modules]))
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str
    modules: list[str]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    files = {}
    for name in ("ours.safetensors", "ours.pth"):
        write_ensemble(folder / name, [tiny_specialist("rgb"), tiny_specialist("two", 2)])
        files[f"lab/open/{name}"] = (folder / name).read_bytes()
    files["lab/open/deep/in/it.safetensors"] = files["lab/open/ours.safetensors"]
    files["lab/private/ours.safetensors"] = files["lab/open/ours.safetensors"]
    files["lab/open/page.safetensors"] = b"<html>no weights here</html>"
    with serving(files) as running:
        yield running


def run(home: Path, endpoint: str, *commands: list[str], **extra: str) -> list[Done]:
    known = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_TOKEN": "", **extra}
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH],
        cwd=home,
        env=environment(**known),
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]


def test_a_file_is_fetched_once_and_then_used_without_a_network(hub: Hub, tmp_path: Path) -> None:
    look = ["inspect", "hf://lab/open/ours.safetensors", "--json"]
    deep = ["inspect", "hf://lab/open/deep/in/it.safetensors@v1"]
    first, nested = run(tmp_path, hub.endpoint, look, deep)
    assert (first.code, nested.code) == (0, 0)
    found = json.loads(first.out)
    assert [one["name"] for one in found["specialists"]] == ["rgb", "two"]
    assert f"from the hub: hf://lab/open/ours.safetensors@{COMMIT}" in first.err
    assert f"from the hub: hf://lab/open/deep/in/it.safetensors@{COMMIT}" in nested.err
    assert found["address"] == f"hf://lab/open/ours.safetensors@{COMMIT}"
    assert f"--ensemble {found['address']}" in first.err
    assert not HEAVY & set(first.modules)
    asked = len(hub.asked)
    assert {path.split("/resolve/")[0] for path in hub.asked} == {"/lab/open"}
    (offline,) = run(tmp_path, hub.endpoint, look, EOSFM_OFFLINE="1")
    (switched_off,) = run(tmp_path, hub.endpoint, look, HF_HUB_OFFLINE="1")
    assert offline.out == switched_off.out == first.out
    assert len(hub.asked) == asked
    (gone,) = run(tmp_path, "http://127.0.0.1:9", look)
    assert gone.out == first.out
    assert "Taking the copy fetched before." in gone.err


def test_what_the_hub_refuses_is_said_in_words(hub: Hub, tmp_path: Path) -> None:
    cases = {
        "hf://lab/nothing/a.safetensors": "There is no repository lab/nothing on the hub",
        "hf://lab/private/ours.safetensors": "or it is private",
        "hf://lab/gated/a.safetensors": "only for those who were granted access",
        "hf://lab/open/none.safetensors": "has no file 'none.safetensors'",
        "hf://lab/open/ours.safetensors@v9": "has no version 'v9'",
        "hf://lab/broken/a.safetensors": "cannot be fetched from the hub",
        "hf://lab/open/page.safetensors": "is no usable safetensors file",
    }
    for done, words in zip(
        run(tmp_path, hub.endpoint, *(["inspect", address] for address in cases)),
        cases.values(),
        strict=True,
    ):
        assert (done.code, done.out) == (3, "")
        assert words in done.err
        assert "Traceback" not in done.err


def test_a_token_opens_what_is_private(hub: Hub, tmp_path: Path) -> None:
    look = ["inspect", "hf://lab/private/ours.safetensors"]
    (done,) = run(tmp_path, hub.endpoint, look, HF_TOKEN=TOKEN)
    assert done.code == 0


def test_without_a_network_and_without_a_copy(hub: Hub, tmp_path: Path) -> None:
    look = ["inspect", "hf://lab/open/ours.safetensors"]
    (offline,) = run(tmp_path, hub.endpoint, look, EOSFM_OFFLINE="1")
    (gone,) = run(tmp_path, "http://127.0.0.1:9", look)
    assert (offline.code, gone.code) == (3, 3)
    assert "was not fetched before, and EOSFM_OFFLINE" in offline.err
    assert "Connection refused" in gone.err
    assert "HF_ENDPOINT" in gone.err


def test_ensembles_of_the_hub_are_merged_and_converted(hub: Hub, tmp_path: Path) -> None:
    write_ensemble(tmp_path / "theirs.pth", [tiny_specialist("theirs", seed=1)])
    address = "hf://lab/open/ours.pth"
    merged, exported = run(
        tmp_path,
        hub.endpoint,
        ["merge", address, "theirs.pth", "--output", "all.safetensors", "--json"],
        ["export", address, "--output", "ours.safetensors", "--json"],
    )
    origin = f"{address}@{COMMIT}"
    assert json.loads(merged.out)["sources"] == {
        "rgb": origin,
        "two": origin,
        "theirs": "theirs.pth",
    }
    assert json.loads(exported.out)["specialists"] == ["rgb", "two"]


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://a", "hf://a/b", "hf://a/b/", "hf://a/b/c@", "hf://a/../c", "hf://a/b/c@d e"],
)
def test_an_address_with_something_missing_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="address on the hub") as caught:
        locate(address)
    assert "hf://OWNER/REPO/FILE" in caught.value.hint


def test_paths_are_no_addresses(tmp_path: Path) -> None:
    for text in ("hf/a/b/c.pth", "./hf:/x", str(tmp_path / "a.pth"), "C:/a.pth"):
        assert not is_address(text)
        assert locate(text).path == Path(text)
    assert is_address(Path("hf://a/b/c.pth"))
