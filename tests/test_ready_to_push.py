"""hub_cards/resformer-lite-isic2017 is what it says: it loads offline, its card is what the template makes, and so is the rest."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from fresh_process import packages_without, run_as_stranger
from huggingface_hub import ModelCard
from PIL import Image
from run_here import run_command
from transformers import AutoImageProcessor, AutoModel


pytest.importorskip("jinja2")

from modeling_resformer import ResFormerForMultiTask
from modeling_resformer.publishing import repository
from modeling_resformer.publishing.card import Terms, write_model_card
from modeling_resformer.publishing.facts import read_facts
from modeling_resformer.publishing.repository import is_repository
from modeling_resformer.publishing.repository_checks import check_card, check_run


ROOT = Path(__file__).parents[1]
READY = ROOT / "hub_cards" / "resformer-lite-isic2017"
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What `make repository` leaves; a test below takes the place of its own trial in a fresh process."""
    folder = tmp_path_factory.mktemp("made")
    planned = subprocess.run(
        ["make", "--dry-run", "repository", f"OUTPUT={folder}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = [one for one in planned.stdout.replace("\\\n", " ").splitlines() if "push_to_hub" in one]
    _, script, model, *flags = shlex.split(line)
    assert (script, model) == ("scripts/push_to_hub.py", "hub_cards/resformer-lite-isic2017")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repository, "check_reload", lambda folder, model: None)
        assert run_command("push_to_hub", READY, *flags) == 0
    return folder / READY.name


def test_what_is_kept_is_what_no_code_can_make_again():
    check_run(READY)
    check_card(READY / "README.md")
    assert {path.relative_to(READY).as_posix() for path in READY.rglob("*") if path.suffix != ".jpg"} == {
        *(
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "results.json",
            "run.json",
            "folds.json",
            "README.md",
        ),
        *("report.png", "samples.png", "network.png", "examples", "outlined"),
    }


def test_the_repository_made_of_it_is_complete_and_has_the_kept_card(made):
    assert is_repository(made)
    assert sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) <= 25 * MEGABYTE
    files = {path.relative_to(made).as_posix(): path for path in made.rglob("*") if path.is_file()}
    for path in READY.rglob("*"):
        # config.json names the transformers that saved it, and contours may differ by a pixel on another machine.
        if path.is_file() and path.name != "config.json":
            made_again = files.pop(path.relative_to(READY).as_posix()).read_bytes()
            assert path.parent.name == "outlined" or made_again == path.read_bytes(), path
    for name in (
        "backbone_",
        "configuration_",
        "modeling_",
        "image_processing_",
        "fusing_",
        "image_processing_pil_",
        "pipeline_",
    ):
        source = ROOT / "modeling_resformer" / f"{name}resformer.py"
        assert files.pop(source.name).read_bytes() == source.read_bytes()
    assert files.pop("handler.py").read_bytes() == (ROOT / "modeling_resformer" / "handler.py").read_bytes()
    bundle = {"configs/metadata.json", "configs/inference.json"}
    assert set(files) == {"config.json", "requirements.txt"} | bundle
    assert "timm" in (made / "requirements.txt").read_text()
    assert "It needs torch, transformers 5.17 or later, timm and Pillow" in (READY / "README.md").read_text()
    kept, saved = (json.loads((folder / "config.json").read_text()) for folder in (READY, made))
    # What an older version saved comes back as it was; fields that are new since then are added.
    assert saved | kept == saved | {"transformers_version": kept["transformers_version"]}


STRANGER = """
import importlib.util, sys
import torch
from PIL import Image
from transformers import AutoModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor
assert importlib.util.find_spec("modeling_resformer") is None
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
with torch.no_grad():
    output = model(**processor(Image.open(sys.argv[2]), return_tensors="pt"))
torch.save([output.segmentation_logits, output.classification_logits], sys.argv[3])
"""


@pytest.mark.long
def test_a_process_without_the_package_gets_the_kept_models_answers_from_it(made, tmp_path):
    photo = sorted((made / "examples").glob("*.jpg"))[0]
    packages = packages_without(tmp_path / "packages")
    run_as_stranger(STRANGER, packages, str(made), str(photo), str(tmp_path / "logits.pt"))
    with torch.no_grad():
        pixels = AutoImageProcessor.from_pretrained(READY)(Image.open(photo), return_tensors="pt")
        expected = AutoModel.from_pretrained(READY)(**pixels)
    for logits, name in zip(
        torch.load(tmp_path / "logits.pt", weights_only=True),
        ("segmentation_logits", "classification_logits"),
        strict=True,
    ):
        torch.testing.assert_close(logits, expected[name])


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
    terms = Terms("org/resformer-lite-isic2017", dataset_id=datasets[0], space_id=space)
    examples = [path.name for path in sorted((READY / "examples").iterdir())]
    outputs = {name: {"url": f"outlined/{name}"} for name in examples}
    write_model_card(copy, terms, read_facts(READY), examples, outputs)
    assert (copy / "README.md").read_text() == (READY / "README.md").read_text()


def test_its_figures_are_in_its_header():
    results = json.loads((READY / "results.json").read_text())
    found = {
        result.metric_type: result.metric_value for result in ModelCard.load(READY / "README.md").data.eval_results
    }
    assert found["jaccard"] == pytest.approx(results["model"]["jaccard"]["value"], abs=1e-4)
    assert found["auc"] == pytest.approx(results["model"]["auc"]["value"], abs=1e-4)
