# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""A pipeline from images of any kind to mask, class scores and decisions, at the image's own size and bit depth."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from transformers import BatchFeature, Pipeline

from .image_processing_pil_resformer import as_numpy, channels_first


# Axes that are flipped in each view of an image (B, C, H, W): none, width, height, both.
VIEWS = {
    "horizontal": ((), (-1,)),
    "both": ((), (-1,), (-2,), (-2, -1)),
}
OVERLAP = 0.5
TRUST = ("distance", "confidence")  # (B,) of an output, beside its logits
WINDOWS_AT_ONCE = 4
WINDOW_SIGMA = 1 / 8  # of the window's side, as in MONAI and nnU-Net
LEAST_WEIGHT = 1e-3


class ResFormerPipeline(Pipeline):
    """Segments and classifies one or many images with any ResFormer that has a head.

    Unlike the stock pipelines it answers both tasks at once and keeps 16-bit grey images at 16 bits.

        model, image_processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
        pipe = ResFormerPipeline(model=model, image_processor=image_processor)
        pipe("image.jpg")["predicted_labels"]
        pipe(["one.png", "two.png"], batch_size=2, tta="horizontal", threshold=0.4)

    A saved folder or Hub repository brings it along: `pipeline(model=folder, trust_remote_code=True)`.

    A model in evaluation mode is run in its evaluation form (`fuse()`), which answers the same, but for rounding, and faster.

    Inputs are Pillow images, arrays, tensors, paths, URLs or encoded bytes, one or a list. Each answer is a dict as
    `post_process_multitask` makes it: `segmentation`, `class_scores`, `predicted_labels`, `mask_classes`; of a model
    with one head, its half.

    Args of the constructor and of a call:
        threshold: Decision threshold on the class scores, one or one per class; by default the checkpoint's own. Refused
            where classes exclude each other.
        tta: Test-time flips. `"horizontal"` (or True) averages an image and its mirror image; `"both"` adds the two
            turned upside down, which suits photographs without an up and a down, and not OCT. Probabilities are
            averaged, not logits: the softmax of masks, flipped back, and the scores of classes.
        intensity_range: Lowest and highest stored value, where images do not fill the range of their type.
        keep_aspect_ratio: Whether to fit images into the processor's `size` and pad them, or to squash them; by default as
            the processor was saved, which is how the model was trained.
        sliding_window: Whether to predict the mask in overlapping windows of the processor's `size` over the image at its
            own resolution, whose probabilities are averaged by a Gaussian around each window's centre. It suits models
            trained on crops of that resolution. Class scores still come from the whole image, resized as in training,
            since the classifier never saw windows.
        overlap: Share of a window's side that the next one covers again, 0.5 by default.
        window_scale: Factor by which the image is resized before windows are laid over it, 1 by default; the
            probabilities are resized back.
        window_batch_size: Windows a forward pass.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model = evaluation_form(self.model)

    def _sanitize_parameters(
        self,
        threshold: float | Sequence[float] | None = None,
        tta: str | bool | None = None,
        intensity_range: Sequence[float] | None = None,
        keep_aspect_ratio: bool | None = None,
        sliding_window: bool | None = None,
        overlap: float | None = None,
        window_scale: float | None = None,
        window_batch_size: int | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_windows(overlap, window_scale, window_batch_size)
        before = {
            "intensity_range": intensity_range,
            "keep_aspect_ratio": keep_aspect_ratio,
            "sliding_window": sliding_window,
            "window_scale": window_scale,
        }
        within = {
            "views": None if tta is None else checked_views(tta),
            "overlap": overlap,
            "window_batch_size": window_batch_size,
        }
        after = {"threshold": threshold, "keep_aspect_ratio": keep_aspect_ratio}
        return only_given(before), only_given(within), only_given(after)

    def preprocess(
        self,
        image: Any,
        intensity_range: Sequence[float] | None = None,
        keep_aspect_ratio: bool | None = None,
        sliding_window: bool = False,
        window_scale: float = 1.0,
    ) -> BatchFeature:
        image = self.image_processor.open_upright(image)
        size = image_size(image)
        # Given only where they are set, since None would hide the image processor's own.
        options = {} if intensity_range is None else {"intensity_range": list(intensity_range)}
        resizing = only_given({"keep_aspect_ratio": keep_aspect_ratio})
        inputs = self.image_processor(image, return_tensors="pt", **options, **resizing).to(self.dtype)
        inputs["target_size"] = [size]
        if sliding_window:
            height, width = (max(1, round(side * window_scale)) for side in size)
            options |= {"do_resize": (height, width) != size, "size": {"height": height, "width": width}}
            scaled = self.image_processor(image, return_tensors="pt", keep_aspect_ratio=False, **options)
            inputs["scaled"] = [scaled.to(self.dtype)["pixel_values"]]
        return inputs

    def _forward(
        self,
        inputs: Mapping[str, Any],
        views: Sequence[Sequence[int]] = (),
        overlap: float = OVERLAP,
        window_batch_size: int = WINDOWS_AT_ONCE,
    ) -> dict[str, Any]:
        def logits_of(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            return averaged_over_views(
                lambda view: named_logits(self.model(view)), pixels, views, self.model.config.classes_exclude
            )

        if "scaled" not in inputs:
            return {**logits_of(inputs["pixel_values"]), "target_size": inputs["target_size"]}
        if not hasattr(self.model, "segmentation_head"):
            raise ValueError("sliding_window=True needs a model with masks; this one only classifies.")
        window = tuple(inputs["pixel_values"].shape[-2:])
        masks = [
            sliding_window_logits(
                lambda windows: logits_of(windows)["segmentation_logits"],
                scaled,
                size,
                window,
                overlap,
                window_batch_size,
            )
            for scaled, size in zip(unnested(inputs["scaled"]), unnested(inputs["target_size"]), strict=True)
        ]
        whole = logits_of(inputs["pixel_values"]) if hasattr(self.model, "classification_head") else {}
        # Masks of several sizes fit no tensor; the pipeline takes a list apart as well.
        whole["segmentation_logits"] = masks[0] if len(masks) == 1 else [mask[0] for mask in masks]
        return {**whole, "target_size": inputs["target_size"]}

    def postprocess(
        self,
        outputs: dict[str, Any],
        threshold: float | Sequence[float] | None = None,
        keep_aspect_ratio: bool | None = None,
    ) -> dict[str, Any]:
        sizes = outputs["target_size"]
        sizes = sizes if isinstance(sizes, list) else [sizes]
        # Given only where it is set, for image processors of checkpoints that are older than it.
        resizing = only_given({"keep_aspect_ratio": keep_aspect_ratio})
        config = self.model.config
        return self.image_processor.post_process_multitask(outputs, config, sizes, threshold, **resizing)[0]


def evaluation_form(model: Any) -> Any:
    """A model fused, where it is in evaluation mode and whole on one device; any other as it is."""
    is_spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
    if model.training or is_spread or any(parameter.is_meta for parameter in model.parameters()):
        return model
    return model.fuse()


def only_given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def unnested(values: Sequence[Any]) -> list[Any]:
    """One value an image, from a pipeline's batch, where each image brings a list of one, or from a single image."""
    return [value[0] if isinstance(value, list) else value for value in values]


