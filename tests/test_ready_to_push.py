"""hub_cards/resformer-tiny-isic2017 is what it says: it loads offline, and its card is what the template makes of its files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoImageProcessor, AutoModel


pytest.importorskip("jinja2")

from modeling_resformer import ResFormerForMultiTask
from modeling_resformer.publishing.card import Terms, write_model_card
from modeling_resformer.publishing.facts import read_facts
from modeling_resformer.publishing.repository import is_repository
from modeling_resformer.publishing.repository_checks import check_card, check_run


ROOT = Path(__file__).parents[1]
READY = ROOT / "hub_cards" / "resformer-tiny-isic2017"
MEGABYTE = 2**20


def test_it_is_a_complete_repository_of_at_most_ten_megabytes():
    assert is_repository(READY)
    check_run(READY)
    check_card(READY / "README.md")
    assert sum(path.stat().st_size for path in READY.rglob("*") if path.is_file()) <= 10 * MEGABYTE
    assert {"run.json", "report.png", "samples.png", "network.png", "requirements.txt"} <= {
        p.name for p in READY.iterdir()
    }
    assert list((READY / "examples").glob("*.jpg"))


def test_it_loads_offline_and_finds_a_lesion(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model, report = AutoModel.from_pretrained(READY, output_loading_info=True)
    assert type(model) is ResFormerForMultiTask
    assert not any(report.values()), report
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    processor = AutoImageProcessor.from_pretrained(READY)
    for path in sorted((READY / "examples").glob("*.jpg")):
        image = Image.open(path)
        with torch.no_grad():
            output = model(**processor(image, return_tensors="pt"))
        result = processor.post_process_multitask(output, model.config, [(image.height, image.width)])[0]
        assert result["segmentation"].shape == (image.height, image.width)
        assert 0 < result["mask_classes"]["lesion"]["area_fraction"] < 0.95


def test_the_card_is_what_the_template_makes_of_its_files(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(READY, copy)
    card = ModelCard.load(READY / "README.md")
    datasets = card.data.datasets or [None]
    spaces = [line for line in card.text.splitlines() if line.startswith("Try it in the browser")]
    space = spaces[0].split("[")[1].split("]")[0] if spaces else None
    terms = Terms("org/resformer-tiny-isic2017", dataset_id=datasets[0], space_id=space)
    write_model_card(copy, terms, read_facts(READY), [path.name for path in sorted((READY / "examples").iterdir())])
    assert (copy / "README.md").read_text() == (READY / "README.md").read_text()


def test_its_figures_are_in_its_header():
    results = json.loads((READY / "results.json").read_text())
    found = {
        result.metric_type: result.metric_value for result in ModelCard.load(READY / "README.md").data.eval_results
    }
    assert found["jaccard"] == pytest.approx(results["model"]["jaccard"]["value"], abs=1e-4)
    assert found["auc"] == pytest.approx(results["model"]["auc"]["value"], abs=1e-4)
