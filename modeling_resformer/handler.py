# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""Answers of Hugging Face's inference contract: an image in, segments with PNG masks and class scores out.

Inference Endpoints load this file by its path as the top-level module `handler`, so it imports nothing of its folder:
model and image processor come by `trust_remote_code` from the folder it is given. `scripts/serve.py` is thin over it.

    handler = EndpointHandler("path/to/model")
    handler({"inputs": base64_string, "parameters": {"task": "classification", "top_k": 2}})

A string is base64 and nothing else: no path and no URL is ever opened. Masks have the size of the image as it is
shown, EXIF orientation applied. The toolkit of Inference Endpoints turns raw image bytes into 8-bit RGB before this
code sees them; send 16-bit images as base64 in JSON, which keeps their depth.
"""

import base64
import binascii
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from transformers import AutoModel

# By its own module, since without torchvision transformers 5.17 hides it at the top.
from transformers.models.auto.image_processing_auto import AutoImageProcessor


# Decoders that are allowed to touch what a stranger sends; Pillow's others may start programs or are rarely fuzzed.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
TASKS = {
    "segmentation": "segmentation",
    "image-segmentation": "segmentation",
    "classification": "classification",
    "image-classification": "classification",
    "both": "both",
}
MOST_SCANS = 100  # of a progressive JPEG; programs write about ten
FUNCTIONS = ("sigmoid", "softmax", "none")
SUBTASKS = ("instance", "panoptic", "semantic")
DEFAULT_TASK = "segmentation"
DEFAULT_MASK_THRESHOLD = 0.5  # of the overlap rule, as in transformers
# Parts of the network each task needs; a checkpoint trained for one task lacks the other's.
TASK_PARTS = {
    "segmentation": {"encoder", "decoder", "dilated_feature_enhancement", "segmentation_head"},
    "classification": {"encoder", "classification_head"},
}


class RequestError(ValueError):
    """A request that cannot be answered. The message is one line for its sender; `status` is the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """The largest image that is accepted: `max_bytes` as it is sent (encoded, before base64) and `max_pixels` once decoded.

    At its peak a request takes up to 16 bytes per pixel and mask class: 40 million pixels and 4 classes took 2 GB.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 40_000_000


# ---------------------------------------------------------------------------------------------------------------------
# The request
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """What a request may ask for, checked.

    Attributes:
        task: `"segmentation"`, `"classification"` or `"both"`.
        threshold: Segments with a lower score are left out.
        mask_threshold: Pixels where the class is less probable are left out of its mask.
        overlap_mask_area_threshold: A class is left out where its mask covers a smaller share than this of the pixels
            at which it is probable (`mask_threshold`, else 0.5), the rest being other classes'.
        top_k: How many classes to name, the most probable first; all by default.
        function_to_apply: `"sigmoid"` (each class by itself), `"softmax"` or `"none"` (logits); by default what the model
            was trained with.
    """

    task: str = DEFAULT_TASK
    threshold: float | None = None
    mask_threshold: float | None = None
    overlap_mask_area_threshold: float | None = None
    top_k: int | None = None
    function_to_apply: str | None = None

    @classmethod
    def from_request(cls, given: Any) -> "Parameters":
        """Raises RequestError (422) naming the parameter, what came and what was expected."""
        if given is None:
            return cls()
        if not isinstance(given, dict):
            raise RequestError(f"parameters is a {type(given).__name__}; expected an object.", 422)
        values = {name: value for name, value in given.items() if value is not None}
        expected = [*cls.__dataclass_fields__, "subtask"]
        unknown = sorted(set(values) - set(expected))
        if unknown:
            name = " ".join(unknown[0].split())
            raise RequestError(f"parameters.{name:.60} is unknown; expected some of {', '.join(expected)}.", 422)
        if one_of(values.pop("subtask", "semantic"), SUBTASKS, "subtask") != "semantic":
            raise RequestError("parameters.subtask: this model tells classes, not instances; use 'semantic'.", 422)
        if "task" in values:
            values["task"] = TASKS[one_of(values["task"], TASKS, "task")]
        if "function_to_apply" in values:
            one_of(values["function_to_apply"], FUNCTIONS, "function_to_apply")
        if "top_k" in values and (type(values["top_k"]) is not int or values["top_k"] < 1):
            raise RequestError(f"parameters.top_k is {values['top_k']!r:.40}; expected an integer from 1.", 422)
        for name in ("threshold", "mask_threshold", "overlap_mask_area_threshold"):
            if name in values:
                check_share(values[name], name)
        return cls(**values)


def one_of(value: Any, choices: Sequence[str] | dict[str, str], name: str) -> str:
    if not isinstance(value, str) or value not in choices:
        raise RequestError(f"parameters.{name} is {value!r:.40}; expected one of {', '.join(choices)}.", 422)
    return value


def check_share(value: Any, name: str) -> None:
    # `not (0 <= x <= 1)` also refuses NaN, which JSON readers of Python let through.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RequestError(f"parameters.{name} is {value!r:.40}; expected a number from 0 to 1.", 422)


def open_input(inputs: Any, limits: Limits, open_upright: Callable[..., Image.Image]) -> Image.Image:
    """The image of a request, upright: Pillow images pass, bytes are decoded, a string is base64.

    Args:
        inputs: what came.
        limits: the largest image that is accepted.
        open_upright: the image processor's, which decodes for the pipeline too and keeps the bit depth.

    Raises:
        RequestError: (400) it is no image, (413) it is too large.
    """
    if isinstance(inputs, Image.Image):
        check_pixels(inputs, limits)
        return open_upright(inputs)
    if isinstance(inputs, str):
        return decode_image(decode_base64(inputs, limits), limits, open_upright)
    if isinstance(inputs, bytes | bytearray | memoryview):
        return decode_image(bytes(inputs), limits, open_upright)
    kind = "missing" if inputs is None else f"a {type(inputs).__name__}"
    raise RequestError(f"inputs is {kind}; expected one image, as bytes or as a base64 string.")


def decode_base64(text: str, limits: Limits) -> bytes:
    """Bytes of a base64 string, with or without a `data:...;base64,` prefix."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise RequestError("inputs is a data URL without base64; expected data:image/png;base64,...")
    check_bytes(len(text) * 3 // 4, limits)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(
            "inputs is no base64 string; expected the image itself in base64 (paths and URLs are not opened)."
        ) from None


