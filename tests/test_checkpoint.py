"""Checkpoints of others are read without running them."""

from __future__ import annotations

import argparse
import copyreg
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import BACKBONE, PARAMETERS_3, as_legacy, as_zip, lightning, tiny_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eosfm_cli.ensemble.checkpoint import Foreign, fit_state, mapping, read_plain, read_specialist
from eosfm_cli.ensemble.specialist import build_backbone
from eosfm_cli.errors import BundleError


def _save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


both_formats = pytest.mark.parametrize("save", [torch.save, _save_legacy], ids=["zip", "legacy"])
both_wraps = pytest.mark.parametrize("wrap", [as_zip, as_legacy])


# --------------------------------------------------------------------------- what is harmless


def _contents() -> dict[str, Any]:
    shared = torch.arange(12.0).reshape(3, 4)
    return {
        "float": torch.randn(2, 3),
        "half": torch.ones(3).half(),
        "bfloat": torch.ones(3).bfloat16(),
        "long": torch.tensor(7),
        "bool": torch.tensor([True, False]),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "whole": shared,
        "part": shared[1:, ::2],
        "ordered": OrderedDict(a=1, b=(2, 3)),
        "plain": [None, 1.5, "text", b"bytes", {4}, frozenset({5}), True],
        "size": torch.Size([1, 2]),
    }


@both_formats
def test_a_namespace_does_not_keep_the_rest_from_being_read(
    save: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "foreign.ckpt"
    wanted = _contents()
    save({**wanted, "options": argparse.Namespace(lr=0.1)}, path)
    found = read_plain(path)
    assert isinstance(found["options"], Foreign)
    assert mapping(found["options"]) == {"lr": 0.1}
    for key, value in wanted.items():
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value)
        else:
            assert found[key] == value


