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


def test_names_of_files_may_hold_anything_and_be_many(tmp_path, capsys):
    from PIL import Image

    odd = "a\x1b[31m\n| $b_c$ [bold]\u202e" + 300 * "x" + ".tif"
    append_record(tmp_path, record(odd, command="predict", energy_kwh=2000))
    for number in range(50):
        append_record(tmp_path, record(f"{number}.tif", command="predict", energy_kwh=number))
    table, chart = tmp_path / "table.csv", tmp_path / "chart.png"
    words = ["emissions", "--experiments", str(tmp_path), "--csv", str(table), "--plot", str(chart)]
    assert main([*words, "--markdown"]) == 0
    streams = capsys.readouterr()
    assert len(streams.out.splitlines()) == 2 + 51 + 1
    assert "\x1b" not in streams.out + streams.err + table.read_text()
    assert "by car" not in streams.err  # nobody knows the emissions
    assert len(list(csv.DictReader(table.open(newline="")))) == 51
    with Image.open(chart) as picture:
        assert picture.size == (1050, round((1.2 + 0.34 * 40) * 150))


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
    """By hand: 0.02 + 0.01 kWh over 4 + 2 km² is 5 Wh per km²; 0.012 kg over 6 km² 2 g.

    And 0.003 kWh over 30 km² is 0.1 Wh, 9e-8 kg over 30 km² 3 µg; in all 0.033 kWh over 36 km²
    0.917 Wh, 0.01200009 kg 0.333 g.
    """
    for name, area, kwh, kg in [
        ("a.tif", 4.0, 0.02, 0.008),
        ("a.tif", 2.0, 0.01, 0.004),
        ("a.tif", None, 5.0, 2.0),
        ("b.tif", 30.0, 0.003, 9e-8),
    ]:
        line = record(name, command="predict", area_km2=area, energy_kwh=kwh, emissions_kg=kg)
        append_record(tmp_path, line)
    assert main(["emissions", "--experiments", str(tmp_path), "--per", "km2"]) == 0
    streams = capsys.readouterr()
    rows = [line.split()[-5:] for line in streams.out.splitlines()[1:]]
    assert rows == [
        ["6.00", "5.00", "Wh", "2.00", "g"],
        ["30.0", "0.100", "Wh", "3.00", "µg"],
        ["36.0", "0.917", "Wh", "0.333", "g"],
    ]
    assert "left out: 1 prediction that does not tell what area was mapped" in streams.err


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


WHOLE = {"cpu": "measured for the whole machine (RAPL)"}
CONSTANT = {"cpu": "modelled from this process's load", "ram": "constant per memory module"}
DEVICE = {"gpu": "measured for the whole device (driver)"}


@pytest.mark.parametrize(
    ("stages", "expected", "parts"),
    [
        # machine, from second, to second, how, GPUs
        ([("a", 0, 5, WHOLE, ()), ("a", 4, 9, WHOLE, ()), ("a", 9, 12, WHOLE, ())], 2, ("cpu",)),
        ([("a", 0, 5, WHOLE, ()), ("b", 0, 5, WHOLE, ())], 0, ()),
        ([("a", 0, 9, WHOLE, ()), ("a", 1, 2, WHOLE, ()), ("a", 5, 6, WHOLE, ())], 3, ("cpu",)),
        ([("a", 0, 5, CONSTANT, ()), ("a", 4, 9, CONSTANT, ())], 2, ("ram",)),
        ([("a", 0, 5, WHOLE, ()), ("a", 4, 9, CONSTANT, ())], 0, ()),
        ([("a", 0, 5, DEVICE, (0,)), ("a", 4, 9, DEVICE, (1, 2))], 0, ()),
        ([("a", 0, 5, DEVICE, (0, 1)), ("a", 4, 9, DEVICE, (1, 2))], 2, ("gpu",)),
        ([("a", 0, 5, DEVICE, ()), ("a", 4, 9, DEVICE, (1,))], 2, ("gpu",)),  # who knows which
        ([("a", 9, 0, WHOLE, ()), ("a", 4, 8, WHOLE, ())], 0, ()),  # the clock was set back
    ],
)
def test_what_several_stages_count_at_once_is_told(tmp_path, stages, expected, parts, capsys):
    for node, began, ended, obtained, gpus in stages:
        line = record(
            node=node,
            started=f"2026-01-01T00:00:{began:02}",
            written=f"2026-01-01T00:00:{ended:02}",
            obtained=obtained,
            hardware={"gpu": "H200", "gpu_ids": gpus},
            energy_kwh=1,
        )
        append_record(tmp_path, line)
    found = emissions(tmp_path)
    assert (found.side_by_side, found.counted_twice) == (expected, parts)
    assert main(["emissions", "--experiments", str(tmp_path)]) == 0
    assert ("ran side by side on one machine" in capsys.readouterr().err) == bool(expected)
    assert main(["emissions", "--experiments", str(tmp_path), "--card"]) == 0
    assert ("ran side by side" in capsys.readouterr().out) == bool(expected)


