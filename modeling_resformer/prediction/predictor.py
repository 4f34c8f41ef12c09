"""Checkpoints made ready to predict, and the three steps of a pipeline one by one, so that they can overlap."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..configuration_resformer import ResFormerConfig
from ..data.fold_folders import FOLDS_NAME, read_fold_folders
from ..errors import BadInputError, named_load_failure
from ..exporting.weights import weights_digest
from ..heads import task_named
from ..image_processing_pil_resformer import ResFormerImageProcessing, resized_logits
from ..metrics.thresholds import DEFAULT_THRESHOLD, mean_thresholds
from ..pipeline_resformer import (
    OVERLAP,
    WINDOWS_AT_ONCE,
    ResFormerPipeline,
    averaged_logits,
    checked_views,
    trust_of,
)
from .evidence import FeatureMaps, input_evidence, seen_by_head
from .result_tables import ClassNames


EXPECTED = "a folder or Hub id of a ResFormer with its image processor"

Prepared = dict[str, Any]
Logits = dict[str, Any]


def load_pipeline(
    name: str,
    revision: str | None,
    device: torch.device,
    keep_aspect_ratio: bool | None = None,
    runtime: str = "torch",
) -> ResFormerPipeline:
    """Loads a checkpoint as the class it was saved from, with whichever heads that has.

    Args:
        name: folder or Hub id.
        revision: of a Hub id.
        device: where the model goes.
        keep_aspect_ratio: of images; as the checkpoint's image processor was saved where None.
        runtime: what runs the network, "torch" or, by the file of `scripts/export.py`, "onnx" or "openvino".

    Never by code of the folder: what it holds must be a ResFormer of this package.

    Raises:
        BadInputError: nothing to load there, another model, or weights that are missing.
    """
    with named_load_failure("model", name, EXPECTED):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        if not isinstance(config, ResFormerConfig):
            raise BadInputError(f"{name}: is a {config.model_type} model; expected {EXPECTED}.")
        model_class = task_named((config.architectures or ["ResFormerForMultiTask"])[0]).model_class
        model, report = model_class.from_pretrained(name, revision=revision, output_loading_info=True)
        settings = {} if keep_aspect_ratio is None else {"keep_aspect_ratio": keep_aspect_ratio}
        image_processor = AutoImageProcessor.from_pretrained(
            name, revision=revision, trust_remote_code=False, **settings
        )
        if not isinstance(image_processor, ResFormerImageProcessing):
            raise BadInputError(f"{name}: has a {type(image_processor).__name__}; expected {EXPECTED}.")
    missing = sorted({key.split(".")[0] for key in report["missing_keys"]})
    if missing:
        raise BadInputError(f"{name}: no weights for {', '.join(missing)}; predictions need a trained checkpoint.")
    # Under several processes a pipeline stays on the device its model is on.
    pipe = ResFormerPipeline(model=model.to(device).eval(), image_processor=image_processor, device=device)
    if runtime != "torch":
        from ..exporting.onnx_network import onnx_network  # which needs onnx

        pipe.model = onnx_network(pipe.model, name, revision, runtime)
    return pipe


def load_pipelines(
    names: Sequence[str],
    revision: str | None,
    device: torch.device,
    keep_aspect_ratio: bool | None = None,
    runtime: str = "torch",
) -> list[ResFormerPipeline]:
    """Loads the members of an ensemble, one for a single checkpoint; a folder of folds gives all of its own.

    The first gets the thresholds and limits of the whole: the means of the members', of whom one without thresholds has 0.5.

    Args:
        names: folders or Hub ids, each of a checkpoint or a folder of `scripts/train_folds.py`.
        revision: of a single Hub id.
        device: of all.
        keep_aspect_ratio: how images are resized; by default as each processor was saved.
        runtime: of each, as `load_pipeline` has it.

    Raises:
        BadInputError: as `load_pipeline`; folds that are not finished; or members that differ in what they answer or take.
    """
    members = [member for name in names for member in ensemble_members(name)]
    if revision is not None and len(members) > 1:
        raise BadInputError(
            f"--revision {revision}: names a revision of one Hub id; expected one --model, not {len(members)}"
        )
    pipes = [load_pipeline(name, revision, device, keep_aspect_ratio, runtime) for name in members]
    for name, pipe in zip(members[1:], pipes[1:], strict=True):
        check_fits(members[0], pipes[0], name, pipe)
    configs = [pipe.model.config for pipe in pipes]
    if len(pipes) > 1 and any(config.classification_thresholds for config in configs):
        default = [DEFAULT_THRESHOLD] * len(configs[0].image_class_names)
        chosen = [config.classification_thresholds or default for config in configs]
        configs[0].classification_thresholds = mean_thresholds(chosen)
    if len(pipes) > 1:
        # What a single member promises says nothing of the mean.
        configs[0].label_set_thresholds = configs[0].label_set_level = None
        for limit in ("distance_limit", "confidence_limit"):
            setattr(configs[0], limit, mean_limit([getattr(config, limit) for config in configs]))
    return pipes


def mean_limit(of_models: Sequence[float | None]) -> float | None:
    """The mean of those that are set; None of none."""
    known = [limit for limit in of_models if limit is not None]
    return fmean(known) if known else None


def ensemble_members(name: str) -> list[str]:
    """The checkpoints that a name stands for: itself or, of a folder of folds, those in it."""
    folder = Path(name)
    if not (folder / FOLDS_NAME).is_file() or (folder / "config.json").is_file():
        return [name]
    members = read_fold_folders(folder)
    unfinished = [member.name for member in members if not (member / "results.json").is_file()]
    if unfinished:
        raise BadInputError(
            f"{name}: {', '.join(unfinished)} of {len(members)} folds is not finished; run scripts/train_folds.py again, "
            "or name the members one by one, each by --model"
        )
    return [str(member) for member in members]


def check_fits(first_name: str, first: ResFormerPipeline, name: str, pipe: ResFormerPipeline) -> None:
    """Refuses a member of an ensemble whose answers mean something else than the first one's.

    Raises:
        BadInputError: naming both and what differs.
    """
    theirs, ours = answered_and_taken(first), answered_and_taken(pipe)
    differing = [what for what, value in ours.items() if value != theirs.get(what)]
    differing += [what for what in theirs if what not in ours]
    if differing:
        raise BadInputError(
            f"{name}: differs from {first_name} in {', '.join(differing)}; expected members of an ensemble that have the "
            "same classes and image processor"
        )


def answered_and_taken(pipe: ResFormerPipeline) -> dict[str, Any]:
    """What all members of an ensemble must have in common: their classes, and each field of the image processor."""
    classes = class_names_of(pipe)
    return {
        "mask classes": classes.mask,
        "image-level classes": classes.image,
        "classification_type": pipe.model.config.classification_type if classes.image else None,
        **{f"the image processor's {key}": value for key, value in processor_fields(pipe).items()},
    }


def class_names_of(pipe: ResFormerPipeline) -> ClassNames:
    model = pipe.model
    return ClassNames(
        mask=tuple(model.config.mask_class_names[1:]) if hasattr(model, "segmentation_head") else (),
        image=tuple(model.config.image_class_names) if hasattr(model, "classification_head") else (),
        trust=trust_of(model),
        label_sets=model.config.label_set_thresholds is not None and hasattr(model, "classification_head"),
    )


def processor_fields(pipe: ResFormerPipeline) -> dict[str, Any]:
    """The settings of an image processor, without where its code lies."""
    return {key: value for key, value in pipe.image_processor.to_dict().items() if key != "auto_map"}


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
    """Images to logits to answers, of one checkpoint or of several whose probabilities are averaged.

    Attributes:
        pipe: the checkpoint, or the first of an ensemble; its processor and its thresholds serve all.
        threshold: decision threshold on the class scores; the checkpoint's own where None. Not of classes that exclude each
            other.
        tta: flips to average over, as `ResFormerPipeline` names them; False for none.
        others: further members of an ensemble.
        windows: in which masks are predicted; None where the whole image is resized for them.
        evidence: whether `forward` also tells where the evidence for each image-level class lies.
    """

    pipe: ResFormerPipeline
    threshold: float | None = None
    tta: str | bool = False
    others: tuple[ResFormerPipeline, ...] = ()
    windows: Windows | None = None
    evidence: bool = False

    @property
    def members(self) -> tuple[ResFormerPipeline, ...]:
        return (self.pipe, *self.others)

    @property
    def classes(self) -> ClassNames:
        names, *others = (class_names_of(pipe) for pipe in self.members)
        return replace(names, trust=tuple(one for one in names.trust if all(one in other.trust for other in others)))

    @property
    def mask_class_names(self) -> list[str]:
        """All mask classes, background first."""
        return self.pipe.model.config.mask_class_names

    @property
    def thresholds(self) -> list[float | None]:
        """The decision threshold of each image-level class, None of each where the highest score decides.

        Raises:
            ValueError: one was given although the highest score decides.
        """
        config = self.pipe.model.config
        return config.decision_thresholds(self.threshold) or [None] * len(config.image_class_names)

    def settings(self) -> dict[str, Any]:
        """What decides the results apart from the images: two runs with equal settings answer alike."""
        weights = [weights_digest(pipe.model) for pipe in self.members]
        return {
            **({"ensemble": len(weights)} if self.others else {}),
            "weights": weights if self.others else weights[0],
            "mask_classes": self.classes.mask,
            "image_classes": self.classes.image,
            "image_processor": processor_fields(self.pipe),
            "thresholds": self.thresholds if self.classes.image else None,
            **self._precision(),
            **(
                {"limits": [self.pipe.model.config.distance_limit, self.pipe.model.config.confidence_limit]}
                if self.classes.trust
                else {}
            ),
            **({"label_sets": self.pipe.model.config.label_set_thresholds} if self.classes.label_sets else {}),
            "tta": self.tta,
            "sliding_window": self.windows and {"overlap": self.windows.overlap, "scale": self.windows.scale},
        }

    def _precision(self) -> dict[str, Any]:
        """In what the networks compute, where it is not float32 for all."""
        each = [getattr(pipe.model, "precision", "float32") for pipe in self.members]
        return {} if set(each) == {"float32"} else {"precision": each}

    def fingerprint(self) -> str:
        """64 characters that another checkpoint, or ensemble, does not have."""
        each = [weights_digest(pipe.model) for pipe in self.members]
        return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()

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
            pixels = torch.cat([one["pixel_values"] for one in inputs])
            outputs = self._forward_all({"pixel_values": pixels, "target_size": []})
            answers += [
                {**{name: logits[i : i + 1] for name, logits in outputs.items()}, "target_size": one["target_size"]}
                for i, one in enumerate(inputs)
            ]
        return answers

    def forward_windows(self, one: Prepared, windows: Windows) -> Logits:
        options = {"overlap": windows.overlap, "window_batch_size": windows.batch_size}
        return {**self._forward_all(one, **options), "target_size": one["target_size"]}

    def _forward_all(self, inputs: Prepared, **options: Any) -> dict[str, torch.Tensor]:
        """The logits of the checkpoint, or those of the members' mean probabilities; and `evidence` where that is told, the
        mean over views and members, (B, K, height, width) of the network's input."""
        views, each, evidence = checked_views(self.tta), [], []
        for pipe in self.members:
            # With windows the whole image comes last.
            with seen_by_head(pipe.model, max(1, len(views)) if self.evidence else 0) as seen:
                answer = pipe.forward(inputs, views=views, **options)
            each.append({name: logits for name, logits in answer.items() if name != "target_size"})
            evidence += evidence_of_views(pipe, seen, views, inputs["pixel_values"].shape[-2:])
        told = {"evidence": torch.stack(evidence).mean(dim=0)} if evidence else {}
        averaged = averaged_logits(each, self.pipe.model.config.classes_exclude) if self.others else each[0]
        return {**averaged, **told}

    def evidence_at(self, logits: Logits, number: int, size: Sequence[int]) -> np.ndarray | None:
        """Evidence for an image-level class at a size (height, width) of the whole image, signed; None where it is not told."""
        if "evidence" not in logits:
            return None
        keeps = self.pipe.image_processor.keep_aspect_ratio
        (resized,) = resized_logits(logits["evidence"][:, number : number + 1], [size], keeps)
        return resized[0].cpu().numpy()

    def answer(self, logits: Logits) -> dict[str, Any]:
        """Mask, scores and labels of one image at its own size, as the pipeline gives them."""
        return self.pipe.postprocess(logits, threshold=self.threshold)


def evidence_of_views(
    pipe: ResFormerPipeline, seen: Sequence[FeatureMaps], views: Sequence[Sequence[int]], size: Sequence[int]
) -> list[torch.Tensor]:
    """The evidence in each view that a head has seen, flipped back; none where it saw nothing."""
    flips = views or ((),)
    if len(seen) != len(flips):
        return []
    return [input_evidence(pipe.model, maps, size).flip(axes).cpu() for maps, axes in zip(seen, flips, strict=True)]


def mean_entropy(mask_logits: torch.Tensor) -> float:
    """Mean entropy of a mask's probabilities over the pixels, from logits (1, S, h, w): 0 where all are sure, 1 where all
    classes are as probable everywhere."""
    logarithms = mask_logits.float().log_softmax(dim=1)
    entropy = -(logarithms.exp() * logarithms).sum(dim=1).mean()
    return float(entropy / math.log(mask_logits.shape[1]))
