"""`eosfm data download` against servers on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest
import yaml

from eosfm_cli.commands.app import main
from eosfm_cli.data.download import check_space
from eosfm_cli.data.servers import NoDowngrade
from eosfm_cli.errors import DataError, OutputError
from eosfm_cli.recipe import list_recipes, load_recipe
from eosfm_cli.run_dir import RunDir
from eosfm_cli.workflows.download_data import plan_download
from tests.serving import file_server, ftp_server

IMAGES = {f"images/{kind}_{n}.tif": os.urandom(400_000) for kind in "ab" for n in (1, 2)}


@pytest.fixture
def server():
    with file_server() as served:
        yield served


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], *links: tuple[str, str], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    """Write a recipe that fetches `files`."""

    def write(*files: dict[str, Any], **dataset: Any) -> str:
        image = {"path": "images/{class}_{id}.tif", "bands": ["red", "green", "blue"]}
        content = {
            "title": "Pictures of a and b",
            "task": "classification",
            "dataset": {
                "root": "pictures",
                "images": {"rgb": image},
                "split": {"by": "fraction"},
                "licence": "CC-BY-4.0",
                "homepage": "https://pictures.example",
                "files": list(files),
                **dataset,
            },
            "classes": [{"name": "a"}, {"name": "b"}],
        }
        path = tmp_path / "pictures.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.fixture
def download(tmp_path: Path) -> Callable[..., int]:
    """Run the command into `tmp_path/data`."""

    def run(name: str, *words: str) -> int:
        return main(["data", "download", name, "--data-root", str(tmp_path / "data"), *words])

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "pictures"


def tree(root: Path) -> dict[str, bytes]:
    """All files that users see."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


# ------------------------------------------------------------------------------ all goes well


def test_what_it_is_comes_first_and_what_to_type_next_last(server, recipe, download, root, capsys):
    server.files = {"pictures set.zip": zipped(IMAGES), "train.txt": b"1\n"}
    name = recipe(
        {"url": server.url("pictures%20set.zip?download=1"), "md5": md5(zipped(IMAGES))},
        {"url": server.url("train.txt"), "to": "lists/train.txt"},
        size="2 MB",
    )
    assert download(name) == 0
    streams = capsys.readouterr()
    for fact in ("Pictures of a and b", "CC-BY-4.0", "https://pictures.example", "2 MB", str(root)):
        assert fact in streams.err
    assert f"next: eosfm data check {name}" in streams.err
    assert [line.split()[-1] for line in streams.out.splitlines()[1:]] == ["fetched", "fetched"]
    assert tree(root) == {**IMAGES, "lists/train.txt": b"1\n"}


def test_a_second_time_there_is_nothing_to_do_and_nobody_is_asked(
    server, recipe, download, root, capsys
):
    server.files = {"a.zip": zipped(IMAGES), "train.txt": b"1\n"}
    name = recipe({"url": server.url("a.zip")}, {"url": server.url("train.txt")})
    assert download(name) == 0
    server.asked.clear()
    capsys.readouterr()
    assert download(name, "--json") == 0
    streams = capsys.readouterr()
    assert "Nothing to do" in streams.err
    said = json.loads(streams.out)
    assert [file["state"] for file in said["plan"]["files"]] == ["there", "there"]
    assert server.asked == []


def test_what_is_gone_is_fetched_again(server, recipe, download, root):
    server.files = {"a.zip": zipped(IMAGES), "train.txt": b"1\n"}
    name = recipe({"url": server.url("a.zip")}, {"url": server.url("train.txt")})
    assert download(name) == 0
    (root / "images").rename(root.parent / "elsewhere")
    assert download(name) == 0
    assert tree(root) == {**IMAGES, "train.txt": b"1\n"}
    assert [path for path, _ in server.asked].count("train.txt") == 2  # its size, and itself


def test_a_new_version_of_a_file_is_fetched(server, recipe, download, root):
    server.files = {"list.txt": b"1\n"}
    assert download(recipe({"url": server.url("list.txt"), "md5": md5(b"1\n")})) == 0
    server.files = {"list.txt": b"2\n"}
    name = recipe({"url": server.url("list.txt"), "md5": md5(b"2\n")})
    assert download(name) == 3  # what is there is not removed without a word
    (root / "list.txt").unlink()
    assert download(name) == 0
    assert tree(root) == {"list.txt": b"2\n"}


