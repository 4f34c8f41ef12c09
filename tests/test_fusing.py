"""The evaluation form: the same answers from fewer layers, saved as the plain form."""

import pytest
import torch
from small_model import tiny_config
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, ResNetConfig, TimmBackboneConfig
from transformers.utils import is_timm_available

from modeling_resformer import (
    ResFormerBackbone,
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
)


TIMM = pytest.mark.skipif(not is_timm_available(), reason="timm is not installed")
RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic")
PIXELS = torch.randn(2, 3, 50, 67, generator=torch.Generator().manual_seed(1))
LARGE_PIXELS = torch.randn(1, 3, 146, 131, generator=torch.Generator().manual_seed(1))  # oneDNN takes no small maps


def trained(model: nn.Module) -> nn.Module:
    """The model with numbers in its norms and residuals that no initialisation gives, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise + 0.5 if "running_var" in name else tensor + 0.1 * (noise - 0.5))
    return model.eval()


def backbone_config(name: str, **overrides):
    backbone = RESNET if name == "resnet" else TimmBackboneConfig(backbone=name)
    settings = {"hidden_sizes": None, "cnn_depths": None, "num_attention_heads": None, "backbone_config": backbone}
    return tiny_config(**settings, **overrides)


CONFIGS = {
    "paper": lambda: tiny_config(dilation_rates=[6, 12, 18]),
    "parallel": lambda: tiny_config(block_type="parallel", use_dfe=False),
    "neck": lambda: backbone_config("resnet"),
    "inside": lambda: backbone_config("test_efficientnet", backbone_join="inside"),
    "convnext": lambda: backbone_config("test_convnext", backbone_join="inside", block_type="parallel"),
}


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize(
    "kind",
    [
        "paper",
        "neck",
        pytest.param("parallel", marks=pytest.mark.slow),
        pytest.param("inside", marks=TIMM),
        pytest.param("convnext", marks=[TIMM, pytest.mark.slow]),
    ],
)
def test_fused_answers_are_the_plain_ones(kind):
    model = trained(ResFormerForMultiTask(CONFIGS[kind]()))
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        fused = model.fuse()
        for pixels in (PIXELS, LARGE_PIXELS):
            assert difference(fused(pixels).segmentation_logits, model(pixels).segmentation_logits) < 5e-6
        model.double()
        fused = model.fuse()
        pixels = PIXELS.double()
        for one, other in zip(fused(pixels, **options).to_tuple(), model(pixels, **options).to_tuple(), strict=True):
            for ours, theirs in zip(*((v if isinstance(v, tuple) else (v,)) for v in (one, other)), strict=True):
                assert difference(ours, theirs) < 1e-10
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in fused.modules())
    for skip in fused.dilated_feature_enhancement:
        for branch in getattr(skip, "branches", ()):
            (convolution,) = (module for module in branch if isinstance(module, nn.Conv2d))
            assert convolution.dilation[0] == convolution.padding[0] > 0


@pytest.mark.parametrize(
    "model_class", [ResFormerForSemanticSegmentation, ResFormerForImageClassification, ResFormerBackbone]
)
def test_every_model_has_an_evaluation_form(model_class):
    model = trained(model_class(tiny_config())).double()
    with torch.no_grad():
        for one, other in zip(
            model.fuse()(PIXELS.double()).to_tuple(), model(PIXELS.double()).to_tuple(), strict=True
        ):
            pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
            assert all(difference(*pair) < 1e-10 for pair in pairs)


def test_a_fused_model_is_saved_as_the_plain_one(tmp_path):
    model = trained(ResFormerForMultiTask(tiny_config()))
    fused = model.fuse()
    assert fused.config is model.config
    assert fused.fuse() is fused
    fused.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == fused.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    with torch.no_grad():
        model.to(memory_format=torch.channels_last)  # as loading lays it out
        torch.testing.assert_close(loaded(PIXELS).segmentation_logits, model(PIXELS).segmentation_logits)


def test_fusing_leaves_the_model_as_it_was():
    model = trained(ResFormerForMultiTask(tiny_config()))
    with torch.no_grad():
        before = model(PIXELS).segmentation_logits
        fused = model.fuse().to(torch.bfloat16)
        assert torch.equal(model(PIXELS).segmentation_logits, before)
    assert fused(PIXELS.bfloat16()).segmentation_logits.isfinite().all()
    with torch.inference_mode():
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.fuse().modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_training_and_fusing_do_not_go_together():
    model = ResFormerForMultiTask(tiny_config())
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        model.train().fuse()
    with pytest.raises(ValueError, match="does not train"):
        model.eval().fuse().train()
    with torch.device("meta"), pytest.raises(ValueError, match="meta device"):
        ResFormerForMultiTask(tiny_config()).eval().fuse()


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, list | tuple) else [output]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= tensor.numel():
                self.size = max(self.size, tensor.numel())
        return output


@pytest.mark.parametrize("size", [(256, 256), (208, 176)])
def test_attention_holds_no_mask_of_all_windows(size):
    """In a level of P positions a mask of its windows has P * N numbers, here 256 P; wider than 32 C = 8 is nothing."""
    model = ResFormerForMultiTask(tiny_config(window_size=16)).eval()
    with torch.no_grad(), LargestTensor() as largest:
        model(torch.randn(1, 3, *size))
    assert largest.size < size[0] / 2 * size[1] / 2 * 128
