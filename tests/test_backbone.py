"""ResFormer around a backbone of transformers or timm: what a user of any of them is promised."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from fresh_process import packages_without, run_as_stranger
from PIL import Image
from small_model import MASK_CLASSES
from torch.export import Dim
from torch.fx.experimental import _config as shape_config
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    BertConfig,
    ConvNextV2Config,
    Dinov2Config,
    DINOv3ConvNextConfig,
    ResNetConfig,
    SwinConfig,
    TimmBackboneConfig,
    pipeline,
)
from transformers.utils import is_timm_available

from modeling_resformer import (
    ResFormerBackbone,
    ResFormerConfig,
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerImageProcessorPil,
    backbone_resformer,
)


SIZES, DEPTHS = [8, 16, 24, 32], [1, 1, 1, 1]
BACKBONES = {
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=SIZES, depths=DEPTHS, layer_type="basic"),
    "convnextv2": lambda: ConvNextV2Config(hidden_sizes=SIZES, depths=DEPTHS),
    "swin": lambda: SwinConfig(embed_dim=8, depths=DEPTHS, num_heads=[1, 1, 2, 2], window_size=4),
    "dinov3_convnext": lambda: DINOv3ConvNextConfig(hidden_sizes=SIZES, depths=DEPTHS),
    "test_efficientnet": lambda: TimmBackboneConfig(backbone="test_efficientnet"),
    "tf_efficientnet_lite0": lambda: TimmBackboneConfig(backbone="tf_efficientnet_lite0"),
    "test_convnext": lambda: TimmBackboneConfig(backbone="test_convnext"),
}
TIMM = pytest.mark.skipif(not is_timm_available(), reason="timm is not installed")
VARIANTS = [
    ("neck", "resnet", "sequential"),
    ("neck", "swin", "parallel"),
    ("neck", "dinov3_convnext", "sequential"),
    ("inside", "resnet", "parallel"),
    ("inside", "convnextv2", "sequential"),
    pytest.param("neck", "test_efficientnet", "sequential", marks=TIMM),
    pytest.param("inside", "test_efficientnet", "parallel", marks=TIMM),
    pytest.param("inside", "test_convnext", "sequential", marks=TIMM),
]
PIXELS = torch.randn(2, 3, 37, 53, generator=torch.Generator().manual_seed(1))


def config_of(name, **overrides):
    settings = {"window_size": 4, "dilation_rates": [1, 2], "drop_path_rate": 0.0, "id2label": MASK_CLASSES}
    return ResFormerConfig(backbone_config=BACKBONES[name](), **{**settings, **overrides})


def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": PIXELS,
        "mask_labels": torch.randint(0, 4, (2, 37, 53), generator=generator),
        "class_labels": torch.tensor([[1.0, 0.0, -100.0], [0.0, 1.0, 1.0]]),
    }


def awake(model):
    """The model with random numbers where its Swin layers' residuals start at zero."""
    for branch in model.encoder.global_branches:
        for layer in branch.swin_layers:
            for linear in (layer.attention.output, layer.feed_forward.reduce):
                torch.nn.init.normal_(linear.weight, std=0.2)
    return model


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("resnet", SIZES, [4, 8, 16, 32]),
        ("convnextv2", SIZES, [4, 8, 16, 32]),
        ("swin", [8, 16, 32, 64], [4, 8, 16, 32]),
        ("dinov3_convnext", SIZES, [4, 8, 16, 32]),
        pytest.param("tf_efficientnet_lite0", [16, 24, 40, 112, 320], [2, 4, 8, 16, 32], marks=TIMM),
        pytest.param("test_convnext", [24, 32, 48, 64], [4, 8, 16, 32], marks=TIMM),
    ],
)
def test_the_levels_are_the_backbones(name, channels, strides):
    config = config_of(name)
    assert (list(config.hidden_sizes), config.strides) == (channels, strides)
    assert config.stage_names == [f"stage{level}" for level in range(1, len(channels) + 1)]
    assert config.decoder_sizes == channels[-2::-1]
    assert all(size % heads == 0 for size, heads in zip(channels, config.num_attention_heads, strict=True))
    model = ResFormerForMultiTask(config).eval()
    with torch.no_grad():
        output = model(PIXELS, output_hidden_states=True)
    assert output.segmentation_logits.shape == (2, 4, 37, 53)
    assert output.classification_logits.shape == (2, 3)
    # 37 x 53 is padded to 64 x 64, a multiple of the deepest stride.
    assert [tuple(h.shape[1:]) for h in output.hidden_states] == [
        (size, 64 // stride, 64 // stride) for size, stride in zip(channels, strides, strict=True)
    ]


@pytest.mark.parametrize(("join", "name", "block_type"), VARIANTS)
def test_the_first_pass_is_the_backbones_own(join, name, block_type):
    config = config_of(name, backbone_join=join, block_type=block_type, out_indices=[0, 1, 2, 3])
    model = ResFormerBackbone(config).eval()
    alone = AutoBackbone.from_config(copy.deepcopy(model.config.backbone_config)).eval()
    report = alone.load_state_dict(model.encoder.backbone.state_dict(), strict=False)
    assert not report.unexpected_keys and all(key.startswith("swin.layernorm") for key in report.missing_keys)
    pixel_values = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = alone(pixel_values).feature_maps
        assert len(expected) == len(config.hidden_sizes)
        for feature_map, own in zip(model(pixel_values).feature_maps, expected[:4], strict=True):
            torch.testing.assert_close(feature_map, own, atol=1e-6, rtol=1e-6)
        awakened = awake(model)(pixel_values).feature_maps
    for feature_map, own in zip(awakened, expected[:4], strict=True):
        assert (feature_map - own).abs().max() > 1e-4, "the Swin layers must take part once they have learned"


@pytest.mark.parametrize("join", ["neck", "inside"])
def test_only_inside_does_a_stage_see_the_swin_layers_before_it(join):
    model = ResFormerBackbone(
        config_of("resnet", backbone_join=join, transformer_depths=[2, 0, 0, 0], out_indices=[0, 3])
    ).eval()
    with torch.no_grad():
        first, last = model(PIXELS).feature_maps
        other_first, other_last = awake(model)(PIXELS).feature_maps
    assert not torch.allclose(first, other_first)
    assert torch.equal(last, other_last) == (join == "neck")


def test_parallel_adds_what_the_swin_layers_make_of_the_stages_input():
    model = awake(ResFormerBackbone(config_of("resnet", block_type="parallel", out_indices=[0, 1]))).eval()
    branch = model.encoder.global_branches[1]
    padded = torch.nn.functional.pad(PIXELS, (0, 11, 0, 27))
    with torch.no_grad():
        maps = model.encoder.backbone(padded).feature_maps
        start = branch.patch_merging(maps[0]).permute(0, 2, 3, 1)
        end = start
        for layer in branch.swin_layers:
            end = layer(end)[0]
        expected = maps[1] + (end - start).permute(0, 3, 1, 2)
        torch.testing.assert_close(model(PIXELS).feature_maps[1], expected)
    assert branch.patch_merging.kernel_size == (3, 3) and branch.patch_merging.stride == (2, 2)


@pytest.mark.parametrize(("join", "name", "block_type"), VARIANTS)
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(join, name, block_type):
    model = awake(ResFormerForMultiTask(config_of(name, backbone_join=join, block_type=block_type)))
    model(**batch()).loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize(("join", "name"), [("neck", "resnet"), ("neck", "swin"), ("inside", "convnextv2")])
def test_classification_alone_learns_all_that_leads_to_its_two_levels(join, name):
    model = awake(ResFormerForImageClassification(config_of(name, backbone_join=join)))
    model(PIXELS, batch()["class_labels"]).loss.backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    branches = {int(name.split(".")[2]) for name in learning if name.startswith("encoder.global_branches")}
    assert branches == ({2, 3} if join == "neck" else {0, 1, 2, 3})
    frozen = {name for name, _ in model.named_parameters()} - learning
    assert all("global_branches" in name or "hidden_states_norms" in name for name in frozen)


@pytest.mark.parametrize(
    "overrides",
    [{"transformer_depths": [0, 0, 0, 2]}, {"transformer_depths": [0, 0, 0, 0], "use_dfe": False}],
    ids=["coarse_only", "plain"],
)
def test_levels_without_swin_layers_have_none(overrides):
    model = ResFormerForMultiTask(config_of("resnet", block_type="parallel", **overrides))
    kept = [len(branch.swin_layers) for branch in model.encoder.global_branches]
    assert kept == overrides["transformer_depths"]
    assert [branch.patch_merging is not None for branch in model.encoder.global_branches] == [bool(k) for k in kept]
    model(**batch()).loss.backward()
    assert all(parameter.grad is not None for parameter in awake(model).parameters())


def test_dilation_rates_may_differ_by_level():
    model = ResFormerForMultiTask(config_of("resnet", dilation_rates=[[6, 12, 18], [3, 6], [1], []])).eval()
    layers = model.dilated_feature_enhancement
    enhancements = list(layers)[:3]
    assert [[b[0].dilation[0] for b in layer.branches] for layer in enhancements] == [[6, 12, 18], [3, 6], [1]]
    marker = torch.randn(1, 32, 2, 2)
    assert layers([*(torch.randn(1, size, 4, 4) for size in SIZES[:3]), marker])[3] is marker
    assert model(PIXELS).segmentation_logits.shape == (2, 4, 37, 53)


@pytest.mark.parametrize("use_dfe", [True, False])
def test_skips_of_other_widths_than_the_levels_are_made_by_a_convolution(use_dfe):
    config = config_of("resnet", skip_hidden_sizes=[8, 12, 12, 20], use_dfe=use_dfe)
    assert config.decoder_sizes == [12, 12, 8]
    model = ResFormerForMultiTask(config)
    maps = [torch.randn(2, size, 4, 4) for size in SIZES]
    skips = model.dilated_feature_enhancement(maps)
    assert [skip.shape[1] for skip in skips] == [8, 12, 12, 20]
    model(**batch()).loss.backward()
    assert all(parameter.grad is not None for parameter in model.dilated_feature_enhancement.parameters())
    wide = ResFormerConfig(backbone_config=ResNetConfig(depths=DEPTHS))
    assert (wide.hidden_sizes, wide.skip_sizes) == ([256, 512, 1024, 2048], [256, 512, 512, 512])
    assert wide.decoder_sizes == [256, 256, 256]


@TIMM
def test_parts_that_no_level_depends_on_are_left_out():
    wanted = TimmBackboneConfig(backbone="tf_efficientnet_lite0", out_indices=[0, 1, 2, 3])
    model = ResFormerForMultiTask(ResFormerConfig(backbone_config=wanted, id2label=MASK_CLASSES))
    assert model.config.strides == [2, 4, 8, 16]
    blocks = model.encoder.backbone._backbone.blocks
    assert [type(block).__name__ for block in blocks[-2:]] == ["Identity", "Identity"]
    whole = AutoBackbone.from_config(TimmBackboneConfig(backbone="tf_efficientnet_lite0"))
    assert sum(p.numel() for p in model.backbone_parameters()) < sum(p.numel() for p in whole.parameters()) / 2
    resnet = ResFormerConfig(backbone_config=ResNetConfig(depths=DEPTHS, out_features=["stage1", "stage2"]))
    assert resnet.strides == [4, 8]
    layers = ResFormerForMultiTask(resnet).encoder.backbone.encoder.stages
    assert [type(layer).__name__ for layer in layers] == ["ResNetStage", "ResNetStage", "Identity", "Identity"]


@pytest.mark.parametrize(
    ("model_class", "join", "name"),
    [
        (ResFormerForMultiTask, "neck", "swin"),
        (ResFormerForSemanticSegmentation, "neck", "dinov3_convnext"),
        (ResFormerForImageClassification, "inside", "convnextv2"),
        (ResFormerBackbone, "inside", "convnextv2"),
        pytest.param(ResFormerForMultiTask, "inside", "test_efficientnet", marks=TIMM),
        pytest.param(ResFormerForMultiTask, "neck", "tf_efficientnet_lite0", marks=TIMM),
        pytest.param(ResFormerBackbone, "inside", "test_convnext", marks=TIMM),
    ],
)
def test_saving_and_loading_keeps_every_value_and_asks_no_hub(model_class, join, name, tmp_path, monkeypatch):
    model = awake(model_class(config_of(name, backbone_join=join))).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    state = loaded.state_dict()
    assert set(state) == set(model.state_dict())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    with torch.no_grad():
        for one, other in zip(model(PIXELS).to_tuple()[-1:], loaded(PIXELS).to_tuple()[-1:], strict=True):
            # The weights are equal bit for bit; where they lie in memory changes the last digit of a product.
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    one, other = (m.config.to_dict()["backbone_config"] | {"dtype": None} for m in (model, loaded))
    assert one == other
    loaded.save_pretrained(tmp_path / "again")
    saved, again = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, tmp_path / "again"))
    saved["backbone_config"]["dtype"] = again["backbone_config"]["dtype"]
    assert saved == again


