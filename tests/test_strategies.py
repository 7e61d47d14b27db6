"""Users' own strategies for feeding specialists."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from eosfm_cli.ensemble import strategies
from eosfm_cli.ensemble.encoder import EnsembleEncoder
from eosfm_cli.ensemble.precision import halve
from eosfm_cli.ensemble.strategies import (
    BandAdaptationStrategy,
    find_strategy,
    load_installed_strategies,
    load_plugin,
    own_views,
    register_strategy,
)
from eosfm_cli.errors import BundleError, UsageError
from eosfm_cli.manifest import EncoderInfo, SpecialistInfo

RGB = ("red", "green", "blue")
FOUR = (*RGB, "nir")
INFO = SpecialistInfo(name="rgb", backbone="test_convnext", in_chans=3, bands=RGB)

PLUGIN = """\
import torch
from eosfm_cli.ensemble.strategies import BandAdaptationStrategy, register_strategy


@register_strategy
class {name}(BandAdaptationStrategy):
    required_bands = {required}
    available_bands = {available}

    def adapt(self, features):
        {code}
"""
LINEAR = "return 0.5 * features[:, [3, 0, 1]] + 0.5 * features[:, [0, 0, 0]]"
NDVI = (
    "n = (features[:, 3:] - features[:, :1]) / (features[:, 3:].abs() + 1); "
    "return torch.cat([n, n, n], 1)"
)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Strategies are registered for a whole process: put back what was there."""
    before = dict(strategies._registered)
    yield
    strategies._registered.clear()
    strategies._registered.update(before)


def write(folder: Path, code: str, *, name: str = "Mine", required="3", available="4") -> Path:
    path = folder / "mine.py"
    path.write_text(PLUGIN.format(name=name, required=required, available=available, code=code))
    return path


def encoder() -> EnsembleEncoder:
    torch.manual_seed(0)
    return EnsembleEncoder([INFO], FOUR, EncoderInfo(normalize="none")).eval()


def test_a_linear_strategy_becomes_a_matrix_in_the_model(tmp_path: Path) -> None:
    assert load_plugin(write(tmp_path, LINEAR)) == ("Mine",)
    built = encoder()
    assert built.plan.lines() == [
        "rgb  Mine: red ← 0.5·red + 0.5·nir, green ← red, blue ← 0.5·red + 0.5·green"
    ]
    image = torch.randn(1, 4, 32, 32)
    own = 0.5 * image[:, [3, 0, 1]] + 0.5 * image[:, [0, 0, 0]]
    for level, want in zip(built(image), built.backbones[0](own), strict=True):
        torch.testing.assert_close(level, want)
    strategies._registered.clear()
    again = EnsembleEncoder([INFO], FOUR, built.describe()).eval()
    again.load_state_dict(built.state_dict())
    torch.testing.assert_close(again(image), built(image))


def test_any_other_strategy_runs_as_it_is_and_the_model_needs_it(tmp_path: Path) -> None:
    load_plugin(write(tmp_path, NDVI))
    built = encoder()
    assert built.plan.lines() == ["rgb  Mine: computed by Mine of mine.py"]
    image = torch.randn(1, 4, 32, 32)
    ndvi = (image[:, 3:] - image[:, :1]) / (image[:, 3:].abs() + 1)
    for level, want in zip(built(image), built.backbones[0](ndvi.repeat(1, 3, 1, 1)), strict=True):
        torch.testing.assert_close(level, want)
    built.fold()
    assert isinstance(built.adapters[0].strategy, BandAdaptationStrategy)
    description = EncoderInfo.model_validate_json(built.describe().model_dump_json())
    EnsembleEncoder([INFO], FOUR, description)
    strategies._registered.clear()
    with pytest.raises(BundleError, match="strategy Mine, which is not loaded") as caught:
        EnsembleEncoder([INFO], FOUR, description)
    assert caught.value.hint == "Load it with --plugin mine.py"


def test_a_strategy_sees_32_bits_whatever_the_model_computes_in(tmp_path: Path) -> None:
    load_plugin(write(tmp_path, "return torch.from_numpy(features.numpy()[:, :3].clip(0))"))
    built = encoder()
    image = torch.randn(1, 4, 32, 32)
    built.freeze()
    with torch.inference_mode():
        wanted = built(image)
        halve(built)
        found = built(image.bfloat16())
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.float() - other).norm() < 0.05 * other.norm()


