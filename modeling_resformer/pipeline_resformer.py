# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""A pipeline from pictures of any kind to mask, class scores and decisions, at the picture's own size and bit depth."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers import BatchFeature, Pipeline

from .image_processing_pil_resformer import as_numpy, channels_first, open_picture, upright


class ResFormerPipeline(Pipeline):
    """Segments and classifies one or many pictures with a `ResFormerForMultiTask`.

    Unlike the stock pipelines it answers both tasks at once and keeps 16-bit grey pictures at 16 bits.

        model, image_processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
        pipe = ResFormerPipeline(model=model, image_processor=image_processor)
        pipe("picture.jpg")["predicted_labels"]

    Inputs are Pillow pictures, arrays, tensors, paths, URLs or encoded bytes. Each answer is a dict as
    `post_process_multitask` makes it: `segmentation`, `class_scores`, `predicted_labels`, `mask_classes`.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(
        self, threshold: float | Sequence[float] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, {} if threshold is None else {"threshold": threshold}

    def preprocess(self, picture: Any) -> BatchFeature:
        picture, _ = upright(open_picture(picture))
        inputs = self.image_processor(picture, return_tensors="pt").to(self.dtype)
        inputs["target_size"] = [picture_size(picture)]
        return inputs

    def _forward(self, inputs: BatchFeature) -> dict[str, Any]:
        output = self.model(inputs["pixel_values"])
        return {
            "segmentation_logits": output.segmentation_logits,
            "classification_logits": output.classification_logits,
            "target_size": inputs["target_size"],
        }

    def postprocess(self, outputs: dict[str, Any], threshold: float | Sequence[float] | None = None) -> dict[str, Any]:
        sizes = outputs["target_size"]
        sizes = sizes if isinstance(sizes, list) else [sizes]
        return self.image_processor.post_process_multitask(outputs, self.model.config, sizes, threshold)[0]


def picture_size(picture: Any) -> tuple[int, int]:
    """(height, width) of a Pillow picture, array or tensor."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return channels_first(as_numpy(picture)).shape[-2:]


__all__ = ["ResFormerPipeline"]