def test_auto_classes_build_and_load_each_class(tmp_path):
    config = config_of("convnextv2", backbone_join="inside")
    multi_task = awake(ResFormerForMultiTask(config)).eval()
    multi_task.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is ResFormerConfig and type(loaded.backbone_config) is ConvNextV2Config
    with torch.no_grad():
        expected = multi_task(PIXELS, output_hidden_states=True)
        for auto, logits in (
            (AutoModelForSemanticSegmentation, expected.segmentation_logits),
            (AutoModelForImageClassification, expected.classification_logits),
        ):
            torch.testing.assert_close(auto.from_pretrained(tmp_path)(PIXELS).logits, logits)
        torch.testing.assert_close(
            AutoModel.from_pretrained(tmp_path)(PIXELS).segmentation_logits, expected.segmentation_logits
        )
        backbone = ResFormerBackbone.from_pretrained(tmp_path, out_features=["stage2", "stage4"])
        assert backbone.channels == [16, 32]
        torch.testing.assert_close(backbone(PIXELS).feature_maps[1], expected.hidden_states[3])
    built = AutoBackbone.from_config(config)
    assert type(built) is ResFormerBackbone and built.out_features == ["stage4"]


def test_a_backbone_may_be_given_as_json_has_it():
    given = config_of("resnet")
    config = ResFormerConfig(backbone_config=BACKBONES["resnet"]().to_dict())
    assert type(config.backbone_config) is ResNetConfig
    assert list(config.hidden_sizes) == list(given.hidden_sizes)
    original = BACKBONES["resnet"]()
    ResFormerConfig(backbone_config=original)
    assert original.out_features == ["stage4"], "the config handed in stays as it was"


