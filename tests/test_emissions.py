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
        tuple(row.group.values()): (row.runs, row.seconds, row.energy_kwh, row.emissions_kg)
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


# ------------------------------------------------------------------------------ rows and forms


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("command", {"train-specialist": 0.2, "fit-ensemble": 0.2, "predict": 0.0}),
        ("specialist", {"rgb": 0.15, "s1": 0.05, "none in particular": 0.2}),
        ("day", {"2026-01-01": 0.3, "2026-01-02": 0.1}),
        ("hardware", {"2 × H200, Xeon": 0.25, "Xeon": 0.15, "not stated": 0.0}),
    ],
)
def test_rows_by_something_else(tmp_path, by, expected):
    """The energies by hand: rgb 0.10 + 0.05, s1 0.05, the fit 0.20."""
    gpus = {"cpu": "Xeon", "gpu": "H200", "gpu_count": 2}
    first, second = "2026-01-01T08:00:00+00:00", "2026-01-02T08:00:00+00:00"
    for command, name, specialist, kwh, started, hardware in [
        ("train-specialist", "rgb", "rgb", 0.10, first, {"cpu": "Xeon"}),
        ("train-specialist", "s1", "s1", 0.05, second, gpus),
        ("fit-ensemble", "landcover", None, 0.20, first, gpus),
        ("train-specialist", "rgb", "rgb", 0.05, second, {"cpu": "Xeon"}),
        ("predict", "scene.tif", None, 0.0, first, {}),
    ]:
        append_record(
            tmp_path,
            record(
                name,
                command=command,
                specialist=specialist,
                energy_kwh=kwh,
                started=started,
                hardware=hardware,
            ),
        )
    found = {next(iter(r.group.values())): r.energy_kwh for r in emissions(tmp_path, by=by).rows}
    assert found == pytest.approx(expected)