def test_a_dry_run_asks_no_server(server, recipe, download, root, capsys):
    name = recipe(
        {"url": server.url("a.zip"), "size": 1_600_000, "into": "pictures"},
        {"url": server.url("train.txt")},
    )
    assert download(name, "--dry-run") == 0
    rows = capsys.readouterr().out.splitlines()
    assert "1.60 MB" in rows[1]
    assert rows[1].endswith(str(root / "pictures"))
    assert server.asked == []
    assert not root.exists()


@pytest.mark.parametrize("keep", [False, True])
def test_archives_go_once_they_are_unpacked_unless_kept(server, recipe, download, root, keep):
    server.files = {"a.zip": zipped(IMAGES)}
    name = recipe({"url": server.url("a.zip")})
    assert download(name, *(["--keep-archives"] if keep else [])) == 0
    assert tree(root) == {**IMAGES, **({"a.zip": server.files["a.zip"]} if keep else {})}


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.zip", zipped),
        ("a.tar", lambda files: tarred(files, mode="w")),
        ("a.tar.gz", tarred),
        ("a.tgz", tarred),
        ("a.tar.xz", lambda files: tarred(files, mode="w:xz")),
    ],
)
def test_archives_of_many_kinds_are_unpacked(server, recipe, download, root, name, pack):
    files = {"images/a_1.tif": b"one" * 1000, "images/b_1.tif": b"two" * 1000}
    server.files = {name: pack(files)}
    assert download(recipe({"url": server.url(name), "into": "inside/it"})) == 0
    assert tree(root) == {f"inside/it/{path}": content for path, content in files.items()}


@pytest.mark.parametrize(
    ("names", "pack"),
    [(("a.tar.gzaa", "a.tar.gzab"), tarred), (("a.zip.001", "a.zip.002"), zipped)],
)
def test_parts_of_an_archive_are_unpacked_as_one(server, recipe, download, root, names, pack):
    whole = pack(IMAGES)
    server.files = dict(zip(names, (whole[:700_001], whole[700_001:]), strict=True))
    spec = {
        "url": [server.url(name) for name in names],
        "md5": [md5(server.files[name]) for name in names],
        "size": len(whole),
    }
    assert download(recipe(spec)) == 0
    assert tree(root) == IMAGES
    assert download(recipe(spec), "--json") == 0


def test_a_tar_that_ends_in_a_zip_is_unpacked_as_what_it_is(server, recipe, download, root):
    inner = zipped({"images/b_1.tif": b"b"})
    server.files = {"all.tar": tarred({"images/a_1.tif": b"a", "more.zip": inner}, mode="w")}
    assert download(recipe({"url": server.url("all.tar")})) == 0
    assert tree(root) == {"images/a_1.tif": b"a", "more.zip": inner}


def test_parts_of_another_file_are_joined(server, recipe, download, root):
    server.files = {"table.csv.001": b"one,", "table.csv.002": b"two\n"}
    urls = [server.url(name) for name in server.files]
    assert download(recipe({"url": urls, "to": "tables/table.csv"})) == 0
    assert tree(root) == {"tables/table.csv": b"one,two\n"}


def test_ftp_is_read_and_gone_on_with(recipe, download, root, capsys):
    content = zipped(IMAGES)
    with ftp_server({"a.zip": content}, ("user", "word")) as address:
        name = recipe({"url": f"{address}/a.zip", "md5": md5(content)})
        begun(root / "a.zip", f"{address}/a.zip", content[:500_000])
        assert download(name) == 0
        assert tree(root) == IMAGES
        assert "going on after 500 kB" in capsys.readouterr().err
        assert download(recipe({"url": f"{address}/b.zip"})) == 3
        assert "b.zip is not there" in capsys.readouterr().err


def test_an_address_may_have_blanks_and_letters_beyond_ascii(server, recipe, download, root):
    server.files = {"mes données.zip": zipped(IMAGES)}
    assert download(recipe({"url": server.url("mes données.zip")})) == 0
    assert tree(root) == IMAGES


def test_addresses_that_have_moved_are_followed(server, recipe, download, root):
    server.files = {"new/place": zipped(IMAGES)}
    server.redirect = {"a.zip": "/new/place"}
    assert download(recipe({"url": server.url("a.zip")})) == 0
    assert tree(root) == IMAGES


def test_an_encrypted_address_is_not_followed_to_an_open_one():
    request = Request("https://example.org/a.zip")
    with pytest.raises(DataError, match="not encrypted"):
        NoDowngrade().redirect_request(
            request, io.BytesIO(), 302, "", Message(), "http://example.org/a.zip"
        )


