"""Images fitted into the processor's size and padded: the geometry, its way back, and everyone who must know of it."""

import base64
import json
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answering_model import NAMES, encoded, save_model
from PIL import Image, ImageOps
from prepared_data import CLASS_LABELS, MASK_CLASSES
from run_here import run_command
from small_model import ARCHITECTURE, tiny_config
from transformers import pipeline
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from modeling_resformer import (
    ResFormerConfig,
    ResFormerForMultiTask,
    ResFormerImageProcessor,
    ResFormerImageProcessorPil,
    ResFormerPipeline,
)
from modeling_resformer.data.collation import MultiTaskCollator
from modeling_resformer.evaluation.row_statistics import row_statistics
from modeling_resformer.handler import EndpointHandler
from modeling_resformer.heads import TASKS
from modeling_resformer.image_processing_pil_resformer import content_box


SIZE = (24, 32)  # height, width of the network's input
# Tall, wide, single rows and columns, smaller than the input, larger, and of its own ratio.
IMAGE_SIZES = [(1, 50), (50, 1), (7, 100), (100, 7), (5, 5), (11, 13), (301, 200), (131, 401), (24, 32), (48, 64)]


def processor_of(kind, size=SIZE, **settings):
    if kind is ResFormerImageProcessor:
        pytest.importorskip("torchvision")
    return kind(size={"height": size[0], "width": size[1]}, keep_aspect_ratio=True, **settings)


@pytest.fixture(params=[ResFormerImageProcessorPil, ResFormerImageProcessor], ids=["pil", "torchvision"])
def processor(request):
    return processor_of(request.param)


