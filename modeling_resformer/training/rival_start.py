"""Where a rival starts from: random weights, the very ImageNet weights that ours start from, or its library's own."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..errors import BadInputError, named_load_failure, one_line
from ..rivals.rival_models import RIVALS, RivalConfig, RivalModel
from ..rivals.rival_names import FLAG, RivalName
from .arguments import ModelArguments
from .imagenet import LITE_MEAN, LITE_STD, lite_state_dict


logger = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class RivalPixels:
    """How the images of a rival are normalised: as its weights were trained, else as ImageNet's are by custom."""

    image_mean: list[float]
    image_std: list[float]

    @classmethod
    def of(cls, config: RivalConfig) -> "RivalPixels":
        if config.pretrained and RivalName.of(config.rival).lite_start:
            return cls(LITE_MEAN, LITE_STD)
        return cls(IMAGENET_MEAN, IMAGENET_STD)


def build_rival(arguments: ModelArguments, settings: Mapping[str, Any], image_size: int | None) -> RivalModel:
    """The network of `--rival`, with the labels and losses of `settings`.

    Raises:
        BadInputError: there is no such network or no such start, or a setting of the architecture is given, of which a rival
            has none.
    """
    try:
        size = {} if image_size is None else {"image_size": image_size}
        config = RivalConfig(rival=arguments.rival, pretrained=arguments.pretrained, **{**settings, **size})
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise BadInputError(f"--config: {one_line(error)}") from error
    model = RIVALS[arguments.task](config)
    if arguments.pretrained:
        filled = fill_rival(model, RivalName.of(arguments.rival))
        logger.info(
            "Start of %s: %s numbers from ImageNet; the other parts are random.", arguments.rival, f"{filled:,}"
        )
    return model


def fill_rival(model: RivalModel, name: RivalName) -> int:
    """Puts ImageNet weights into the pretrained part of a rival, in place; returns how many numbers they are.

    Raises:
        BadInputError: the weights cannot be had, or do not fit.
    """
    part = model.network.pretrained_part()
    weights = _library_weights(name) if name.lite_start is None else lite_state_dict(name.lite_start)
    own = part.state_dict()
    fitting = {
        key: weights[key] for key, tensor in own.items() if getattr(weights.get(key), "shape", None) == tensor.shape
    }
    # The last layer names ImageNet's classes and stays random; everything else has to be there.
    missing = [
        key for key in own if key not in fitting and not key.startswith(("classifier.", "head.", "fc.", "AuxLogits."))
    ]
    if missing or not fitting:
        raise BadInputError(
            f"{FLAG} {name} --pretrained: {missing[:1]} is not among its weights; leave --pretrained out."
        )
    part.load_state_dict(fitting, strict=False)
    return sum(tensor.numel() for tensor in fitting.values())


def load_rival(name_or_path: str, config: RivalConfig, task: str | None) -> RivalModel:
    """A rival's checkpoint as it is, in the class of a task; by default in the class it was saved from."""
    saved_from = (config.architectures or [RIVALS["multi_task"].__name__])[0]
    model_class = next((one for one in RIVALS.values() if one.__name__ == saved_from), RIVALS["multi_task"])
    # Not `from_pretrained`, which builds on no device, where some libraries compute what they keep.
    model = (model_class if task is None else RIVALS[task])(config)
    from safetensors.torch import load_file
    from transformers.utils import cached_file

    model.load_state_dict(load_file(cached_file(name_or_path, "model.safetensors")))
    return model.eval()


def _library_weights(name: RivalName) -> dict[str, torch.Tensor]:
    """What the library itself starts from, by the names of the pretrained part."""
    expected = "a network whose ImageNet weights are to be had, or efficientnet-lite0, -lite1, -lite2"
    with named_load_failure(FLAG, str(name), expected):
        if name.library == "timm":
            import timm

            return timm.create_model(name.network, pretrained=True).state_dict()
        import segmentation_models_pytorch

        encoder = segmentation_models_pytorch.encoders.get_encoder(name.encoder, weights="imagenet")
        return getattr(encoder, "model", encoder).state_dict()
