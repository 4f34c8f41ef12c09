"""The pipeline: any kind of image in, one documented answer each, at the image's size and bit depth."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import tiny_config
from transformers import pipeline

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerImageProcessorPil,
    ResFormerPipeline,
)


PHOTOGRAPH = next((Path(__file__).parents[1] / "examples/isic2017_sample/ISIC-2017_Training_Data").glob("*.jpg"))


@pytest.fixture
def pipe():
    torch.manual_seed(0)
    return ResFormerPipeline(
        model=ResFormerForMultiTask(tiny_config()).eval(),
        image_processor=ResFormerImageProcessorPil(size={"height": 48, "width": 48}),
    )


def same(one: dict, other: dict) -> None:
    assert torch.equal(one["segmentation"], other["segmentation"])
    assert one["class_scores"] == pytest.approx(other["class_scores"], abs=1e-5)


def test_an_answer_has_the_documented_keys_and_the_images_size(pipe):
    answer = pipe(Image.new("RGB", (70, 50), "red"))
    assert set(answer) == {"segmentation", "class_scores", "predicted_labels", "mask_classes"}
    assert answer["segmentation"].shape == (50, 70)
    assert set(answer["class_scores"]) == {"IRF", "SRF", "PED"}


def test_path_bytes_image_and_array_are_one_image(pipe):
    with Image.open(PHOTOGRAPH) as image:
        answers = pipe([str(PHOTOGRAPH), PHOTOGRAPH.read_bytes(), image, np.asarray(image)], batch_size=4)
    for answer in answers[1:]:
        same(answer, answers[0])


def test_batches_answer_as_single_images(pipe):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, 60, 3), dtype=np.uint8) for height in (40, 50, 60)]
    for batched, image in zip(pipe(images, batch_size=3), images, strict=True):
        single = pipe(image)
        assert batched["segmentation"].shape == image.shape[:2]
        assert batched["class_scores"] == pytest.approx(single["class_scores"], abs=1e-4)


def test_sixteen_bits_are_kept(pipe):
    # 256 of 65536 values: black once clipped or cut to 8 bits.
    faint = np.random.default_rng(0).integers(0, 256, (60, 60), dtype=np.uint16)
    encoded = io.BytesIO()
    Image.fromarray(faint).save(encoded, "PNG")
    pixel_values = pipe.preprocess(encoded.getvalue())["pixel_values"]
    expected = pipe.image_processor(faint, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixel_values, expected)
    assert pixel_values[0, 0].std() > 0


def test_a_grey_image_at_sixteen_bits_answers_as_at_eight(pipe):
    """v * 257 is the 16-bit value of the 8-bit v: the same share of the full range."""
    grey = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    answers, inputs = [], []
    for stored in (grey, grey.astype(np.uint16) * 257):
        encoded = io.BytesIO()
        Image.fromarray(stored).save(encoded, "PNG")
        inputs.append(pipe.preprocess(encoded.getvalue())["pixel_values"])
        answers.append(pipe(encoded.getvalue()))
    torch.testing.assert_close(inputs[1], inputs[0])
    same(answers[1], answers[0])


def test_bits_below_the_eighth_change_no_more_than_quantisation(pipe):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (48, 48), dtype=np.uint8)
    deep = grey.astype(np.uint16) * 257 + rng.integers(0, 257, grey.shape, dtype=np.uint16)
    difference = pipe.preprocess(deep)["pixel_values"] - pipe.preprocess(grey)["pixel_values"]
    step = 1 / 255 / torch.tensor(pipe.image_processor.image_std).reshape(3, 1, 1)  # one of 256 steps, normalised
    assert (difference >= -1e-6).all() and (difference <= step + 1e-6).all() and difference.max() > step.min() / 2


def test_a_range_given_to_a_call_reaches_the_image_processor(pipe):
    dark = np.random.default_rng(0).integers(0, 1000, (48, 48), dtype=np.uint16)
    expected = pipe.image_processor(dark, intensity_range=(0, 999), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pipe.preprocess(dark, intensity_range=(0, 999))["pixel_values"], expected)
    assert pipe(dark, intensity_range=(0, 999))["class_scores"] != pipe(dark)["class_scores"]


@pytest.mark.parametrize(
    "model_class, keys",
    [
        (ResFormerForSemanticSegmentation, {"segmentation", "mask_classes"}),
        (ResFormerForImageClassification, {"class_scores", "predicted_labels"}),
    ],
)
def test_a_model_with_one_head_gives_its_half(pipe, model_class, keys):
    single = model_class(tiny_config()).eval()
    single.load_state_dict(pipe.model.state_dict(), strict=False)
    half = ResFormerPipeline(model=single, image_processor=pipe.image_processor, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    whole = pipe(image)
    (answer,) = half([image], batch_size=1, tta=False)
    assert set(answer) == keys
    for key in keys - {"segmentation"}:
        assert answer[key] == whole[key]
    assert "segmentation" not in keys or torch.equal(answer["segmentation"], whole["segmentation"])


def test_the_task_is_registered(pipe):
    by_task = pipeline(
        "multitask-image-analysis", model=pipe.model, image_processor=pipe.image_processor, device="cpu"
    )
    assert type(by_task) is ResFormerPipeline
    image = Image.new("RGB", (48, 48), "red")
    assert by_task(image)["class_scores"] == pipe(image)["class_scores"]


def test_threshold_decides(pipe):
    image = Image.new("RGB", (48, 48))
    assert pipe(image, threshold=0.0)["predicted_labels"] == ["IRF", "SRF", "PED"]
    assert pipe(image, threshold=1.0)["predicted_labels"] == []


def test_a_misspelt_option_is_refused(pipe):
    with pytest.raises(TypeError, match="treshold"):
        pipe(Image.new("RGB", (48, 48)), treshold=0.9)
