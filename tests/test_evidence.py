"""Evidence maps: a whole account of the logit, known answers worked by hand and by autograd, and MONAI's Grad-CAM."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_model import tiny_config
from torch import nn

from modeling_resformer import (
    ResFormerConfig,
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
)
from modeling_resformer.prediction.evidence import class_evidence, head_evidence, seen_by_head, share_inside


NAMES = ["a", "b", "c"]
BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


class Head(nn.Module):
    """One class, the mean of one channel of a fine map times 2 and of a coarse one times -3, plus 7."""

    def forward(self, maps):
        fine, coarse = maps
        return (2 * fine.mean((2, 3)) - 3 * coarse.mean((2, 3)) + 7).sum(1, keepdim=True)


def small(kind=ResFormerForMultiTask, **overrides):
    return kind(tiny_config(classification_labels=NAMES, **overrides)).eval()


def test_a_head_of_known_weights():
    fine = torch.tensor([[[[1.0, 0.0], [0.0, 5.0]]]])
    coarse = torch.tensor([[[[4.0]]]])
    found = head_evidence(Head(), [fine, coarse])
    # 2 * fine - 3 * 4 everywhere; the mean is the logit without its constant: 2 * 1.5 - 12.
    torch.testing.assert_close(found, torch.tensor([[[[-10.0, -12.0], [-12.0, -2.0]]]]))
    assert found.mean() == Head()([fine, coarse]) - 7


def around_a_backbone():
    return ResFormerConfig(
        backbone_config=BACKBONE,
        classification_labels=NAMES,
        num_attention_heads=[1, 1, 2, 2],
        transformer_depths=[0, 0, 1, 1],
        window_size=4,
        dilation_rates=[1, 2],
    )


@pytest.mark.parametrize(
    "config", [tiny_config(classification_labels=NAMES), around_a_backbone()], ids=["paper", "backbone"]
)
def test_a_map_accounts_for_the_whole_logit_in_both_networks_and_their_evaluation_forms(config):
    model = ResFormerForMultiTask(config).eval()
    for form in (model, model.fuse()):
        pixels = torch.rand(2, 3, 64, 96)
        with torch.inference_mode(), seen_by_head(form, 1) as seen:
            logits = form(pixels).classification_logits
        (maps,) = seen
        constant = form.classification_head([torch.zeros_like(one) for one in maps])
        found = head_evidence(form.classification_head, maps)
        torch.testing.assert_close(found.mean((2, 3)), (logits - constant).detach(), rtol=1e-4, atol=1e-5)
        assert not form.classification_head._forward_hooks


def test_it_is_monais_grad_cam_of_the_maps_that_enter_the_head():
    """MONAI looks at one layer and leaves out what is below 0, which it shows of the negative logit."""
    visualize = pytest.importorskip("monai.visualize")
    model = small()

    class Classifier(nn.Module):
        """The head's inputs are made layers."""

        def __init__(self, sign):
            super().__init__()
            self.model, self.sign, self.fine, self.coarse = model, sign, nn.Identity(), nn.Identity()

        def forward(self, pixels):
            maps, _ = self.model.encoder(pixels)
            return self.sign * self.model.classification_head([self.fine(maps[-2]), self.coarse(maps[-1])])

    pixels = torch.rand(1, 3, 64, 64)
    for k in range(len(NAMES)):
        expected = 0
        for layer in ("fine", "coarse"):
            above, below = (
                visualize.GradCAM(Classifier(sign).eval(), layer).compute_map(pixels, class_idx=k).detach()
                for sign in (1, -1)
            )
            positions = above.shape[-1] * above.shape[-2]  # which its scale leaves out
            signed = (above - below) * positions
            expected = expected + F.interpolate(signed, size=(8, 8), mode="bilinear", align_corners=False)
        expected = F.interpolate(expected, size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
        assert (expected > 0).any()
        torch.testing.assert_close(class_evidence(model, pixels)[:, k], expected, rtol=1e-4, atol=1e-5)


def test_against_hand_written_autograd_through_the_models_own_head():
    model = small(ResFormerForImageClassification)
    pixels = torch.rand(1, 3, 48, 80)
    with torch.no_grad():
        maps, _ = model.encoder(pixels)
    expected = torch.zeros(3, 48, 80)
    for k in range(3):
        leaves = [one.clone().requires_grad_() for one in maps[-2:]]
        model.classification_head(leaves)[0, k].backward()
        grids = [(leaf * leaf.grad.sum((2, 3), keepdim=True)).sum(1)[0].detach() for leaf in leaves]
        fine, coarse = (grid[None, None] for grid in grids)
        both = fine + F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        expected[k] = F.interpolate(both, size=(48, 80), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(class_evidence(model, pixels)[0], expected, rtol=1e-4, atol=1e-5)


def test_padding_of_the_encoder_is_cut_off():
    """The first 40 rows of an image of 48 that is zero below are those of the image of 40, which is padded to 48."""
    model = small()
    pixels = torch.rand(1, 3, 40, 48)
    whole = class_evidence(model, F.pad(pixels, (0, 0, 0, 8)))
    found = class_evidence(model, pixels)
    assert found.shape == (1, 3, 40, 48)
    torch.testing.assert_close(found, whole[..., :40, :])


def test_the_share_inside_a_mask():
    evidence = np.array([[3.0, -5.0], [1.0, 0.0]])
    assert share_inside(evidence, np.array([[1, 0], [0, 1]])) == 0.75
    assert share_inside(np.ones((2, 4)), np.array([[2, 0, 0, 0]] * 2)) == 0.25
    assert share_inside(evidence, np.zeros((2, 2))) == 0.0
    assert share_inside(-np.ones((2, 2)), np.ones((2, 2))) is None
    with pytest.raises(ValueError, match="expected one size"):
        share_inside(evidence, np.ones((3, 3)))


def test_a_model_that_only_segments_has_no_evidence():
    with pytest.raises(ValueError, match="only segments"):
        class_evidence(small(ResFormerForSemanticSegmentation), torch.rand(1, 3, 32, 32))