def test_what_the_building_takes_is_said_where_it_is_counted(tmp_path, capsys):
    append_record(tmp_path, record(energy_kwh=1, ram_kwh=1, columns={"pue": 1.0}))
    assert main(["emissions", "--experiments", str(tmp_path), "--card"]) == 0
    streams = capsys.readouterr()
    assert "cooling, network" in streams.out
    assert "PUE" not in streams.err
    append_record(tmp_path, record(energy_kwh=1, ram_kwh=1, columns={"pue": 1.5}))
    assert main(["emissions", "--experiments", str(tmp_path), "--card"]) == 0
    streams = capsys.readouterr()
    assert "beyond a PUE of 1.5, network" in streams.out
    assert "energy is 1.5 times the machine's (PUE)" in streams.err


def test_the_ledger_is_not_written_over(ledger, capsys):
    own = ledger / "emissions.jsonl"
    before = own.read_bytes()
    for option in ("--csv", "--plot"):
        assert main(["emissions", "--experiments", str(ledger), option, str(own)]) == 2
        assert "not written over" in capsys.readouterr().err
    assert own.read_bytes() == before


def test_gpus_are_counted_once_in_their_name(tmp_path):
    """codecarbon's tables, and older ledgers, begin the name with how many there are."""
    gpus = {"cpu": "Xeon", "gpu": "8 x NVIDIA A100", "gpu_count": 8}
    append_record(tmp_path, record(energy_kwh=1, hardware=gpus))
    assert emissions(tmp_path).hardware == ("8 × NVIDIA A100, Xeon",)


def test_a_project_that_moved_country_and_machine(tmp_path):
    """By hand, rgb: 0.2 kWh at 50 g, then 0.1 kWh at 380 g after it was resumed: 48 g in all."""
    germany = {"g_per_kwh": 380.0, "source": "Germany (EOSFM_COUNTRY), codecarbon's table"}
    france = {"g_per_kwh": 50.0, "source": "France (EOSFM_COUNTRY), codecarbon's table"}
    for stage, kwh, intensity, cpu in [
        ("a", 0.2, france, "Xeon"),
        ("b", 0.1, germany, "EPYC"),
    ]:
        line = record(
            "rgb",
            stage=stage,
            run="train/rgb/1",
            energy_kwh=kwh,
            emissions_kg=kwh * intensity["g_per_kwh"] / 1000,
            intensity=intensity,
            hardware={"cpu": cpu},
        )
        append_record(tmp_path, line)
    found = emissions(tmp_path)
    (row,) = found.rows
    assert (row.runs, row.energy_kwh) == (2, pytest.approx(0.3))
    assert row.emissions_kg == pytest.approx(0.048)
    assert found.places == ("France", "Germany")
    assert found.hardware == ("Xeon", "EPYC")
    machines = emissions(tmp_path, by="hardware").rows
    assert [one.emissions_kg for one in machines] == pytest.approx([0.010, 0.038])


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
    for project in (tmp_path, tmp_path / "experiments"):
        assert main(["emissions", str(project), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["total"]["energy_kwh"] == 9.75


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
        # copies put together: the oldest rows name no run, but are alike to the last digit
        (
            f"{OLDEST}\n2021-01-01,,seed,100,0.05,0.1,France\n"
            f"{OLDEST}\n2021-01-01,,seed,100,0.05,0.1,France\n2021-01-01,,seed,90,0.05,0.1,France\n",
            190,
            0.2,
            0,
        ),
        # a tracker that was started again: its energy goes on, its time begins anew
        (
            f"{NEWER}\n2024-01-01,p,r1,60,0.1,0,5,0.1,0.05,0.05,0.2,France,3.0.1,X,\n"
            "2024-01-01,p,r1,10,0.2,0,5,0.2,0.1,0.1,0.4,France,3.0.1,X,\n",
            10,
            0.4,
            0,
        ),
        # an editor's mark and line ends; columns of a version to come
        (
            f"\ufeff{OLDEST},new_column\r\n2021-01-01,,seed,100,0.05,0.1,France,x\r\n",
            100,
            0.1,
            0,
        ),
    ],
)
def test_tables_of_codecarbons_versions(tmp_path, text, seconds, kwh, left_out, capsys):
    path = tmp_path / "emissions.csv"
    path.write_bytes(text.encode())
    assert main(["emissions", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["seconds"] == pytest.approx(seconds)
    assert found["total"]["energy_kwh"] == pytest.approx(kwh)
    assert found["skipped"] == left_out


def test_what_the_building_takes_is_read_from_codecarbons_table_too(tmp_path):
    path = tmp_path / "emissions.csv"
    row = "2025-01-01,p,r1,60,0.1,0,5,0.1,0.05,0.05,0.2,France,2.8.3,X,1 x A100"
    path.write_text(f"{NEWER},gpu_count,pue\n{row},1,1.5\n")
    found = emissions(tmp_path, subject=path)
    assert found.pue == (1.5,)
    assert found.hardware == ("1 × A100, X",)


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
    """A model's file: 0.5 and 0.25 kWh of specialists, 0.05 of one left out, 0.2 of the fit,
    0.25 of making it smaller: 1.25 in all, 0.45 of it new, which is 36 %.
    """
    path = tmp_path / "model.safetensors"
    specialists = [
        {"name": "rgb", "backbone": "resnet18", "in_chans": 3, "seconds": 50, "energy_kwh": 0.5},
        {"name": "s1", "backbone": "resnet18", "in_chans": 2, "energy_kwh": 0.25},
        {"name": "old", "backbone": "resnet18", "in_chans": 2},
    ]
    past_work = [
        {"command": "train-specialist", "name": "out", "energy_kwh": 0.05},
        {"command": "prune", "name": "landcover", "energy_kwh": 0.25},
    ]
    write_model_header(path, specialists, energy_kwh=0.2, emissions_kg=0.1, past_work=past_work)
    return path


def write_model_header(path, specialists, **entries):
    """A model's file without its weights."""
    from eosfm_cli.manifest import ModelManifest, to_metadata

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
            **entries,
        }
    )
    header = json.dumps({"__metadata__": to_metadata(manifest)}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


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
        ("landcover", "new", 0.25),
    ]
    assert found["total"]["energy_kwh"] == pytest.approx(1.25)
    assert found["new"]["energy_kwh"] == pytest.approx(0.45)
    assert "new work: 36.0 % of the energy" in streams.err
    assert "without figures (–): 1 run, the file does not tell" in streams.err


