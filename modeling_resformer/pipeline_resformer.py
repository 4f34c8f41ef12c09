# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""A pipeline from images of any kind to mask, class scores and decisions, at the image's own size and bit depth."""

import math
from collections.abc import Callable, Mapping, Sequence
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


class ResFormerPipeline(Pipeline):
    """Segments and classifies one or many images with any ResFormer that has a head.

    Unlike the stock pipelines it answers both tasks at once and keeps 16-bit grey images at 16 bits.

        model, image_processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
        pipe = ResFormerPipeline(model=model, image_processor=image_processor)
        pipe("image.jpg")["predicted_labels"]
        pipe(["one.png", "two.png"], batch_size=2, tta="horizontal", threshold=0.4)

    A saved folder or Hub repository brings it along: `pipeline(model=folder, trust_remote_code=True)`.

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
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(
        self,
        threshold: float | Sequence[float] | None = None,
        tta: str | bool | None = None,
        intensity_range: Sequence[float] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return (
            {} if intensity_range is None else {"intensity_range": intensity_range},
            {} if tta is None else {"views": checked_views(tta)},
            {} if threshold is None else {"threshold": threshold},
        )

    def preprocess(self, image: Any, intensity_range: Sequence[float] | None = None) -> BatchFeature:
        image = self.image_processor.open_upright(image)
        # Given only where it is set, since None would hide the image processor's own.
        options = {} if intensity_range is None else {"intensity_range": list(intensity_range)}
        inputs = self.image_processor(image, return_tensors="pt", **options).to(self.dtype)
        inputs["target_size"] = [image_size(image)]
        return inputs

    def _forward(self, inputs: Mapping[str, Any], views: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
        logits = averaged_over_views(
            lambda pixels: named_logits(self.model(pixels)),
            inputs["pixel_values"],
            views,
            self.model.config.classes_exclude,
        )
        return {**logits, "target_size": inputs["target_size"]}

    def postprocess(self, outputs: dict[str, Any], threshold: float | Sequence[float] | None = None) -> dict[str, Any]:
        sizes = outputs["target_size"]
        sizes = sizes if isinstance(sizes, list) else [sizes]
        return self.image_processor.post_process_multitask(outputs, self.model.config, sizes, threshold)[0]


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
    return {name: output[name] for name in ("segmentation_logits", "classification_logits")}


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
        if name == "segmentation_logits" or classes_exclude:
            averaged[name] = torch.logsumexp(logits.log_softmax(dim=2), dim=0) - math.log(len(outputs))
        else:
            # log(mean p) - log(mean(1 - p)), without leaving the logarithm.
            averaged[name] = F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)
    return averaged


def image_size(image: Any) -> tuple[int, int]:
    """(height, width) of a Pillow image, array or tensor."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    return channels_first(as_numpy(image)).shape[-2:]


__all__ = ["ResFormerPipeline"]