@pytest.mark.parametrize(("join", "name"), [("neck", "resnet"), ("inside", "convnextv2"), ("neck", "swin")])
def test_tuples_hold_what_the_output_holds_and_attentions_are_ours(join, name):
    config = config_of(name, backbone_join=join, transformer_depths=[0, 2, 2, 2])
    model = awake(ResFormerForSemanticSegmentation(config)).eval()
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        output, flat = model(PIXELS, **options), model(PIXELS, return_dict=False, **options)
        plain = model(PIXELS)
    torch.testing.assert_close(flat[0], output.logits)
    torch.testing.assert_close(plain.logits, output.logits, atol=1e-5, rtol=1e-5)
    assert len(flat) == 3 and len(output.attentions) == 6
    # 64 x 64 pixels are 8 x 8 at the first level with Swin layers: four windows of 4 x 4.
    assert output.attentions[0].shape == (2, 4, config.num_attention_heads[1], 16, 16)
    for probabilities in output.attentions:
        torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities.sum(-1)))


def trained_once(model):
    torch.manual_seed(3)
    loss = model(**{key: v.double() if v.is_floating_point() else v for key, v in batch().items()}).loss
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], dict(model.named_buffers())


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize(
    ("join", "name"),
    [("neck", "swin"), ("inside", "resnet"), pytest.param("inside", "test_efficientnet", marks=TIMM)],
)
def test_gradient_checkpointing_changes_neither_loss_nor_gradients_nor_statistics(use_reentrant, join, name):
    plain = awake(ResFormerForMultiTask(config_of(name, backbone_join=join, drop_path_rate=0.3))).double().train()
    if name == "swin":
        plain.encoder.backbone.eval()  # its own stochastic depth draws elsewhere when run again
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert all(branch.gradient_checkpointing for branch in checkpointed.encoder.global_branches)
    loss, gradients, buffers = trained_once(plain)
    other_loss, other_gradients, other_buffers = trained_once(checkpointed)
    torch.testing.assert_close(loss, other_loss)
    for one, other in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(one, other)
    for key, buffer in buffers.items():
        torch.testing.assert_close(buffer, other_buffers[key], msg=key)