def test_omegaconf_is_read_as_what_it_holds(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    path = tmp_path / "hydra.ckpt"
    checkpoint = lightning(
        tiny_state(4),
        model_args=omegaconf.OmegaConf.create(
            {"backbone": f"timm_{BACKBONE}", "backbone_in_chans": 4}
        ),
    )
    torch.save(checkpoint, path)
    specialist = read_specialist(path)
    assert (specialist.info.backbone, specialist.info.in_chans) == (BACKBONE, 4)


# --------------------------------------------------------------------------- what is not


class _Calls:
    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class _SetsState:
    """Writes the file that its state names."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __getstate__(self) -> str:
        return self.text

    def __setstate__(self, text: str) -> None:
        os.system(text)


_ATTACKS = {
    "system": lambda command: _Calls(os.system, command),
    "eval": lambda command: _Calls(eval, f"__import__('os').system({command!r})"),
    "exec": lambda command: _Calls(exec, f"import os; os.system({command!r})"),
    "popen": lambda command: _Calls(subprocess.getoutput, command),
    "state": _SetsState,
    "lazy": lambda command: _Calls(list, _Calls(map, os.system, [command])),
    "deep": lambda command: [{"a": ({"b": [_Calls(os.system, command)]},)}],
    "hooks": lambda command: OrderedDict(hook=_Calls(os.system, command)),
}


@both_formats
@pytest.mark.parametrize("attack", _ATTACKS.values(), ids=_ATTACKS)
def test_nothing_in_a_file_is_run(
    save: Callable[..., None], attack: Callable[[str], Any], tmp_path: Path
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "hostile.ckpt"
    save({"state_dict": {}, "evil": attack(f"echo > {mark}")}, path)
    found = read_or_refuse(path)
    assert isinstance(found, BundleError) or found["state_dict"] == {}
    assert not mark.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "hostile.ckpt"
    torch.save(_ATTACKS["system"](f"echo > {mark}"), path)
    torch.load(path, weights_only=False)
    assert mark.exists()


def _raw_attacks(mark: Path) -> dict[str, bytes]:
    """Pickle code that no pickler writes; `mark` would exist if it ran."""
    command = f"echo > {mark}".encode()
    return {
        "INST": b"(S'" + command + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + command + b"'\no.",
        "REDUCE": b"cos\nsystem\n(S'" + command + b"'\ntR.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n(S'" + command + b"'\nt\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n(S'" + command + b"'\nt}\x92.",
        "EXT": b"\x80\x02\x82\xf0(S'" + command + b"'\ntR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93(S'" + command + b"'\ntR.",
        "rebuild": b"ctorch._utils\n_rebuild_wrapper_subclass\n(S'" + command + b"'\ntR.",
        "load": b"ctorch\nload\n(S'" + command + b"'\ntR.",
    }


@pytest.mark.parametrize("name", ["INST", "OBJ", "REDUCE", "STACK_GLOBAL"])
def test_hand_made_pickle_code_is_real(name: str, tmp_path: Path) -> None:
    pickle.loads(_raw_attacks(tmp_path / "mark")[name])
    assert (tmp_path / "mark").exists()


@both_wraps
@pytest.mark.parametrize("name", _raw_attacks(Path("x")))
def test_hand_made_pickle_code_is_not_run(
    wrap: Callable[..., Path], name: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    path = wrap(tmp_path / "hostile.ckpt", _raw_attacks(mark)[name])
    copyreg.add_extension("os", "system", 240)
    try:
        with pytest.raises(BundleError):
            read_specialist(path)
    finally:
        copyreg.remove_extension("os", "system", 240)
    assert not mark.exists()


@both_wraps
def test_a_file_cannot_change_pytorch(wrap: Callable[..., Path], tmp_path: Path) -> None:
    state = b"(N(dS'eosfm_mark'\nI1\nst"
    for target in (b"ctorch\nTensor\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n"):
        read_or_refuse(wrap(tmp_path / "hostile.ckpt", target + state + b"b."))
    found = [torch.Tensor, torch._utils._rebuild_tensor_v2, os.system]
    assert not any(hasattr(thing, "eosfm_mark") for thing in found)


def read_or_refuse(path: Path) -> Any:
    try:
        return read_plain(path)
    except BundleError as error:
        return error


@both_wraps
def test_the_message_names_what_was_not_run(wrap: Callable[..., Path], tmp_path: Path) -> None:
    path = wrap(tmp_path / "hostile.ckpt", _raw_attacks(tmp_path / "mark")["REDUCE"])
    with pytest.raises(BundleError, match=r"asks for os\.system, which was not run"):
        read_specialist(path)


@given(st.binary(max_size=200))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("wrap", [as_zip, as_legacy, lambda path, raw: path.write_bytes(raw)])
def test_garbage_is_refused_or_read(wrap: Callable[..., Any], tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "garbage.ckpt"
    wrap(path, raw)
    read_or_refuse(path)


# --------------------------------------------------------------------------- damage and size


@both_formats
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(
    save: Callable[..., None], share: float, tmp_path: Path
) -> None:
    path = tmp_path / "cut.ckpt"
    save(lightning(tiny_state()), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BundleError, match=r"cut\.ckpt (is|cannot)"):
        read_plain(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    text, pickled = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    text.write_text("epoch,loss\n")
    pickled.write_bytes(pickle.dumps({"state_dict": {}}))
    for path, message in [
        (text, "is no PyTorch file"),
        (pickled, "a.*PyTorch"),
        (tmp_path, "Cannot read"),
        (tmp_path / "missing.ckpt", "There is no file"),
    ]:
        with pytest.raises(BundleError, match=message):
            read_plain(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "bomb.ckpt", b"X" * 10_000_000, zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="unpacks to more than it holds"):
        read_plain(path)


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.ckpt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)
    with pytest.raises(BundleError, match="TorchScript program"):
        read_plain(path)


def test_a_tensor_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    size = b"\x8a\x06\x00\x00\x00\x00\x00\x10"  # 2**44 numbers
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    storage += b"X\x03\x00\x00\x00cpu" + size + b"NtQ"
    raw = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00)\x89N}tR."
    foreign = b"\x80\x02(cos\nsystem\n" + raw[2:-1] + b"t."
    with pytest.raises(BundleError, match="cannot be read"):
        read_plain(as_legacy(tmp_path / "long.ckpt", foreign))


# --------------------------------------------------------------------------- specialists


@pytest.mark.parametrize(
    "prefix",
    [
        "model.encoder.",
        "model.encoder._timm_module.",
        "model.encoder._orig_mod.",
        "model._orig_mod.encoder.",
        "_orig_mod.model.encoder.",
    ],
)
def test_the_encoder_is_found_under_every_prefix(prefix: str, tmp_path: Path) -> None:
    path, state = tmp_path / "potsdam.ckpt", tiny_state(4, seed=3)
    torch.save(lightning(state, prefix), path)
    specialist = read_specialist(path)
    assert specialist.info.name == "potsdam"
    assert specialist.info.in_chans == 4
    assert specialist.info.classes == ("water", "land")
    assert specialist.state.keys() == state.keys()
    assert all(torch.equal(specialist.state[name], state[name]) for name in state)
    backbone = build_backbone(specialist.info.backbone, 4)
    backbone.load_state_dict(specialist.state)
    assert backbone(torch.zeros(1, 4, 64, 64))


def test_channels_are_counted_where_nothing_says_them(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(lightning(tiny_state(2), model_args={"backbone": f"timm_{BACKBONE}"}), path)
    assert read_specialist(path).info.in_chans == 2


def test_terratorch_bands_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    arguments = {"backbone": f"timm_{BACKBONE}", "backbone_bands": ["RED", "GREEN", "NIR_NARROW"]}
    torch.save(lightning(tiny_state(3), model_args=arguments), path)
    info = read_specialist(path, name="s2").info
    assert (info.name, info.bands) == ("s2", ("red", "green", "nir08"))
    assert info.parameters == PARAMETERS_3


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({"epoch": 1}, "no Lightning checkpoint: it has epoch"),
        ([1], "no Lightning checkpoint: it holds a list"),
        ({"state_dict": {"model.net.w": torch.ones(1)}}, r"no encoder: .* under model\.net"),
        (lightning(tiny_state(), model_args={"decoder": "x"}), "does not say which backbone"),
        (
            lightning(tiny_state(), model_args={"backbone": "prithvi_eo_v2_300"}),
            "no model 'prithvi",
        ),
        (lightning(tiny_state(), model_args={"backbone": "hf-hub:a/b"}), "no model 'hf-hub:a/b'"),
        (lightning(tiny_state(), model_args={"backbone": "timm_resnet18"}), "conv1.weight is miss"),
        (
            lightning(tiny_state(), model_args={"backbone": BACKBONE, "backbone_in_chans": 12}),
            r"said to take 12 channels; its first convolution .* takes 3",
        ),
    ],
)
def test_what_cannot_be_used_is_explained(checkpoint: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(checkpoint, path)
    with pytest.raises(BundleError, match=message):
        read_specialist(path)


def _changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = {**tiny_state(), **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (_changed(stem_1__bias=None), r"stem_1\.bias is missing"),
        (_changed(extra=torch.ones(1)), "extra does not belong there"),
        (_changed(stem_1__bias=torch.ones(3)), r"stem_1\.bias is 3, expected 24"),
        (_changed(stem_1__bias=torch.ones(24).long()), r"stem_1\.bias holds torch\.int64"),
        (_changed(stem_1__bias=torch.ones(1).expand(24)), "larger than what is stored"),
        (_changed(stem_1__bias=torch.full((24,), float("nan"))), r"not finite .* stem_1\.bias"),
        (_changed(stem_1__bias=torch.full((24,), float("inf"))), r"not finite .* stem_1\.bias"),
        (_changed(stem_1__bias=torch.empty(24, device="meta")), "no plain tensor"),
    ],
)
def test_weights_that_do_not_fit_are_named(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(BundleError, match=f"Specialist 'x' .*{message}"):
        fit_state(state, BACKBONE, who="Specialist 'x'")


def test_weights_are_copies() -> None:
    state = tiny_state()
    weights, _, _ = fit_state(state, BACKBONE, who="x")
    weights["stem_0.weight"].zero_()
    assert state["stem_0.weight"].abs().sum() > 0
