"""A checkpoint made ready to predict, and the three steps of its pipeline one by one, so that they can overlap."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers import AutoConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..configuration_resformer import ResFormerConfig
from ..errors import BadInputError, named_load_failure
from ..heads import task_named
from ..image_processing_pil_resformer import checked_thresholds
from ..pipeline_resformer import OVERLAP, WINDOWS_AT_ONCE, ResFormerPipeline, checked_views
from .result_tables import ClassNames


EXPECTED = "a folder or Hub id of a ResFormer with its image processor"

Prepared = dict[str, Any]
Logits = dict[str, Any]


def load_pipeline(
    name: str, revision: str | None, device: torch.device, keep_aspect_ratio: bool | None = None
) -> ResFormerPipeline:
    """Loads a checkpoint as the class it was saved from, with whichever heads that has.

    Args:
        name: folder or Hub id.
        revision: of a Hub id.
        device: where the model goes.
        keep_aspect_ratio: of images; as the checkpoint's image processor was saved where None.

    Raises:
        BadInputError: nothing to load there, another model, or weights that are missing.
    """
    with named_load_failure("model", name, EXPECTED):
        config = AutoConfig.from_pretrained(name, revision=revision)
        if not isinstance(config, ResFormerConfig):
            raise BadInputError(f"{name}: is a {config.model_type} model; expected {EXPECTED}.")
        model_class = task_named((config.architectures or ["ResFormerForMultiTask"])[0]).model_class
        model, report = model_class.from_pretrained(name, revision=revision, output_loading_info=True)
        settings = {} if keep_aspect_ratio is None else {"keep_aspect_ratio": keep_aspect_ratio}
        image_processor = AutoImageProcessor.from_pretrained(name, revision=revision, **settings)
    missing = sorted({key.split(".")[0] for key in report["missing_keys"]})
    if missing:
        raise BadInputError(f"{name}: no weights for {', '.join(missing)}; predictions need a trained checkpoint.")
    # Under several processes a pipeline stays on the device its model is on.
    return ResFormerPipeline(model=model.to(device).eval(), image_processor=image_processor, device=device)


@dataclass(frozen=True)
class Windows:
    """Windows that slide over an image, as `ResFormerPipeline` has them.

    Attributes:
        overlap: share of a window's side that the next one covers again.
        scale: factor by which the image is resized first.
        batch_size: windows a forward pass.
    """

    overlap: float = OVERLAP
    scale: float = 1.0
    batch_size: int = WINDOWS_AT_ONCE


@dataclass(frozen=True)
class Predictor:
    """Images to logits to answers.

    Attributes:
        pipe: the checkpoint.
        threshold: decision threshold on the class scores; the checkpoint's own where None.
        tta: flips to average over, as `ResFormerPipeline` names them; False for none.
        windows: in which masks are predicted; None where the whole image is resized for them.
    """

    pipe: ResFormerPipeline
    threshold: float | None = None
    tta: str | bool = False
    windows: Windows | None = None

    @property
    def classes(self) -> ClassNames:
        model = self.pipe.model
        return ClassNames(
            mask=tuple(model.config.mask_class_names[1:]) if hasattr(model, "segmentation_head") else (),
            image=tuple(model.config.image_class_names) if hasattr(model, "classification_head") else (),
        )

    @property
    def mask_class_names(self) -> list[str]:
        """All mask classes, background first."""
        return self.pipe.model.config.mask_class_names

    @property
    def thresholds(self) -> list[float]:
        """The decision threshold of each image-level class."""
        config = self.pipe.model.config
        return checked_thresholds(self.threshold, config.classification_thresholds, config.image_class_names)

    def settings(self) -> dict[str, Any]:
        """What decides the results apart from the images: two runs with equal settings answer alike."""
        processor = self.pipe.image_processor.to_dict()
        return {
            "weights": weights_digest(self.pipe.model),
            "mask_classes": self.classes.mask,
            "image_classes": self.classes.image,
            "image_processor": {key: value for key, value in processor.items() if key != "auto_map"},
            "thresholds": self.thresholds if self.classes.image else None,
            "tta": self.tta,
            "sliding_window": self.windows and {"overlap": self.windows.overlap, "scale": self.windows.scale},
        }

    def prepare(self, image: Any, intensity_range: Sequence[float] | None = None) -> Prepared:
        """One image to the model's input, (1, C, H, W), and its own size."""
        scale = {"sliding_window": True, "window_scale": self.windows.scale} if self.windows else {}
        return dict(self.pipe.preprocess(image, intensity_range=intensity_range, **scale))

    def forward(self, batch: Sequence[Prepared]) -> list[Logits]:
        """Logits of each image; those of one size go through the network together, or else the windows of each."""
        if self.windows:
            return [self.forward_windows(one, self.windows) for one in batch]
        answers = []
        for _, group in groupby(batch, key=lambda one: one["pixel_values"].shape):
            inputs = list(group)
            outputs = self.pipe.forward(
                {"pixel_values": torch.cat([one["pixel_values"] for one in inputs]), "target_size": []},
                views=checked_views(self.tta),
            )
            names = [name for name in outputs if name != "target_size"]
            answers += [
                {**{name: outputs[name][i : i + 1] for name in names}, "target_size": one["target_size"]}
                for i, one in enumerate(inputs)
            ]
        return answers

    def forward_windows(self, one: Prepared, windows: Windows) -> Logits:
        return self.pipe.forward(
            one, views=checked_views(self.tta), overlap=windows.overlap, window_batch_size=windows.batch_size
        )

    def answer(self, logits: Logits) -> dict[str, Any]:
        """Mask, scores and labels of one image at its own size, as the pipeline gives them."""
        return self.pipe.postprocess(logits, threshold=self.threshold)


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over all weights and buffers by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