def test_copies_have_swin_layers_of_their_own():
    model = awake(ResFormerBackbone(config_of("resnet", backbone_join="inside"))).eval()
    with torch.no_grad():
        expected = model(PIXELS).feature_maps[0]
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copied(PIXELS).feature_maps[0], expected)
            for parameter in copied.encoder.global_branches.parameters():
                parameter.zero_()
            assert not torch.equal(copied(PIXELS).feature_maps[0], expected)
        assert torch.equal(model(PIXELS).feature_maps[0], expected)


def test_backbone_parameters_are_the_backbones():
    model = ResFormerForMultiTask(config_of("resnet", backbone_join="inside"))
    alone = AutoBackbone.from_config(copy.deepcopy(model.config.backbone_config))
    assert [p.shape for p in model.backbone_parameters()] == [p.shape for p in alone.parameters()]
    rest = {id(p) for p in model.parameters()} - {id(p) for p in model.backbone_parameters()}
    assert {id(p) for p in model.encoder.global_branches.parameters()} <= rest
    paper = ResFormerConfig(
        hidden_sizes=[8, 16], cnn_depths=[1, 1], transformer_depths=[1, 1], num_attention_heads=[1, 1]
    )
    assert not list(ResFormerForMultiTask(paper).backbone_parameters())


