"""The image processor: every kind of image in, both back ends alike, masks intact, post-processing with names."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_model import MASK_CLASSES, tiny_config

from modeling_resformer import (
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerImageProcessor,
    ResFormerImageProcessorPil,
    ResFormerMultiTaskOutput,
    image_processing_pil_resformer,
)


PHOTOGRAPHS = sorted((Path(__file__).parents[1] / "examples/isic2017_sample/ISIC-2017_Training_Data").glob("*.jpg"))
MEAN = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
PROCESSORS = [
    pytest.param(ResFormerImageProcessorPil, id="pil"),
    pytest.param(ResFormerImageProcessor, id="torchvision"),
]


@pytest.fixture(params=PROCESSORS)
def processor(request):
    if request.param is ResFormerImageProcessor:
        pytest.importorskip("torchvision")
    return request.param(size={"height": 24, "width": 32})


@pytest.fixture
def native(processor):
    """The same without resizing, so that values can be worked out by hand."""
    return type(processor)(do_resize=False)


def pixels(processor, image, **options) -> np.ndarray:
    return processor(image, return_tensors="pt", **options)["pixel_values"][0].numpy()


def normalised(values: np.ndarray) -> np.ndarray:
    """(3, H, W) of 0..1 -> what the network sees."""
    return (values - MEAN) / STD


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(24, 32), (300, 200)])
def test_both_back_ends_agree_on_real_photographs(size):
    pytest.importorskip("torchvision")
    assert len(PHOTOGRAPHS) >= 50
    settings = {"size": {"height": size[0], "width": size[1]}}
    for path in PHOTOGRAPHS[:8]:
        with Image.open(path) as image:
            one, other = (
                pixels(cls(**settings), image) for cls in (ResFormerImageProcessor, ResFormerImageProcessorPil)
            )
        # Tolerance: one grey level in 255 per pixel from rounding after resizing, a hundredth of one in the mean.
        assert np.abs(one - other).max() < 1.01 / 255 / STD.min()
        assert np.abs(one - other).mean() < 0.01 / 255 / STD.min()


def test_output_is_a_batch_of_normalised_float32(processor, rgb):
    output = processor([rgb, rgb[:, :25]], return_tensors="pt")
    assert output["pixel_values"].shape == (2, 3, 24, 32)
    assert output["pixel_values"].dtype == torch.float32


def test_values_are_imagenets(native, rgb):
    np.testing.assert_allclose(pixels(native, rgb), normalised(rgb.transpose(2, 0, 1) / 255), atol=1e-5)


def test_shrinking_is_anti_aliased_bilinear_as_pillow_does_it(processor, rgb):
    expected = np.asarray(Image.fromarray(rgb).resize((32, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(pixels(processor, rgb) - normalised(expected / 255)).max() < 1.01 / 255 / STD.min()


def test_a_colour_image_in_any_dress_is_one_image(native, rgb):
    expected = pixels(native, rgb)
    encoded = io.BytesIO()
    Image.fromarray(rgb).save(encoded, "PNG")
    for image in (
        Image.fromarray(rgb),
        Image.fromarray(rgb).convert("RGBA"),
        rgb.transpose(2, 0, 1),
        torch.from_numpy(rgb),
        torch.from_numpy(rgb).permute(2, 0, 1),
        torch.from_numpy(rgb)[None],
        rgb.astype(np.float32),
        rgb.astype(np.int64),
        (rgb.astype(np.uint16) * 257),
        torch.from_numpy(rgb.astype(np.uint16) * 257),
        np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]),
        encoded.getvalue(),
    ):
        np.testing.assert_allclose(pixels(native, image), expected, atol=1e-5)


def test_a_grey_image_in_any_dress_is_repeated_to_three_channels(native, tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    expected = normalised(np.broadcast_to(grey / 255, (3, 20, 30)))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for image in (
        Image.fromarray(grey),
        Image.fromarray(grey).convert("P"),
        Image.fromarray(grey).convert("LA"),
        grey,
        grey[None],
        grey[..., None],
        torch.from_numpy(grey),
        grey.astype(np.uint16) * 257,
        Image.fromarray(grey.astype(np.uint16) * 257),
        Image.fromarray(grey.astype(np.int32) * 257),
        Image.fromarray(grey.astype(np.float32)),
        tmp_path / "grey.png",
        str(tmp_path / "grey.png"),
    ):
        np.testing.assert_allclose(pixels(native, image), expected, atol=1e-5)


def test_a_palette_image_shows_its_colours(native, rgb):
    palette = Image.fromarray(rgb).quantize(16)
    np.testing.assert_allclose(pixels(native, palette), pixels(native, palette.convert("RGB")), atol=1e-6)


def test_transparent_images_lie_on_white(native):
    rgba = np.zeros((6, 5, 4), np.uint8)
    rgba[..., 0] = 100
    rgba[..., 3] = 51
    # One fifth of (100, 0, 0) on four fifths of white.
    expected = normalised(np.broadcast_to(np.array([224, 204, 204]).reshape(3, 1, 1) / 255, (3, 6, 5)))
    for image in (rgba, Image.fromarray(rgba), rgba.transpose(2, 0, 1)):
        np.testing.assert_allclose(pixels(native, image), expected, atol=0.01)


def test_sixteen_bit_images_keep_their_depth(native, tmp_path):
    deep = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = normalised(np.broadcast_to(deep / 65535, (3, 20, 30)))
    for image in (deep, Image.fromarray(deep), tmp_path / "deep.png", torch.from_numpy(deep)):
        np.testing.assert_allclose(pixels(native, image), expected, atol=1e-5)
    assert len(np.unique(pixels(native, deep)[0])) == 600


def test_sixteen_bit_and_eight_bit_differ_by_quantisation_only(processor):
    deep = np.random.default_rng(0).integers(0, 65536, (50, 60), dtype=np.uint16)
    shallow = np.round(deep / 257).astype(np.uint8)
    assert np.abs(pixels(processor, deep) - pixels(processor, shallow)).max() < 1.01 / 255 / STD.min()


def test_an_intensity_range_overrides_the_types(native, tmp_path):
    deep = np.array([[0, 1000], [3000, 9000]], np.uint16)
    expected = normalised(np.broadcast_to(np.array([[0, 0], [0.5, 1]]), (3, 2, 2)))
    np.testing.assert_allclose(pixels(native, deep, intensity_range=(1000, 5000)), expected, atol=1e-5)
    kept = type(native)(do_resize=False, intensity_range=(1000, 5000))
    kept.save_pretrained(tmp_path)
    np.testing.assert_allclose(pixels(type(native).from_pretrained(tmp_path), deep), expected, atol=1e-5)


def test_floats_of_unit_range_are_warned_about(native, rgb, monkeypatch):
    said = []
    logger = image_processing_pil_resformer.logger
    monkeypatch.setattr(logger, "warning_once", said.append)
    pixels(native, rgb.astype(np.float32) / 255)
    assert "intensity_range=(0, 1)" in said[0]
    np.testing.assert_allclose(
        pixels(native, rgb.astype(np.float32) / 255, intensity_range=(0, 1)), pixels(native, rgb), atol=1e-5
    )


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((49, 50, 51), np.uint8), r"\(49, 50, 51\) is not an image.*list"),
        (np.zeros((2, 2, 20, 30, 3), np.uint8), r"not an image"),
        (np.full((20, 30), np.nan, np.float32), "NaN"),
        (np.full((20, 30), 70000, np.int32), r"int32.*70000.*intensity_range"),
        (np.full((20, 30), -5, np.int16), r"int16.*-5"),
        (b"no image", "8 bytes: not an image"),
        ({"a": 1}, "dict"),
        ([], "empty list"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(processor, image, said):
    with pytest.raises(ValueError, match=said) as error:
        processor(image, return_tensors="pt")
    assert "\n" not in str(error.value)


def test_a_broken_file_is_named(processor, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(PHOTOGRAPHS[0].read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"broken\.jpg: not an image"):
        processor(tmp_path / "broken.jpg")


def test_a_volume_of_several_pages_is_refused(processor, tmp_path):
    pages = [Image.new("L", (8, 8), value) for value in (0, 100, 200)]
    pages[0].save(tmp_path / "volume.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"volume\.tiff: holds several pages"):
        processor(tmp_path / "volume.tiff")


class Files(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path)
        self.send_response(200 if content else 404)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


def test_a_url_keeps_the_bit_depth(native):
    deep = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    encoded = io.BytesIO()
    Image.fromarray(deep).save(encoded, "PNG")
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        server.files = {"/deep.png": encoded.getvalue()}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/deep.png"
        np.testing.assert_allclose(pixels(native, url), pixels(native, deep), atol=1e-6)
        server.shutdown()


def test_sizes_that_do_not_fit_one_batch_are_named(native, rgb):
    with pytest.raises(ValueError, match="20 x 25, 20 x 30"):
        native([rgb, rgb[:, :25]], return_tensors="pt")


def test_steps_that_could_not_be_undone_are_refused(processor, rgb):
    with pytest.raises(ValueError, match="do_center_crop"):
        processor(rgb, do_center_crop=True, crop_size={"height": 8, "width": 8})
    with pytest.raises(ValueError, match="height and width"):
        processor(rgb, size={"shortest_edge": 8})


# ---------------------------------------------------------------------------------------------------------------------
# Masks
# ---------------------------------------------------------------------------------------------------------------------


def test_masks_are_resized_to_nearest_and_stay_integers(processor, rgb):
    mask = np.random.default_rng(1).integers(0, 4, (20, 30), dtype=np.uint8)
    mask[0, 0] = 255
    labels = processor(rgb, segmentation_maps=mask, return_tensors="pt")["labels"]
    assert labels.dtype == torch.int64 and labels.shape == (1, 24, 32)
    expected = np.asarray(Image.fromarray(mask).resize((32, 24), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(labels[0].numpy(), expected)
    nearest = F.interpolate(torch.from_numpy(mask)[None, None].float(), (24, 32), mode="nearest-exact")
    np.testing.assert_array_equal(labels[0].numpy(), nearest[0, 0].numpy())


def test_a_mask_in_any_dress_is_one_mask(native, rgb):
    mask = np.random.default_rng(1).integers(0, 2, (20, 30), dtype=np.uint8)
    palette = Image.frombytes("P", (30, 20), mask.tobytes())
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for dressed in (
        mask,
        mask.astype(bool),
        mask.astype(np.int64),
        mask.astype(np.float32),
        mask[None],
        mask[..., None],
        torch.from_numpy(mask),
        Image.fromarray(mask),
        Image.fromarray(mask.astype(bool)),
        palette,
    ):
        labels = native(rgb, segmentation_maps=dressed, return_tensors="np")["labels"][0]
        np.testing.assert_array_equal(labels, mask)


@pytest.mark.parametrize("shape", [(2, 20, 30), (2, 1, 20, 30), (2, 20, 30, 1)])
def test_masks_come_as_one_array(native, rgb, shape):
    masks = np.arange(2).repeat(600).reshape(shape)
    labels = native([rgb, rgb], segmentation_maps=masks, return_tensors="pt")["labels"]
    assert labels.shape == (2, 20, 30) and labels[0].max() == 0 and labels[1].min() == 1


def test_masks_come_in_batches(processor, rgb):
    masks = [np.zeros((20, 30), np.uint8), np.ones((40, 10), np.uint8)]
    images = [rgb, rgb.repeat(2, 0)[:, :10]]
    labels = processor(images, segmentation_maps=masks, return_tensors="pt")["labels"]
    assert labels.shape == (2, 24, 32) and labels[0].max() == 0 and labels[1].min() == 1


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((30, 20), np.uint8), r"30 x 20 and its image 20 x 30"),
        (np.full((20, 30), 0.5), "fractions"),
        (Image.new("RGB", (30, 20)), "RGB"),
        ([np.zeros((20, 30), np.uint8)] * 2, "2 masks for 1"),
    ],
)
def test_masks_that_do_not_fit_are_refused(processor, rgb, mask, said):
    with pytest.raises(ValueError, match=said):
        processor(rgb, segmentation_maps=mask)


@pytest.mark.parametrize("number", [1, 2])
def test_a_batch_is_the_callers_and_the_images_stay_as_they_were(processor, number):
    images = [np.full((3, 32, 48), 7 + i, np.float32) for i in range(number)]
    off = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    pixel_values = processor(images, return_tensors="pt", **off)["pixel_values"]
    assert [float(image.mean()) for image in pixel_values] == [7 + i for i in range(number)]
    pixel_values.zero_()
    assert [float(image.mean()) for image in images] == [7 + i for i in range(number)]


@pytest.mark.parametrize("opened", ["by the processor", "by the user"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_image_and_mask_alike(native, orientation, suffix, opened, tmp_path):
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[2:9, 4:20], mask = 200, np.zeros((20, 30), np.uint8)
    mask[2:9, 4:20] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(rgb).save(path, exif=exif)
    if opened == "by the processor":
        output = native(path, segmentation_maps=mask, return_tensors="np")
    else:
        with Image.open(path) as image:
            output = native(image, segmentation_maps=mask, return_tensors="np")
    bright = output["pixel_values"][0, 0] > 0
    assert bright.shape == ((30, 20) if orientation > 4 else (20, 30))
    np.testing.assert_array_equal(bright, output["labels"][0] == 1)
    assert bright.any()


def test_an_upright_mask_of_a_turned_image_stays_upright(native, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.png", exif=exif)
    mask = np.zeros((30, 20), np.uint8)
    mask[:5] = 1
    output = native(tmp_path / "turned.png", segmentation_maps=mask, return_tensors="np")
    np.testing.assert_array_equal(output["labels"][0], mask)


# ---------------------------------------------------------------------------------------------------------------------
# Post-processing
# ---------------------------------------------------------------------------------------------------------------------


def output_of(mask: torch.Tensor, class_logits: list[float]) -> ResFormerMultiTaskOutput:
    """Output that is sure of a (H, W) mask of 4 classes."""
    logits = F.one_hot(mask, 4).permute(2, 0, 1)[None].float() * 20
    return ResFormerMultiTaskOutput(segmentation_logits=logits, classification_logits=torch.tensor([class_logits]))


def test_multi_task_output_gets_names_sizes_and_decisions(processor):
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 3]])
    result = processor.post_process_multitask(output_of(mask, [0.0, -1.0, 4.0]), tiny_config())[0]
    assert torch.equal(result["segmentation"], mask) and result["segmentation"].dtype == torch.int64
    assert result["class_scores"] == pytest.approx({"IRF": 0.5, "SRF": 0.268941, "PED": 0.982014}, abs=1e-6)
    assert result["predicted_labels"] == ["IRF", "PED"]
    classes = result["mask_classes"]
    assert list(classes) == list(MASK_CLASSES.values())
    assert [classes[name]["area_fraction"] for name in classes] == [4 / 8, 3 / 8, 0.0, 1 / 8]
    assert classes["SRF"]["mean_probability"] is None
    # One logit of 20 among three of 0.
    assert classes["IRF"]["mean_probability"] == pytest.approx(1 / (1 + 3 * np.exp(-20)), abs=1e-6)


def test_results_come_at_the_target_size(processor):
    output = output_of(torch.tensor([[0, 1], [0, 1]]), [0.0, 0.0, 0.0])
    result = processor.post_process_multitask(output, tiny_config(), target_sizes=[(6, 10)])[0]
    assert result["segmentation"].shape == (6, 10)
    assert torch.equal(result["segmentation"], torch.tensor([0] * 5 + [1] * 5).expand(6, 10))
    assert result["mask_classes"]["IRF"]["area_fraction"] == 0.5
    maps = processor.post_process_semantic_segmentation(output, target_sizes=torch.tensor([[6, 10]]))
    assert torch.equal(maps[0], result["segmentation"])


@pytest.mark.parametrize(
    ("configured", "given", "expected"),
    [
        (None, None, ["IRF", "PED"]),
        ([0.6, 0.1, 0.99], None, ["SRF"]),
        ([0.6, 0.1, 0.99], 0.5, ["IRF", "PED"]),
        (None, [0.4, 0.2, 0.9], ["IRF", "SRF", "PED"]),
        (None, 1, []),
        (None, np.float32(0.5), ["IRF", "PED"]),
        (None, torch.tensor([0.4, 0.2, 0.9]), ["IRF", "SRF", "PED"]),
    ],
)
def test_thresholds_are_the_given_else_the_configs_else_a_half(processor, configured, given, expected):
    output = output_of(torch.zeros(2, 2, dtype=torch.long), [0.0, -1.0, 4.0])
    config = tiny_config(classification_thresholds=configured)
    assert processor.post_process_multitask(output, config, threshold=given)[0]["predicted_labels"] == expected


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"id2label": {0: "background", 1: "lesion"}}, {}, r"2 mask classes.*the logits have 4"),
        ({"classification_labels": ["a"]}, {}, r"1 image-level classes.*the logits have 3"),
        ({}, {"threshold": [0.5]}, "one for each"),
        ({}, {"threshold": 1.5}, r"\[0, 1\]"),
        ({}, {"target_sizes": [(2, 2), (2, 2)]}, "2 target sizes for 1"),
    ],
)
def test_what_does_not_fit_the_output_is_refused(processor, settings, options, said):
    output = output_of(torch.zeros(2, 2, dtype=torch.long), [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=said):
        processor.post_process_multitask(output, tiny_config(**settings), **options)


def test_models_and_processor_fit_together(processor, rgb):
    inputs = processor([rgb, rgb[:15]], return_tensors="pt")
    multi_task = ResFormerForMultiTask(tiny_config()).eval()
    with torch.no_grad():
        results = processor.post_process_multitask(
            multi_task(**inputs), multi_task.config, target_sizes=[(20, 30), (15, 30)]
        )
        maps = processor.post_process_semantic_segmentation(
            ResFormerForSemanticSegmentation(tiny_config()).eval()(**inputs), target_sizes=[(20, 30), (15, 30)]
        )
    assert [tuple(r["segmentation"].shape) for r in results] == [(20, 30), (15, 30)] == [tuple(m.shape) for m in maps]
    assert sum(c["area_fraction"] for c in results[0]["mask_classes"].values()) == pytest.approx(1.0)


def test_scores_come_with_the_maps_on_demand(processor):
    output = output_of(torch.tensor([[0, 1], [2, 3]]), [0.0, 0.0, 0.0])
    result = processor.post_process_semantic_segmentation(output, return_segmentation_scores=True)[0]
    assert torch.equal(result.segmentation, result.segmentation_scores.argmax(0))
    assert result.segmentation_scores.shape == (4, 2, 2)
