"""A checkpoint saved by an earlier version loads in this one and answers as it did on its day."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_model import tiny_config
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageSegmentation,
    AutoModelForSemanticSegmentation,
)
from transformers.utils import logging as transformers_logging

import modeling_resformer
from modeling_resformer import ResFormerBackbone, ResFormerConfig, ResFormerForMultiTask


CHECKPOINTS = sorted((Path(__file__).parent / "fixtures").glob("checkpoint_*"))


@pytest.fixture(params=CHECKPOINTS, ids=[folder.name for folder in CHECKPOINTS])
def checkpoint(request):
    return request.param


@pytest.fixture
def expected(checkpoint):
    return load_file(checkpoint / "expected.safetensors")


def close(actual, wanted):
    """To float32's rounding, which differs from one kind of processor to the next."""
    torch.testing.assert_close(actual, wanted, atol=max(1e-5, 2e-6 * wanted.abs().max().item()), rtol=0)


def test_there_is_a_kept_checkpoint():
    assert CHECKPOINTS[0].name == "checkpoint_0_1"
    assert sum(file.stat().st_size for file in CHECKPOINTS[0].iterdir()) < 200_000


@torch.no_grad()
@pytest.mark.parametrize(
    ("auto", "fields"),
    [
        (AutoModel, {name: name for name in ("segmentation_logits", "classification_logits")}),
        (AutoModelForSemanticSegmentation, {"logits": "segmentation_logits"}),
        (AutoModelForImageSegmentation, {"logits": "segmentation_logits"}),
        (AutoModelForImageClassification, {"logits": "classification_logits"}),
    ],
)
def test_a_kept_checkpoint_answers_as_on_its_day(checkpoint, expected, auto, fields):
    model, report = auto.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values()), report
    output = model(expected["pixel_values"])
    for name, wanted in fields.items():
        close(output[name], expected[wanted])


@torch.no_grad()
def test_a_kept_checkpoint_is_a_backbone(checkpoint, expected):
    backbone = ResFormerBackbone.from_pretrained(checkpoint, out_features=["stage4"])
    close(backbone(expected["pixel_values"]).feature_maps[0], expected["stage4"])
    config = AutoConfig.from_pretrained(checkpoint, out_features=["stage4"])
    assert type(AutoBackbone.from_config(config)) is ResFormerBackbone


def test_kept_settings_come_back(checkpoint, expected):
    config = AutoConfig.from_pretrained(checkpoint)
    assert config.mask_class_names == ["background", "lesion"]
    assert config.image_class_names == ["melanoma", "seborrheic_keratosis", "nevus"]
    assert config.classification_thresholds == [0.3, 0.4, 0.6]
    processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
    close(
        processor(Image.open(checkpoint / "image.png"), return_tensors="pt")["pixel_values"],
        expected["pixel_values"],
    )


def test_every_save_names_the_version_that_saved(tmp_path, checkpoint):
    shutil.copytree(checkpoint, tmp_path / "kept")
    settings = json.loads((tmp_path / "kept" / "config.json").read_text())
    assert settings["resformer_version"].startswith("0.1")
    (tmp_path / "kept" / "config.json").write_text(json.dumps(settings | {"resformer_version": "0.0.7"}))
    AutoModel.from_pretrained(tmp_path / "kept").save_pretrained(tmp_path / "again")
    ResFormerConfig().save_pretrained(tmp_path / "config")
    for folder in ("again", "config"):
        saved = json.loads((tmp_path / folder / "config.json").read_text())
        assert saved["resformer_version"] == modeling_resformer.__version__


@pytest.mark.parametrize(
    ("version", "warns"), [("7.0.1", True), ("0.99", False), (None, False), ("not a version", False)]
)
def test_a_later_major_version_warns_and_loads(tmp_path, version, warns, caplog):
    ResFormerForMultiTask(tiny_config()).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"resformer_version": version, "from_the_future": 1}))
    transformers_logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            AutoModel.from_pretrained(tmp_path)
    finally:
        transformers_logging.disable_propagation()
    assert any("saved by ResFormer 7.0.1, newer than" in line for line in caplog.messages) == warns
