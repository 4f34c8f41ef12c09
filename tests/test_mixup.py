"""Blending images in pairs: the loss against torch's own with soft targets, and a run by flags."""

import pytest
import torch
from prepared_data import prepared_dataset
from small_model import tiny_config
from small_trainer import make_trainer
from torch.nn import functional as F

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
)
from modeling_resformer.errors import BadInputError
from modeling_resformer.heads import TASKS
from modeling_resformer.training.arguments import parse_arguments
from modeling_resformer.training.mixup import Blend


PARTNER = torch.tensor([2, 0, 1])


@pytest.fixture
def labelled():
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(3, 3, 32, 32, generator=generator),
        "mask_labels": torch.randint(0, 2, (3, 32, 32), generator=generator),
        "class_labels": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
    }


def blended_loss(task, batch, **settings):
    config = tiny_config(
        id2label={0: "background", 1: "lesion"}, classification_labels=["a", "b"], dice_smooth=1.0, **settings
    )
    model, blend = TASKS[task].model_class(config).eval(), Blend(0.7, PARTNER)
    blended = blend.images(batch)
    outputs = model(**TASKS[task].forward_arguments(blended))
    return blended, outputs, blend.loss(model, TASKS[task], outputs, blended)


def test_binary_cross_entropy_is_that_of_the_blended_labels(labelled):
    blended, outputs, (loss, parts) = blended_loss("classification", labelled)
    pixels, labels = labelled["pixel_values"], labelled["class_labels"]
    torch.testing.assert_close(blended["pixel_values"][0], 0.7 * pixels[0] + 0.3 * pixels[2])
    soft = 0.7 * labels + 0.3 * labels[PARTNER]
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(outputs["logits"], soft))
    torch.testing.assert_close(parts, loss.detach()[None])


def test_exclusive_cross_entropy_is_that_of_the_blended_labels(labelled):
    labelled["class_labels"] = torch.eye(2)[[0, 1, 1]]
    _, outputs, (loss, _) = blended_loss("classification", labelled, classification_type="exclusive")
    soft = 0.7 * labelled["class_labels"] + 0.3 * labelled["class_labels"][PARTNER]
    torch.testing.assert_close(loss, F.cross_entropy(outputs["logits"], soft))


def test_a_label_that_is_unknown_weighs_nothing_by_itself(labelled):
    """Of two images the first is unlabelled: its own part of the loss is that of the second alone."""
    labelled = {name: values[:2] for name, values in labelled.items()}
    labelled["class_labels"] = torch.tensor([[-100.0, -100.0], [0.0, 1.0]])
    config = tiny_config(classification_labels=["a", "b"])
    model, blend = ResFormerForImageClassification(config).eval(), Blend(0.6, torch.tensor([1, 0]))
    outputs = model(pixel_values=labelled["pixel_values"], labels=labelled["class_labels"])
    loss, _ = blend.loss(model, TASKS["classification"], outputs, labelled)
    first, second = (
        F.binary_cross_entropy_with_logits(outputs["logits"][row], torch.tensor([0.0, 1.0])) for row in (0, 1)
    )
    torch.testing.assert_close(loss, 0.6 * second + 0.4 * first)


def test_cross_entropy_of_masks_is_that_of_the_blended_masks(labelled):
    """Dice is no mean over pixels and is blended as a loss; what cross-entropy adds to it is torch's, of soft masks."""
    torch.manual_seed(1)
    _, outputs, (with_both, _) = blended_loss("segmentation", labelled, cross_entropy_weight=1.0)
    torch.manual_seed(1)
    _, _, (dice, _) = blended_loss("segmentation", labelled)
    masks = F.one_hot(labelled["mask_labels"], 2).movedim(-1, 1).float()
    soft = 0.7 * masks + 0.3 * masks[PARTNER]
    torch.testing.assert_close(with_both - dice, F.cross_entropy(outputs["logits"], soft))


def test_shares_are_the_larger_ones_of_a_beta_distribution():
    """Of Beta(1, 1), which is uniform, the larger share is uniform from 0.5 to 1: mean 3/4, variance 1/48."""
    torch.manual_seed(0)
    shares = torch.tensor([Blend.draw(1.0, 4).share for _ in range(2000)])
    assert shares.min() >= 0.5 and shares.max() <= 1
    assert shares.mean().item() == pytest.approx(3 / 4, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / 48, rel=0.1)
    assert sorted(Blend.draw(0.2, 5).partner.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "model_class", [ResFormerForMultiTask, ResFormerForSemanticSegmentation, ResFormerForImageClassification]
)
def test_every_task_trains_and_logs_the_parts_of_the_blended_loss(model_class, tmp_path):
    settings = {"trainer_settings": {"mixup": 0.4}, "max_steps": 2, "logging_steps": 1}
    trainer = make_trainer(prepared_dataset(), tmp_path, model_class=model_class, **settings)
    trainer.train()
    line = next(line for line in trainer.state.log_history if "loss" in line)
    config = trainer.model.config
    weights = {
        "segmentation_loss": config.segmentation_loss_weight,
        "classification_loss": config.classification_loss_weight,
    }
    if model_class is not ResFormerForMultiTask:
        weights = dict.fromkeys(weights, 1.0)
    assert line["loss"] == pytest.approx(sum(weights[name] * line[name] for name in weights if name in line), rel=1e-4)


def test_a_share_that_no_distribution_has_is_refused():
    with pytest.raises(BadInputError, match=r"--mixup is -1\.0; expected 0 or more, such as 0\.2"):
        parse_arguments(["--dataset", "d", "--output_dir", "o", "--mixup", "-1"])