def test_the_card_of_a_file_says_how_it_was_measured_where_the_ledger_knows(tmp_path, capsys):
    from eosfm_cli.workflows.emissions import emissions as sum_up

    path = tmp_path / "experiments" / "fit" / "landcover" / "1" / "model.safetensors"
    path.parent.mkdir(parents=True)
    specialist = {"name": "rgb", "backbone": "resnet18", "in_chans": 3, "energy_kwh": 0.5}
    write_model_header(path, [{**specialist, "run": "train/rgb/1"}], energy_kwh=0.5)
    root = tmp_path / "experiments"
    how = {
        "obtained": {"cpu": "measured (RAPL)"},
        "hardware": {"cpu": "Xeon"},
        "tool": "codecarbon",
    }
    append_record(root, record("rgb", run="train/rgb/1", energy_kwh=0.5, cpu_kwh=0.5, **how))
    assert sum_up(root, subject=path).hardware == ()  # half of it is known
    fit = record("landcover", command="fit-ensemble", run="fit/landcover/1", **how)
    append_record(root, fit.model_copy(update={"energy_kwh": 0.5, "cpu_kwh": 0.5}))
    append_record(root, record("other", run="train/other/1", energy_kwh=9, hardware={"cpu": "T4"}))
    assert main(["emissions", str(path), "--card", "--experiments", str(root)]) == 0
    text = capsys.readouterr().out
    assert "hardware_used: Xeon" in text
    assert "100 % measured" in text
    assert "at least 1 kWh were measured" in text
    assert main(["emissions", str(path), "--card", "--experiments", str(tmp_path)]) == 0
    assert "How its parts were measured is not recorded here." in capsys.readouterr().out


def test_a_file_has_nothing_else_to_go_by(fitted, capsys):
    assert main(["emissions", str(fitted), "--by", "day"]) == 2
    assert "one sum for each piece of work" in capsys.readouterr().err


def test_inspect_says_it_too(fitted, capsys):
    assert main(["inspect", str(fitted)]) == 0
    said = "1.25 kWh: 36.0 % new work, 64.0 % reused; not known of train-specialist old"
    assert said in capsys.readouterr().out
    assert main(["inspect", str(fitted), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["new"]["energy_kwh"] == pytest.approx(0.45)
    assert found["unmeasured"] == ["train-specialist old"]


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
