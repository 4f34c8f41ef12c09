"""Losses against hand-worked numbers, MONAI and torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerForSemanticSegmentation
from modeling_resformer.modeling_resformer import (
    classification_loss,
    dice_loss_from_statistics,
    dice_statistics,
    segmentation_loss,
)


def certain(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Logits whose softmax is one-hot to float precision."""
    return F.one_hot(labels, num_classes).permute(0, 3, 1, 2).float() * 200 - 100


# Prediction and truth of 1 x 4 pixels in two classes; Dice per class worked out by hand (smooth 1e-5 is negligible).
HAND_WORKED = [
    # background 2*2/(2+2), lesion 2*2/(2+2)
    ([0, 0, 1, 1], [0, 0, 1, 1], 1 - (1 + 1) / 2),
    # background 2*1/(2+1), lesion 2*2/(2+3)
    ([0, 0, 1, 1], [0, 1, 1, 1], 1 - (2 / 3 + 4 / 5) / 2),
    # nothing in common: background 0/(4+0), lesion 0/(0+4)
    ([0, 0, 0, 0], [1, 1, 1, 1], 1.0),
    # lesion neither there nor predicted counts as 1
    ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
    # the ignored pixel is left out of both sides: background 2*1/(1+1), lesion 2*2/(2+2)
    ([0, 0, 1, 1], [0, 255, 1, 1], 0.0),
]


@pytest.mark.parametrize(("predicted", "target", "expected"), HAND_WORKED)
def test_dice_loss_hand_worked(predicted, target, expected):
    config = tiny_config(id2label={0: "background", 1: "lesion"})
    logits = certain(torch.tensor(predicted).view(1, 1, 4), 2)
    loss = segmentation_loss(logits, torch.tensor(target).view(1, 1, 4), config)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_dice_loss_of_even_odds_hand_worked():
    # p = 1/2 everywhere, truth one lesion pixel of four: background 2*1.5/(2+3), lesion 2*0.5/(2+1).
    config = tiny_config(id2label={0: "background", 1: "lesion"})
    labels = torch.tensor([0, 0, 0, 1]).view(1, 2, 2)
    loss = segmentation_loss(torch.zeros(1, 2, 2, 2), labels, config)
    assert loss.item() == pytest.approx(1 - (3 / 5 + 1 / 3) / 2, abs=1e-5)


@pytest.mark.parametrize("include_background", [True, False])
def test_dice_loss_equals_monai(include_background):
    monai = pytest.importorskip("monai.losses")
    config = tiny_config(dice_include_background=include_background)
    logits, labels = torch.randn(3, 4, 9, 7), torch.randint(0, 3, (3, 9, 7))
    reference = monai.DiceLoss(
        include_background=include_background,
        softmax=True,
        to_onehot_y=True,
        batch=True,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
    expected = reference(logits, labels[:, None])
    torch.testing.assert_close(segmentation_loss(logits, labels, config), expected)


def test_ignored_pixels_equal_cutting_them_off(config):
    logits, labels = torch.randn(2, 4, 6, 8), torch.randint(0, 4, (2, 6, 8))
    labels[..., 5:] = 255
    torch.testing.assert_close(
        segmentation_loss(logits, labels, config), segmentation_loss(logits[..., :5], labels[..., :5], config)
    )


def test_added_terms_equal_torch():
    logits, labels = torch.randn(2, 4, 6, 8), torch.randint(0, 4, (2, 6, 8))
    labels[0, 0] = 255
    terms = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    known = labels != 255
    probability = logits.softmax(1).gather(1, labels.where(known, 0)[:, None])[:, 0]
    focal = ((1 - probability) ** 2 * -probability.log())[known].mean()
    plain = segmentation_loss(logits, labels, tiny_config())
    mixed = segmentation_loss(logits, labels, tiny_config(cross_entropy_weight=0.5, focal_weight=2.0))
    torch.testing.assert_close(mixed, plain + 0.5 * terms[known].mean() + 2.0 * focal)


def test_classification_loss_hand_worked():
    # Four labelled entries; log(1 + e^-x) for present, log(1 + e^x) for absent, times the class weight, over 4.
    config = tiny_config(class_weights=[1.0, 2.0, 4.0])
    logits = torch.tensor([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]])
    labels = torch.tensor([[1.0, 0.0, -100.0], [float("nan"), 1.0, 0.0]])
    expected = (math.log(2) + 2 * math.log(1 + math.exp(1)) + 2 * math.log(1 + math.exp(-0.5)) + 4 * math.log(2)) / 4
    assert classification_loss(logits, labels, config).item() == pytest.approx(expected, rel=1e-6)


def test_classification_loss_equals_torch(config):
    logits, labels = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    torch.testing.assert_close(
        classification_loss(logits, labels, config), F.binary_cross_entropy_with_logits(logits, labels)
    )


