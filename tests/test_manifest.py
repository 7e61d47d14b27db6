"""Headers are read with the standard library, whatever has become of the file."""

from __future__ import annotations

import contextlib
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eosfm_cli.errors import BundleError
from eosfm_cli.manifest import (
    EnsembleManifest,
    ModelManifest,
    SpecialistInfo,
    read_header,
    read_manifest,
    to_metadata,
)
from eosfm_cli.recipe import BandStatistics

RGB = SpecialistInfo(
    name="rgb",
    backbone="convnextv2_atto",
    in_chans=3,
    bands=("red", "green", "blue"),
    statistics={"red": BandStatistics(mean=1, std=2)},
    metrics={"mIoU": 0.5},
)
MODEL = {
    "recipe": "mini",
    "title": "Mini",
    "task": "segmentation",
    "bands": ["red"],
    "statistics": {"red": {"mean": 0.0, "std": 1.0}},
    "classes": [{"name": "water", "colour": "#0000ff"}, {"name": "land"}],
    "ignore_index": 255,
    "tile_size": 64,
    "encoder": {"fusion": "conv1x1", "normalize": "batch", "top_k": 1, "scores": {"rgb": 0.75}},
    "specialists": [RGB.model_dump()],
    "decoder": {"name": "UperNetDecoder", "arguments": {"channels": 8}},
}


def _write(path: Path, header: object, body: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.safetensors"


@pytest.mark.parametrize(
    "manifest",
    [EnsembleManifest(specialists=(RGB,), created="now"), ModelManifest.model_validate(MODEL)],
    ids=["ensemble", "model"],
)
def test_a_manifest_comes_back_as_it_went(
    manifest: EnsembleManifest | ModelManifest, file: Path
) -> None:
    assert read_manifest(_write(file, {"__metadata__": to_metadata(manifest)})) == manifest


def test_a_score_that_is_no_number_does_not_spoil_the_file(file: Path) -> None:
    info = RGB.model_copy(update={"metrics": {"IoU/nowhere": float("nan")}})
    manifest = EnsembleManifest(specialists=(info,))
    found = read_manifest(_write(file, {"__metadata__": to_metadata(manifest)}))
    assert math.isnan(found.specialists[0].metrics["IoU/nowhere"])


def test_later_versions_may_say_more(file: Path) -> None:
    raw = {"format": "eosfm-ensemble", "version": 1, "specialists": [], "more": {"to": "come"}}
    assert read_manifest(_write(file, {"__metadata__": {"eosfm": json.dumps(raw)}}))


_ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ({"a": _ENTRY}, b"1234567", "cut short"),
        ([1], b"", "no mapping"),
        (b"{", b"", "header does not fit"),
        (b"{]", b"", "no usable"),
        (b"\xff\xfe{}", b"", "no usable"),
        (b"[" * 100_000, b"", "no usable"),
        ({"a": 1}, b"", "no usable"),
        ({"a": {"data_offsets": []}}, b"", "no usable"),
        ({"a": {"data_offsets": [0, "8"]}}, b"", "no usable"),
    ],
)
def test_a_damaged_header_is_refused(header: object, body: bytes, message: str, file: Path) -> None:
    with pytest.raises(BundleError, match=message):
        read_header(_write(file, header, body))


@pytest.mark.parametrize("length", [0, 1, 3, 2**40, 2**64 - 1])
def test_a_header_of_a_wrong_length_is_refused(length: int, file: Path) -> None:
    with pytest.raises(BundleError, match="no usable safetensors file"):
        read_header(_write(file, {}, length=length))


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        [],
        {"eosfm": 1},
        {"eosfm": "{"},
        {"eosfm": "[" * 100_000},
        {"eosfm": "[]"},
        {"eosfm": '{"format": "other"}'},
        {"eosfm": '{"format": ["eosfm-model"]}'},
        {"eosfm": '{"format": "eosfm-ensemble"}'},
        {"eosfm": '{"format": "eosfm-ensemble", "version": 2, "specialists": []}'},
        {"eosfm": json.dumps({"format": "eosfm-model", **MODEL, "task": "dance"})},
    ],
)
def test_a_manifest_of_others_is_refused(metadata: object, file: Path) -> None:
    with pytest.raises(BundleError, match="holds no eosfm manifest"):
        read_manifest(_write(file, {"__metadata__": metadata}))


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no file"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(BundleError, match=r"Cannot read .*: Is a directory"):
        read_header(tmp_path)


@given(st.binary(max_size=64), st.integers(0, 64))
@example(b"", 0)
@example(b"\x02\0\0\0\0\0\0\0{}", 0)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_refused(file: Path, raw: bytes, cut: int) -> None:
    whole = b"\x02\0\0\0\0\0\0\0" + raw
    file.write_bytes(whole[: len(whole) - cut] if cut <= len(whole) else raw)
    with pytest.raises(BundleError):
        read_manifest(file)


@given(st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_manifest_cut_or_changed_never_ends_in_a_traceback(
    file: Path, data: st.DataObject
) -> None:
    manifest = EnsembleManifest(specialists=(RGB,))
    whole = _write(file, {"__metadata__": to_metadata(manifest)}).read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = data.draw(st.sampled_from([b"", b"\0", b"{", b'"', b"9", b"\xff"]))
    end = data.draw(st.sampled_from([place + 1, len(whole)]))
    file.write_bytes(whole[:place] + changed + whole[end:])
    with contextlib.suppress(BundleError):
        assert read_manifest(file).specialists is not None


def test_reading_takes_no_heavy_library(file: Path) -> None:
    _write(file, {"__metadata__": to_metadata(EnsembleManifest(specialists=(RGB,)))})
    code = (
        "import sys; from pathlib import Path; from eosfm_cli.manifest import read_manifest\n"
        f"read_manifest(Path({str(file)!r}))\n"
        "print(sorted({'torch', 'numpy', 'safetensors', 'rasterio'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
