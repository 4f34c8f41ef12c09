"""A start from an ImageNet ResNet: its convolutions and batch norms where they fit ResFormer's encoder.

The stem fits (the same 7 x 7 weights at stride 1), level 1 whole, and the blocks after the first of every later level.
The first ResNet block of a later level halves the size and changes the channels; ResFormer's patch merging does that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, ResNetConfig, ResNetModel

from ..configuration_resformer import ResFormerConfig
from ..errors import BadInputError, named_load_failure
from ..modeling_resformer import ResFormerEncoder, ResFormerPreTrainedModel, first_not_finite


@dataclass(frozen=True)
class FilledWeights:
    """What `fill_from_resnet` has done.

    Attributes:
        source: folder or Hub id of the ResNet.
        filled: names of the model's tensors that now hold the ResNet's values, batch-norm statistics included.
        kept: names of the model's tensors that are as they were.
        unused: names of the ResNet's tensors that fit nowhere.
        num_filled: numbers in `filled`.
        num_kept: numbers in `kept`.
    """

    source: str
    filled: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]
    num_filled: int
    num_kept: int

    def __str__(self) -> str:
        return (
            f"Start from {self.source}: filled {len(self.filled)} tensors ({self.num_filled:,} numbers), which are the "
            f"stem, level 1 and every later level's residual blocks but the first; left {len(self.kept)} tensors "
            f"({self.num_kept:,} numbers) as they were, in {', '.join(_parts(self.kept))}; {len(self.unused)} tensors of "
            "the ResNet fit nowhere, which are the first blocks of its later stages."
        )


def fill_from_resnet(model: ResFormerPreTrainedModel, name_or_path: str) -> FilledWeights:
    """Copy the weights of a ResNet with basic blocks into the encoder of a model of the same widths and depths.

    Args:
        model: any ResFormer model; changed in place.
        name_or_path: folder or Hub id of a transformers ResNet, e.g. `microsoft/resnet-34` for the default widths and
            depths; with or without its classification head.

    Raises:
        BadInputError: there is no such ResNet, or it does not fit; the message names its numbers and the model's.
    """
    resnet = _load_resnet(name_or_path, model.config)
    pairs = list(_matching_layers(model.encoder, resnet))
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    filled, used = _names(model, [target for target, _ in pairs]), _names(resnet, [source for _, source in pairs])
    kept = tuple(name for name in model.state_dict() if name not in filled)
    unused = tuple(name for name in resnet.state_dict() if name not in used)
    return FilledWeights(name_or_path, filled, kept, unused, _count(model, filled), _count(model, kept))


def _load_resnet(name_or_path: str, config: ResFormerConfig) -> ResNetModel:
    flag, expected = "--init_resnet", "folder or Hub id of a transformers ResNet such as microsoft/resnet-34"
    with named_load_failure(flag, name_or_path, expected):
        found = AutoConfig.from_pretrained(name_or_path)
    _check_fit(name_or_path, found, config)
    with named_load_failure(flag, name_or_path, expected):
        resnet = ResNetModel.from_pretrained(name_or_path, dtype=torch.float32)
    damaged = first_not_finite(resnet)
    if damaged is not None:
        raise BadInputError(
            f"{flag} {name_or_path}: its weights are damaged, {damaged} holds NaN or infinite values; expected {expected}."
        )
    return resnet


def _check_fit(name: str, found: ResNetConfig, config: ResFormerConfig) -> None:
    if config.backbone_config is not None:
        raise BadInputError(
            f"--init_resnet {name}: the model has a backbone in place of residual blocks; leave one of the two out."
        )
    if found.model_type != "resnet":
        raise BadInputError(f"--init_resnet {name} is a {found.model_type!r} model; expected a 'resnet'.")
    expected = {
        "layer_type": "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "num_channels": config.num_channels,
        "embedding_size": config.hidden_sizes[0],
        "hidden_sizes": list(config.hidden_sizes),
        "depths": list(config.cnn_depths),
    }
    wrong = [
        f"{field} is {getattr(found, field)} and would have to be {value}"
        for field, value in expected.items()
        if getattr(found, field) != value
    ]
    if wrong:
        raise BadInputError(
            f"--init_resnet {name} does not fit the model: {'; '.join(wrong)}. Choose another ResNet, or set the "
            "model's hidden_sizes and cnn_depths by --config."
        )


def _matching_layers(encoder: ResFormerEncoder, resnet: ResNetModel) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers of the encoder, each with the ResNet's of the same shape and place."""
    stem = resnet.embedder.embedder
    yield encoder.stem.convolution, stem.convolution
    yield encoder.stem.normalization, stem.normalization
    for level, (stage, resnet_stage) in enumerate(zip(encoder.stages, resnet.encoder.stages, strict=True)):
        blocks = zip(stage.block.residual_layers, resnet_stage.layers, strict=True)
        for index, (block, resnet_block) in enumerate(blocks):
            if level == 0 or index > 0:
                first, second = resnet_block.layer
                yield block.conv1, first.convolution
                yield block.bn1, first.normalization
                yield block.conv2, second.convolution
                yield block.bn2, second.normalization


def _names(model: nn.Module, layers: list[nn.Module]) -> tuple[str, ...]:
    """Names of the tensors of some of a model's layers, as in its `state_dict`."""
    prefixes = {id(module): name for name, module in model.named_modules()}
    return tuple(f"{prefixes[id(layer)]}.{name}" for layer in layers for name in layer.state_dict())


def _parts(names: tuple[str, ...]) -> list[str]:
    """The parts of the network that some of its tensors belong to, each once, in order."""
    parts = {}
    for name in names:
        words = name.split(".")
        if words[:2] == ["encoder", "stages"]:
            words = words[4:] if words[3] == "block" else words[3:]
        parts[words[0]] = None
    return list(parts)


def _count(model: nn.Module, names: tuple[str, ...]) -> int:
    tensors = model.state_dict()
    return sum(tensors[name].numel() for name in names)