def test_class_indices_are_one_hot_labels(config):
    logits = torch.randn(3, 3)
    indices, multi_hot = torch.tensor([2, 0, -100]), torch.tensor([[0.0, 0, 1], [1, 0, 0], [-100, -100, -100]])
    torch.testing.assert_close(
        classification_loss(logits, indices, config), classification_loss(logits, multi_hot, config)
    )


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.tensor([[2.0, 0, 0]]), "from 0.0 to 2.0; expected 0..1"),
        (torch.tensor([[0.0, -1, 0]]), "from -1.0"),
        (torch.tensor([[float("inf"), 0, 0]]), "inf"),
        (torch.tensor([3]), "Class indices hold values from 3 to 3; expected 0..2"),
    ],
)
def test_class_labels_out_of_range_are_refused(config, labels, said):
    with pytest.raises(ValueError, match=said):
        classification_loss(torch.zeros(1, 3), labels, config)


def test_one_class_takes_no_indices_since_0_would_mean_present(config):
    with pytest.raises(ValueError, match=r"\(4, 1\) with 1 for every class that is present \(-100 where unknown\)\.$"):
        classification_loss(torch.zeros(4, 1), torch.tensor([0, 0, 1, 0]), config)


@pytest.mark.parametrize("num_classes", [2, 41, 55])
def test_an_empty_dice_loss_is_exactly_zero_for_any_number_of_classes(num_classes):
    zeros = torch.zeros(num_classes)
    assert dice_loss_from_statistics(zeros, zeros, zeros, 1e-5).item() == 0.0


def test_total_is_the_papers_weighted_sum(config, batch):
    output = ResFormerForMultiTask(config)(**batch)
    torch.testing.assert_close(output.loss, 0.25 * output.classification_loss + 1.0 * output.segmentation_loss)


@pytest.mark.parametrize("missing", ["mask_labels", "class_labels", "both"])
def test_an_unlabelled_task_gives_exactly_zero_attached_to_the_graph(config, batch, missing):
    model = ResFormerForMultiTask(config)
    if missing != "class_labels":
        batch["mask_labels"] = torch.full_like(batch["mask_labels"], 255)
    if missing != "mask_labels":
        batch["class_labels"] = torch.full_like(batch["class_labels"], -100)
    output = model(**batch)
    if missing != "class_labels":
        assert output.segmentation_loss.item() == 0.0
    if missing != "mask_labels":
        assert output.classification_loss.item() == 0.0
    output.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("terms", [{"cross_entropy_weight": 1.0}, {"focal_weight": 1.0}])
def test_added_terms_of_an_unlabelled_mask_are_zero(terms):
    labels = torch.full((1, 8, 8), 255)
    assert segmentation_loss(torch.randn(1, 4, 8, 8), labels, tiny_config(**terms)).item() == 0.0


def test_labels_that_are_none_give_no_loss(config, batch):
    output = ResFormerForMultiTask(config)(batch["pixel_values"])
    assert output.loss is None and output.segmentation_loss is None and output.classification_loss is None
    output = ResFormerForMultiTask(config)(batch["pixel_values"], mask_labels=batch["mask_labels"])
    assert output.classification_loss is None
    torch.testing.assert_close(output.loss, output.segmentation_loss)


def test_losses_are_float32_under_bfloat16_autocast(config, batch):
    model = ResFormerForMultiTask(config)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    assert output.segmentation_logits.dtype == torch.bfloat16
    assert {output.loss.dtype, output.segmentation_loss.dtype, output.classification_loss.dtype} == {torch.float32}
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(output.loss, model(**batch).loss, rtol=0.05, atol=0.05)


def test_statistics_of_a_batch_add_up_to_the_pooled_loss(config):
    logits, labels = torch.randn(3, 4, 6, 8), torch.randint(0, 4, (3, 6, 8))
    intersection, predicted, target = (total.double().sum(0) for total in dice_statistics(logits, labels, 255))
    loss = 1 - ((2 * intersection + 1e-5) / (predicted + target + 1e-5)).mean()
    torch.testing.assert_close(segmentation_loss(logits, labels, config).double(), loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.zeros(2, 40, 48, dtype=torch.long), r"\(2, 40, 48\).*\(2, 48, 40\)"),
        (torch.zeros(2, 1, 48, 40, dtype=torch.long), r"\(2, 1, 48, 40\)"),
        (torch.zeros(2, 48, 40), "float32"),
        (torch.full((2, 48, 40), 4), r"from 4 to 4; expected 0\.\.3"),
        (torch.full((2, 48, 40), -1), "from -1 to -1"),
    ],
)
def test_mask_labels_that_do_not_fit_are_refused(config, batch, labels, said):
    with pytest.raises(ValueError, match=said):
        ResFormerForSemanticSegmentation(config)(batch["pixel_values"], labels=labels)


def test_class_labels_that_do_not_fit_are_refused(config, batch):
    batch["class_labels"] = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"\(2, 4\); expected \(2, 3\)"):
        ResFormerForMultiTask(config)(**batch)