def test_predictions_by_the_area_that_they_mapped(tmp_path, capsys):
    """By hand: 0.02 + 0.01 kWh over 4 + 2 km² is 5 Wh per km²; 0.012 kg over 6 km² 2 g."""
    for area, kwh, kg in [(4.0, 0.02, 0.008), (2.0, 0.01, 0.004), (None, 5.0, 2.0)]:
        line = record(
            "scene.tif", command="predict", area_km2=area, energy_kwh=kwh, emissions_kg=kg
        )
        append_record(tmp_path, line)
    assert main(["emissions", "--experiments", str(tmp_path), "--per", "km2"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[-3:] == ["6.00", "5.00", "2.00"]


def test_without_predictions_there_is_no_area(ledger, capsys):
    assert main(["emissions", "--experiments", str(ledger), "--per", "km2"]) == 3
    assert "area" in capsys.readouterr().err


def test_two_runs_side_by_side(ledger, tmp_path, capsys):
    other = tmp_path / "other"
    half = record(seconds=236.5, energy_kwh=0.2, emissions_kg=0.063125, intensity=FRANCE)
    append_record(other, half)
    assert main(["emissions", "--compare", str(ledger), str(other)]) == 0
    streams = capsys.readouterr()
    assert streams.out.splitlines()[-1].split()[-6:] == ["0.5", "×", "0.5", "×", "0.5", "×"]
    assert "not counted alike" in streams.err
    assert main(["emissions", "--compare", str(ledger), str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["second"]["total"]["energy_kwh"] == 0.2


def test_markdown(ledger, capsys):
    assert main(["emissions", "--experiments", str(ledger), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "| --- | --- | --- | --- | --- | --- | --- |"
    assert lines[2] == "| train-specialist | rgb | 2 | 2 min 30 s | 150 Wh | 7.50 g | 37.5 % |"


def test_the_card_is_what_the_hub_reads_and_says_how_sure_it_is(tmp_path, capsys):
    """By hand: of 1 kWh, 0.7 of the GPU measured, 0.2 modelled, 0.1 constant."""
    append_record(
        tmp_path,
        record(
            seconds=7200,
            energy_kwh=1.0,
            gpu_kwh=0.7,
            cpu_kwh=0.2,
            ram_kwh=0.1,
            emissions_kg=0.056,
            intensity={"g_per_kwh": 56, "source": "France (EOSFM_COUNTRY), codecarbon's table"},
            hardware={"cpu": "Xeon", "gpu": "H200", "gpu_count": 1},
            obtained={"gpu": "measured (driver)", "cpu": "modelled, so", "ram": "constant: 10 W"},
            tool="codecarbon 3.3.2",
        ),
    )
    assert main(["emissions", "--experiments", str(tmp_path), "--card"]) == 0
    text = capsys.readouterr().out

    from huggingface_hub import ModelCard

    assert ModelCard(text, ignore_metadata_errors=False).data.to_dict()["co2_eq_emissions"] == {
        "emissions": 56.0,
        "source": "codecarbon 3.3.2",
        "training_type": "pre-training",
        "geographical_location": "France",
        "hardware_used": "1 × H200, Xeon",
    }
    assert "took 2 h and 1 kWh of electricity, which caused 56 g CO₂eq" in text
    assert "70 % measured, 20 % modelled, 10 % constant" in text
    assert "at least 0.7 kWh were measured" in text


@pytest.mark.parametrize(
    "words", [["--json", "--card"], ["--markdown", "--json"], ["--compare", "a", "b", "--card"]]
)
def test_forms_that_contradict_each_other(words, capsys):
    assert main(["emissions", *words]) == 2


def test_stages_that_one_counter_shows_together_are_told(tmp_path):
    whole = {"cpu": "measured for the whole machine (RAPL)"}
    for node, began, ended in [("a", 0, 5), ("a", 4, 9), ("a", 9, 12), ("b", 4, 9)]:
        times = {
            "started": f"2026-01-01T00:00:{began:02}",
            "written": f"2026-01-01T00:00:{ended:02}",
        }
        append_record(tmp_path, record(node=node, obtained=whole, energy_kwh=1, **times))
    assert emissions(tmp_path).side_by_side == 2


# ------------------------------------------------------------------------------ what is meant


def test_one_run_alone_with_its_killed_part(tmp_path, capsys):
    run = tmp_path / "experiments" / "train" / "rgb" / "20260101-000000"
    run.mkdir(parents=True)
    shown = "train/rgb/20260101-000000"
    append_record(tmp_path / "experiments", record(run=shown, state="running", energy_kwh=0.5))
    append_record(tmp_path / "experiments", record(run=shown, energy_kwh=0.25))
    append_record(tmp_path / "experiments", record(run="train/rgb/other", energy_kwh=9))
    assert main(["emissions", str(run), "--json"]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out)["total"]["energy_kwh"] == 0.75
    assert "killed, or still running: 1 run," in streams.err


def test_what_is_none_of_it_is_said(tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text("a,b\n1,2\n")
    for subject, said in [
        (tmp_path / "nowhere", "There is no run or file"),
        (tmp_path, "Nothing is known"),
        (other, "no table of codecarbon's"),
    ]:
        assert main(["emissions", str(subject)]) == 3
        assert said in capsys.readouterr().err


OLDEST = "timestamp,experiment_id,project_name,duration,emissions,energy_consumed,country_name"
NEWER = (
    "timestamp,project_name,run_id,duration,emissions,emissions_rate,cpu_power,cpu_energy,"
    "gpu_energy,ram_energy,energy_consumed,country_name,codecarbon_version,cpu_model,gpu_model"
)


@pytest.mark.parametrize(
    ("text", "seconds", "kwh", "left_out"),
    [
        # the oldest columns: each row is a run
        (f"{OLDEST}\n2021-01-01T00:00:00,,seed,100,0.05,0.1,France\n", 100, 0.1, 0),
        # a run that was flushed twice has two rows, each with all so far
        (
            f"{NEWER}\n2024-01-01,p,r1,60,0.1,0,5,0.1,0.05,0.05,0.2,France,2.3.4,X,\n"
            "2024-01-01,p,r1,90,0.15,0,5,0.15,0.07,0.08,0.3,France,2.3.4,X,\n"
            "2024-01-02,p,r2,10,0.5,0,5,1,0,0,1,France,3.0.1,X,\n",
            100,
            1.3,
            0,
        ),
        # two versions' files joined, a row cut off, one negative, one without numbers
        (
            f"{OLDEST}\n2021-01-01,,seed,100,0.05,0.1,France\n{NEWER}\n"
            "2024-01-01,p,r1,60,0.1,0,5,0.1,0.05,0.05,0.2,France,2.3.4,X,\n"
            "2024-01-01,p,r2,60,-0.1,0,5,0.1,0.05,0.05,0.2,France,2.3.4,X,\n"
            "2024-01-01,p,r3,60,nan,0,5,0.1,0.05,0.05,nan,France,2.3.4,X,\n"
            "2024-01-01,p,r4,60,0.1,0,",
            160,
            0.3,
            3,
        ),
    ],
)
def test_tables_of_codecarbons_versions(tmp_path, text, seconds, kwh, left_out, capsys):
    path = tmp_path / "emissions.csv"
    path.write_text(text)
    assert main(["emissions", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["seconds"] == pytest.approx(seconds)
    assert found["total"]["energy_kwh"] == pytest.approx(kwh)
    assert found["skipped"] == left_out


def test_codecarbon_reads_what_we_write_and_we_read_it_back(ledger, tmp_path):
    from codecarbon.output_methods.emissions_data import EmissionsData
    from codecarbon.output_methods.file import FileOutput

    from eosfm_cli.carbon.codecarbon_csv import read_codecarbon_csv, write_codecarbon_csv
    from eosfm_cli.carbon.ledger import read_ledger

    path = tmp_path / "emissions.csv"
    write_codecarbon_csv(path, read_ledger(ledger).records)
    (row, *_) = csv.DictReader(path.open(newline=""))
    data = EmissionsData(**row)
    assert FileOutput("emissions.csv", str(tmp_path)).has_valid_headers(data)
    back = read_codecarbon_csv(path).records
    assert sum(one.energy_kwh for one in back) == pytest.approx(0.40)
    assert sum(one.emissions_kg for one in back) == pytest.approx(0.12625)


@pytest.fixture
def fitted(tmp_path):
    """A model's file: 0.5 and 0.25 kWh of specialists, 0.05 of one left out, 0.2 of the fit."""
    from eosfm_cli.manifest import ModelManifest, to_metadata

    specialists = [
        {"name": "rgb", "backbone": "resnet18", "in_chans": 3, "seconds": 50, "energy_kwh": 0.5},
        {"name": "s1", "backbone": "resnet18", "in_chans": 2, "energy_kwh": 0.25},
        {"name": "old", "backbone": "resnet18", "in_chans": 2},
    ]
    manifest = ModelManifest.model_validate(
        {
            "recipe": "landcover",
            "title": "Land cover",
            "task": "segmentation",
            "bands": ("red",),
            "statistics": {},
            "ignore_index": 255,
            "tile_size": 64,
            "encoder": {},
            "specialists": specialists,
            "decoder": {"name": "UperNetDecoder"},
            "energy_kwh": 0.2,
            "emissions_kg": 0.1,
            "past_work": [{"command": "train-specialist", "name": "out", "energy_kwh": 0.05}],
        }
    )
    header = json.dumps({"__metadata__": to_metadata(manifest)}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


def test_a_model_says_what_it_took_and_what_of_it_is_new(fitted, capsys):
    assert main(["emissions", str(fitted), "--json"]) == 0
    streams = capsys.readouterr()
    found = json.loads(streams.out)
    assert [(r["name"], r["work"], r["energy_kwh"]) for r in found["rows"]] == [
        ("rgb", "reused", 0.5),
        ("s1", "reused", 0.25),
        ("old", "reused", 0),
        ("out", "reused", 0.05),
        ("landcover", "new", 0.2),
    ]
    assert found["total"]["energy_kwh"] == pytest.approx(1.0)
    assert found["new"]["energy_kwh"] == pytest.approx(0.2)
    assert "new work: 20.0 % of the energy" in streams.err
    assert "without figures (–): 1 run, the file does not tell" in streams.err


# ------------------------------------------------------------------------------ the country


def test_the_countrys_code_may_stand_anywhere(ledger, monkeypatch, capsys):
    monkeypatch.delenv("EOSFM_COUNTRY", raising=False)
    for words in (["--country", "fra", "emissions"], ["emissions", "--country=FRA"]):
        assert main([*words, "--experiments", str(ledger)]) == 0
    import os

    assert "EOSFM_COUNTRY" not in os.environ


@pytest.mark.parametrize(("given", "said"), [("France", "FRA (France)"), ("XX", "Three letters")])
def test_a_country_that_is_none(given, said, capsys):
    assert main(["emissions", "--country", given]) == 2
    assert said in capsys.readouterr().err


def test_the_country_of_codecarbons_configuration_counts_where_ours_is_not_set(monkeypatch):
    from eosfm_cli.carbon.country import intensity

    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "DEU")
    monkeypatch.delenv("EOSFM_COUNTRY", raising=False)
    assert intensity()[1].source.startswith("Germany")
    monkeypatch.setenv("EOSFM_COUNTRY", "FRA")
    assert intensity()[1].source.startswith("France")


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