def checked_views(tta: str | bool) -> tuple[tuple[int, ...], ...]:
    """The views of an argument `tta`; none for False.

    Raises:
        ValueError: there is no such kind of flips.
    """
    if tta is False:
        return ()
    kind = "horizontal" if tta is True else tta
    if kind not in VIEWS:
        raise ValueError(f"tta={tta!r} is unknown; use one of {', '.join(map(repr, VIEWS))}, True or False.")
    return VIEWS[kind]


def named_logits(output: Any) -> dict[str, torch.Tensor]:
    """The logits of any of the three models under the multi-task model's names."""
    if "logits" in output:
        name = "segmentation_logits" if output["logits"].ndim == 4 else "classification_logits"
        return {name: output["logits"]}
    names = ("segmentation_logits", "classification_logits")
    return {name: output[name] for name in (*names, *(name for name in TRUST if output.get(name) is not None))}


def trust_of(model: Any) -> tuple[str, ...]:
    """Which of `TRUST` a model tells."""
    if getattr(model, "familiarity", None) is None:
        return ()
    return TRUST if model.config.confidence_weights is not None else TRUST[:1]


def averaged_over_views(
    logits_of: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    pixel_values: torch.Tensor,
    views: Sequence[Sequence[int]],
    classes_exclude: bool = False,
) -> dict[str, torch.Tensor]:
    """Logits whose softmax (masks) and sigmoid or softmax (classes) are the means of those probabilities over flipped views.

    Args:
        logits_of: From (B, C, H, W) to `segmentation_logits` (B, S, H, W), `classification_logits` (B, K) or both.
        pixel_values: (B, C, H, W).
        views: Axes to flip in each view; without any, the logits of `pixel_values` as they are.
        classes_exclude: Whether the scores of classes are a softmax.
    """
    if not views:
        return logits_of(pixel_values)
    outputs = [(axes, logits_of(pixel_values.flip(axes))) for axes in views]
    return averaged_logits(
        [
            {name: logits.flip(axes) if name == "segmentation_logits" else logits for name, logits in output.items()}
            for axes, output in outputs
        ],
        classes_exclude,
    )


