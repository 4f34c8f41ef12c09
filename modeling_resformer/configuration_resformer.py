# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""ResFormer configuration: every number of the architecture and of the loss, with its default.

The network is that of "Multi-scale Feature Enhancement in Multi-task Learning for Medical Image Analysis"
(arXiv 2412.00351). Where the paper gives a value it is the default; where it is silent the default is ours and marked so.
"""

import copy
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin
from transformers.utils import logging

from .backbone_resformer import BACKBONE_JOINS, as_backbone_config, default_num_heads, measured_levels


logger = logging.get_logger(__name__)

__version__ = "0.1.0.dev0"  # of the whole package; here, because a Hub repository carries this file and not `__init__`

BLOCK_TYPES = ("sequential", "parallel")
RECOMPUTED = ("normalization", "activation", "attention")
CLASSIFICATION_TYPES = ("multi_label", "exclusive")
DOUBTS = {  # by flag, the gravest first
    "unlike_training_images": "This image is unlike those the model was trained on: do not rely on what it answers.",
    "low_confidence": "The model is unsure: of answers like this one about {share} are right in both mask and labels.",
}
CONFIDENT_DICE = 0.8  # of a mask that counts as right
DEFAULT_THRESHOLD = 0.5
_PER_LEVEL = ("hidden_sizes", "cnn_depths", "transformer_depths", "num_attention_heads")
_PAPER = {
    "hidden_sizes": (64, 128, 256, 512),
    "cnn_depths": (3, 4, 6, 3),
    "transformer_depths": (2, 2, 2, 2),
    "num_attention_heads": (2, 4, 8, 16),
}
_MOST_SKIP_CHANNELS, _MOST_DECODER_CHANNELS = 512, 256  # of a level by default, with a backbone; the paper's most
# The fields that are fitted to trained weights, on validation data, as they are before.
UNFITTED = {
    "classification_thresholds": None,
    "classification_scale": None,
    "classification_shift": None,
    "mask_temperature": 1.0,
    "label_set_thresholds": None,
    "label_set_level": None,
    "familiarity_components": 0,
    "distance_limit": None,
    "confidence_weights": None,
    "confidence_limit": None,
}
_PER_IMAGE_CLASS = (
    "class_weights",
    "classification_thresholds",
    "classification_scale",
    "classification_shift",
    "label_set_thresholds",
)
# What a network of sense stays below, so that a config that lies is refused and not built. Masks are stored in 8 bits.
_MOST = {
    "num_channels": 1024,
    "window_size": 64,
    "classifier_hidden_size": 1 << 16,
    "hidden_sizes": 1 << 14,
    "skip_hidden_sizes": 1 << 14,
    "decoder_hidden_sizes": 1 << 14,
    "num_attention_heads": 1 << 10,
    "cnn_depths": 256,
    "transformer_depths": 256,
    "mlp_ratio": 64,
}
_MOST_LEVELS, _MOST_RATES, _MOST_RATE, _MOST_SIDE = 8, 32, 1 << 10, 1 << 16
_MOST_MASK_CLASSES, _MOST_CLASSES, _LONGEST_NAME = 255, 10_000, 200


@dataclass(frozen=True)
class LabelOverride:
    """Labels that `from_pretrained` was asked for, while it is open which head they mean.

    Attributes:
        stored: The mask classes of the checkpoint.
        wanted: New names by index, or a new number of classes.
        given: Settings per image-level class that were given along, and so belong to the new classes.
    """

    stored: dict[int, str]
    wanted: dict[int, str] | int
    given: list[str]

    def applied_to(self, id2label: dict[int, str]) -> dict[int, str]:
        """The labels of a head; a number that is the old one keeps the old names."""
        if isinstance(self.wanted, dict):
            return self.wanted
        if self.wanted == len(id2label):
            return id2label
        return {index: f"LABEL_{index}" for index in range(self.wanted)}


@strict
class ResFormerConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""Configuration of all ResFormer models; one saved config serves all of them.

    `id2label` (and so `num_labels`) names the **mask classes**, background first; `classification_labels` names the
    **image-level classes**. `num_labels=` or `id2label=` given to `from_pretrained` mean the head of the class that is
    being loaded: image-level classes for `ResFormerForImageClassification`, mask classes for every other.

    Args:
        num_channels (`int`, defaults to 3): Channels of the input image.
        image_size (`int`, defaults to 224): Side the model was trained at. Informative only: any size works.
        backbone_config (`PreTrainedConfig` or `dict`, *optional*): Config of a backbone, any of transformers or timm
            (`TimmBackboneConfig`) whose feature maps lie at strides of 2 to 32, as in UperNet or Mask2Former. Its maps
            then are the levels, in place of stem and ResNet blocks: those that `out_indices` or `out_features` select or,
            where these select one as by default, the deepest of every stride. `None` is the network of the paper.
        backbone_join (`str`, defaults to `"neck"`): Where the Swin layers of a level stand: `"neck"` beside the
            backbone, on its maps, which works with every backbone; `"inside"` before its next stage, as in the paper
            (timm's EfficientNet, ResNet and ConvNeXt, transformers' ResNet and ConvNextV2).
        backbone_strides (`list[int]`, *optional*): Stride of each level of a backbone; filled in by looking at it.
            Without a level at 1/2 the mask logits are up-sampled from the finest there is.
        hidden_sizes (`list[int]`, *optional*): Channels of each encoder level, by default `(64, 128, 256, 512)`; a
            backbone's own are filled in.
        cnn_depths (`list[int]`, *optional*): ResNet basic blocks per level, by default `(3, 4, 6, 3)` (ResNet-34's; the
            paper's formula shows one, `(1, 1, 1, 1)`). 0 with a backbone, which takes their place.
        transformer_depths (`list[int]`, *optional*): Swin layers per level, alternately with regular and shifted
            windows, by default two. With a backbone 0 leaves a level without any.
        num_attention_heads (`list[int]`, *optional*): Attention heads per level, by default `(2, 4, 8, 16)`; with a
            backbone as many as make heads of about 32 channels, as the paper's are.
        block_type (`str`, defaults to `"sequential"`): `"sequential"` is Swin(ResNet(x)), `"parallel"` is
            ResNet(x) + Swin(x) (paper, section 3.1). With a backbone a stage stands for ResNet, and what Swin adds to
            its input for Swin(x), so that a backbone starts as it is (the last layers of Swin's residuals start at zero).
        window_size (`int`, defaults to 7): Side of an attention window (ours, Swin's); 8 suits 512 x 512 inputs.
        mlp_ratio (`float`, defaults to 4.0): Width of the feed-forward network over that of the level.
        qkv_bias (`bool`, defaults to `True`): Bias on query, key and value (ours, Swin's).
        hidden_act (`str`, defaults to `"gelu"`): Activation of the feed-forward network.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of layer normalisation (ours).
        hidden_dropout_prob (`float`, defaults to 0.0): Dropout after attention and feed-forward networks (ours).
        attention_probs_dropout_prob (`float`, defaults to 0.0): Dropout on attention probabilities (ours).
        drop_path_rate (`float`, defaults to 0.1): Stochastic depth of the last Swin layer, rising linearly from 0 (ours).
        use_dfe (`bool`, defaults to `True`): Dilated feature enhancement on the skips; `False` gives plain U-Net
            skips (paper, Table 9).
        dilation_rates (`list[int]` or `list[list[int]]`, defaults to `(6, 12, 18)`): One enhancement branch per rate.
            One list per level gives each its own rates, and a level with an empty list a plain skip.
        skip_hidden_sizes (`list[int]`, *optional*): Channels of each level's skip, finest first; by default those of the
            level, with a backbone at most 512. A 1 x 1 convolution makes them where they differ from the level's.
        decoder_hidden_sizes (`list[int]`, *optional*): Channels of the decoder levels, deepest first; by default those
            of the skips but the deepest, reversed, with a backbone at most 256.
        classifier_hidden_size (`int`, defaults to 32): Width between the two linear layers of the classification head (ours).
        classification_labels (`list[str]`, *optional*): Image-level class names in order; by default the foreground
            mask classes, `id2label[1:]` (the paper's n and n + 1).
        classification_type (`str`, defaults to `"multi_label"`): `"multi_label"`: an image may have several image-level
            classes or none; each is scored by its own sigmoid and learned by binary cross-entropy, as in the paper.
            `"exclusive"`: every image has exactly one; softmax, cross-entropy, and the highest score decides.
        classification_thresholds (`list[float]`, *optional*): Decision threshold on the sigmoid per image-level class;
            0.5 where not set. Refused where classes exclude each other.
        classification_scale, classification_shift (`list[float]`, *optional*): Calibration of the image-level classes
            (Platt 1999; Guo et al. 2017): the head's logit z of a class becomes `scale z + shift`, 1 and 0 where not set.
        mask_temperature (`float`, defaults to 1.0): Calibration of the masks: their logits are divided by it.
        label_set_thresholds (`list[float]`, *optional*): A class belongs to an image's `label_set` at or above its own; by
            split conformal prediction a class that is present is in it with the chance `label_set_level`.
        label_set_level (`float`, *optional*): That chance, in (0, 1).
        familiarity_components (`int`, defaults to 0): Principal components of the training images' pooled features that the
            multi-task model keeps as buffers, to tell an image's `distance` from them; 0 keeps none.
        distance_limit (`float`, *optional*): Above this distance an image is flagged as unlike the training images.
        confidence_weights (`list[float]`, *optional*): Of the constant, of the log odds of the mask's and of the labels'
            certainty, and of the logarithm of the distance, in the log odds of `confidence`: the chance that the mask has a
            Dice of `CONFIDENT_DICE` or more and that all labels are right.
        confidence_limit (`float`, *optional*): Below this confidence an answer is flagged.
        class_weights (`list[float]`, *optional*): Weight of each image-level class in the classification loss.
        label_smoothing (`float`, defaults to 0.0): Share s of the truth of image-level classes that is spread evenly: a
            label y becomes y (1 - s) + s / 2, with classes that exclude each other y (1 - s) + s / K.
        classification_loss_weight (`float`, defaults to 0.25): Lambda 1 of the paper.
        segmentation_loss_weight (`float`, defaults to 1.0): Lambda 2 of the paper.
        semantic_loss_ignore_index (`int`, defaults to 255): Mask value left out of the segmentation loss.
        dice_smooth (`float`, defaults to 1e-5): Added to numerator and denominator of the Dice coefficient (ours).
        dice_include_background (`bool`, defaults to `True`): Whether class 0 counts in the Dice loss (ours).
        cross_entropy_weight (`float`, defaults to 0.0): Weight of a cross-entropy term added to the Dice loss.
        focal_weight (`float`, defaults to 0.0): Weight of a focal term (gamma 2) added to the Dice loss.
        recompute (`list[str]`, defaults to `["normalization", "activation"]`): What a training step computes again in its
            backward pass instead of keeping it: `"normalization"`, with what stands between it and the next convolution
            or linear layer, and what the decoder joins; and of the Swin layers `"activation"` of the feed-forward
            network and `"attention"` from queries, keys and values on. The first two take little time, the third takes
            more; gradient checkpointing saves more of both.
        initializer_range (`float`, defaults to 0.02): Standard deviation of linear layers and position-bias tables (ours).
        resformer_version (`str`, *optional*): Version of this package that saved the config; filled in by saving.
        out_features, out_indices: Feature maps `ResFormerBackbone` returns, among `"stem", "stage1", ...`, or
            `"stage1", ...` with a backbone, which has a stem of its own.

    Raises:
        ValueError: A value is out of its range; the message names the field, the value and what would do.
        ImportError: The backbone is one of timm's, which is not installed.
    """

    model_type = "resformer"
    sub_configs = {"backbone_config": AutoConfig}
    # Parts of the loss: the Trainer would otherwise gather them with the predictions.
    keys_to_ignore_at_inference = ["segmentation_loss", "classification_loss", "hidden_states", "attentions"]

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, ...] = 224
    backbone_config: dict | PreTrainedConfig | None = None
    backbone_join: str = "neck"
    backbone_strides: list[int] | tuple[int, ...] | None = None
    hidden_sizes: list[int] | tuple[int, ...] | None = None
    cnn_depths: list[int] | tuple[int, ...] | None = None
    transformer_depths: list[int] | tuple[int, ...] | None = None
    num_attention_heads: list[int] | tuple[int, ...] | None = None
    block_type: str = "sequential"
    window_size: int = 7
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-5
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.1
    use_dfe: bool = True
    dilation_rates: list[int | list[int]] | tuple[int | list[int] | tuple[int, ...], ...] = (6, 12, 18)
    skip_hidden_sizes: list[int] | tuple[int, ...] | None = None
    decoder_hidden_sizes: list[int] | tuple[int, ...] | None = None
    classifier_hidden_size: int = 32
    classification_labels: list[str] | tuple[str, ...] | None = None
    classification_type: str = "multi_label"
    classification_thresholds: list[float | int] | tuple[float | int, ...] | None = None
    classification_scale: list[float | int] | tuple[float | int, ...] | None = None
    classification_shift: list[float | int] | tuple[float | int, ...] | None = None
    mask_temperature: float | int = 1.0
    label_set_thresholds: list[float | int] | tuple[float | int, ...] | None = None
    label_set_level: float | int | None = None
    familiarity_components: int = 0
    distance_limit: float | int | None = None
    confidence_weights: list[float | int] | tuple[float | int, ...] | None = None
    confidence_limit: float | int | None = None
    class_weights: list[float | int] | tuple[float | int, ...] | None = None
    label_smoothing: float | int = 0.0
    classification_loss_weight: float | int = 0.25
    segmentation_loss_weight: float | int = 1.0
    semantic_loss_ignore_index: int = 255
    dice_smooth: float | int = 1e-5
    dice_include_background: bool = True
    cross_entropy_weight: float | int = 0.0
    focal_weight: float | int = 0.0
    recompute: list[str] | tuple[str, ...] = ("normalization", "activation")
    initializer_range: float | int = 0.02
    resformer_version: str | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # A config is in one of three states, of which only the first is ever saved:
        # shared          id2label = mask classes                       both below are None
        # classification  id2label = image-level classes                _mask_id2label = mask classes
        # overridden      id2label = what from_pretrained was asked     _label_override = the rest, until a head claims it
        self._mask_id2label: dict[int, str] | None = None
        self._label_override: LabelOverride | None = None
        if kwargs.get("backbone") is not None:
            raise ValueError(
                f"backbone={kwargs['backbone']!r} is a mere name; give backbone_config=..., such as "
                "TimmBackboneConfig(backbone='resnet18')."
            )
        self._fill_levels()
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)
        self.label2id = {name: index for index, name in self.id2label.items()}
        self.check()
        if major_version(self.resformer_version) > major_version(__version__):
            logger.warning_once(
                f"This config was saved by ResFormer {self.resformer_version}, newer than {__version__} at hand: some of "
                "it may be misunderstood. Upgrade modeling-resformer, or load the repository's own code by "
                "trust_remote_code=True where the package is not imported."
            )

    @property
    def stage_names(self) -> list[str]:
        """Names of the feature maps of `ResFormerBackbone`."""
        stages = [f"stage{level}" for level in range(1, len(self.hidden_sizes) + 1)]
        return ["stem", *stages] if self.backbone_config is None else stages

    @property
    def num_hidden_layers(self) -> int:
        """Number of encoder levels."""
        return len(self.hidden_sizes)

    @property
    def skip_sizes(self) -> list[int]:
        """Channels of each level's skip, finest first."""
        return list(self.skip_hidden_sizes or self._at_most(_MOST_SKIP_CHANNELS, self.hidden_sizes))

    @property
    def decoder_sizes(self) -> list[int]:
        """Channels of the decoder levels, deepest first."""
        return list(self.decoder_hidden_sizes or self._at_most(_MOST_DECODER_CHANNELS, self.skip_sizes[-2::-1]))

    def _at_most(self, most: int, sizes: Sequence[int]) -> list[int]:
        """Default widths: of the paper's network as they are, of a backbone, which may be wide, up to a limit."""
        return list(sizes) if self.backbone_config is None else [min(size, most) for size in sizes]

    @property
    def strides(self) -> list[int]:
        """Side of the padded image over that of each level's map, finest first; images are padded to the last."""
        return list(self.backbone_strides or (2 ** (level + 1) for level in range(len(self.hidden_sizes))))

    @property
    def level_dilation_rates(self) -> list[list[int]]:
        """Dilation rates of each level's skip, none for a plain one."""
        if not self.use_dfe:
            return [[] for _ in self.hidden_sizes]
        rates = list(self.dilation_rates)
        if all(isinstance(rate, int) for rate in rates):
            return [rates for _ in self.hidden_sizes]
        return [list(of_level) for of_level in rates]

    @property
    def mask_class_names(self) -> list[str]:
        """Names of the mask classes in order, background first, whichever head this config belongs to."""
        return _names(self.id2label if self._mask_id2label is None else self._mask_id2label)

    @property
    def image_class_names(self) -> list[str]:
        """Names of the image-level classes in order, whichever head this config belongs to."""
        if self._mask_id2label is not None:
            return _names(self.id2label)
        if self.classification_labels is not None:
            return list(self.classification_labels)
        return _names(self.id2label)[1:]

    @property
    def classes_exclude(self) -> bool:
        """Whether every image has exactly one of the image-level classes."""
        return self.classification_type == "exclusive"

    @property
    def is_calibrated(self) -> bool:
        """Whether logits are moved by a calibration that was fitted on validation data."""
        moved = self.classification_scale is not None or self.classification_shift is not None
        return moved or self.mask_temperature != 1

    def class_scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores in [0, 1] of image-level classes, from their logits (..., K) in float32 or deeper.

        The softmax of classes that exclude each other, whose scores add up to 1, else the sigmoid of each.
        """
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits.softmax(dim=-1) if self.classes_exclude else logits.sigmoid()

    def decision_thresholds(self, threshold: float | Sequence[float] | None = None) -> list[float] | None:
        """The decision threshold of each image-level class; None where the highest score decides.

        Args:
            threshold: To use in place of the config's own, one for all or one per class.

        Raises:
            ValueError: It is out of its range, or for another number of classes, or the highest score decides.
        """
        names = self.image_class_names
        if self.classes_exclude:
            if threshold is not None:
                raise ValueError(
                    f"threshold={threshold} has no meaning where each image has exactly one of the classes {names}: the "
                    "highest score decides. Leave it out."
                )
            return None
        if threshold is None:
            threshold = DEFAULT_THRESHOLD if self.classification_thresholds is None else self.classification_thresholds
        values = np.asarray(threshold, dtype=np.float64)
        values = [values.item()] * len(names) if values.ndim == 0 else values.tolist()
        if len(values) != len(names) or not all(0 <= value <= 1 for value in values):
            raise ValueError(
                f"threshold={threshold} must be a number in [0, 1], or one for each of the classes {names}."
            )
        return values

    def predicted_classes(
        self, scores: Sequence[float], threshold: float | Sequence[float] | None = None
    ) -> list[str]:
        """Names of the image-level classes that K scores of one image decide for; `threshold` as above."""
        chosen = decisions(np.asarray(scores), self.decision_thresholds(threshold))
        return [name for name, present in zip(self.image_class_names, chosen, strict=True) if present]

    def label_set(self, scores: Sequence[float]) -> list[str] | None:
        """Names of the image-level classes that K scores of one image do not rule out; None without thresholds for it.

        With the chance `label_set_level`, a class that is present is among them, for images like those of the validation
        split (split conformal prediction, a threshold a class: Sadinle, Lei and Wasserman 2019).
        """
        if self.label_set_thresholds is None:
            return None
        pairs = zip(self.image_class_names, scores, self.label_set_thresholds, strict=True)
        return [name for name, score, threshold in pairs if score >= threshold]

    def trust(self, distance: float, confidence: float | None = None) -> dict[str, Any]:
        """How far to trust an answer: `distance`, `confidence` where it is given, `flags`, and `doubt`, a sentence on these.

        Args:
            distance: Of the image from the training images; 1 in their mean.
            confidence: Chance that mask and labels are right.
        """
        crossed = {
            "unlike_training_images": self.distance_limit is not None and distance > self.distance_limit,
            "low_confidence": None not in (confidence, self.confidence_limit) and confidence < self.confidence_limit,
        }
        flags = [flag for flag in DOUBTS if crossed[flag]]
        share = "" if confidence is None else f"{100 * confidence:.0f} %"
        told = {} if confidence is None else {"confidence": confidence}
        doubt = DOUBTS[flags[0]].format(share=share) if flags else ""
        return {"distance": distance, **told, "flags": flags, "doubt": doubt}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "ResFormerConfig":
        """Builds a config; label overrides are kept until it is known which head they mean."""
        num_labels, id2label, label2id = (kwargs.pop(key, None) for key in ("num_labels", "id2label", "label2id"))
        classification_labels = kwargs.pop("classification_labels", None)
        given = [field for field in _PER_IMAGE_CLASS if field in kwargs]
        loaded = super().from_dict(config_dict, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        if classification_labels is not None:
            before = config.image_class_names
            config.classification_labels = classification_labels
            config._drop_stale_class_values(before, given)
        if id2label is None and label2id is not None:
            id2label = {index: name for name, index in label2id.items()}
        if id2label is not None:
            config._override_labels({int(index): name for index, name in id2label.items()}, given)
        elif num_labels is not None:
            config._override_labels(num_labels, given)
        return loaded

    def as_shared(self) -> "ResFormerConfig":
        """The config as every class saves it, mask classes in `id2label`; `self` where it already is that."""
        if self._mask_id2label is None and self._label_override is None:
            return self
        config = copy.deepcopy(self)
        if self._mask_id2label is not None:
            config._set_labels(self._mask_id2label)
            config.classification_labels = self.image_class_names
            config.problem_type = None
        config._mask_id2label = config._label_override = None
        return config

    def as_classification(self) -> "ResFormerConfig":
        """A copy whose `id2label` and `problem_type` are those of the classification head, for the stock pipeline."""
        config = copy.deepcopy(self)
        if self._mask_id2label is not None:
            return config
        names, override = self.image_class_names, self._label_override
        labels = dict(enumerate(names)) if override is None else override.applied_to(dict(enumerate(names)))
        config._mask_id2label = self.id2label if override is None else override.stored
        config._label_override = None
        config._set_labels(labels)
        config.classification_labels = _names(labels)
        config.problem_type = f"{'single' if self.classes_exclude else 'multi'}_label_classification"
        config._drop_stale_class_values(names, [] if override is None else override.given)
        return config

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> None:
        """Saves the shared config with the version of this package."""
        self.resformer_version = __version__
        super().save_pretrained(save_directory, *args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Serialises the shared config, whichever head this one belongs to."""
        output = super().to_dict()
        for key in ("_mask_id2label", "_label_override"):
            output.pop(key, None)
        output["id2label"] = dict(enumerate(self.mask_class_names))
        output["label2id"] = {name: index for index, name in output["id2label"].items()}
        output["problem_type"] = None
        if self._mask_id2label is not None:
            output["classification_labels"] = self.image_class_names
        return output

    def check(self) -> None:
        """Refuses values no model can be built from; runs again when a model is built.

        Raises:
            ValueError: naming the field, its value and what would do.
        """
        self._check_bounds()
        self._check_levels()
        self._check_numbers()
        self._check_labels()
        self._check_class_values()

    def _fill_levels(self) -> None:
        """Gives the fields of every level their values where they have none: the paper's, or what fits the backbone."""
        if self.backbone_config is None:
            defaults = _PAPER
        else:
            self.backbone_config = as_backbone_config(self.backbone_config, self.num_channels)
            if self.backbone_strides is None or self.hidden_sizes is None:  # else it was looked at before saving
                levels = measured_levels(self.backbone_config, self.num_channels)
                if self.hidden_sizes is not None and list(self.hidden_sizes) != levels.channels:
                    raise ValueError(
                        f"hidden_sizes={list(self.hidden_sizes)} are not the backbone's {levels.channels}; leave them out."
                    )
                self.backbone_config, self.backbone_strides = levels.config, levels.strides
                self.hidden_sizes = levels.channels
            defaults = {
                "cnn_depths": [0] * len(self.backbone_strides),
                "transformer_depths": [2] * len(self.backbone_strides),
                "num_attention_heads": [default_num_heads(size) for size in self.hidden_sizes],
            }
        for field, value in defaults.items():
            if getattr(self, field) is None:
                setattr(self, field, value)

    @property
    def _may_be_zero(self) -> tuple[str, ...]:
        return () if self.backbone_config is None else ("cnn_depths", "transformer_depths")

    def _check_bounds(self) -> None:
        """Refuses numbers that would take all memory, or for ever, to build."""
        for field, most in _MOST.items():
            value = getattr(self, field)
            values = [] if value is None else value if isinstance(value, list | tuple) else [value]
            if len(values) > _MOST_LEVELS or any(one > most for one in values):
                raise ValueError(f"{field}={_shown(value)} is beyond any network; expected {most} at most.")
        rates = list(chain.from_iterable([rate] if isinstance(rate, int) else rate for rate in self.dilation_rates))
        if len(rates) > _MOST_RATES * _MOST_LEVELS or any(rate > _MOST_RATE for rate in rates):
            raise ValueError(f"dilation_rates={_shown(self.dilation_rates)} are beyond any image; expected a few.")

    def _check_levels(self) -> None:
        levels = len(self.hidden_sizes)
        for field in _PER_LEVEL:
            values = getattr(self, field)
            if len(values) != levels or levels < 2:
                raise ValueError(
                    f"{field}={list(values)} has {len(values)} entries; {', '.join(_PER_LEVEL)} need one entry per "
                    f"level each, two levels or more (hidden_sizes has {levels})."
                )
            least = 1 if field not in self._may_be_zero else 0
            if min(values) < least:
                raise ValueError(f"{field}={list(values)} must hold integers of {least} or more.")
        sizes_heads_depths = zip(self.hidden_sizes, self.num_attention_heads, self.transformer_depths, strict=True)
        for size, heads, depth in sizes_heads_depths:
            if depth and size % heads:
                raise ValueError(
                    f"num_attention_heads={list(self.num_attention_heads)}: {heads} heads do not divide the "
                    f"{size} channels of hidden_sizes={list(self.hidden_sizes)}; choose a divisor of {size}."
                )
        for field, needed, order in (("skip", levels, "finest"), ("decoder", levels - 1, "deepest")):
            sizes = getattr(self, f"{field}_hidden_sizes")
            if sizes is not None and (len(sizes) != needed or min(sizes) < 1):
                raise ValueError(f"{field}_hidden_sizes={list(sizes)} needs {needed} positive entries, {order} first.")
        self._check_dilation_rates()
        self._check_backbone()

    def _check_dilation_rates(self) -> None:
        rates = list(self.dilation_rates)
        lists = [not isinstance(rate, int) for rate in rates]
        if any(lists) and (not all(lists) or len(rates) != len(self.hidden_sizes)):
            raise ValueError(
                f"dilation_rates={rates} needs rates, or one list of them for each of the {len(self.hidden_sizes)} levels."
            )
        if not rates or min(chain.from_iterable([r] if isinstance(r, int) else r for r in rates), default=1) < 1:
            raise ValueError(f"dilation_rates={rates} needs one or more rates of 1 or more.")

    def _check_backbone(self) -> None:
        if self.backbone_join not in BACKBONE_JOINS:
            raise ValueError(
                f"backbone_join={self.backbone_join!r} is unknown; use one of {', '.join(BACKBONE_JOINS)}."
            )
        if self.backbone_config is None:
            if self.backbone_strides is not None:
                raise ValueError(
                    f"backbone_strides={list(self.backbone_strides)} needs a backbone_config, or leave it out."
                )
        elif any(self.cnn_depths):
            raise ValueError(
                f"cnn_depths={list(self.cnn_depths)} has no meaning with a backbone_config, which takes the place of the "
                "ResNet blocks; leave it out."
            )

    def _check_numbers(self) -> None:
        if self.block_type not in BLOCK_TYPES:
            raise ValueError(f"block_type={self.block_type!r} is unknown; use one of {', '.join(BLOCK_TYPES)}.")
        if unknown := [part for part in self.recompute if part not in RECOMPUTED]:
            raise ValueError(
                f"recompute={list(self.recompute)} has {unknown[0]!r}; use some of {', '.join(RECOMPUTED)}."
            )
        for field, least in (("num_channels", 1), ("window_size", 2), ("classifier_hidden_size", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{field}={getattr(self, field)} must be {least} or more.")
        sides = [self.image_size] if isinstance(self.image_size, int) else self.image_size
        if len(sides) not in (1, 2) or min(sides) < 1 or max(sides) > _MOST_SIDE:
            raise ValueError(f"image_size={_shown(self.image_size)} must be a side in pixels, or height and width.")
        for field in ("mlp_ratio", "layer_norm_eps", "dice_smooth", "initializer_range", "mask_temperature"):
            if not (getattr(self, field) > 0 and math.isfinite(getattr(self, field))):
                raise ValueError(f"{field}={getattr(self, field)} must be a finite number above 0.")
        if int(self.mlp_ratio * min(self.hidden_sizes)) < 1:
            raise ValueError(f"mlp_ratio={self.mlp_ratio} leaves a feed-forward network no width; use 1 or more.")
        for field in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must lie in [0, 1).")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must lie in [0, 1).")
        weights = ("classification_loss_weight", "segmentation_loss_weight", "cross_entropy_weight", "focal_weight")
        for field in weights:
            if not (getattr(self, field) >= 0 and math.isfinite(getattr(self, field))):
                raise ValueError(f"{field}={getattr(self, field)} must be a finite number of 0 or more.")

    def _check_labels(self) -> None:
        mask_ids = self.id2label if self._mask_id2label is None else self._mask_id2label
        if sorted(mask_ids) != list(range(len(mask_ids))) or len(mask_ids) < 2:
            raise ValueError(
                f"id2label={mask_ids} must name the mask classes 0, 1, ... without a gap: background and at least "
                "one class."
            )
        for field, names in (("id2label", self.mask_class_names), ("classification_labels", self.image_class_names)):
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{field}: the class names {_shown(names)} must be distinct, one or more.")
            most = _MOST_MASK_CLASSES if field == "id2label" else _MOST_CLASSES
            if len(names) > most:
                raise ValueError(f"{field}: {len(names)} classes; expected {most} at most.")
            if problem := next(filter(None, map(problem_of_name, names)), None):
                raise ValueError(f"{field}: a class name {problem}.")
        if 0 <= self.semantic_loss_ignore_index < len(mask_ids):
            raise ValueError(
                f"semantic_loss_ignore_index={self.semantic_loss_ignore_index} is one of the {len(mask_ids)} mask "
                "classes; use a value outside them, such as 255."
            )

    def _check_class_values(self) -> None:
        names = self.image_class_names
        if self.classification_type not in CLASSIFICATION_TYPES:
            raise ValueError(
                f"classification_type={self.classification_type!r} is unknown; use one of "
                f"{', '.join(CLASSIFICATION_TYPES)}."
            )
        if self.classes_exclude and len(names) < 2:
            raise ValueError(
                f"classification_type='exclusive' needs two image-level classes or more, not {names}; use 'multi_label'."
            )
        if self.classes_exclude and self.classification_thresholds is not None:
            raise ValueError(
                f"classification_thresholds={list(self.classification_thresholds)} have no meaning with "
                "classification_type='exclusive', where the highest score decides; leave them out."
            )
        for field in _PER_IMAGE_CLASS:
            values = getattr(self, field)
            if values is not None and len(values) != len(names):
                raise ValueError(
                    f"{field}={list(values)} has {len(values)} entries; it needs one for each of the {len(names)} "
                    f"image-level classes {names}."
                )
        if self.class_weights is not None and not all(w > 0 and math.isfinite(w) for w in self.class_weights):
            raise ValueError(f"class_weights={list(self.class_weights)} must be finite numbers above 0.")
        for field in ("classification_thresholds", "label_set_thresholds"):
            values = getattr(self, field)
            if values is not None and not all(0 <= value <= 1 for value in values):
                raise ValueError(f"{field}={list(values)} must lie in [0, 1].")
        self._check_calibration()

    def _check_calibration(self) -> None:
        scale, shift = self.classification_scale, self.classification_shift
        if scale is not None and not all(a > 0 and math.isfinite(a) for a in scale):
            raise ValueError(f"classification_scale={list(scale)} must be finite numbers above 0.")
        if shift is not None and not all(math.isfinite(b) for b in shift):
            raise ValueError(f"classification_shift={list(shift)} must be finite numbers.")
        if (self.label_set_level is None) != (self.label_set_thresholds is None):
            raise ValueError("label_set_level and label_set_thresholds belong together: set both, or none.")
        self._check_confidence()
        if self.label_set_level is not None and not 0 < self.label_set_level < 1:
            raise ValueError(f"label_set_level={self.label_set_level} must lie between 0 and 1.")

    def _check_confidence(self) -> None:
        pooled = sum(self.hidden_sizes[-2:])
        if not 0 <= self.familiarity_components < pooled:
            raise ValueError(
                f"familiarity_components={self.familiarity_components} must lie in 0..{pooled - 1}, below the {pooled} "
                "pooled features."
            )
        weights, limits = self.confidence_weights, (self.distance_limit, self.confidence_limit)
        if weights is not None and (len(weights) != 4 or not all(map(math.isfinite, weights))):
            raise ValueError(f"confidence_weights={list(weights)} must be four finite numbers.")
        if self.familiarity_components == 0 and not weights is limits[0] is limits[1] is None:
            raise ValueError(
                "confidence_weights, confidence_limit and distance_limit need familiarity_components; set it too."
            )
        for field, value in zip(("distance_limit", "confidence_limit"), limits, strict=True):
            if value is not None and not value >= 0:
                raise ValueError(f"{field}={value} must be 0 or more.")

    def _override_labels(self, wanted: dict[int, str] | int, given: Sequence[str]) -> None:
        """Notes new labels for a head still unknown; the names of the other head stay what they were."""
        self.classification_labels = self.image_class_names
        self._label_override = LabelOverride(self.id2label, wanted, list(given))
        self._set_labels(self._label_override.applied_to(self.id2label))

    def _set_labels(self, id2label: dict[int, str]) -> None:
        self.id2label = dict(id2label)
        self.label2id = {name: index for index, name in id2label.items()}

    def _drop_stale_class_values(self, before: Sequence[str], given: Sequence[str]) -> None:
        """Weights and thresholds of image-level classes that were replaced on loading mean nothing any more."""
        for field in _PER_IMAGE_CLASS:
            values = getattr(self, field)
            if values is not None and field not in given and list(before) != self.image_class_names:
                logger.warning(f"{field}={list(values)} belonged to the classes {list(before)} and was reset to None.")
                setattr(self, field, None)
        if self.label_set_thresholds is None:
            self.label_set_level = None
        if list(before) != self.image_class_names and self.confidence_weights is not None:
            logger.warning(f"Confidence was fitted to the classes {list(before)}; it is told no more.")
            self.confidence_weights = self.confidence_limit = None


def decisions(scores: np.ndarray, thresholds: Sequence[float] | float | None) -> np.ndarray:
    """Which image-level classes are decided present, by scores (..., K); booleans of the same shape.

    Args:
        scores: In [0, 1].
        thresholds: A class is present at or above it, one for all or one per class; None for classes that exclude each
            other: the highest score alone is, of equal ones the first.
    """
    if thresholds is None:
        return np.eye(scores.shape[-1], dtype=bool)[scores.argmax(axis=-1)]
    return scores >= np.asarray(thresholds)


def problem_of_name(name: Any) -> str | None:
    """What speaks against a class name, which goes into tables, cards, pictures and names of columns; None if nothing."""
    if not isinstance(name, str):
        return f"is {_shown(name)}; expected a text"
    if not name.strip() or len(name) > _LONGEST_NAME:
        return f"has {len(name)} characters; expected 1 to {_LONGEST_NAME}, not all of them spaces"
    if any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") for one in name):
        return f"is {_shown(name)}, which holds a control character; expected one line of text"
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def major_version(version: str | None) -> int:
    """The first number of a version; 0 for none, or where there is no number."""
    found = re.match(r"\d+", version or "")
    return int(found[0]) if found else 0


def _names(id2label: dict[int, str]) -> list[str]:
    return [id2label[index] for index in sorted(id2label)]


__all__ = ["ResFormerConfig"]
