"""Several values at once: every combination fitted, weighed, and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eosfm_cli.carbon.ledger import read_ledger
from eosfm_cli.commands.app import main
from eosfm_cli.commands.sweep_report import _ALWAYS, _FEWER
from eosfm_cli.ensemble.bundle import read_model, write_ensemble
from eosfm_cli.ensemble.fast_convnext import fast
from eosfm_cli.ensemble.specialist import Specialist, build_backbone
from eosfm_cli.errors import RecipeError
from eosfm_cli.manifest import SpecialistInfo
from eosfm_cli.results import Cost, SweepResult, SweepRow, TradeOff
from eosfm_cli.run_dir import RunDir
from eosfm_cli.sweeps import at_most, plan_sweep, title, undominated, varying
from eosfm_cli.training.forward_cost import forward_cost
from eosfm_cli.training.plots import draw_sweep
from eosfm_cli.workflows.sweep_table import mark_pareto
from tests.fits import SPECIALISTS
from tests.test_startup import HEAVY, run
from tests.tiny import RECIPE, write_scenes

# ------------------------------------------------------------------------------ which fits


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return str(path)


def planned(recipe: str, axes: dict[str, list[Any]], **overrides: Any) -> list[str]:
    found = plan_sweep(recipe, axes, {f"fit.{key}": v for key, v in overrides.items()})
    keys = varying([one.settings for one in found])
    return [title(one.settings, [key for key in keys if key in axes]) for one in found]


def test_every_combination_is_fitted_the_widest_first(recipe):
    assert planned(recipe, {"top_k": [1, None, 3, 1], "fusion": ["mlp", "concat"]}) == [
        *("mlp, top-k all", "mlp, top-k 3", "mlp, top-k 1"),
        *("concat, top-k all", "concat, top-k 3", "concat, top-k 1"),
    ]
    assert planned(recipe, {"seed": [2, 0], "normalize": ["layer", "none"]})[1] == (
        "normalize layer, seed 0"
    )


def test_a_setting_counts_where_it_has_an_effect(recipe):
    found = plan_sweep(recipe, {"fusion": ["concat", "conv1x1"]}, {"fit.fuse_to_mult": 2})
    assert [one.recipe.fit.fuse_to_mult for one in found] == [1, 2]
    axes = {"selection": ["topk", "smooth"], "top_k": [None, 2]}
    assert planned(recipe, axes) == [
        "selection topk, top-k all",
        "selection topk, top-k 2",
        "selection smooth, top-k 2",
    ]
    found = plan_sweep(recipe, {"select_by": ["gates", "probe"]}, {"fit.top_k": 1})
    assert [one.recipe.fit.select_by for one in found] == ["gates", "probe"]


def test_a_setting_that_has_an_effect_nowhere_is_refused(recipe):
    with pytest.raises(RecipeError, match="only fusion conv1x1 and mlp take it"):
        plan_sweep(recipe, {"fusion": ["concat", "addition"]}, {"fit.fuse_to_mult": 2})
    with pytest.raises(RecipeError, match="smooth needs"):
        plan_sweep(recipe, {"selection": ["topk", "smooth"]}, {})


def test_fits_share_a_search_if_they_differ_by_k_alone(recipe):
    def searches(**axes: list[Any]) -> list[object]:
        return [one.search for one in plan_sweep(recipe, axes, {})]

    everybody, three, one = searches(top_k=[None, 3, 1])
    assert everybody is None
    assert three == one is not None
    assert len(set(searches(top_k=[2], fusion=["mlp", "concat"], seed=[0, 1]))) == 4
    assert len(set(searches(top_k=[2, 1], fusion=["mlp", "concat"], select_by=["probe"]))) == 1
    assert searches(top_k=[2, 1], selection=["smooth"]) == [None, None]


def test_numbers_that_leave_nobody_out_are_all():
    assert at_most([1, 3, 9, None], 3, strict=False) == [1, None, None, None]
    assert at_most([1, 3, 9, None], 3, strict=True) == [1, None, 9, None]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fusion", "concat,mpl"], "--fusion 'mpl' is not known. Did you mean 'mlp'?"),
        (["--fusion", ","], "--fusion ',' names nothing"),
        (["--top-k", "1,0"], "--top-k '0' is no whole number from 1 on"),
        (["--top-k", "1,two"], "takes one, all, or several"),
        (["--seed", "1,all"], "--seed 'all' is no whole number from 0 on"),
        (["--seed", "1,2", "--set", "fit.seed=3"], "Say it once"),
    ],
)
def test_wrong_members_are_named(words, message, recipe, capsys):
    assert main(["fit-ensemble", recipe, *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_run_that_is_no_sweep_takes_no_several_values(tmp_path, capsys):
    assert main(["fit-ensemble", "--resume", str(tmp_path), "--fusion", "concat,mlp"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is a sweep" not in said
    assert "is no sweep: it goes on with one value of --fusion" in said


def test_fits_that_see_the_same_tiles_share_their_features(recipe):
    def tiles(**overrides: Any) -> list[object]:
        changes = {key.replace("__", "."): value for key, value in overrides.items()}
        return [one.tiles for one in plan_sweep(recipe, {"seed": [0, 1]}, changes)]

    one, other = tiles()
    assert one == other
    for drawn in ({"tile__train": "random"}, {"fit__label_fraction": 0.5}):
        one, other = tiles(**drawn)
        assert one != other


def test_wrong_words_are_told_before_anything_heavy_is_imported(recipe, tmp_path):
    code, modules = run("fit-ensemble", recipe, "--fusion", "concat,no", cwd=tmp_path)
    assert code == 2
    assert not modules & HEAVY
    code, modules = run("fit-ensemble", "no.yaml", "--fusion", "concat,mlp", cwd=tmp_path)
    assert code == 2
    assert not modules & HEAVY


# ------------------------------------------------------------------------------ what nothing beats

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)


@given(POINTS)
def test_what_is_left_out_is_beaten_by_what_is_in(points):
    chosen = undominated(points)
    front = [point for point, inside in zip(points, chosen, strict=True) if inside]
    assert front
    for gain, cost in set(points) - set(front):
        assert any(g >= gain and c <= cost for g, c in front)
    for gain, cost in front:
        assert not any(g >= gain and c <= cost and (g, c) != (gain, cost) for g, c in points)


@given(POINTS, st.randoms())
def test_the_pareto_set_does_not_depend_on_the_order(points, random):
    shuffled = random.sample(points, len(points))
    inside = {p for p, chosen in zip(points, undominated(points), strict=True) if chosen}
    again = {p for p, chosen in zip(shuffled, undominated(shuffled), strict=True) if chosen}
    assert inside == again


def test_what_is_no_number_is_never_in_the_pareto_set():
    assert undominated([(float("nan"), 1.0), (0.1, 2.0)]) == (False, True)


def row(score: float, flops: float, energy: float = 0.0, **settings: Any) -> SweepRow:
    return SweepRow(
        title=title(settings, tuple(settings)),
        settings=settings,
        runs=(Path("run"),),
        seeds=(0,),
        score=score,
        spread=None,
        specialists=("rgb",),
        parameters=10,
        trainable=5,
        flops_per_pixel=flops,
        latency=0.1,
        seconds=1.0,
        energy_kwh=energy,
    )


def test_less_is_better_of_errors_and_what_is_not_measured_is_not_told():
    rows = [row(2.0, 10, top_k=1), row(1.0, 30, top_k=3), row(1.5, 40, top_k=4)]
    marked = mark_pareto(rows, "RMSE")
    assert ["compute" in one.pareto for one in marked] == [True, True, False]
    assert ["compute" in one.pareto for one in mark_pareto(rows, "mIoU")] == [True, False, False]
    assert all("energy" not in one.pareto for one in marked)


def test_operations_are_counted_and_timed():
    module = nn.Conv2d(3, 4, 3, padding=1).eval()
    found = forward_cost(module, (1, 3, 8, 8), torch.device("cpu"))
    assert found.flops == 2 * 3 * 3 * 3 * 4 * 8 * 8
    assert found.seconds > 0


def test_a_fast_forward_counts_like_the_plain_one():
    backbone = build_backbone("test_convnext", 3).eval()
    plain, quick = (
        forward_cost(module, (1, 3, 64, 64), torch.device("cpu")).flops
        for module in (backbone, fast(backbone))
    )
    assert quick == pytest.approx(plain, rel=0.02)


def test_a_chart_is_drawn_of_any_kind_of_sweep(tmp_path):
    for number, rows in enumerate(
        [
            [
                row(0.5, 1e3, 1e-3, fusion="mlp", top_k=None),
                row(0.4, 9e3, 2e-3, fusion="a", top_k=1),
            ],
            [row(0.5, 1e3)],
        ]
    ):
        path = tmp_path / f"{number}.png"
        draw_sweep(
            path,
            SweepResult(
                recipe="tiny",
                task="segmentation",
                metric_name="mIoU",
                folder=tmp_path,
                state="completed",
                axes=tuple(rows[0].settings),
                rows=mark_pareto(rows, "mIoU"),
                failed=(),
                missing=(),
                tile=32,
                machine="CPU",
                cost=Cost(),
                resume=None,
                csv=path,
                json=path,
                png=path,
            ),
        )
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_narrow_terminal_keeps_what_matters():
    assert not any(set(_ALWAYS) & set(fewer) for fewer in _FEWER)
    assert list(map(len, _FEWER)) == sorted(map(len, _FEWER))


# ------------------------------------------------------------------------------ real fits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a recipe and an ensemble of three untrained specialists."""
    folder = tmp_path_factory.mktemp("sweeps")
    write_scenes(folder / "data" / "tiny")
    fit = {**RECIPE["fit"], "epochs": 1, "ensemble": "all.safetensors"}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**RECIPE, "fit": fit}, sort_keys=False))
    torch.manual_seed(0)
    specialists = [
        Specialist(
            SpecialistInfo(name=n, backbone="test_convnext", in_chans=len(bands), bands=bands),
            build_backbone("test_convnext", len(bands)).state_dict(),
        )
        for n, bands in SPECIALISTS.items()
    ]
    write_ensemble(folder / "all.safetensors", specialists)
    return folder


