"""Masks from windows that slide over an image: where they lie, how they are blended, and who offers them."""

import itertools
import json

import numpy as np
import pytest
import torch
from answering_model import save_model
from PIL import Image
from prediction_tables import rows_of
from raw_data import random_volume, write_metaimage
from small_model import tiny_config

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerImageProcessorPil,
    ResFormerPipeline,
)
from modeling_resformer.pipeline_resformer import gaussian_weight, sliding_window_logits, window_starts


WINDOW = (32, 48)
IMAGE_SIZES = [(1, 70), (70, 1), (20, 30), (32, 48), (33, 100), (97, 49)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a model of random weights that finds every class."""
    return str(save_model(tmp_path_factory.mktemp("answering") / "model"))


@pytest.fixture(scope="module")
def pipe(model):
    return ResFormerPipeline(
        model=ResFormerForMultiTask.from_pretrained(model).eval(),
        image_processor=ResFormerImageProcessorPil(size={"height": WINDOW[0], "width": WINDOW[1]}),
        device="cpu",
    )


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth blobs of colour, some twenty pixels large."""
    small = np.random.default_rng(0).integers(0, 256, (height // 20 + 2, width // 20 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("length", "window", "overlap", "starts"),
    [
        (4, 4, 0.5, [0]),
        (5, 4, 0.5, [0, 1]),
        (10, 4, 0.5, [0, 2, 4, 6]),
        (11, 4, 0.5, [0, 2, 4, 6, 7]),
        (12, 4, 0, [0, 4, 8]),
        (13, 4, 0, [0, 4, 8, 9]),
        (7, 4, 0.99, [0, 1, 2, 3]),
        (9, 4, 0.25, [0, 3, 5]),
    ],
)
def test_windows_start_where_they_should(length, window, overlap, starts):
    assert window_starts(length, window, overlap) == starts


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_a_function_of_each_pixel_comes_out_as_it_is(size, overlap):
    image, seen = torch.randn(1, 3, *size), []

    def of_each_pixel(windows: torch.Tensor) -> torch.Tensor:
        assert windows.shape[1:] == (3, *WINDOW)
        seen.append(len(windows))
        return torch.stack([windows[:, 0], -windows[:, 1], windows[:, 2] ** 2], dim=1)

    logits = sliding_window_logits(of_each_pixel, image, size, WINDOW, overlap, batch_size=3)
    assert logits.shape == (1, 3, *size)
    expected = torch.stack([image[:, 0], -image[:, 1], image[:, 2] ** 2], dim=1).softmax(dim=1)
    torch.testing.assert_close(logits.softmax(dim=1), expected)
    torch.testing.assert_close(logits.exp(), expected)
    assert max(seen) <= 3 and all(count == 3 for count in seen[:-1])


def test_two_windows_are_blended_by_hand():
    """Six pixels, windows of four that start at 0 and 2, of which one says P = 0.9 everywhere and the other 0.2."""
    image = torch.tensor([1.0, 1, 0, 0, 0, 0]).reshape(1, 1, 1, 6)

    def constant(windows: torch.Tensor) -> torch.Tensor:
        probability = torch.where(windows[:, :, :, :1] == 1, 0.9, 0.2).expand_as(windows)
        return torch.cat([(1 - probability).log(), probability.log()], dim=1)

    # Half a pixel and one and a half from the middle, in units of 4 / 8 pixels: exp(-1/2) and exp(-9/2).
    near, far = np.exp(-0.5), np.exp(-4.5)
    third = (near * 0.9 + far * 0.2) / (near + far)
    fourth = (far * 0.9 + near * 0.2) / (near + far)
    found = sliding_window_logits(constant, image, (1, 6), (1, 4), overlap=0.5).exp()[0, 1, 0]
    torch.testing.assert_close(found, torch.tensor([0.9, 0.9, third, fourth, 0.2, 0.2], dtype=torch.float32))


def test_no_pixel_of_a_window_counts_for_nothing():
    weight = gaussian_weight((64, 48), torch.device("cpu"))
    assert weight.shape == (64, 48) and weight.max() <= 1 and weight.min() == pytest.approx(1e-3)
    torch.testing.assert_close(weight, weight.flip(0, 1))


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_a_network_is_blended_as_a_plain_loop_does_it(pipe, size):
    """Probabilities summed window by window in NumPy, the image in the middle of zeros where it is smaller."""
    image, overlap = photograph(*size), 0.25
    pixels = pipe.image_processor(image, do_resize=False, return_tensors="pt")["pixel_values"].numpy()
    spare = [max(0, side - own) for side, own in zip(WINDOW, size, strict=True)]
    before = [side // 2 for side in spare]
    around = [(first, side - first) for first, side in zip(before, spare, strict=True)]
    canvas = np.pad(pixels, ((0, 0), (0, 0), *around))
    axes = [np.arange(side) - (side - 1) / 2 for side in WINDOW]
    gauss = [np.exp(-(axis**2) / 2 / (side / 8) ** 2) for axis, side in zip(axes, WINDOW, strict=True)]
    weight = np.maximum(np.outer(*gauss), 1e-3)
    total, weights = np.zeros((4, *canvas.shape[-2:])), np.zeros(canvas.shape[-2:])
    starts = [
        sorted({min(start, length - side) for start in range(0, length, side * 3 // 4)})
        for length, side in zip(canvas.shape[-2:], WINDOW, strict=True)
    ]
    for top, left in itertools.product(*starts):
        window = torch.from_numpy(canvas[..., top : top + WINDOW[0], left : left + WINDOW[1]].copy())
        with torch.no_grad():
            probability = pipe.model(window).segmentation_logits.softmax(dim=1)[0].numpy()
        total[:, top : top + WINDOW[0], left : left + WINDOW[1]] += probability * weight
        weights[top : top + WINDOW[0], left : left + WINDOW[1]] += weight
    expected = (total / weights)[:, before[0] : before[0] + size[0], before[1] : before[1] + size[1]]
    answer = pipe(image, sliding_window=True, overlap=overlap)
    assert len(answer["segmentation"].unique()) > 1
    # Where two windows are sure of two classes and weigh the same, rounding decides.
    clear = np.diff(np.sort(expected, axis=0)[-2:], axis=0)[0] > 1e-4
    np.testing.assert_array_equal(answer["segmentation"][clear], expected.argmax(0)[clear])
    assert clear.mean() > 0.95
    for index, described in enumerate(answer["mask_classes"].values()):
        if described["mean_probability"] is not None:
            inside = answer["segmentation"].numpy() == index
            assert described["mean_probability"] == pytest.approx(expected[index][inside].mean(), abs=1e-4)


def test_class_scores_are_those_of_the_whole_image(pipe):
    image = photograph(80, 120)
    whole, windows = pipe(image), pipe(image, sliding_window=True)
    assert windows["class_scores"] == whole["class_scores"]
    assert (windows["segmentation"] != whole["segmentation"]).any()


def test_an_image_of_one_window_is_answered_as_ever(pipe):
    image = photograph(*WINDOW)
    whole, windows = pipe(image), pipe(image, sliding_window=True)
    assert torch.equal(windows["segmentation"], whole["segmentation"])
    for name, described in windows["mask_classes"].items():
        assert described == pytest.approx(whole["mask_classes"][name], abs=1e-5)


def test_batches_answer_as_single_images(pipe):
    images = [photograph(*size) for size in IMAGE_SIZES]
    singles = [pipe(image, sliding_window=True) for image in images]
    for options in ({"batch_size": 4}, {"window_batch_size": 1}):
        for answer, single, size in zip(
            pipe(images, sliding_window=True, **options), singles, IMAGE_SIZES, strict=True
        ):
            assert answer["segmentation"].shape == size
            assert (answer["segmentation"] == single["segmentation"]).float().mean() > 0.99
            assert answer["class_scores"] == pytest.approx(single["class_scores"], abs=1e-4)


def test_a_scale_lays_windows_over_the_resized_image(pipe):
    image = Image.fromarray(photograph(64, 96)).resize((192, 128), Image.Resampling.NEAREST)
    scaled = pipe(image, sliding_window=True, window_scale=0.25)
    assert scaled["segmentation"].shape == (128, 192)
    whole = pipe(image)  # squashed to one window, which a quarter of the image is too
    assert (scaled["segmentation"] == whole["segmentation"]).float().mean() > 0.95
    kept = pipe(image, sliding_window=True, window_scale=0.3, keep_aspect_ratio=True)
    assert kept["segmentation"].shape == (128, 192)


def test_flips_are_averaged_within_each_window(pipe):
    image = photograph(40, 60)
    mirrored = pipe(image[:, ::-1], sliding_window=True, tta="horizontal")["segmentation"].flip(-1)
    # The windows of both lie alike: 60 = 48 + 12, and a single step from 0 to 12.
    assert (mirrored == pipe(image, sliding_window=True, tta="horizontal")["segmentation"]).float().mean() > 0.99


def test_it_can_be_set_for_all_calls_and_unset_for_one(pipe):
    image = photograph(80, 120)
    always = ResFormerPipeline(
        model=pipe.model, image_processor=pipe.image_processor, device="cpu", sliding_window=True, overlap=0.25
    )
    expected = pipe(image, sliding_window=True, overlap=0.25)["segmentation"]
    assert torch.equal(always(image)["segmentation"], expected)
    assert torch.equal(always(image, sliding_window=False)["segmentation"], pipe(image)["segmentation"])


def test_sixteen_bits_and_their_range_reach_the_windows(pipe):
    dark = np.random.default_rng(0).integers(0, 1000, (80, 120), dtype=np.uint16)
    inputs = pipe.preprocess(dark, intensity_range=(0, 999), sliding_window=True)
    expected = pipe.image_processor(dark, intensity_range=(0, 999), do_resize=False, return_tensors="pt")[
        "pixel_values"
    ]
    torch.testing.assert_close(inputs["scaled"][0], expected)


def test_a_model_of_masks_alone_has_windows_and_one_of_classes_alone_refuses_them(pipe):
    image, answers = photograph(80, 120), []
    for model_class in (ResFormerForSemanticSegmentation, ResFormerForImageClassification):
        model = model_class(tiny_config()).eval()
        model.load_state_dict(pipe.model.state_dict(), strict=False)
        answers.append(ResFormerPipeline(model=model, image_processor=pipe.image_processor, device="cpu"))
    masks, classes = answers
    answer = masks(image, sliding_window=True)
    assert torch.equal(answer["segmentation"], pipe(image, sliding_window=True)["segmentation"])
    assert set(answer) == {"segmentation", "mask_classes"}
    with pytest.raises(ValueError, match="only classifies"):
        classes(image, sliding_window=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"overlap": 1}, "overlap=1 must be at least 0 and less than 1"),
        ({"overlap": -0.1}, "overlap=-0.1"),
        ({"window_scale": 0}, "window_scale=0 must be above 0"),
        ({"window_scale": float("nan")}, "window_scale=nan"),
        ({"window_batch_size": 0}, "window_batch_size=0 must be 1 or more"),
    ],
)
def test_windows_that_could_not_be_laid_are_refused(pipe, options, said):
    with pytest.raises(ValueError, match=said):
        pipe(photograph(80, 120), sliding_window=True, **options)


# ---------------------------------------------------------------------------------------------------------------------
# predict.py
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for number, size in enumerate([(80, 120), (20, 25), (33, 70)]):
        Image.fromarray(photograph(*size)).save(folder / f"{number}.png")
    write_metaimage(folder / "TRAIN001" / "oct.mhd", random_volume((3, 40, 44)))
    return folder


@pytest.mark.parametrize("flags", [[], ["--overlap", "0.25", "--window-scale", "0.7", "--tta", "horizontal"]])
def test_predict_writes_what_the_pipeline_answers(predict, model, inputs, tmp_path, flags):
    output, named = tmp_path / "out", [model, str(inputs), str(inputs / "TRAIN001/oct.mhd")]
    assert predict([*named, "--sliding-window", *flags, "--device", "cpu", "--output", str(output)]) == 0
    values = dict(zip(flags[::2], flags[1::2], strict=True))
    options = {"overlap": float(values.get("--overlap", 0.5)), "window_scale": float(values.get("--window-scale", 1))}
    pipe = ResFormerPipeline(
        model=ResFormerForMultiTask.from_pretrained(model).eval(),
        image_processor=ResFormerImageProcessorPil.from_pretrained(model),
        device="cpu",
    )
    rows = [row for row in rows_of(output) if row["source"].endswith(".png")]
    assert len(rows) == 3 and len(rows_of(output)) == 6
    for row in rows:
        answer = pipe(row["source"], sliding_window=True, tta=values.get("--tta"), **options)
        with Image.open(output / row["mask"]) as mask:
            assert (np.asarray(mask) == answer["segmentation"].numpy()).mean() > 0.98  # the other back end resizes
        for name, score in answer["class_scores"].items():
            assert float(row[f"score_{name}"]) == pytest.approx(score, abs=0.02)


def test_a_run_goes_on_with_the_same_windows_only(predict, model, inputs, tmp_path, caplog):
    arguments = [model, str(inputs / "0.png"), "--no-overlays", "--output", str(tmp_path / "out")]
    assert predict([*arguments, "--sliding-window"]) == 0
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert settings["sliding_window"] == {"overlap": 0.5, "scale": 1.0}
    # How many windows share a forward pass is no part of the answer.
    assert predict([*arguments, "--sliding-window", "--batch-size", "2"]) == 0
    for flags in ([], ["--sliding-window", "--overlap", "0.25"], ["--sliding-window", "--window-scale", "2"]):
        caplog.clear()
        assert predict([*arguments, *flags]) == 1
        assert "sliding_window" in caplog.text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--overlap", "0.5"], "--overlap says how windows are laid; expected --sliding-window with it"),
        (["--window-scale", "2"], "--window-scale says how windows are laid"),
        (["--sliding-window", "--overlap", "1"], "--overlap is 1.0; expected a number from 0 to less than 1"),
        (["--sliding-window", "--window-scale", "0"], "--window-scale is 0.0; expected a number above 0"),
    ],
)
def test_flags_that_mean_nothing_are_refused(predict, model, inputs, tmp_path, capsys, flags, said):
    with pytest.raises(SystemExit):
        predict([model, str(inputs), "--output", str(tmp_path / "out"), *flags])
    assert said in capsys.readouterr().err


def test_windows_are_refused_for_a_model_that_only_classifies(predict, inputs, tmp_path, caplog):
    ResFormerForImageClassification(tiny_config()).save_pretrained(tmp_path / "model")
    ResFormerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    arguments = [str(tmp_path / "model"), str(inputs), "--sliding-window", "--output", str(tmp_path / "out")]
    assert predict(arguments) == 1
    assert "--sliding-window needs a model with masks" in caplog.text
    assert not (tmp_path / "out").exists()