def averaged_logits(
    outputs: Sequence[Mapping[str, torch.Tensor]], classes_exclude: bool = False
) -> dict[str, torch.Tensor]:
    """Logits whose softmax (masks) and sigmoid or softmax (classes) are the means of those probabilities over several answers.

    Args:
        outputs: Of the same images, each `segmentation_logits` (B, S, H, W), `classification_logits` (B, K) or both.
        classes_exclude: Whether the scores of classes are a softmax.
    """
    averaged = {}
    for name in outputs[0]:
        logits = torch.stack([output[name].float() for output in outputs])
        if name in TRUST:
            averaged[name] = logits.mean(dim=0)
        elif name == "segmentation_logits" or classes_exclude:
            averaged[name] = torch.logsumexp(logits.log_softmax(dim=2), dim=0) - math.log(len(outputs))
        else:
            # log(mean p) - log(mean(1 - p)), without leaving the logarithm.
            averaged[name] = F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)
    return averaged


def check_windows(overlap: float | None, scale: float | None, batch_size: int | None) -> None:
    """Refuses windows that could not be laid; None is for what is not given.

    Raises:
        ValueError: naming the argument.
    """
    if overlap is not None and not 0 <= overlap < 1:
        raise ValueError(
            f"overlap={overlap} must be at least 0 and less than 1, the share that two windows have in common."
        )
    if scale is not None and not 0 < scale < math.inf:
        raise ValueError(f"window_scale={scale} must be above 0, a factor on the image's size.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"window_batch_size={batch_size} must be 1 or more.")


def sliding_window_logits(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    size: tuple[int, int],
    window: tuple[int, int],
    overlap: float = OVERLAP,
    batch_size: int = WINDOWS_AT_ONCE,
) -> torch.Tensor:
    """Mask logits whose softmax is the weighted mean of the probabilities in overlapping windows.

    Windows are laid, weighed and padded as by MONAI's `sliding_window_inference` with `mode="gaussian"`: each starts a whole
    step after the last, but that the last ends with the image; an image that is smaller is centred in zeros. In memory are
    the windows of one batch and twice the answer.

    Args:
        logits_of: From windows (B, C, *window) to their mask logits (B, S, *window).
        image: (1, C, h, w), normalised.
        size: (height, width) to which the probabilities are resized where the image has another.
        window: (height, width).
        overlap: Share of a window's side that the next one covers again, in [0, 1).
        batch_size: Windows a forward pass.

    Returns:
        (1, S, *size) float32 logarithms of probabilities.
    """
    height, width = image.shape[-2:]
    missing_rows, missing_columns = max(0, window[0] - height), max(0, window[1] - width)
    above, left = missing_rows // 2, missing_columns // 2
    image = F.pad(image, (left, missing_columns - left, above, missing_rows - above))
    weight = gaussian_weight(window, image.device)
    total = weights = None
    for places in window_batches(image.shape[-2:], window, overlap, batch_size):
        slices = [(slice(top, top + window[0]), slice(start, start + window[1])) for top, start in places]
        logits = logits_of(torch.cat([image[..., rows, columns] for rows, columns in slices]))
        probabilities = logits.float().softmax(dim=1) * weight
        if total is None:
            total = probabilities.new_zeros(probabilities.shape[1], *image.shape[-2:])
            weights = probabilities.new_zeros(image.shape[-2:])
        for (rows, columns), one in zip(slices, probabilities, strict=True):
            total[:, rows, columns] += one
            weights[rows, columns] += weight
    mean = (total / weights)[None, :, above : above + height, left : left + width]
    if mean.shape[-2:] != size:
        mean = F.interpolate(mean, size=size, mode="bilinear", align_corners=False)
    return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


def window_batches(
    size: Sequence[int], window: Sequence[int], overlap: float, batch_size: int
) -> Iterator[list[tuple[int, int]]]:
    """(top, left) of windows that cover an image of a size (height, width), row by row, `batch_size` at once."""
    tops, lefts = (window_starts(*sides, overlap) for sides in zip(size, window, strict=True))
    places = [(top, left) for top in tops for left in lefts]
    for start in range(0, len(places), batch_size):
        yield places[start : start + batch_size]


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows start on a side of `length` pixels, which is no shorter than a window; the last ends with the side."""
    step = max(1, int(window * (1 - overlap)))
    count = 1 + math.ceil((length - window) / step)
    return [min(number * step, length - window) for number in range(count)]


def gaussian_weight(window: Sequence[int], device: torch.device) -> torch.Tensor:
    """(height, width) float32: 1 in the middle of a window, and nowhere below a thousandth, so that every pixel counts."""
    sides = []
    for side in window:
        distance = torch.arange(side, device=device, dtype=torch.float32) - (side - 1) / 2
        sides.append(torch.exp(-0.5 * (distance / (WINDOW_SIGMA * side)) ** 2))
    return torch.outer(*sides).clamp_min(LEAST_WEIGHT)


def image_size(image: Any) -> tuple[int, int]:
    """(height, width) of a Pillow image, array or tensor."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    return channels_first(as_numpy(image)).shape[-2:]


__all__ = ["ResFormerPipeline"]