@pytest.mark.parametrize(("join", "name"), [("neck", "swin"), ("inside", "resnet")])
def test_the_way_of_attention_and_the_type_of_numbers_reach_the_backbone(join, name, tmp_path):
    model = awake(ResFormerForMultiTask(config_of(name, backbone_join=join))).eval()
    model.save_pretrained(tmp_path)
    eager = ResFormerForMultiTask.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.config._attn_implementation == eager.encoder.backbone.config._attn_implementation == "eager"
    with torch.no_grad():
        expected = model(PIXELS).segmentation_logits
        torch.testing.assert_close(eager(PIXELS).segmentation_logits, expected, atol=1e-5, rtol=1e-5)
        eager.set_attn_implementation({"": "sdpa"})
        torch.testing.assert_close(eager(PIXELS).segmentation_logits, expected, atol=1e-5, rtol=1e-5)
    half = ResFormerForMultiTask.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half(PIXELS.bfloat16()).segmentation_logits.isfinite().all()


STRANGER = """
import importlib.util, sys
import torch
from transformers import AutoModel
assert importlib.util.find_spec("modeling_resformer") is None
expected = torch.load(sys.argv[1] + "/expected.pt", weights_only=True)
for folder in ("/saved", "/again"):
    model = AutoModel.from_pretrained(sys.argv[1] + folder, trust_remote_code=True)
    with torch.no_grad():
        torch.testing.assert_close(model(expected["pixel_values"]).segmentation_logits, expected["logits"])
    model.save_pretrained(sys.argv[1] + "/again")
"""


@pytest.mark.parametrize("name", ["resnet", pytest.param("tf_efficientnet_lite0", marks=TIMM)])
def test_the_stock_pipelines_take_it_from_its_folder(name, tmp_path):
    config = config_of(name, classification_labels=["IRF", "SRF"])
    model = awake(ResFormerForMultiTask(config)).eval()
    model.save_pretrained(tmp_path)
    processor = ResFormerImageProcessorPil(size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.4] * 3)
    processor.save_pretrained(tmp_path)
    image = Image.fromarray(PIXELS[0].permute(1, 2, 0).mul(40).add(120).clamp(0, 255).byte().numpy())
    with torch.no_grad():
        output = model(**processor(image, return_tensors="pt"))
    scores = {one["label"]: one["score"] for one in pipeline("image-classification", model=str(tmp_path))(image)}
    expected = dict(zip(["IRF", "SRF"], output.classification_logits[0].sigmoid().tolist(), strict=True))
    assert scores == pytest.approx(expected, abs=1e-4)
    segments = pipeline("image-segmentation", model=str(tmp_path))(image)
    (mask,) = processor.post_process_semantic_segmentation(
        {"logits": output.segmentation_logits}, target_sizes=[(image.height, image.width)]
    )
    found = {config.id2label[index] for index in mask.unique().tolist()}
    assert {segment["label"] for segment in segments} == found
    for segment in segments:
        area = (np.asarray(segment["mask"]) > 0).sum()
        assert area == (mask == config.label2id[segment["label"]]).sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnextv2", pytest.param("test_efficientnet", marks=TIMM)])
