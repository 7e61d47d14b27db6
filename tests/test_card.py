"""Model cards: the hub's own reader takes them, and people can read them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from eosfm_cli.carbon.ledger import Hardware, Intensity, StageRecord, append_record
from eosfm_cli.card import Circumstances, card
from eosfm_cli.errors import UsageError
from eosfm_cli.licences import hub_identifier, strictest
from eosfm_cli.manifest import EnsembleManifest, ModelManifest, SpecialistInfo
from eosfm_cli.workflows.card import check_card, write_card

RGB = SpecialistInfo(
    name="rgb",
    backbone="convnextv2_atto",
    in_chans=3,
    bands=("red", "green", "blue"),
    recipe="mini-rgb",
    task="segmentation",
    metrics={"mIoU": 0.5, "IoU_nowhere": float("nan")},
    parameters=3_386_760,
    licence="CC-BY-4.0",
    energy_kwh=0.5,
    emissions_kg=0.125,
    run="train/mini-rgb/20260101-000000",
)
OLD = SpecialistInfo(name="old", backbone="resnet18", in_chans=12, source="theirs.pth")


def ensemble(*specialists: SpecialistInfo) -> EnsembleManifest:
    return EnsembleManifest(created="2026-01-01", eosfm="1", specialists=specialists or (RGB, OLD))


def model(**changes: Any) -> ModelManifest:
    known = {
        "recipe": "mini-landcover",
        "title": "Land cover",
        "task": "segmentation",
        "bands": ("red", "nir"),
        "statistics": {},
        "classes": [{"name": "water"}, {"name": "land | <b>"}],
        "ignore_index": 255,
        "tile_size": 64,
        "encoder": {"fusion": "conv1x1"},
        "specialists": [RGB],
        "decoder": {"name": "UperNetDecoder"},
        "metrics": {"mIoU": 0.7},
        "licence": "CC-BY-NC-SA-4.0",
        "energy_kwh": 0.25,
        "emissions_kg": 0.0625,
    }
    return ModelManifest.model_validate({**known, **changes})


def read(text: str) -> Any:
    return ModelCard(text, ignore_metadata_errors=False).data


def test_the_hub_reads_the_card_of_an_ensemble() -> None:
    data = read(card(ensemble(), "ours.safetensors"))
    assert (data.license, data.library_name) == ("unknown", "eosfm")  # `old` states none
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.datasets == ["mini-rgb"]
    assert {"earth-observation", "convnextv2_atto", "resnet18"} <= set(data.tags)
    (score,) = data.eval_results
    assert (score.metric_type, score.metric_value) == ("mIoU", 0.5)
    assert (score.dataset_type, score.task_type) == ("mini-rgb", "image-segmentation")
    emitted = data.to_dict()["co2_eq_emissions"]
    assert emitted == {
        "emissions": 125.0,
        "source": "codecarbon",
        "training_type": "pre-training",
    }


def test_the_card_of_a_model_counts_the_specialists_and_the_fit() -> None:
    around = Circumstances(("France",), ("56 g CO₂eq/kWh, France",), ("1 × NVIDIA H200, Xeon",))
    text = card(model(), "model.safetensors", around)
    data = read(text)
    assert (data.license, data.pipeline_tag) == ("cc-by-nc-sa-4.0", "image-segmentation")
    assert data.to_dict()["co2_eq_emissions"] == {
        "emissions": 187.5,
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "geographical_location": "France",
        "hardware_used": "1 × NVIDIA H200, Xeon",
    }
    assert data.datasets == ["mini-rgb", "mini-landcover"]
    assert "750 Wh, 188 g CO₂eq" in text
    assert "eosfm predict scene.tif --model model.safetensors" in text
    assert "| classes | water, land \\| &lt;b> |" in text


def test_unmeasured_energy_is_no_zero() -> None:
    text = card(ensemble(OLD), "old.pth")
    assert "co2_eq_emissions" not in text
    assert "Not measured." in text
    assert "Not in it: 1 of 2 that nobody measured." in card(ensemble(), "ours.pth")


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        (None, {"license": "unknown"}),
        ("CC BY-SA 4.0", {"license": "cc-by-sa-4.0"}),
        (
            "ISPRS benchmark terms (research use)",
            {"license": "other", "license_name": "isprs-benchmark-terms-research-use"},
        ),
    ],
)
def test_licences_have_the_hubs_names(licence: str | None, expected: dict[str, str]) -> None:
    one = RGB.model_copy(update={"licence": licence})
    found = read(card(ensemble(one), "a.pth")).to_dict()
    assert {key: found[key] for key in ("license", "license_name") if key in found} == expected


@given(st.text(), st.text(), st.dictionaries(st.text(), st.floats(), max_size=3))
def test_no_text_from_a_file_breaks_the_card(
    name: str, licence: str, metrics: dict[str, float]
) -> None:
    odd = RGB.model_copy(
        update={"name": name, "licence": licence, "metrics": metrics, "recipe": name}
    )
    text = card(ensemble(odd), "a.pth")
    assert read(text).library_name == "eosfm"
    (row,) = (line for line in text.splitlines() if "3,386,760 |" in line)
    assert row.replace(r"\|", "").count("|") == 8


# --------------------------------------------------------------------------- licences


def test_the_strictest_licence_is_found_whatever_the_order() -> None:
    rising = [
        "CC0-1.0",
        "CC-BY-4.0",
        "ODbL-1.0",
        "CC BY-ND 4.0",
        "cc-by-nc-4.0",
        "CC-BY-NC-SA-4.0",
        "CC-BY-NC-ND-4.0",
        "to be read by somebody",
    ]
    for one, other in itertools.combinations(rising, 2):
        assert strictest([one, other]) == strictest([other, None, one]) == other
    assert strictest([None, ""]) is None
    assert strictest(["MIT", "Apache-2.0"]) == "MIT"
    assert strictest(["CC-BY-4.0", "MIT AND CC-BY-NC-4.0"]) == "MIT AND CC-BY-NC-4.0"


@pytest.mark.parametrize(
    ("licence", "identifier"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("ODbL-1.0", "odbl"),
        ("CC0-1.0", "cc0-1.0"),
        ("CC-BY-9.0", None),
        ("mit, or so", None),
    ],
)
def test_only_what_the_hub_lists_has_its_name(licence: str, identifier: str | None) -> None:
    assert hub_identifier(licence) == identifier


# --------------------------------------------------------------------------- files


def test_hardware_and_place_come_from_the_ledger(tmp_path: Path) -> None:
    source = "France (EOSFM_COUNTRY), codecarbon's table"
    stage = StageRecord(
        command="train-specialist",
        name="mini-rgb",
        run=RGB.run,
        state="completed",
        started="2026-01-01",
        seconds=60,
        covered_seconds=60,
        intensity=Intensity(g_per_kwh=56, source=source),
        hardware=Hardware(cpu="Xeon", gpu="NVIDIA H200", gpu_count=2),
    )
    append_record(tmp_path, stage)
    append_record(tmp_path, stage.model_copy(update={"run": "train/other/1"}))
    path = tmp_path / "README.md"
    write_card(path, ensemble(), tmp_path / "ensemble.safetensors", root=tmp_path / "nowhere")
    emitted = read(path.read_text())["co2_eq_emissions"]
    assert emitted["geographical_location"] == "France"
    assert emitted["hardware_used"] == "2 × NVIDIA H200, Xeon"


def test_a_card_replaces_cards_alone(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    write_card(path, ensemble(), tmp_path / "a.pth", root=tmp_path)
    check_card(path)
    path.write_text("# My own words\n")
    with pytest.raises(UsageError, match="eosfm did not write it"):
        check_card(path)
    with pytest.raises(UsageError, match="is a folder"):
        check_card(tmp_path)
    with pytest.raises(UsageError, match=r"does not end in \.md"):
        check_card(tmp_path / "card.txt")
