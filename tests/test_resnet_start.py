"""A start from a ResNet: what it fills equals its source, what it does not fill stays, what does not fit is refused."""

import json
import logging
import re

import pytest
import torch
from prepared_data import prepared_dataset
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel, ViTConfig

from modeling_resformer import (
    ResFormerBackbone,
    ResFormerConfig,
    ResFormerForImageClassification,
    ResFormerForMultiTask,
)
from modeling_resformer.commands import train
from modeling_resformer.errors import BadInputError
from modeling_resformer.training.arguments import parse_arguments
from modeling_resformer.training.resnet import fill_from_resnet


WIDTHS, DEPTHS = [8, 16, 24, 32], [3, 4, 6, 3]


def resnet_config(**settings):
    defaults = {"layer_type": "basic", "depths": DEPTHS, "hidden_sizes": WIDTHS, "embedding_size": WIDTHS[0]}
    return ResNetConfig(**{**defaults, **settings})


def resformer(model_class=ResFormerForMultiTask, **settings):
    return model_class(ResFormerConfig(hidden_sizes=WIDTHS, num_attention_heads=[1, 2, 2, 2], **settings))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A ResNet-34 of small widths whose every tensor, batch-norm statistics included, is unlike a fresh one: (model, folder)."""
    torch.manual_seed(1)
    model = ResNetForImageClassification(resnet_config())
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.5 if tensor.is_floating_point() else torch.tensor(7))
    folder = tmp_path_factory.mktemp("resnet")
    model.save_pretrained(folder)
    return model.resnet.eval(), str(folder)


def fits(resnet):
    """ResFormer's name -> the ResNet's tensor, written out from the two networks' drawings."""
    source, names = resnet.state_dict(), {}
    for ours, theirs in (("convolution", "convolution"), ("normalization", "normalization")):
        names[f"encoder.stem.{ours}"] = f"embedder.embedder.{theirs}"
    for level, depth in enumerate(DEPTHS):
        for block in range(0 if level == 0 else 1, depth):
            for conv in (0, 1):
                ours = f"encoder.stages.{level}.block.residual_layers.{block}"
                theirs = f"encoder.stages.{level}.layers.{block}.layer.{conv}"
                names[f"{ours}.conv{conv + 1}"] = f"{theirs}.convolution"
                names[f"{ours}.bn{conv + 1}"] = f"{theirs}.normalization"
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {
        f"{ours}.{part}": source[f"{theirs}.{part}"]
        for ours, theirs in names.items()
        for part in parts
        if f"{theirs}.{part}" in source
    }


def test_what_fits_is_filled_and_nothing_else_is_touched(resnet):
    model, expected = resformer(), fits(resnet[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = fill_from_resnet(model, resnet[1])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected.get(name, before[name])), name
    # Stem and 13 blocks of two convolutions, a convolution being 1 tensor and a batch norm 5.
    assert len(expected) == 6 + 13 * 12
    assert set(report.filled) == set(expected)
    assert set(report.filled) | set(report.kept) == set(before)
    assert len(report.unused) == len(resnet[0].state_dict()) - len(expected)
    assert f"filled 162 tensors ({sum(t.numel() for t in expected.values()):,} numbers)" in str(report)
    kept = "patch_merging, residual_layers, swin_layers, dilated_feature_enhancement, decoder, segmentation_head"
    left = str(report).split("as they were, in ")[1].split(";")[0]
    assert set(left.split(", ")) == {*kept.split(", "), "classification_head"}


def test_stem_and_level_1_compute_what_the_resnet_computes(resnet):
    """The stem at stride 1 gives at every second place of a map what the ResNet's gives at stride 2."""
    model = resformer().eval()
    fill_from_resnet(model, resnet[1])
    pixels = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        ours, theirs = model.encoder.stem, resnet[0].embedder.embedder
        stem = ours.normalization(ours.convolution(pixels)).relu()
        torch.testing.assert_close(stem[..., ::2, ::2], theirs(pixels))
        features = torch.randn(2, WIDTHS[0], 16, 24)
        residual_part = model.encoder.stages[0].block.residual_layers
        torch.testing.assert_close(residual_part(features), resnet[0].encoder.stages[0](features))


@pytest.mark.parametrize("model_class", [ResFormerForImageClassification, ResFormerBackbone])
def test_every_class_with_an_encoder_can_start_from_one(resnet, model_class):
    model = resformer(model_class, block_type="parallel")
    assert len(fill_from_resnet(model, resnet[1]).filled) == 162


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"hidden_sizes": [8, 16, 24, 40]}, "hidden_sizes is [8, 16, 24, 40] and would have to be [8, 16, 24, 32]"),
        ({"depths": [2, 2, 2, 2]}, "depths is [2, 2, 2, 2] and would have to be [3, 4, 6, 3]"),
        ({"embedding_size": 4}, "embedding_size is 4 and would have to be 8"),
        ({"layer_type": "bottleneck"}, "layer_type is bottleneck and would have to be basic"),
        ({"num_channels": 1}, "num_channels is 1 and would have to be 3"),
    ],
)
def test_a_resnet_that_does_not_fit_is_refused_with_both_numbers(tmp_path, theirs, message):
    ResNetModel(resnet_config(**theirs)).save_pretrained(tmp_path)
    model = resformer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(BadInputError, match=re.escape(message)):
        fill_from_resnet(model, str(tmp_path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_no_resnet_is_refused_in_one_line(tmp_path):
    ViTConfig().save_pretrained(tmp_path / "vit")
    (tmp_path / "empty").mkdir()
    for name, message in (("vit", "'vit' model; expected a 'resnet'"), ("empty", "expected folder or Hub id")):
        with pytest.raises(BadInputError, match=message) as caught:
            fill_from_resnet(resformer(), str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_run_starts_from_it(resnet, tmp_path, caplog):
    """At learning rate 0 the convolutions are still the ResNet's at the end, and the log has told of them once."""
    prepared_dataset().save_to_disk(str(tmp_path / "dataset"))
    config = json.dumps({"hidden_sizes": WIDTHS, "num_attention_heads": [1, 2, 2, 2]})
    flags = ["--dataset", str(tmp_path / "dataset"), "--output_dir", str(tmp_path / "run"), "--config", config]
    flags += ["--init_resnet", resnet[1], "--learning_rate", "0", "--max_steps", "1", "--image_size", "32"]
    with caplog.at_level(logging.INFO):
        assert train.main([*flags, "--use_cpu", "--bootstrap_samples", "0", "--disable_tqdm", "True"]) == 0
    weights = ResFormerForMultiTask.from_pretrained(tmp_path / "run").state_dict()
    convolutions = {name: tensor for name, tensor in fits(resnet[0]).items() if "conv" in name}
    assert all(torch.equal(weights[name], tensor) for name, tensor in convolutions.items())
    assert caplog.text.count("filled 162 tensors") == 1


def test_a_resnet_on_top_of_a_checkpoint_is_refused():
    flags = ["--dataset", "d", "--init_resnet", "a", "--model_name_or_path", "b"]
    with pytest.raises(ValueError, match="--model and --init_resnet are given together"):
        parse_arguments(flags)
