"""Weights with NaN or infinite values give no answer anywhere: every way in refuses them in one line."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from prepared_data import prepared_dataset
from safetensors.torch import load_file, save_file
from small_model import tiny_config
from transformers import AutoModel, ResNetConfig, ResNetModel, pipeline

from modeling_resformer import (
    ResFormerBackbone,
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerImageProcessor,
)
from modeling_resformer.commands import evaluate, predict, serve, train
from modeling_resformer.handler import EndpointHandler
from modeling_resformer.modeling_resformer import first_not_finite


ROOT = Path(__file__).parents[1]
READY = ROOT / "hub_cards" / "resformer-lite-isic2017"


CLASSES = [
    ResFormerBackbone,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerForImageClassification,
]
PARAMETER, BUFFER = "encoder.stem.convolution.weight", "encoder.stem.normalization.running_var"


def damage(folder, name, value, dtype=None):
    """Sets the last number of one tensor of a saved model."""
    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    if dtype is not None:
        tensors = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def damaged(tmp_path):
    folder = tmp_path / "model"
    config = tiny_config(id2label={0: "background", 1: "lesion"}, classification_labels=["a", "b"])
    ResFormerForMultiTask(config).save_pretrained(folder)
    ResFormerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    damage(folder, PARAMETER, torch.nan)
    return str(folder)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(("name", "value"), [(PARAMETER, torch.nan), (PARAMETER, -torch.inf), (BUFFER, torch.inf)])
@pytest.mark.parametrize("model_class", CLASSES)
def test_every_class_refuses_them(tmp_path, model_class, name, value, dtype):
    model_class(tiny_config()).save_pretrained(tmp_path)
    model_class.from_pretrained(tmp_path)
    damage(tmp_path, name, value, dtype)
    for options in ({}, {"output_loading_info": True}, {"dtype": torch.bfloat16}):
        with pytest.raises(ValueError, match=f"{name} holds NaN or infinite values") as error:
            model_class.from_pretrained(tmp_path, **options)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_sound_weights_load_with_their_report(tmp_path):
    ResFormerForMultiTask(tiny_config()).save_pretrained(tmp_path)
    model, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(model, ResFormerForMultiTask) and not any(report.values())


def test_tensors_of_odd_kinds_are_looked_at_or_passed_over():
    module = torch.nn.Module()
    module.register_buffer("integers", torch.tensor([1]))
    module.register_buffer("elsewhere", torch.empty(1, device="meta"))
    module.register_buffer("eight_bits", torch.tensor([1.0]).to(torch.float8_e5m2))
    assert first_not_finite(module) is None
    module.register_buffer("infinite", torch.tensor([torch.inf]).to(torch.float8_e5m2))
    assert first_not_finite(module) == "infinite"


def test_the_ways_in_by_python(damaged, tmp_path):
    for load in (AutoModel.from_pretrained, EndpointHandler, lambda folder: pipeline("image-segmentation", folder)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            load(damaged)


def test_the_repository_that_comes_along_refuses_them_by_its_own_code(tmp_path):
    copy = shutil.copytree(READY, tmp_path / "copy")
    weight = "encoder.backbone._backbone.conv_stem.weight"
    damage(copy, weight, torch.nan)
    with pytest.raises(ValueError, match=f"{weight} holds NaN or infinite values"):
        EndpointHandler(str(copy), trust_remote_code=True)


def test_the_commands_end_in_one_line(damaged, tmp_path, capsys, caplog):
    dataset, output = str(tmp_path / "dataset"), tmp_path / "out"
    prepared_dataset().save_to_disk(dataset)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    model = ["--model_name_or_path", damaged, "--dataset", dataset]
    assert predict.main([damaged, str(tmp_path / "a.png"), "--output", str(output)]) == 1
    assert evaluate.main([*model, "--output", str(output)]) == 1
    assert train.main([*model, "--output_dir", str(output), "--use_cpu"]) == 1
    lines = [*caplog.text.splitlines(), *capsys.readouterr().err.splitlines()]
    lines = [line for line in lines if "NaN" in line]
    assert len(lines) == 3 and all(damaged in line and PARAMETER in line for line in lines)
    assert not output.exists()


def test_the_server_ends_in_one_line(damaged, caplog):
    pytest.importorskip("uvicorn")
    assert serve.main([damaged, "--port", "0"]) == 1
    (line,) = [record.getMessage() for record in caplog.records if "NaN" in record.getMessage()]
    assert damaged in line and PARAMETER in line


def test_a_damaged_resnet_starts_no_training(tmp_path, capsys):
    widths, depths = [8, 16, 24, 32], [3, 4, 6, 3]
    config = ResNetConfig(layer_type="basic", depths=depths, hidden_sizes=widths, embedding_size=widths[0])
    ResNetModel(config).save_pretrained(tmp_path / "resnet")
    damage(tmp_path / "resnet", "embedder.embedder.normalization.running_mean", torch.nan)
    prepared_dataset().save_to_disk(str(tmp_path / "dataset"))
    resnet = str(tmp_path / "resnet")
    sizes = ["--config", '{"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 2]}']
    paths = ["--dataset", str(tmp_path / "dataset"), "--output_dir", str(tmp_path / "out")]
    assert train.main([*paths, *sizes, "--init_resnet", resnet, "--use_cpu"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert f"--init_resnet {resnet}: its weights are damaged, embedder.embedder.normalization.running_mean" in line