def test_a_proxy_is_taken_from_the_environment(server, recipe, download, root, monkeypatch):
    server.files = {"a.zip": zipped(IMAGES)}
    monkeypatch.setenv("http_proxy", server.address)
    assert download(recipe({"url": "http://pictures.example/a.zip"})) == 0
    assert tree(root) == IMAGES


# ------------------------------------------------------------------------------ going on


def begun(path: Path, url: str, content: bytes, validator: str | None = None) -> None:
    """Leave what an earlier run had fetched of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.part").write_bytes(content)
    note = {"url": url, "validator": validator}
    path.with_name(f"{path.name}.part.json").write_text(json.dumps(note))


def test_a_cut_connection_is_gone_on_with_at_once(server, recipe, download, root):
    content = zipped(IMAGES)
    server.files, server.cuts = {"a.zip": content}, [None, 600_000, 300_000]
    assert download(recipe({"url": server.url("a.zip"), "md5": md5(content)})) == 0
    assert tree(root) == IMAGES
    assert server.ranges_asked == ["bytes=600000-", "bytes=900000-"]


def test_without_ranges_a_cut_file_is_fetched_from_its_start(
    server, recipe, download, root, capsys
):
    content = zipped(IMAGES)
    server.files, server.cuts, server.ranges = {"a.zip": content}, [None, 600_000], False
    assert download(recipe({"url": server.url("a.zip"), "md5": md5(content)})) == 0
    assert tree(root) == IMAGES
    assert "from its start again" in capsys.readouterr().err


def test_a_stopped_run_is_gone_on_with(server, recipe, download, root, capsys):
    content = zipped(IMAGES)
    server.files = {"a.zip": content}
    begun(root / "a.zip", server.url("a.zip"), content[:1_000_000], f'"{md5(content)}"')
    assert download(recipe({"url": server.url("a.zip")})) == 0
    assert tree(root) == IMAGES
    assert server.ranges_asked == ["bytes=1000000-"]
    assert "going on after 1 MB" in capsys.readouterr().err


def test_a_run_stopped_after_the_last_byte_needs_no_more(server, recipe, download, root):
    content = zipped(IMAGES)
    server.files = {"a.zip": content}
    begun(root / "a.zip", server.url("a.zip"), content, f'"{md5(content)}"')
    assert download(recipe({"url": server.url("a.zip"), "md5": md5(content)})) == 0
    assert tree(root) == IMAGES
    assert len(server.asked) == 1  # for its size


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_has_changed_is_never_mixed_with_the_old(server, recipe, download, root, tags):
    content = zipped(IMAGES)
    server.files, server.tags = {"a.zip": content}, tags
    begun(root / "a.zip", server.url("a.zip"), b"old" * 1000, '"the old one"' if tags else None)
    assert download(recipe({"url": server.url("a.zip")})) == 0
    assert tree(root) == IMAGES


def test_another_address_makes_what_was_begun_void(server, recipe, download, root):
    content = zipped(IMAGES)
    server.files = {"v2/a.zip": content}
    begun(root / "a.zip", server.url("v1/a.zip"), content[:1000], f'"{md5(content)}"')
    assert download(recipe({"url": server.url("v2/a.zip"), "md5": md5(content)})) == 0
    assert server.ranges_asked == []


def test_a_busy_server_is_asked_again(server, recipe, download, root):
    server.files, server.answers = {"a.zip": zipped(IMAGES)}, [503]
    assert download(recipe({"url": server.url("a.zip")})) == 0
    assert tree(root) == IMAGES


def press_ctrl_c(path: Path, size: int) -> None:
    """Stop this process once a file has grown to a size."""
    for _ in range(2000):
        if path.is_file() and path.stat().st_size > size:
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.01)


def test_ctrl_c_keeps_what_has_come(server, recipe, download, root, capsys):
    content = zipped({"images/a_1.tif": os.urandom(6_000_000)})
    server.files = {"a.zip": content}
    name = recipe({"url": server.url("a.zip"), "md5": md5(content)})
    server.pause_at = 4_000_000
    partial = root / "a.zip.part"
    stopper = threading.Thread(target=press_ctrl_c, args=(partial, 1_000_000))
    stopper.start()
    assert download(name) == 130
    stopper.join()
    assert "the same command goes on with it" in capsys.readouterr().err
    assert not (root / "a.zip").exists()
    come = partial.stat().st_size
    assert 1_000_000 < come <= 4_000_000
    server.pause_at = None
    assert download(name) == 0
    assert server.ranges_asked == [f"bytes={come}-"]
    assert (root / "images/a_1.tif").stat().st_size == 6_000_000


# ------------------------------------------------------------------------------ what is there stays


def test_data_that_eosfm_did_not_fetch_is_asked_about(server, recipe, download, root, capsys):
    server.files = {"a.zip": zipped(IMAGES)}
    name = recipe({"url": server.url("a.zip")})
    (root / "images").mkdir(parents=True)
    (root / "images/a_1.tif").write_bytes(b"my own")
    assert download(name) == 2
    streams = capsys.readouterr()
    assert "a_1.tif is there already" in streams.err
    assert "--yes" in streams.err
    assert download(name, "--yes") == 0
    streams = capsys.readouterr()
    assert "1 file" in streams.err
    assert "images/a_1.tif" in streams.err
    assert tree(root) == {**IMAGES, "images/a_1.tif": b"my own"}


def test_two_at_once_do_not_disturb_each_other(server, recipe, download, root, capsys):
    server.files = {"a.zip": zipped(IMAGES)}
    root.mkdir(parents=True)
    with RunDir(root).hold():
        assert download(recipe({"url": server.url("a.zip")})) == 2
    assert "another process" in capsys.readouterr().err


def test_an_archive_that_somebody_put_there_is_unpacked_and_stays(server, recipe, download, root):
    content = zipped(IMAGES)
    root.mkdir(parents=True)
    (root / "a.zip").write_bytes(content)
    assert download(recipe({"url": server.url("a.zip"), "md5": md5(content)})) == 0
    assert tree(root) == {**IMAGES, "a.zip": content}
    assert server.asked == []


def test_an_archive_of_another_version_is_left_alone(server, recipe, download, root, capsys):
    root.mkdir(parents=True)
    (root / "a.zip").write_bytes(zipped({"images/a_1.tif": b"old"}))
    name = recipe({"url": server.url("a.zip"), "md5": md5(zipped(IMAGES))})
    assert download(name) == 3
    assert "is not what the recipe means" in capsys.readouterr().err
    assert list(tree(root)) == ["a.zip"]


# ------------------------------------------------------------------------------ what goes wrong


def test_a_wrong_checksum_leaves_nothing_under_the_name(server, recipe, download, root, capsys):
    server.files = {"a.zip": zipped(IMAGES)}
    assert download(recipe({"url": server.url("a.zip"), "sha256": "0" * 64})) == 3
    said = capsys.readouterr().err
    assert "its sha256 is" in said
    assert "a.zip.wrong" in said
    assert list(tree(root)) == ["a.zip.wrong"]


def test_a_file_of_another_size_is_refused_before_it_comes(server, recipe, download, root, capsys):
    server.files = {"a.zip": zipped(IMAGES)}
    assert download(recipe({"url": server.url("a.zip"), "size": 12})) == 3
    assert "the recipe says 12" in capsys.readouterr().err
    assert not root.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [(404, "is not there (404"), (403, "does not give"), (410, "is not there (410")],
)
def test_a_file_that_cannot_be_had_is_told_before_any_other_comes(
    server, recipe, download, root, capsys, code, words
):
    server.files, server.answers = {"a.zip": zipped(IMAGES), "b.zip": b""}, [200, code]
    name = recipe({"url": server.url("a.zip")}, {"url": server.url("b.zip")})
    assert download(name) == 3
    assert words in capsys.readouterr().err
    assert not root.exists()


def test_an_address_that_is_handed_on_in_a_circle(server, recipe, download, capsys):
    server.redirect = {"a.zip": "/a.zip"}
    assert download(recipe({"url": server.url("a.zip")})) == 3
    said = capsys.readouterr().err.splitlines()
    (line,) = (line for line in said if "is not there (302" in line)
    assert line.endswith(").")


def test_without_a_network_it_says_so(recipe, download, root, capsys):
    with file_server() as gone:
        address = gone.url("a.zip")
    assert download(recipe({"url": address})) == 3
    said = capsys.readouterr().err
    assert f"Cannot fetch {address}" in said
    assert "HTTPS_PROXY" in said


def test_a_web_page_instead_of_an_archive_is_told(server, recipe, download, capsys):
    server.files = {"a.zip": b"<!DOCTYPE html><title>Log in</title>"}
    assert download(recipe({"url": server.url("a.zip")})) == 3
    assert "is a web page, not an archive" in capsys.readouterr().err


def test_a_damaged_archive_is_told_and_nothing_of_it_stays(server, recipe, download, root, capsys):
    server.files = {"a.tar.gz": tarred(IMAGES)[:-100_000]}
    assert download(recipe({"url": server.url("a.tar.gz")})) == 3
    assert "cannot be unpacked" in capsys.readouterr().err
    assert list(tree(root)) == ["a.tar.gz"]


HOSTILE = {
    "zip-up.zip": zipped({"images/a_1.tif": b"a", "../out.txt": b"bad"}),
    "zip-absolute.zip": zipped({"images/a_1.tif": b"a", "/tmp/out.txt": b"bad"}),
    "zip-backslash.zip": zipped({"images/a_1.tif": b"a", "..\\out.txt": b"bad"}),
    "tar-up.tar.gz": tarred({"images/a_1.tif": b"a", "../out.txt": b"bad"}),
    "tar-link.tar.gz": tarred({"images/a_1.tif": b"a"}, ("images/out", "../../../..")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_that_reaches_out_is_refused_as_a_whole(
    server, recipe, download, root, tmp_path, capsys, name
):
    server.files = {name: HOSTILE[name]}
    assert download(recipe({"url": server.url(name)})) == 3
    assert "was not unpacked" in capsys.readouterr().err
    assert list(tree(root)) == [name]
    assert not list(tmp_path.rglob("out*"))


def test_a_zip_with_a_link_is_refused(server, recipe, download, root, capsys):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("images/out")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc")
    server.files = {"a.zip": buffer.getvalue()}
    assert download(recipe({"url": server.url("a.zip")})) == 3
    assert "is a link" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "data.zip",
        "s3://bucket/a.zip",
        "https://[abc/a.zip",
        "ftp://example.org:abc/a.zip",
        "ftp://example.org/a%0d%0aDELE%20b.zip",
    ],
)
def test_other_addresses_are_refused(recipe, download, capsys, url):
    assert download(recipe({"url": url})) == 2
    assert "is nothing to download" in capsys.readouterr().err


def test_an_address_without_a_name_wants_one(recipe, download, capsys):
    assert download(recipe({"url": "https://example.org/"})) == 2
    assert "`to`" in capsys.readouterr().err


def test_a_full_disk_is_told_before_anything_comes(tmp_path):
    with pytest.raises(OutputError, match="1e\\+09 GB are needed"):
        check_space(tmp_path / "not" / "there", 10**18)


def test_a_folder_that_cannot_be_made_is_told(server, recipe, download, tmp_path, capsys):
    server.files = {"a.zip": zipped(IMAGES)}
    (tmp_path / "data").write_text("a file where the folder of all datasets should be")
    assert download(recipe({"url": server.url("a.zip")})) == 1
    said = capsys.readouterr().err
    assert "Cannot write" in said
    assert "--data-root" in said


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_data_behind_a_login_ends_with_the_steps(capsys, words):
    assert main(["data", "download", "potsdam", *words]) == 3
    said = capsys.readouterr().err
    assert "ISPRS benchmark terms" in said
    assert "No program can fetch" in said
    assert "By hand: Register on the homepage" in said
    assert "eosfm data check potsdam" in said


WITHOUT_SUM = {"MADOS.zip", "sample_df.csv"}
"""What comes from places that publish no checksum."""


@pytest.mark.parametrize("name", [summary.name for summary in list_recipes()])
def test_every_recipe_is_fetched_safely_or_says_how_to_get_it(tmp_path, name):
    plan = plan_download(load_recipe(name), tmp_path)
    assert plan.files or plan.steps or name.startswith("mini")
    assert plan.steps != "The recipe does not say how."
    assert len({file.name for file in plan.files}) == len(plan.files)
    for file in plan.files:
        for part in file.parts:
            assert part.url.startswith(("https://", "ftp://"))
            assert part.checksum or part.path.name in WITHOUT_SUM
            length = {"md5": 32, "sha256": 64}
            assert part.checksum is None or re.fullmatch(
                f"[0-9a-f]{{{length[part.checksum.algorithm]}}}", part.checksum.digest
            )


def test_the_embedded_dataset_needs_no_download(capsys):
    assert main(["data", "download", "mini"]) == 0
    assert "makes its data itself" in capsys.readouterr().err
