"""`eosfm emissions`: sums over ledgers worked out by hand."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.carbon.ledger import append_record
from eosfm_cli.commands import figures
from eosfm_cli.commands.app import main
from eosfm_cli.workflows.emissions import emissions
from tests.test_ledger import record

FRANCE = {"g_per_kwh": 50.0, "source": "France"}
WORLD = {"g_per_kwh": 475.0, "source": "world average"}


@pytest.fixture
def ledger(tmp_path):
    """Two runs of one specialist, one of another, a fit, and a stage without figures.

    By hand: 100 + 50 + 20 + 300 + 3 = 473 s; 0.10 + 0.05 + 0.05 + 0.20 = 0.40 kWh;
    0.005 + 0.0025 + 0.02375 + 0.095 = 0.12625 kg.
    """
    stages = [
        ("train-specialist", "rgb", 100, 0.10, FRANCE),
        ("train-specialist", "s1", 20, 0.05, WORLD),
        ("fit-ensemble", "landcover", 300, 0.20, WORLD),
        ("train-specialist", "rgb", 50, 0.05, FRANCE),
    ]
    for command, name, seconds, kwh, intensity in stages:
        append_record(
            tmp_path,
            record(
                name,
                command=command,
                seconds=seconds,
                covered_seconds=seconds,
                energy_kwh=kwh,
                emissions_kg=kwh * intensity["g_per_kwh"] / 1000,
                intensity=intensity,
                obtained={"cpu": "modelled", "gpu": "none in use", "ram": "modelled"},
            ),
        )
    append_record(
        tmp_path, record("scene.tif", command="predict", seconds=3, problem="too short to measure")
    )
    return tmp_path


def test_sums_and_shares_are_those_worked_out_by_hand(ledger):
    result = emissions(ledger)
    found = {
        (row.command, row.name): (row.runs, row.seconds, row.energy_kwh, row.emissions_kg)
        for row in result.rows
    }
    assert found == {
        ("train-specialist", "rgb"): (2, 150, pytest.approx(0.15), pytest.approx(0.0075)),
        ("train-specialist", "s1"): (1, 20, pytest.approx(0.05), pytest.approx(0.02375)),
        ("fit-ensemble", "landcover"): (1, 300, pytest.approx(0.20), pytest.approx(0.095)),
        ("predict", "scene.tif"): (1, 3, 0, 0),
    }
    assert [row.share for row in result.rows] == pytest.approx([0.375, 0.125, 0.5, 0])
    assert result.total.seconds == 473
    assert result.total.energy_kwh == pytest.approx(0.40)
    assert result.total.emissions_kg == pytest.approx(0.12625)


def test_what_the_figures_rest_on_is_told(ledger):
    result = emissions(ledger)
    assert result.unmeasured == {"too short to measure": 1}
    assert result.intensities == ("50 g CO₂eq/kWh, France", "475 g CO₂eq/kWh, world average")
    assert result.obtained == {"cpu": ("modelled",), "gpu": ("none in use",), "ram": ("modelled",)}


def test_a_project_without_any_figures_has_no_shares(tmp_path):
    append_record(tmp_path, record())
    (row,) = emissions(tmp_path).rows
    assert row.share == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["train-specialist", "fit-ensemble"]),
            st.sampled_from("abc"),
            st.floats(0, 1e3),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_rows_add_up_to_the_total_whatever_the_ledger(tmp_path_factory, stages):
    root = tmp_path_factory.mktemp("ledger")
    for command, name, kwh in stages:
        append_record(
            root, record(name, command=command, covered_seconds=1, energy_kwh=kwh, seconds=kwh)
        )
    result = emissions(root)
    assert sum(row.runs for row in result.rows) == len(stages)
    assert sum(row.energy_kwh for row in result.rows) == pytest.approx(result.total.energy_kwh)
    assert result.total.energy_kwh == pytest.approx(sum(kwh for *_, kwh in stages))
    if result.total.energy_kwh:
        assert sum(row.share for row in result.rows) == pytest.approx(1)


def test_the_command_prints_a_table_and_what_it_rests_on(ledger, capsys):
    assert main(["emissions", "--experiments", str(ledger)]) == 0
    streams = capsys.readouterr()
    rgb = next(line for line in streams.out.splitlines() if " rgb " in line)
    assert "2 min 30 s" in rgb
    assert "150 Wh" in rgb
    assert "7.50 g" in rgb
    assert "37.5 %" in rgb
    scene = next(line for line in streams.out.splitlines() if "scene.tif" in line)
    assert scene.split()[-3:] == ["–", "–", "–"]
    assert "475 g CO₂eq/kWh, world average" in streams.err
    assert "without figures (–): 1 run, too short to measure" in streams.err


def test_csv_json_and_plot(ledger, tmp_path, capsys):
    table, chart = tmp_path / "out" / "table.csv", tmp_path / "out" / "chart.png"
    arguments = ["emissions", "--experiments", str(ledger), "--json"]
    assert main([*arguments, "--csv", str(table), "--plot", str(chart)]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(table.open(newline="")))
    assert [float(row["energy_kwh"]) for row in rows] == [r["energy_kwh"] for r in found["rows"]]
    assert found["files"] == [str(table), str(chart)]

    from PIL import Image

    with Image.open(chart) as picture:
        assert picture.format == "PNG"
        assert len(set(picture.convert("RGB").get_flattened_data())) > 10


def test_lines_that_are_no_records_are_counted_aloud(ledger, capsys):
    with (ledger / "emissions.jsonl").open("a") as file:
        file.write('{"command": "train-spec')
    assert main(["emissions", "--experiments", str(ledger)]) == 0
    assert "left out, as no records: 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.duration(3.04), "3.0 s"),
        (figures.duration(245), "4 min 05 s"),
        (figures.duration(7620), "2 h 07 min"),
        (figures.energy(0.0123), "12.3 Wh"),
        (figures.energy(2.5), "2.50 kWh"),
        (figures.energy(1e-7), "<0.001 Wh"),
        (figures.energy(0), "–"),
        (figures.mass(0.00852e-3), "0.00852 g"),
        (figures.count(3_713_000), "3.71 M"),
        (figures.count(512), "512"),
        (figures.change(-0.0312), "-0.031"),
        (figures.main_metric({"loss": 1.9, "mIoU": 0.5}), ("mIoU", "0.500")),
        (figures.main_metric({"loss": 1.9, "Accuracy": 0.5}), ("Accuracy", "0.500")),
        (figures.main_metric({"loss": 1.9}), (None, "–")),
    ],
)
def test_figures_are_written_for_people(shown, expected):
    assert shown == expected