def test_a_stranger_loads_it_by_remote_code(name, tmp_path):
    model = awake(ResFormerForMultiTask(config_of(name, backbone_join="inside"))).eval()
    model.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        logits = model(PIXELS).segmentation_logits
    torch.save({"pixel_values": PIXELS, "logits": logits}, tmp_path / "expected.pt")
    run_as_stranger(STRANGER, packages_without(tmp_path / "packages"), str(tmp_path))


def test_an_attention_that_the_backbone_does_not_know_is_refused_with_the_cure(tmp_path):
    ResFormerForMultiTask(config_of("resnet")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"attn_implementation; give \{'': \.\.\.\}"):
        ResFormerForMultiTask.from_pretrained(tmp_path, attn_implementation="sdpa")
    model = ResFormerForMultiTask.from_pretrained(tmp_path, attn_implementation={"": "sdpa"})
    assert model.config._attn_implementation == "sdpa"


def test_no_part_of_a_backbone_is_torn_apart():
    kept_whole = ResFormerForMultiTask(config_of("resnet"))._no_split_modules
    assert {"ResNetConvLayer", "ResNetShortCut", "ResFormerGlobalBranch"} <= set(kept_whole)


@TIMM
def test_no_part_of_a_backbone_of_timm_is_torn_apart():
    assert "TimmBackbone" in ResFormerForMultiTask(config_of("test_convnext"))._no_split_modules


@TIMM
def test_fixed_padding_is_timms_own():
    timm = pytest.importorskip("timm")
    model = ResFormerBackbone(
        config_of("tf_efficientnet_lite0", transformer_depths=[0] * 5, out_indices=[0, 1, 2, 3, 4])
    )
    fixed = [m for m in model.modules() if isinstance(m, backbone_resformer.FixedSameConv2d)]
    assert {(m.kernel_size, m.same_padding) for m in fixed} == {((3, 3), (0, 1, 0, 1)), ((5, 5), (1, 2, 1, 2))}
    assert not [m for m in model.modules() if type(m).__name__ == "Conv2dSame"]
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True)
    theirs.load_state_dict(model.encoder.backbone._backbone.state_dict())
    model.eval(), theirs.eval()
    for size in ((32, 32), (64, 96), (160, 224)):
        pixel_values = torch.randn(1, 3, *size)
        with torch.no_grad():
            for one, other in zip(model(pixel_values).feature_maps, theirs(pixel_values), strict=True):
                torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@TIMM
def test_padding_stays_dynamic_where_it_depends_on_the_size():
    """Of images padded to multiples of 4 alone, layers beyond 1/4 may see odd sizes."""
    backbone = AutoBackbone.from_config(TimmBackboneConfig(backbone="tf_efficientnet_lite0", out_indices=[0, 1, 2]))
    backbone_resformer._fix_same_padding(backbone, 3, deepest=4)
    kinds = {name: type(m).__name__ for name, m in backbone.named_modules() if "Same" in type(m).__name__}
    assert kinds["_backbone.conv_stem"] == "FixedSameConv2d" and "Conv2dSame" in kinds.values()


@TIMM
@pytest.mark.parametrize(
    ("model_class", "join", "levels"),
    [
        (ResFormerForImageClassification, "inside", 3),
        pytest.param(ResFormerForMultiTask, "neck", 5, marks=pytest.mark.slow),
    ],
)
@pytest.mark.long
def test_export_runs_at_sizes_it_has_not_seen(model_class, join, levels):
    backbone = TimmBackboneConfig(backbone="tf_efficientnet_lite0", out_indices=list(range(levels)))
    depths = [0] * (levels - 2) + [1, 0]
    config = ResFormerConfig(
        backbone_config=backbone, backbone_join=join, transformer_depths=depths, window_size=4, id2label=MASK_CLASSES
    )
    model = awake(model_class(config)).eval()
    dynamic = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with shape_config.patch(backed_size_oblivious=True):
        program = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(dynamic,)).module()
    for shape in ((1, 3, 33, 97), (3, 3, 160, 64)):
        pixel_values = torch.randn(*shape)
        with torch.no_grad():
            exported, expected = program(pixel_values), model(pixel_values)
        for name in expected:
            torch.testing.assert_close(exported[name], expected[name], atol=1e-4, rtol=1e-4)