def decode_image(data: bytes, limits: Limits, open_upright: Callable[..., Image.Image]) -> Image.Image:
    """Decodes one image after its size has been read from its header."""
    check_bytes(len(data), limits)
    if not data:
        raise RequestError("The image is empty (0 bytes).")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            check_pixels(image, limits)
            # Not n_frames: Pillow would read the headers of all pages, of which there may be any number.
            if image.format == "TIFF" and getattr(image, "is_animated", False):
                raise RequestError("A TIFF of several pages is a volume; send its pages one by one.")
            # Each goes over the whole image again; between scans the two bytes stand nowhere. MPO is JPEG with more beside it.
            if image.format in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) > MOST_SCANS:
                raise RequestError(
                    f"A JPEG of {scans} scans takes too long to decode; expected {MOST_SCANS} at most.", 413
                )
        return open_upright(data, FORMATS)
    except RequestError:
        raise
    except Image.DecompressionBombError as error:
        raise RequestError(f"The image is too large ({error}).", 413) from error
    # Damaged files reach further than Pillow's own errors: decoders raise struct, zlib and index errors too.
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        # Pillow names the in-memory file by its address, which tells the sender nothing.
        reason = "no known image format" if "cannot identify" in reason else reason
        raise RequestError(f"{len(data)} bytes that are not a readable image ({reason}).") from error


def check_bytes(count: int, limits: Limits) -> None:
    if count > limits.max_bytes:
        raise RequestError(f"The image is larger than {limits.max_bytes / 2**20:g} MiB; send a smaller one.", 413)


