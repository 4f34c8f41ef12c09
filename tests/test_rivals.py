"""Rivals: each is its library's own network, under our forward contract, from the start that ours has."""

import pytest
import torch

from modeling_resformer.errors import BadInputError
from modeling_resformer.rivals.rival_models import RIVALS, RivalConfig
from modeling_resformer.rivals.rival_names import RivalName
from modeling_resformer.training.arguments import parse_arguments
from modeling_resformer.training.image_cost import norms_of_pooled_maps
from modeling_resformer.training.imagenet import lite_state_dict
from modeling_resformer.training.rival_start import fill_rival, load_rival


pytest.importorskip("segmentation_models_pytorch")

SMP, SEGFORMER, TIMM = "smp/Unet:efficientnet-lite0", "transformers/segformer-b0", "timm/efficientnet-lite0"
# Seconds each, most of them of random numbers for the first weights.
SLOW = ["smp/Unet:resnet34", "smp/UnetPlusPlus:resnet34", "smp/DeepLabV3Plus:resnet34", "smp/Unet:mit_b2"]
SLOW += ["smp/Unet:tu-pvt_v2_b2", "monai/SwinUNETR", "monai/UNETR", "monai/DynUNet", "transformers/upernet-swin-tiny"]
SLOW += [
    "timm/inception_v3",
    "timm/efficientnet_b0",
    "timm/vit_small_patch16_224",
    "timm/swin_tiny_patch4_window7_224",
]


def rival(name, task, **settings):
    labels = {"id2label": {0: "background", 1: "lesion"}, "classification_labels": ["a", "b", "c"]}
    return RIVALS[task](RivalConfig(rival=name, image_size=80, **labels, **settings)).eval()


def tasks_of(name):
    return {"smp": "multi_task", "monai": "segmentation", "transformers": "multi_task", "timm": "classification"}[
        name.partition("/")[0]
    ]


def labelled(task):
    masks, classes = torch.randint(0, 2, (2, 80, 80)), torch.tensor([[1.0, 0.0, -100.0], [0.0, 1.0, 0.0]])
    if task == "multi_task":
        return {"mask_labels": masks, "class_labels": classes}
    return {"labels": masks if task == "segmentation" else classes}


@pytest.mark.parametrize("name", [SMP, SEGFORMER, TIMM, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)])
def test_shapes_losses_gradients_and_saving(name, tmp_path):
    """Laid out as the trainer does."""
    model = rival(name, tasks_of(name)).train().to(memory_format=torch.channels_last)
    output = model(torch.randn(2, 3, 80, 80), **labelled(model.task))
    shapes = {key: tuple(value.shape) for key, value in output.items() if key.endswith("logits")}
    masks, classes = (2, 2, 80, 80), (2, 3)
    assert (
        shapes
        == {
            "multi_task": {"segmentation_logits": masks, "classification_logits": classes},
            "segmentation": {"logits": masks},
            "classification": {"logits": classes},
        }[model.task]
    )
    assert output.loss.isfinite()
    output.loss.backward()
    assert next(model.parameters()).grad is not None
    model.save_pretrained(tmp_path)
    saved = load_rival(str(tmp_path), RivalConfig.from_pretrained(tmp_path), model.task).state_dict()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in model.state_dict().items())


def test_the_logits_of_smp_are_its_own():
    import segmentation_models_pytorch as smp

    model = rival(SMP, "multi_task")
    own = smp.Unet(
        "tu-tf_efficientnet_lite0", encoder_weights=None, classes=2, aux_params={"classes": 3, "pooling": "avg"}
    )
    own.load_state_dict(model.network.network.state_dict())
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        masks, classes = own.eval()(pixels)
        output = model(pixels)
    torch.testing.assert_close(output.segmentation_logits, masks)
    torch.testing.assert_close(output.classification_logits, classes)


def test_the_logits_of_transformers_and_timm_are_their_own():
    model, pixels = rival(SEGFORMER, "segmentation"), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        quarter = model.network.network(pixels).logits
        expected = torch.nn.functional.interpolate(quarter, scale_factor=4, mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(pixels).logits, expected)
    model = rival(TIMM, "classification")
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, model.network.network(pixels))


def test_images_of_any_size_are_padded_and_cropped_back():
    model = rival(SMP, "segmentation")
    pixels = torch.randn(1, 3, 50, 70)
    padded = torch.zeros(1, 3, 64, 96)
    padded[..., :50, :70] = pixels
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits, model(padded).logits[..., :50, :70])


@pytest.mark.parametrize(("name", "part"), [(SMP, "network.network.encoder.model."), (TIMM, "network.network.")])
def test_a_pretrained_rival_starts_from_the_weights_that_ours_starts_from(name, part):
    model = rival(name, tasks_of(name), pretrained=True)
    fill_rival(model, RivalName.of(name))
    weights, own = lite_state_dict("efficientnet-lite0"), model.state_dict()
    for key in ("conv_stem.weight", "blocks.3.1.conv_dw.weight", "blocks.6.0.bn3.running_var"):
        assert torch.equal(own[part + key], weights[key])
    learned_slower = {id(parameter) for parameter in model.backbone_parameters()}
    assert 0 < len(learned_slower) <= sum(1 for _ in model.parameters())


def test_a_saved_rival_is_loaded_with_its_weights(tmp_path):
    model = rival(TIMM, "classification")
    model.save_pretrained(tmp_path)
    again = load_rival(str(tmp_path), RivalConfig.from_pretrained(tmp_path), None)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("smp/Unet", "expected an encoder behind it"),
        ("monai/UNETR:resnet34", "expected no encoder behind it"),
        ("keras/Unet", "is no network"),
        ("smp/Uneet:resnet34", "has no Uneet"),
        ("timm/resnettt", "no such network"),
        ("transformers/bert", "expected one of transformers/segformer-b0"),
    ],
)
def test_a_name_that_means_nothing_is_refused_in_one_line(text, said):
    with pytest.raises(BadInputError, match=said) as refused:
        rival(text, tasks_of(text) if text.partition("/")[0] != "keras" else "multi_task")
    assert "\n" not in str(refused.value)


def test_a_rival_is_refused_a_task_that_it_cannot_learn():
    with pytest.raises(BadInputError, match="expected --task segmentation"):
        RivalName.of("monai/UNETR").check_task("multi_task")


def test_the_cost_of_one_image_is_measured_where_batch_norm_follows_a_global_pool():
    pooling = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), torch.nn.BatchNorm2d(3), pooling)
    found = norms_of_pooled_maps(model)
    model.eval()(torch.randn(1, 3, 8, 8))
    assert found == [pooling[2]]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rival", SMP, "--backbone", "efficientnet-lite0"], "--backbone and --rival are given together"),
        (["--pretrained"], "--pretrained says how a --rival starts"),
        (["--rival", "monai/UNETR"], "expected --task segmentation"),
        (["--rival", "keras/Unet"], "is no network"),
        (["--mask_share", "0"], "--mask_share is 0"),
        (["--only", "Cirrus"], "expected COLUMN=VALUE"),
    ],
)
def test_flags_that_mean_nothing_together_are_refused(flags, said, tmp_path):
    with pytest.raises(BadInputError, match=said):
        parse_arguments(["--dataset", "d", "--output_dir", str(tmp_path), "--use_cpu", *flags])