@TIMM
@pytest.mark.slow
def test_onnx_gives_the_same_answers_at_sizes_it_has_not_seen(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = awake(ResFormerForMultiTask(config_of("tf_efficientnet_lite0", backbone_join="inside"))).eval()
    dynamic = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with shape_config.patch(backed_size_oblivious=True):
        program = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(dynamic,))
        torch.onnx.export(program, dynamo=True).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    pixel_values = torch.randn(1, 3, 50, 67)
    masks, _ = session.run(None, {session.get_inputs()[0].name: pixel_values.numpy()})
    with torch.no_grad():
        expected = model(pixel_values).segmentation_logits
    torch.testing.assert_close(torch.from_numpy(masks), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backbone_config": BertConfig()}, r"type 'bert'.*TimmBackboneConfig"),
        ({"backbone_config": {"model_type": "nothing"}}, r"'nothing', unknown"),
        (
            {
                "backbone_config": Dinov2Config(
                    hidden_size=8, num_hidden_layers=2, num_attention_heads=2, patch_size=16
                )
            },
            r"two or more of the strides 2, 4, 8, 16, 32",
        ),
        ({"backbone_config": ResNetConfig(num_channels=1)}, r"num_channels=3 does not fit .*num_channels=1"),
        (
            {"backbone_config": BACKBONES["resnet"](), "hidden_sizes": [1, 2, 3, 4]},
            r"\[8, 16, 24, 32\]; leave them out",
        ),
        ({"backbone_config": BACKBONES["resnet"](), "cnn_depths": [1, 1, 1, 1]}, "cnn_depths.*leave it out"),
        ({"backbone_config": BACKBONES["resnet"](), "transformer_depths": [2, 2]}, "one entry per level"),
        ({"backbone_config": BACKBONES["resnet"](), "skip_hidden_sizes": [8, 8]}, "4 positive entries, finest first"),
        ({"backbone_config": BACKBONES["resnet"](), "dilation_rates": [[1], [1]]}, "each of the 4 levels"),
        ({"backbone_join": "outside"}, "neck, inside"),
        ({"backbone_strides": [2, 4]}, "needs a backbone_config"),
        ({"backbone": "resnet18"}, r"backbone='resnet18' is a mere name; give backbone_config"),
        ({"dilation_rates": [[1], 2, 3, 4]}, "one list of them for each"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_with_the_cure(settings, said):
    with pytest.raises(ValueError, match=said) as error:
        ResFormerConfig(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["swin", "dinov3_convnext"])
def test_backbones_without_a_known_inside_are_refused(name):
    with pytest.raises(ValueError, match=r"'inside' is not known.*use backbone_join='neck'") as error:
        ResFormerForMultiTask(config_of(name, backbone_join="inside"))
    assert "\n" not in str(error.value)


def test_another_backbone_than_the_configs_is_refused():
    config = config_of("resnet")
    config.backbone_config.hidden_sizes = [8, 16, 24, 64]
    with pytest.raises(ValueError, match=r"\(64, 32\).*leave these two out"):
        ResFormerForMultiTask(config)


@TIMM
def test_an_unknown_name_of_timm_is_refused():
    with pytest.raises(ValueError, match="no_such_net") as error:
        ResFormerConfig(backbone_config=TimmBackboneConfig(backbone="no_such_net"))
    assert "\n" not in str(error.value)


def test_a_missing_timm_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(backbone_resformer, "is_timm_available", lambda: False)
    with pytest.raises(ImportError, match="pip install timm") as error:
        ResFormerConfig(backbone_config=TimmBackboneConfig(backbone="resnet18"))
    assert "\n" not in str(error.value)