@pytest.fixture(autouse=True)
def project(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path | None:
    """Where tests that fit something run: each one has an experiments folder of its own."""
    monkeypatch.setenv("EOSFM_EXPERIMENTS", str(tmp_path / "experiments"))
    if "made" not in request.fixturenames and "swept" not in request.fixturenames:
        return None
    folder = request.getfixturevalue("made")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def swept(made: Path) -> dict[str, Any]:
    """A sweep over numbers of specialists, one of which is too large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setenv("EOSFM_EXPERIMENTS", str(made / "swept"))
        words = ["fit-ensemble", "tiny.yaml", "--top-k", "9,2,1", "--strict"]
        assert main(words) == 1
    (folder,) = (made / "swept" / "sweep" / "tiny").iterdir()
    return json.loads((folder / "sweep.json").read_text())


def test_a_failure_loses_no_other_combination(swept):
    assert swept["state"] == "failed"
    (failure,) = swept["failed"]
    assert failure["title"] == "top-k 9"
    assert "more than the 3 usable specialists" in failure["message"]
    assert swept["missing"] == ["top-k 9"]
    assert swept["resume"].startswith("eosfm fit-ensemble --resume ")
    assert {one["title"] for one in swept["rows"]} == {"top-k 2", "top-k 1"}


def test_each_combination_is_a_run_of_its_own_with_its_cost(swept, made):
    runs = {Path(one["runs"][0]) for one in swept["rows"]}
    assert all(RunDir(path).state == "completed" for path in runs)
    records = read_ledger(made / "swept").records
    assert sorted(record.run for record in records) == sorted(
        str(path.relative_to(made / "swept")) for path in runs
    )
    total = sum(RunDir(path).read_summary()["energy_kwh"] for path in runs)
    assert swept["cost"]["energy_kwh"] == pytest.approx(total)


def test_a_table_says_what_each_gives_and_costs(swept):
    with open(swept["csv"]) as file:
        rows = list(csv.DictReader(file))
    assert [float(one["mIoU"]) for one in rows] == sorted(
        (float(one["mIoU"]) for one in rows), reverse=True
    )
    two, one = sorted(rows, key=lambda found: -int(found["top_k"]))
    for cost in ("parameters", "flops_per_pixel"):
        assert float(two[cost]) > float(one[cost]) > 0
    assert float(one["latency_seconds"]) > 0
    assert len(two["specialists"].split()) == 2
    for kind in get_args(TradeOff)[:3]:
        assert "yes" in {found[f"pareto_{kind}"] for found in rows}
    assert Path(swept["png"]).read_bytes().startswith(b"\x89PNG")


def test_a_shared_search_gives_what_a_run_of_its_own_gives(swept, made, capsys):
    (path,) = (Path(one["runs"][0]) for one in swept["rows"] if one["title"] == "top-k 1")
    (other,) = (Path(one["runs"][0]) for one in swept["rows"] if one["title"] == "top-k 2")
    assert "were compared in" in (path / "log.txt").read_text()
    assert RunDir(path).read_summary()["scores"] == RunDir(other).read_summary()["scores"]
    with (path / "metrics.csv").open() as file:
        assert [found["phase"] for found in csv.DictReader(file)] == ["search", "fit"]
    assert main(["fit-ensemble", "tiny.yaml", "--top-k", "1", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    manifest, state = read_model(path / "model.safetensors")
    again, expected = read_model(Path(alone["model"]))
    assert manifest.metrics == again.metrics
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_a_sweep_goes_on_as_it_began(swept, capsys):
    folder = swept["folder"]
    for words in (["tiny.yaml"], ["--fusion", "concat,mlp"], ["--epochs", "2"], ["--strict"]):
        assert main(["fit-ensemble", "--resume", folder, *words]) == 2
        assert "it goes on with the recipe" in capsys.readouterr().err
    assert main(["fit-ensemble", "--resume", folder, "--json"]) == 1  # top-k 9 fails again
    again = json.loads(capsys.readouterr().out)
    assert [one["runs"] for one in again["rows"]] == [one["runs"] for one in swept["rows"]]
    assert main(["runs", "--experiments", str(Path(folder).parents[2])]) == 0
    assert "completed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (["compare"], "Compare its fits: eosfm compare "),
        (["train-specialist", "--resume"], "Go on with it: eosfm fit-ensemble --resume "),
        (["inspect"], "Name one of its fits: eosfm inspect "),
        (["evaluate"], "Name one of its fits: eosfm evaluate "),
    ],
)
def test_a_sweep_in_the_place_of_a_run_is_told_what_it_is(swept, words, instead, capsys):
    capsys.readouterr()
    assert main([*words, swept["folder"]]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{swept['folder']} is a sweep, with 2 completed fits, and no run" in said
    assert swept["csv"] in said
    assert instead in said
    assert main(["ablate", swept["folder"]]) == 3
    assert "it is a sweep, whose fits are runs of their own" in capsys.readouterr().err
    if words == ["compare"]:
        typed = said.partition("eosfm compare ")[2].split()
        assert main(["compare", *typed, "--json"]) == 0
        groups = json.loads(capsys.readouterr().out)["groups"]
        assert {one["runs"][0]["run"] for one in groups} == {r["runs"][0] for r in swept["rows"]}


def press_ctrl_c(folder: Path) -> None:
    """Stop this process when the second fit of a sweep has begun."""
    for _ in range(6000):
        for summary in folder.glob("sweep/*/*/summary.json"):
            if all(one["run"] for one in json.loads(summary.read_text())["combinations"]):
                os.kill(os.getpid(), signal.SIGINT)
                return
        time.sleep(0.01)


@pytest.fixture
def own_signals() -> Iterator[None]:
    """A stopped command leaves the default behaviour, so that a second Ctrl-C ends it at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_seeds_are_taken_together(
    made, tmp_path, capsys, own_signals
):
    stopper = threading.Thread(target=press_ctrl_c, args=(tmp_path / "experiments",))
    stopper.start()
    words = ["tiny.yaml", "--seed", "0,1", "--epochs", "4", "--json"]
    assert main(["fit-ensemble", *words]) == 130
    stopper.join()
    stopped = json.loads(capsys.readouterr().out)
    assert (stopped["state"], stopped["missing"]) == ("interrupted", ["seed 1"])
    ((first,),) = (one["runs"] for one in stopped["rows"])
    assert main(["fit-ensemble", "--resume", stopped["folder"]]) == 0
    out, err = capsys.readouterr()
    assert "and 1 more" in out
    assert "±" in out
    assert "next: eosfm predict scene.tif --model" in err
    result = json.loads(Path(stopped["json"]).read_text())
    (found,) = result["rows"]
    assert found["seeds"] == [0, 1]
    assert found["runs"][0] == first
    assert len(list((tmp_path / "experiments" / "fit" / "tiny").iterdir())) == 2
    assert main(["fit-ensemble", "--resume", stopped["folder"]]) == 2
    assert "nothing to go on with" in capsys.readouterr().err


def test_a_budget_is_that_of_all_fits(made, tmp_path, capsys):
    words = ["--fusion", "concat,conv1x1", "--max-energy", "1e-9Wh", "--json"]
    assert main(["fit-ensemble", "tiny.yaml", *words]) == 5
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["state"] == "budget"
    assert "conv1x1" in result["missing"]  # a fit may be over before anything is measured
    assert "the budget of all fits" in err
    assert f"next: {result['resume']} --max-energy" in err
    assert len(list((tmp_path / "experiments" / "fit" / "tiny").iterdir())) == 1


@pytest.mark.slow
def test_a_dry_run_adds_up_and_keeps_nothing(made, tmp_path, capsys):
    words = ["fit-ensemble", "tiny.yaml", "--top-k", "2,1,9", "--dry-run"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = {name: [p["name"] for p in plan["phases"]] for name, plan in result["plans"].items()}
    assert list(names) == ["top-k all", "top-k 2", "top-k 1"]
    assert "search" in names["top-k 2"]
    assert names["top-k 1"] == ["fit"]
    assert result["total"]["seconds"] == pytest.approx(
        sum(plan["seconds"] for plan in result["plans"].values())
    )
    assert not (tmp_path / "experiments").exists()