def check_pixels(image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels:
        most = f"{limits.max_pixels / 1e6:g} million pixels"
        raise RequestError(f"The image has {width} x {height} pixels, more than {most}; send a smaller one.", 413)


# ---------------------------------------------------------------------------------------------------------------------
# The answer
# ---------------------------------------------------------------------------------------------------------------------


def segments(logits: torch.Tensor, names: Sequence[str], parameters: Parameters) -> list[dict[str, Any]]:
    """One segment per mask class that occurs, from (S, height, width) float logits.

    The background (class 0) is left out: it is what no mask covers, and widgets would tint the whole image.

    Returns:
        `[{"label", "score": mean probability within the mask, "mask": base64 PNG, mode L, 0 or 255}]` in class order.
    """
    chosen, probabilities = logits.argmax(dim=0), logits.softmax(dim=0)
    found = []
    for index in range(1, len(names)):
        mask, probability = chosen == index, probabilities[index]
        if parameters.mask_threshold is not None:
            mask &= probability >= parameters.mask_threshold
        if not mask.any() or is_overlapped(mask, probability, parameters):
            continue
        score = probability[mask].mean().item()
        if parameters.threshold is None or score >= parameters.threshold:
            found.append({"label": names[index], "score": score, "mask": encoded_mask(mask)})
    return found


def is_overlapped(mask: torch.Tensor, probability: torch.Tensor, parameters: Parameters) -> bool:
    """Whether other classes took so much of where a class is probable that its mask is to be left out."""
    least = parameters.overlap_mask_area_threshold
    if least is None:
        return False
    level = DEFAULT_MASK_THRESHOLD if parameters.mask_threshold is None else parameters.mask_threshold
    return mask.sum().item() < least * (probability >= level).sum().item()


def encoded_mask(mask: torch.Tensor) -> str:
    """Boolean (height, width) -> base64 PNG of mode L with the values 0 and 255, without a `data:` prefix."""
    buffer = BytesIO()
    Image.fromarray(mask.to(torch.uint8).mul_(255).cpu().numpy()).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def classes(logits: torch.Tensor, config: Any, parameters: Parameters) -> list[dict[str, Any]]:
    """`[{"label", "score"}]`, the highest first, from (K,) float logits."""
    if parameters.function_to_apply is None:
        values = config.class_scores(logits)
    elif parameters.function_to_apply == "none":
        values = logits
    else:
        values = logits.softmax(dim=0) if parameters.function_to_apply == "softmax" else logits.sigmoid()
    named = zip(config.image_class_names, values.tolist(), strict=True)
    scores = [{"label": name, "score": score} for name, score in named]
    return sorted(scores, key=lambda one: -one["score"])[: parameters.top_k]


# ---------------------------------------------------------------------------------------------------------------------
# The handler
# ---------------------------------------------------------------------------------------------------------------------


class EndpointHandler:
    """Loads a model once and answers requests.

    Args:
        path: Folder of the model (or a Hub id).
        revision: Revision of a Hub id.
        trust_remote_code: Whether the folder's own code may run, as it must where the package is not installed.
        limits: The largest image that is accepted.
        device: torch device; the first GPU where there is one.

    Raises:
        ValueError: It is another kind of model, or has the weights of neither task.
    """

    def __init__(
        self,
        path: str = "",
        revision: str | None = None,
        trust_remote_code: bool = True,
        limits: Limits = Limits(),
        device: str | None = None,
    ) -> None:
        source = {"revision": revision, "trust_remote_code": trust_remote_code}
        model, report = AutoModel.from_pretrained(path, output_loading_info=True, **source)
        if not hasattr(model.config, "mask_class_names"):
            raise ValueError(f"{path}: a model of type {model.config.model_type!r}; expected 'resformer'.")
        missing = {name.split(".")[0] for name in report["missing_keys"]}
        self.tasks = [task for task, parts in TASK_PARTS.items() if not parts & missing]
        if not self.tasks:
            raise ValueError(f"{path}: no weights for {', '.join(sorted(missing))}; expected a trained checkpoint.")
        self.classes_exclude = model.config.classes_exclude
        self.model = model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu")).fuse()
        self.image_processor = AutoImageProcessor.from_pretrained(path, **source)
        self.limits = limits

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]] | dict[str, Any]:
        """Answers one request.

        Args:
            data: `inputs`, an image (Pillow, encoded bytes, or base64 string), and optionally `parameters`, the fields
                of `Parameters` and `subtask`.

        Returns:
            Segmentation: `[{"label", "score", "mask"}]`. Classification: `[{"label", "score"}]`. Both: a dict with
            both lists and `predicted_labels`, the classes at or above their decision threshold, or, where classes
            exclude each other, the one with the highest score; and `label_set`, the classes that are not ruled out, where
            the config has thresholds for that; and `distance`, `confidence`, `flags` and `doubt`, how far to trust it, where
            the checkpoint was fitted for them.

        Raises:
            RequestError: A ValueError of one line; see `status`.
        """
        if not isinstance(data, dict):
            raise RequestError(f"The request is a {type(data).__name__}; expected an object with inputs.")
        parameters = Parameters.from_request(data.get("parameters"))
        wanted = list(TASK_PARTS) if parameters.task == "both" else [parameters.task]
        for task in wanted:
            if task not in self.tasks:
                raise RequestError(f"This checkpoint was trained without {task}; it answers {self.tasks[0]}.", 422)
        image = open_input(data.get("inputs"), self.limits, self.image_processor.open_upright)
        mask_logits, class_logits, trust = self.logits(image)
        answers: dict[str, Any] = {}
        if "segmentation" in wanted:
            resized = self.image_processor.post_process_semantic_segmentation(
                {"logits": mask_logits}, target_sizes=[image.size[::-1]], return_segmentation_scores=True
            )[0].segmentation_scores
            answers["segmentation"] = segments(resized, self.model.config.mask_class_names, parameters)
        if "classification" in wanted:
            answers["classification"] = classes(class_logits, self.model.config, parameters)
        if parameters.task != "both":
            return answers[parameters.task]
        config = self.model.config
        scores = config.class_scores(class_logits).tolist()
        labels = config.label_set(scores)
        sets = {} if labels is None else {"label_set": labels}
        told = config.trust(**trust) if trust else {}
        return {**answers, "predicted_labels": config.predicted_classes(scores), **sets, **told}

    @torch.inference_mode()
    def logits(self, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """Mask logits (1, S, h, w) at the model's size and class logits (K,), both finite float32; and `distance` and
        `confidence`, where the checkpoint was fitted for them.
        """
        try:
            pixel_values = self.image_processor(image, return_tensors="pt")["pixel_values"]
        except ValueError as error:
            raise RequestError(f"The image cannot be used ({error})") from error
        output = self.model(pixel_values.to(self.model.device, self.model.dtype))
        mask_logits, class_logits = output.segmentation_logits.float(), output.classification_logits[0].float()
        if not math.isfinite(mask_logits.sum().item() + class_logits.sum().item()):
            raise RuntimeError("The model's output is not finite; its weights or its dtype do not suit this device.")
        trust = {name: output[name].item() for name in ("distance", "confidence") if output.get(name) is not None}
        return mask_logits, class_logits, trust


__all__ = ["EndpointHandler", "Limits", "RequestError"]