def by_pillow(image: Image.Image, fill: int, resample: Image.Resampling) -> Image.Image:
    """An image or mask as Pillow fits it in, in the middle of a canvas."""
    content = ImageOps.contain(image, SIZE[::-1], resample)
    canvas = Image.new(image.mode, SIZE[::-1], fill)
    canvas.paste(content, ((SIZE[1] - content.width) // 2, (SIZE[0] - content.height) // 2))
    return canvas


def random_pair(size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return image, Image.fromarray(rng.integers(0, 4, size, dtype=np.uint8))


@pytest.mark.parametrize(
    ("image_size", "size", "box"),
    [
        ((100, 50), (24, 32), (0, 10, 24, 12)),  # 50 * 24 / 100 = 12 columns, (32 - 12) / 2 beside them
        ((50, 100), (24, 32), (4, 0, 16, 32)),
        ((30, 40), (24, 32), (0, 0, 24, 32)),
        ((3, 2), (32, 32), (0, 5, 32, 21)),  # 21.33 columns; of 11 spare ones 5 to the left
        ((1, 1000), (24, 32), (11, 0, 1, 32)),  # 0.03 rows, of which there must be one; 23 spare, 11 above
        ((1000, 1), (24, 32), (0, 15, 24, 1)),
        ((64, 5), (32, 32), (0, 14, 32, 3)),  # 2.5 columns are 3
    ],
)
def test_the_geometry_is_worked_out_by_hand(image_size, size, box):
    assert content_box(image_size, size) == box
    assert content_box([7 * side for side in image_size], size) == box  # only the ratio counts


# Pillow rounds the short side of single rows and columns to nothing.
@pytest.mark.parametrize("size", IMAGE_SIZES[2:])
def test_image_and_mask_lie_where_pillow_puts_them(processor, size):
    image, mask = random_pair(size)
    output = processor(image, segmentation_maps=mask, return_tensors="pt")
    assert output["pixel_values"].shape == (1, 3, *SIZE) and output["labels"].shape == (1, *SIZE)
    np.testing.assert_array_equal(output["labels"][0], by_pillow(mask, 255, Image.Resampling.NEAREST))
    inside = np.asarray(by_pillow(Image.new("L", image.size, 1), 0, Image.Resampling.NEAREST)) == 1
    pixels = output["pixel_values"][0]
    assert (pixels[:, ~inside] == 0).all()
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    shown = ((pixels * std + mean) * 255).permute(1, 2, 0).numpy()
    expected = np.asarray(by_pillow(image, 0, Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(shown - expected)[inside].max() < 1.01  # of 255: torchvision rounds once more


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_both_back_ends_agree(size):
    image, mask = random_pair(size)
    one, other = (
        processor_of(kind)(image, segmentation_maps=mask, return_tensors="pt")
        for kind in (ResFormerImageProcessor, ResFormerImageProcessorPil)
    )
    assert torch.equal(one["labels"], other["labels"])
    assert (one["pixel_values"] - other["pixel_values"]).abs().max() < 1.01 / 255 / 0.224


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_post_processing_crops_the_padding_and_nothing_else(processor, size):
    """Logits of one class where the image is and another's in the padding: none of that may show, up to the last pixel."""
    labels = processor(
        Image.new("RGB", size[::-1]), segmentation_maps=np.ones(size, np.uint8), ignore_index=2, return_tensors="pt"
    )["labels"]
    logits = F.one_hot(labels, 3).permute(0, 3, 1, 2).float() * 20
    (scored,) = processor.post_process_semantic_segmentation({"logits": logits}, [size], True)
    assert scored.segmentation.shape == size and (scored.segmentation == 1).all()
    torch.testing.assert_close(scored.segmentation_scores[1], torch.full(size, 20.0))


@pytest.mark.parametrize("size", [(301, 200), (131, 401), (64, 64)])
def test_a_mask_comes_back_where_it_was(processor, size):
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 3 : 2 * size[0] // 3, size[1] // 4 : size[1] // 2] = 1
    labels = processor(np.zeros((*size, 3), np.uint8), segmentation_maps=mask, return_tensors="pt")["labels"]
    logits = F.one_hot(labels % 255, 2).permute(0, 3, 1, 2).float()
    (back,) = processor.post_process_semantic_segmentation({"logits": logits}, target_sizes=[size])
    box = content_box(size, SIZE)
    rows, columns = np.nonzero(back.numpy())
    # Each border within one pixel of the network's input, which is so many of the image's.
    step = (size[0] / box.height, size[1] / box.width)
    wanted = (size[0] // 3, 2 * size[0] // 3, size[1] // 4, size[1] // 2)
    found = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
    assert np.abs(np.subtract(found, wanted)[:2]).max() <= step[0]
    assert np.abs(np.subtract(found, wanted)[2:]).max() <= step[1]


def test_images_of_several_sizes_make_one_batch(processor):
    pairs = [random_pair(size) for size in IMAGE_SIZES]
    batch = processor([image for image, _ in pairs], [mask for _, mask in pairs], return_tensors="pt")
    for index, (image, mask) in enumerate(pairs):
        single = processor(image, mask, return_tensors="pt")
        torch.testing.assert_close(batch["pixel_values"][index], single["pixel_values"][0])
        assert torch.equal(batch["labels"][index], single["labels"][0])


def test_without_resizing_nothing_is_padded(processor):
    image, mask = random_pair((11, 13))
    output = processor(image, mask, do_resize=False, return_tensors="pt")
    assert output["pixel_values"].shape[-2:] == (11, 13) == output["labels"].shape[-2:]
    logits = torch.zeros(1, 2, 11, 13)
    assert processor.post_process_semantic_segmentation({"logits": logits}, [(11, 13)])[0].shape == (11, 13)


def test_padding_is_zero_whatever_else_is_done(processor):
    for options in ({"do_normalize": False}, {"do_rescale": False}, {"image_mean": [0.1] * 3, "image_std": [2.0] * 3}):
        pixels = processor(np.full((10, 40, 3), 255, np.uint8), return_tensors="pt", **options)["pixel_values"]
        assert (pixels[0, :, 0] == 0).all() and (pixels[0, :, SIZE[0] // 2] != 0).all()


def test_the_setting_is_saved_and_old_checkpoints_are_squashed(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).keep_aspect_ratio is True
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    del settings["keep_aspect_ratio"], settings["ignore_index"]
    path.write_text(json.dumps(settings))
    old = type(processor).from_pretrained(tmp_path)
    image, mask = random_pair((10, 40))
    squashed = type(processor)(size=processor.size)(image, mask, return_tensors="pt")
    for name, tensor in old(image, mask, return_tensors="pt").items():
        assert torch.equal(tensor, squashed[name])
    again = type(processor).from_pretrained(tmp_path, keep_aspect_ratio=True)
    assert torch.equal(
        again(image, return_tensors="pt")["pixel_values"], processor(image, return_tensors="pt")["pixel_values"]
    )


# ---------------------------------------------------------------------------------------------------------------------
# Who uses it
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that finds every class, whose processor of 48 x 64 keeps the aspect ratio."""
    folder = save_model(tmp_path_factory.mktemp("kept") / "model")
    processor_of(ResFormerImageProcessor, (48, 64)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tall(image):
    """70 x 60 pixels of `image`, 35 columns of them."""
    return image.crop((0, 0, 35, 60))


@pytest.fixture(scope="module")
def expected(folder, tall):
    """The mask by the network and torch alone: 35 x 60 fills 28 columns of 64, of which 18 lie to the left."""
    model = ResFormerForMultiTask.from_pretrained(folder)
    with torch.no_grad():
        output = model(**AutoImageProcessor.from_pretrained(folder)(tall, return_tensors="pt"))
    inside = output.segmentation_logits[:, :, :, 18:46]
    mask = F.interpolate(inside, (60, 35), mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    assert len(np.unique(mask)) > 2
    return mask


def test_the_pipeline_honours_it(folder, tall, expected):
    analyse = pipeline("multitask-image-analysis", model=str(folder), pipeline_class=ResFormerPipeline, device="cpu")
    np.testing.assert_array_equal(analyse(tall)["segmentation"], expected)
    squashed = analyse(tall, keep_aspect_ratio=False)
    assert squashed["segmentation"].shape == expected.shape and (squashed["segmentation"].numpy() != expected).any()
    analyse.image_processor.keep_aspect_ratio = False
    assert torch.equal(analyse(tall)["segmentation"], squashed["segmentation"])
    np.testing.assert_array_equal(analyse(tall, keep_aspect_ratio=True)["segmentation"], expected)


def test_the_stock_pipeline_honours_it(folder, tall, expected):
    for segment in pipeline("image-segmentation", model=str(folder), device="cpu")(tall):
        np.testing.assert_array_equal(np.asarray(segment["mask"]) > 0, expected == NAMES.index(segment["label"]))


def test_the_handler_honours_it(folder, tall, expected):
    segments = EndpointHandler(str(folder), device="cpu")({"inputs": encoded(tall)})
    assert [segment["label"] for segment in segments] == [NAMES[index] for index in np.unique(expected) if index]
    for segment in segments:
        mask = np.asarray(Image.open(BytesIO(base64.b64decode(segment["mask"]))))
        np.testing.assert_array_equal(mask > 0, expected == NAMES.index(segment["label"]))


def test_predict_honours_it_and_has_a_flag_for_other_models(predict, folder, tall, expected, tmp_path, caplog):
    tall.save(tmp_path / "tall.png")
    squashing = tmp_path / "model"
    ResFormerForMultiTask.from_pretrained(folder).save_pretrained(squashing)
    ResFormerImageProcessor(size={"height": 48, "width": 64}).save_pretrained(squashing)
    flags = ["--no-overlays", "--device", "cpu", "--output"]
    for model, output, more in ((folder, "saved", []), (squashing, "flag", ["--keep-aspect-ratio"])):
        assert predict([str(model), str(tmp_path / "tall.png"), *more, *flags, str(tmp_path / output)]) == 0
        with Image.open(tmp_path / output / "masks/tall.png") as mask:
            np.testing.assert_array_equal(mask, expected)
    # A run that was begun with it does not go on without.
    assert predict([str(squashing), str(tmp_path / "tall.png"), *flags, str(tmp_path / "flag")]) == 1
    assert "image_processor" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# Training and evaluation
# ---------------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_stored_mask_and_padding_trains_nothing(processor):
    sizes = [(40, 17), (9, 50)]
    rows = [
        {
            "image": Image.new("RGB", size[::-1]),
            "mask": Image.fromarray(np.ones(size, np.uint8)),
            "class_labels": [],
            "case_id": "a",
            "row_index": index,
        }
        for index, size in enumerate(sizes)
    ]
    batch = MultiTaskCollator(processor, num_classes=3, case_ids=["a"], ignore_index=77)(rows)
    boxes = [content_box(size, SIZE) for size in sizes]
    assert [(mask == 1).sum().item() for mask in batch["mask_labels"]] == [box.height * box.width for box in boxes]
    assert batch["mask_labels"].unique().tolist() == [1, 77]
    # Right inside, wrong in the padding.
    right = (batch["mask_labels"] == 1).long()
    logits = F.one_hot(right, 2).permute(0, 3, 1, 2).float() * 20
    outputs = {"logits": logits}
    config = ResFormerConfig(semantic_loss_ignore_index=77)
    statistics = row_statistics(outputs, batch, TASKS["segmentation"], processor, config)
    true_positives = statistics["mask_counts"][:, 0, 1].tolist()
    assert true_positives == [height * width for height, width in sizes]
    assert statistics["mask_counts"][:, 1:3].sum() == 0
    assert statistics["pixel_losses"][:, 2].tolist() == [box.height * box.width for box in boxes]


@pytest.mark.long
def test_a_training_saves_it_and_an_evaluation_finds_it(dataset, tmp_path):
    dataset.save_to_disk(str(tmp_path / "data"))
    flags = ["--dataset", tmp_path / "data", "--config", json.dumps(ARCHITECTURE), "--image_size", 32, "--use_cpu"]
    flags += ["--max_steps", 2, "--bootstrap_samples", 0, "--disable_tqdm", "True", "--report_to", "none"]
    run = tmp_path / "run"
    assert run_command("train", *flags, "--keep_aspect_ratio", "true", "--output_dir", run) == 0
    assert json.loads((run / "preprocessor_config.json").read_text())["keep_aspect_ratio"] is True
    paths = ["--model", run, "--dataset", tmp_path / "data", "--bootstrap_samples", 0, "--use_cpu"]
    assert run_command("evaluate", *paths, "--output", tmp_path / "again") == 0
    assert run_command("evaluate", *paths, "--output", tmp_path / "squashed", "--keep_aspect_ratio", "false") == 0
    scores, again, squashed = (
        json.loads((folder / "results.json").read_text())["model"]
        for folder in (run, tmp_path / "again", tmp_path / "squashed")
    )
    assert again == scores != squashed


def test_masks_of_another_shape_than_the_squashed_images_are_refused(dataset, tmp_path, capsys):
    """A dataset that was squashed by its preparation no longer knows where the padding would be."""
    one_each = dataset.map(
        lambda row, index: {"case_id": f"case_{index}", "original_size": [40, 96]}, with_indices=True
    )
    one_each.save_to_disk(str(tmp_path / "data"))
    for index, row in enumerate(one_each["test"]):
        mask = Image.new("L", (96, 40)) if row["mask"] is None else row["mask"].resize((96, 40))
        (tmp_path / "raw").mkdir(exist_ok=True)
        mask.point(lambda value: 255 * value).save(tmp_path / "raw" / f"case_{index}.png")
    model = tmp_path / "model"
    config = tiny_config(id2label=dict(enumerate(MASK_CLASSES)), classification_labels=CLASS_LABELS)
    ResFormerForMultiTask(config).save_pretrained(model)
    processor_of(ResFormerImageProcessor).save_pretrained(model)
    capsys.readouterr()
    paths = ["--model", model, "--dataset", tmp_path / "data", "--raw_masks", tmp_path / "raw", "--use_cpu"]
    assert run_command("evaluate", *paths, "--bootstrap_samples", 0, "--output", tmp_path / "out") == 1
    assert "case case_0 was squashed from 40 x 96 to 40 x 48" in capsys.readouterr().err
    paths += ["--keep_aspect_ratio", "false", "--bootstrap_samples", 0, "--output", tmp_path / "out"]
    assert run_command("evaluate", *paths) == 0
