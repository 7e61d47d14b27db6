"""Ensembles and models as files, in both formats and in every state of decay."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoints import BACKBONE, PARAMETERS_3, lightning, tiny_specialist, tiny_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eosfm_cli.ensemble.bundle import (
    read_ensemble,
    read_model,
    with_unique_names,
    write_ensemble,
    write_model,
)
from eosfm_cli.ensemble.specialist import Specialist
from eosfm_cli.errors import BundleError, OutputError, UsageError
from eosfm_cli.manifest import (
    DecoderInfo,
    EncoderInfo,
    EnsembleManifest,
    ModelManifest,
    read_manifest,
    to_metadata,
)
from eosfm_cli.progress import Silent
from eosfm_cli.recipe import BandStatistics, ClassSpec

formats = pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])


def _model_manifest(**changes: Any) -> ModelManifest:
    known = {
        "recipe": "mini",
        "title": "Mini",
        "task": "segmentation",
        "bands": ("red",),
        "statistics": {"red": BandStatistics(mean=0, std=1)},
        "classes": (ClassSpec(name="water"), ClassSpec(name="land")),
        "ignore_index": 255,
        "tile_size": 64,
        "encoder": EncoderInfo(fusion="concat", normalize="batch"),
        "specialists": (tiny_specialist().info,),
        "decoder": DecoderInfo(name="UperNetDecoder", arguments={"channels": 8}),
    }
    return ModelManifest(**{**known, **changes})


class Listener(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def _same(found: tuple[Specialist, ...], wanted: list[Specialist]) -> bool:
    return [s.info for s in found] == [s.info for s in wanted] and all(
        torch.equal(one.state[name], other.state[name])
        for one, other in zip(found, wanted, strict=True)
        for name in other.state
    )


# --------------------------------------------------------------------------- both formats


@formats
def test_an_ensemble_comes_back_as_it_went(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ensemble{suffix}"
    bare = tiny_specialist("seed", 4)
    bare = replace(bare, info=bare.info.model_copy(update={"bands": None, "statistics": None}))
    wanted = [tiny_specialist("rgb"), bare, tiny_specialist("two", 2, seed=1)]
    write_ensemble(path, wanted)
    assert _same(read_ensemble(path), wanted)


@formats
def test_one_name_is_given_once(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ensemble{suffix}"
    write_ensemble(path, [tiny_specialist("a", seed=i) for i in range(3)])
    found = read_ensemble(path)
    assert [s.info.name for s in found] == ["a", "a-2", "a-3"]
    assert torch.equal(found[2].state["stem_0.weight"], tiny_state(seed=2)["stem_0.weight"])


def test_unique_names_keep_clear_of_names_that_are_there() -> None:
    names = [tiny_specialist(name) for name in ("a", "a-2", "a")]
    assert [s.info.name for s in with_unique_names(names)] == ["a", "a-2", "a-3"]


@formats
def test_a_specialist_with_broken_weights_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"ensemble{suffix}"
    broken = tiny_specialist("broken")
    broken.state["stem_1.weight"][0] = float("nan")
    write_ensemble(path, [tiny_specialist("whole"), broken])
    with pytest.raises(BundleError, match=r"'broken' .* not finite .* stem_1\.weight"):
        read_ensemble(path)


@formats
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_file_cut_short_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"ensemble{suffix}"
    write_ensemble(path, [tiny_specialist()])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BundleError, match="ensemble"):
        read_ensemble(path)


@formats
def test_a_missing_file_is_said_to_be_missing(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no file"):
        read_ensemble(tmp_path / f"none{suffix}")


@formats
@given(position=st.integers(0, 2000), byte=st.integers(0, 255))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_flipped_byte_never_ends_in_a_traceback(
    suffix: str, tmp_path: Path, position: int, byte: int
) -> None:
    path = tmp_path / f"ensemble{suffix}"
    if not path.exists():
        write_ensemble(path, [tiny_specialist()])
    whole = path.read_bytes()
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
    assert "damaged" in _read_or_refused(damaged)


def _read_or_refused(path: Path) -> str:
    try:
        return f"{path}: {len(read_ensemble(path))} specialist"
    except BundleError as error:
        return error.message


def test_an_unknown_suffix_names_the_two(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ensemble\.onnx") as caught:
        write_ensemble(tmp_path / "ensemble.onnx", [tiny_specialist()])
    assert ".safetensors" in caught.value.hint
    assert ".pth" in caught.value.hint


@formats
def test_an_unwritable_place_is_said(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        write_ensemble(tmp_path / "file" / f"ensemble{suffix}", [tiny_specialist()])


# --------------------------------------------------------------------------- the published format


def test_ensembles_of_the_published_code_are_read(sample_data: Callable[[str], Path]) -> None:
    found = read_ensemble(sample_data("parity/ensemble.pth"))
    counts = {s.info.name: s.info.in_chans for s in found}
    assert counts == {"rgb-a": 3, "rgb-b": 3, "s1": 2, "s2-12": 12, "s2-13": 13, "all-14": 14}
    assert {s.info.backbone for s in found} == {BACKBONE}
    assert all(s.info.bands is None and s.info.parameters > 200_000 for s in found)


def test_what_we_write_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.pth"
    write_ensemble(path, [tiny_specialist("rgb")])
    ((in_chans, state, config),) = torch.load(path, weights_only=True)
    assert in_chans == 3
    assert state.keys() == tiny_state().keys()
    assert config["backbone"] == f"timm_{BACKBONE}"
    assert config["encoder_name"] == "rgb"
    assert config["bands"] == ["red", "green", "blue"]
    assert config["normalization"]["red"] == {"mean": 1.5, "std": 0.25}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"encoder_name": "a"}, ["a", "a-2"]),
        ({"name": "b c/d"}, ["b-c-d", "b-c-d-2"]),
        ({}, ["specialist-1", "specialist-2"]),
    ],
)
def test_names_of_hand_made_files(config: dict[str, str], names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "made.pth"
    entry = (3, tiny_state(), {"backbone": BACKBONE, **config})
    torch.save([entry, entry], path)
    found = read_ensemble(path)
    assert [s.info.name for s in found] == names
    assert found[0].info.parameters == PARAMETERS_3


@pytest.mark.parametrize("prefix", ["_timm_module.", "model.encoder.", "encoder.", "_orig_mod."])
def test_prefixes_of_hand_made_files(prefix: str, tmp_path: Path) -> None:
    path, state = tmp_path / "made.pth", tiny_state()
    config = {"backbone": f"timm_{BACKBONE}"}
    torch.save([(3, {f"{prefix}{k}": v for k, v in state.items()}, config)], path)
    assert read_ensemble(path)[0].state.keys() == state.keys()


def test_band_names_of_sensors_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "made.pth"
    torch.save([(3, tiny_state(), {"backbone": BACKBONE, "bands": ["B04", "B03", "B8A"]})], path)
    assert read_ensemble(path)[0].info.bands == ("red", "green", "nir08")


_CONFIG = {"backbone": f"timm_{BACKBONE}", "encoder_name": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no specialist"),
        ({"a": 1}, "holds no ensemble: it holds a dict"),
        (lightning(tiny_state()), "checkpoint of one specialist"),
        ([1], "its entry 1 is no"),
        ([(3, tiny_state())], "its entry 1 is no"),
        ([("3", tiny_state(), _CONFIG)], "its entry 1 is no"),
        ([(3, tiny_state(), {})], "does not say which backbone"),
        ([(3, tiny_state(), {"backbone": "timm_nothing"})], "no model 'nothing'"),
        ([(12, tiny_state(), _CONFIG)], "'x' .* said to take 12 channels"),
        ([(3, {"stem_0.weight": torch.ones(1)}, _CONFIG)], "'x' .*stem_0.bias is missing"),
        ([(3, {**tiny_state(), "head": torch.ones(1)}, _CONFIG)], "'x' .*head does not belong"),
        (
            [(3, tiny_state(), {**_CONFIG, "bands": ["red", "green", "bleu"]})],
            "did you mean 'blue'",
        ),
        ([(3, tiny_state(), {**_CONFIG, "bands": ["red"]})], "names 1 band and takes 3 channels"),
        ([(3, tiny_state(), {**_CONFIG, "metrics": "good"})], "'metrics' cannot be read"),
    ],
)
def test_what_is_no_ensemble_is_explained(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "made.pth"
    torch.save(content, path)
    with pytest.raises(BundleError, match=f"(?i){message}"):
        read_ensemble(path)


class _Calls:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self.command,))


def test_a_hostile_ensemble_is_not_run(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "hostile.pth"
    torch.save(_Calls(f"echo > {mark}"), path)
    with pytest.raises(BundleError, match=r"asks for .*\.system, which was not run"):
        read_ensemble(path)
    torch.save([(3, tiny_state(), {**_CONFIG, "note": _Calls(f"echo > {mark}")})], path)
    assert len(read_ensemble(path)) == 1
    for entry in (_Calls(f"echo > {mark}"), (3, _Calls(f"echo > {mark}"), _CONFIG)):
        torch.save([entry], path)
        with pytest.raises(BundleError, match=r"entry 1 asks for .*\.system, which was not run"):
            read_ensemble(path)
    assert not mark.exists()


def test_names_that_a_file_has_twice_are_said(tmp_path: Path) -> None:
    path, listener = tmp_path / "made.pth", Listener()
    torch.save([(3, tiny_state(), _CONFIG), (3, tiny_state(), _CONFIG)], path)
    assert [one.info.name for one in read_ensemble(path, listener)] == ["x", "x-2"]
    assert "more than one specialist named x: another is called x-2 here" in listener.said[0]


# --------------------------------------------------------------------------- safetensors


def _ensemble_file(path: Path, tensors: dict[str, Any], *specialists: Specialist) -> Path:
    manifest = EnsembleManifest(specialists=tuple(s.info for s in specialists))
    safetensors.torch.save_file(tensors, path, to_metadata(manifest))
    return path


def test_safetensors_names_what_is_wrong(tmp_path: Path) -> None:
    path, one = tmp_path / "ensemble.safetensors", tiny_specialist("a")
    weights = {f"a/{name}": tensor for name, tensor in one.state.items()}
    for tensors, specialists, message in [
        (weights, [one, one], "two specialists named 'a'"),
        (weights, [], "weights .* of a specialist that its manifest does not name"),
        ({}, [], "holds no specialist"),
        ({}, [one], "'a' .* is missing"),
        ({**weights, "a/more": torch.ones(1)}, [one], "more does not belong"),
    ]:
        with pytest.raises(BundleError, match=message):
            read_ensemble(_ensemble_file(path, tensors, *specialists))


def test_safetensors_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tiny_state(), path)
    with pytest.raises(BundleError, match="holds no eosfm manifest"):
        read_ensemble(path)


# --------------------------------------------------------------------------- models


def test_a_model_comes_back_as_it_went(tmp_path: Path) -> None:
    path, weight = tmp_path / "model.safetensors", torch.randn(3, 4)
    state = {"a": weight, "b.part": weight[1:], "steps": torch.tensor(3)}
    manifest = _model_manifest(metrics={"mIoU": 0.5, "IoU/nowhere": float("inf")})
    write_model(path, state, manifest)
    found, tensors = read_model(path)
    assert found == manifest == read_manifest(path)
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_the_wrong_kind_of_file_names_the_right_command(tmp_path: Path) -> None:
    model, ensemble = tmp_path / "model.safetensors", tmp_path / "ensemble.safetensors"
    write_model(model, {"a": torch.ones(1)}, _model_manifest())
    write_ensemble(ensemble, [tiny_specialist()])
    with pytest.raises(BundleError, match="is a fitted model, no ensemble") as caught:
        read_ensemble(model)
    assert "eosfm predict" in caught.value.hint
    with pytest.raises(BundleError, match="is an ensemble, no fitted model") as caught:
        read_model(ensemble)
    assert "eosfm fit-ensemble" in caught.value.hint


def test_checkpoints_are_neither(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        read_ensemble(tmp_path / "best.ckpt")
    assert "eosfm export" in caught.value.hint
    with pytest.raises(BundleError, match="no fitted model") as caught:
        read_model(tmp_path / "best.ckpt")
    assert "eosfm fit-ensemble" in caught.value.hint
