"""Test-time flips: probabilities are averaged, not logits, and masks are turned back before."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessorPil, ResFormerPipeline
from modeling_resformer.pipeline_resformer import VIEWS, averaged_over_views


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    model = ResFormerForMultiTask(tiny_config()).eval()
    return ResFormerPipeline(
        model=model, image_processor=ResFormerImageProcessorPil(size={"height": 32, "width": 32}), device="cpu"
    )


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_the_average_is_that_of_probabilities_worked_out_by_hand():
    """A 1 x 2 image: P(foreground) is .9, .2 as it is and .5, .1 in its mirror image, which shows the right pixel first."""
    seen = {(1.0, 2.0): ([0.9, 0.2], 0.8), (2.0, 1.0): ([0.5, 0.1], 0.3)}

    def logits_of(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        foreground, score = seen[tuple(pixels[0, 0, 0].tolist())]
        mask = torch.tensor([[0.0, 0.0], [logit(value) for value in foreground]])
        return {
            "segmentation_logits": mask.reshape(1, 2, 1, 2),
            "classification_logits": torch.tensor([[logit(score)]]),
        }

    pixels = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2)
    averaged = averaged_over_views(logits_of, pixels, VIEWS["horizontal"])
    # The mirror's .1 belongs to the left pixel: (.9 + .1) / 2 and (.2 + .5) / 2. Means of logits would give .5 and .333.
    foreground = averaged["segmentation_logits"].softmax(dim=1)[0, 1, 0]
    torch.testing.assert_close(foreground, torch.tensor([0.5, 0.35]))
    torch.testing.assert_close(averaged["classification_logits"].sigmoid(), torch.tensor([[0.55]]))


def test_certain_logits_stay_finite_for_masks_and_keep_their_sign():
    certain = {
        "segmentation_logits": torch.tensor([-900.0, 900.0]).reshape(1, 2, 1, 1),
        "classification_logits": torch.tensor([[800.0, -800.0]]),
    }
    averaged = averaged_over_views(lambda pixels: certain, torch.zeros(1, 1, 1, 1), VIEWS["both"])
    assert all(torch.isfinite(logits).all() for logits in averaged.values())
    assert averaged["classification_logits"].sigmoid().tolist() == [[1.0, 0.0]]


def test_both_takes_every_combination_of_the_two_flips_back():
    pixels = torch.arange(12.0).reshape(1, 1, 3, 4)
    views = []

    def equivariant(view: torch.Tensor) -> dict[str, torch.Tensor]:
        views.append(view)
        return {"segmentation_logits": torch.cat([view, -view], dim=1)}

    averaged = averaged_over_views(equivariant, pixels, VIEWS["both"])["segmentation_logits"]
    # A model that turns with its input gives the same answer from every view.
    expected = torch.cat([pixels, -pixels], dim=1).softmax(dim=1)
    torch.testing.assert_close(averaged.softmax(dim=1), expected)
    seen = {tuple(view.flatten().tolist()) for view in views}
    array = pixels[0, 0].numpy()
    turned = (array, array[:, ::-1], array[::-1], array[::-1, ::-1])
    assert seen == {tuple(view.flatten().tolist()) for view in turned}


def test_a_symmetric_image_gets_the_same_class_scores_and_a_symmetric_mask(pipe):
    half = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    plain, flipped = pipe(image), pipe(image, tta="horizontal")
    assert flipped["class_scores"] == pytest.approx(plain["class_scores"], abs=1e-5)
    np.testing.assert_array_equal(flipped["segmentation"], flipped["segmentation"].flip(-1))


@pytest.mark.parametrize(
    "tta, flip", [("horizontal", Image.Transpose.FLIP_LEFT_RIGHT), ("both", Image.Transpose.ROTATE_180)]
)
def test_a_image_and_its_flip_get_one_answer(pipe, tta, flip):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    axes = (-1,) if tta == "horizontal" else (-2, -1)
    one, other = pipe([image, image.transpose(flip)], batch_size=2, tta=tta)
    assert one["class_scores"] == pytest.approx(other["class_scores"], abs=1e-5)
    assert (one["segmentation"] == other["segmentation"].flip(axes)).float().mean() > 0.99


def test_flips_can_be_set_for_all_calls_and_unset_for_one(pipe):
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    always = ResFormerPipeline(model=pipe.model, image_processor=pipe.image_processor, device="cpu", tta=True)
    assert always(image)["class_scores"] == pipe(image, tta="horizontal")["class_scores"]
    assert always(image, tta=False)["class_scores"] == pipe(image)["class_scores"] != always(image)["class_scores"]


def test_an_unknown_kind_of_flips_is_refused(pipe):
    with pytest.raises(ValueError, match="tta='vertical' is unknown; use one of 'horizontal', 'both'"):
        pipe(Image.new("RGB", (32, 32)), tta="vertical")