def test_bands_may_be_said_by_name(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "return features.flip(1)",
        required="['red', 'green', 'blue']",
        available="('B08', 'green', 'red')",
    )
    load_plugin(path)
    (view,) = own_views(RGB, FOUR)
    assert view.describe(RGB, FOUR) == "red, green, blue ← nir"
    assert own_views(RGB, RGB) == ()  # no nir
    assert own_views(("green", "red", "blue"), FOUR) == ()
    assert own_views(3, 3) == ()


def test_all_strategies_that_fit_count() -> None:
    @register_strategy
    class First(BandAdaptationStrategy):
        required_bands = 3
        available_bands = 13

        def adapt(self, features: torch.Tensor) -> torch.Tensor:
            return features[:, [3, 2, 1], :, :]

    @register_strategy
    class Second(First):
        def adapt(self, features: torch.Tensor) -> torch.Tensor:
            return features[:, [7, 3, 2], :, :]

    views = own_views(3, 13)
    assert [view.name for view in views] == ["First", "Second"]
    assert [row.index(1.0) for row in views[1].matrix] == [7, 3, 2]
    assert own_views(3, 12) == ()


@pytest.mark.parametrize(
    "code",
    [
        "return features[:, :3] + 1",
        "return features[:, :3].clamp(min=0)",
        "return torch.nn.functional.avg_pool2d(features[:, :3], 3, 1, 1)",
        "return features[:, :3] - features[:, :3].mean(dim=(2, 3), keepdim=True)",
    ],
)
def test_what_is_no_matrix_is_not_taken_for_one(code: str, tmp_path: Path) -> None:
    load_plugin(write(tmp_path, code))
    assert [view.strategy for view in own_views(3, 4)] == ["Mine"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return features", r"gives \(4, 4, 8, 8\), expected \(4, 3, 8, 8\)"),
        ("return features[:, :3, ::2]", r"expected"),
        ("return 3", "gives int"),
        ("return {}['nir']", r"fails on 4 bands: line 11: KeyError: 'nir'"),
    ],
)
def test_strategies_that_fail(code: str, message: str, tmp_path: Path) -> None:
    load_plugin(write(tmp_path, code))
    with pytest.raises(UsageError, match=message):
        encoder()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "registers no strategy"),
        ("x = 1\nraise RuntimeError('no')\n", r"failed: line 2: RuntimeError: no\."),
        ("def f(:\n", r"failed: .*SyntaxError"),
        (PLUGIN.format(name="M", required=0, available=4, code="pass"), "needs required_bands"),
        (PLUGIN.format(name="M", required="True", available=4, code="pass"), "needs required"),
        (PLUGIN.format(name="M", required=3, available="()", code="pass"), "needs available_bands"),
        (PLUGIN.format(name="M", required=3, available="['x9']", code="pass"), "unknown band 'x9'"),
    ],
)
def test_plugins_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_plugin(path)


@pytest.mark.parametrize("name", ["none.py", "none", "folder.py"])
def test_plugins_that_are_not_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(UsageError, match="There is no plugin"):
        load_plugin(tmp_path / name)


def test_two_plugins_may_not_use_one_name(tmp_path: Path) -> None:
    load_plugin(write(tmp_path, LINEAR))
    load_plugin(write(tmp_path, NDVI))  # the same file again replaces what it had registered
    assert own_views(3, 4)[0].strategy == "Mine"
    other = tmp_path / "other.py"
    other.write_text((tmp_path / "mine.py").read_text())
    with pytest.raises(UsageError, match=r"strategy named Mine: mine\.py and other\.py"):
        load_plugin(other)


def test_installed_packages_bring_strategies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site"
    (package / "theirs-1.0.dist-info").mkdir(parents=True)
    (package / "theirs-1.0.dist-info" / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    (package / "theirs-1.0.dist-info" / "entry_points.txt").write_text(
        "[eosfm.strategies]\ntheirs = theirs_strategies\n"
    )
    text = PLUGIN.format(name="Theirs", required=3, available=6, code="return features[:, :3]")
    (package / "theirs_strategies.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(package), *sys.path])
    load_installed_strategies.cache_clear()
    try:
        assert [view.name for view in own_views(3, 6)] == ["Theirs"]
        assert find_strategy("Theirs", None).available_bands == 6
        (package / "theirs_strategies.py").write_text("1 / 0\n")
        sys.modules.pop("theirs_strategies")
        load_installed_strategies.cache_clear()
        with pytest.raises(UsageError, match=r"installed plugin theirs .*ZeroDivisionError"):
            own_views(3, 6)
    finally:
        sys.modules.pop("theirs_strategies", None)
        load_installed_strategies.cache_clear()
