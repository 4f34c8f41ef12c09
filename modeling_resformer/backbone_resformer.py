# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""What ResFormer has to know of a network that is not its own and serves as its local branch.

`ResFormerConfig(backbone_config=...)` takes any backbone of transformers, timm's networks included
(`TimmBackboneConfig`), whose feature maps lie at strides of 2 to 32. A network is looked at by running it on torch's
meta device, which neither reads nor computes a value and takes some hundredths of a second.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CONFIG_MAPPING, AutoBackbone, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import load_backbone
from transformers.utils import is_timm_available


BACKBONE_JOINS = ("neck", "inside")
STRIDES = (2, 4, 8, 16, 32)
MOST_SIZE, MOST_LAYERS, LONGEST_LIST = 1 << 16, 256, 256  # of what a backbone's config may ask for
LOOKED_AT = 128  # pixels, side of the image a network is looked at with; a multiple of every stride
HOW_TO_GIVE = "expected a backbone's config, such as ResNetConfig(...) or TimmBackboneConfig(backbone='resnet18')"
# Where the stages of transformers' networks are, stem first; of timm's networks `feature_info` tells.
STAGES_OF = {"resnet": ("embedder", "encoder.stages"), "convnextv2": ("embeddings", "encoder.stages")}
TIMM_WITH_STAGES = ("EfficientNetFeatures", "MobileNetV3Features", "FeatureListNet")  # run their stages one by one


@dataclass(frozen=True)
class BackboneLevels:
    """The levels that a backbone has to offer, finest first.

    Attributes:
        config: The backbone's config with these levels as its output.
        channels: Of each level.
        strides: Of each level, powers of two that rise.
    """

    config: PreTrainedConfig
    channels: list[int]
    strides: list[int]


@dataclass(frozen=True)
class StageInput:
    """What a stage of a backbone is given, as far as its output does not tell.

    Attributes:
        channels: Of the input.
        ratio: Side of the input over that of the output.
    """

    channels: int
    ratio: int


# ---------------------------------------------------------------------------------------------------------------------
# For the configuration
# ---------------------------------------------------------------------------------------------------------------------


def as_backbone_config(given: PreTrainedConfig | dict[str, Any], num_channels: int) -> PreTrainedConfig:
    """A copy of a backbone's config, read from JSON where it is a dict.

    Raises:
        ValueError: it is of no type that transformers knows, or for images of other channels.
    """
    if isinstance(given, dict):
        kind = given.get("model_type")
        if kind not in CONFIG_MAPPING:
            raise ValueError(
                f"backbone_config has the model_type {kind!r:.60}, unknown to transformers; {HOW_TO_GIVE}."
            )
        _check_sizes(given)
        config = CONFIG_MAPPING[kind].from_dict(copy.deepcopy(given))
    else:
        config = copy.deepcopy(given)
    # timm would take the place before a colon for one to load from: a folder, or a repository of the Hub.
    if ":" in str(getattr(config, "backbone", None) or ""):
        raise ValueError(
            f"backbone_config.backbone={config.backbone!r:.60} names a place; expected a network of timm's."
        )
    config.name_or_path = ""  # it may be a folder of this machine
    # As earlier versions of transformers write it; weights come by other ways, and this one would ask the Hub.
    if getattr(config, "use_pretrained_backbone", None):
        config.use_pretrained_backbone = False
    if getattr(config, "num_channels", num_channels) != num_channels:
        raise ValueError(
            f"num_channels={num_channels} does not fit backbone_config.num_channels={config.num_channels}; give both the "
            "same number."
        )
    return config


def _check_sizes(given: Any, name: str = "backbone_config") -> None:
    """Refuses numbers that would take all memory, or for ever, to build.

    Raises:
        ValueError: naming the field.
    """
    if isinstance(given, dict):
        for key, value in given.items():
            _check_sizes(value, f"{name}.{key!s:.60}")
    elif isinstance(given, list | tuple):
        if len(given) > LONGEST_LIST and not name.endswith(("id2label", "label2id")):
            raise ValueError(f"{name} has {len(given)} entries; expected {LONGEST_LIST} at most.")
        for value in given:
            _check_sizes(value, name)
    elif isinstance(given, int):
        field = name.rpartition(".")[2]
        most = MOST_LAYERS if "depth" in field or "layers" in field or "blocks" in field else MOST_SIZE
        if given > most:
            raise ValueError(
                f"{name}={given if given < 1 << 63 else 'a number of many digits'}; expected {most} at most."
            )


def measured_levels(given: PreTrainedConfig, num_channels: int) -> BackboneLevels:
    """The levels of a backbone: the maps its config selects or, where it selects one (as by default), those of all its
    stages; of several maps at one stride the deepest.

    Raises:
        ValueError: the network cannot be built or run, or its maps do not lie at two or more strides of 2 to 32.
        ImportError: it is one of timm's, which is not installed.
    """
    config = copy.deepcopy(given)
    with torch.device("meta"):
        if len(getattr(config, "out_indices", None) or ()) < 2:
            names = getattr(config, "stage_names", None) or _built(config).stage_names
            config.out_indices = list(range(len(names)))
        backbone = _built(config)
        maps = [tuple(feature_map.shape) for feature_map in _run(backbone, num_channels)[0]]
    by_stride = {}
    for index, shape in zip(config.out_indices, maps, strict=True):
        if (stride := _stride(shape)) is not None:
            by_stride[stride] = (index % len(backbone.stage_names), shape[1])
    if len(by_stride) < 2 or (strides := list(by_stride)) != sorted(strides):
        raise ValueError(
            f"backbone_config of type {config.model_type!r} gives maps of the shapes {maps} for {LOOKED_AT} x {LOOKED_AT} "
            f"pixels; expected two or more of the strides {', '.join(map(str, STRIDES))}, as convolutional and "
            "hierarchical networks have them. Choose another backbone, or other out_indices."
        )
    selected = copy.deepcopy(given)
    selected.stage_names = list(backbone.stage_names)
    selected.out_indices = [index for index, _ in by_stride.values()]
    return BackboneLevels(selected, [channels for _, channels in by_stride.values()], strides)


def default_num_heads(channels: int) -> int:
    """The divisor of a width that makes heads of about 32 channels, as the paper's are."""
    return min((n for n in range(1, channels + 1) if channels % n == 0), key=lambda n: abs(channels / n - 32))


def _stride(shape: Sequence[int]) -> int | None:
    if len(shape) != 4 or shape[2] != shape[3] or LOOKED_AT % shape[2]:
        return None
    stride = LOOKED_AT // shape[2]
    return stride if stride in STRIDES else None


def _built(config: PreTrainedConfig) -> PreTrainedModel:
    """A backbone of random weights; what fails to be built is said in one line."""
    with _told_in_one_line(config):
        return AutoBackbone.from_config(config)


@contextmanager
def _told_in_one_line(config: PreTrainedConfig) -> Iterator[None]:
    if config.model_type.startswith("timm_") and not is_timm_available():
        raise ImportError("backbone_config is one of timm's, which is not installed; run: pip install timm")
    try:
        yield
    except Exception as error:  # whatever a network that is not ours may raise
        said = " ".join(str(error).split())
        what = f"backbone_config of type {config.model_type!r}"
        if said.startswith("Unrecognized configuration class"):
            raise ValueError(f"{what} is none that transformers has a backbone for; {HOW_TO_GIVE}.") from error
        if "attention implementation" in said:
            raise ValueError(
                f"{what} does not know this attn_implementation; give {{'': ...}}, which means ResFormer's own attention."
            ) from error
        raise ValueError(f"{what} gives no backbone: {said[:300]}; {HOW_TO_GIVE}.") from error


# ---------------------------------------------------------------------------------------------------------------------
# For the model
# ---------------------------------------------------------------------------------------------------------------------


def build_backbone(config: PreTrainedConfig, num_levels: int | None = None) -> PreTrainedModel:
    """The backbone of a ResFormer config, of random weights and without network access.

    "Same" padding of TensorFlow's kind, which depends on the input's size and which `torch.export` therefore does not
    come to an end with, is fixed where that is exact. Parts that no selected map depends on are left out, or frozen
    where the rest cannot do without.

    Args:
        config: of the model around it.
        num_levels: The number of levels, from the deepest, that the model learns by; the rest is frozen.

    Raises:
        ValueError: it gives other maps than the config says.
        ImportError: it is one of timm's, which is not installed.
    """
    with _told_in_one_line(config.backbone_config):
        backbone = load_backbone(config)
    maps = _drop_unused(backbone, config.num_channels)
    found = [(feature_map.shape[1], _stride(feature_map.shape)) for feature_map in maps]
    expected = list(zip(config.hidden_sizes, config.backbone_strides, strict=True))
    if found != expected:
        raise ValueError(
            f"backbone_config gives maps of (channels, stride) {found}, and hidden_sizes with backbone_strides say "
            f"{expected}; leave these two out of the config."
        )
    _fix_same_padding(backbone, config.num_channels, config.backbone_strides[-1])
    if num_levels is not None:
        maps, parameters = _run(backbone, config.num_channels)
        for name in _unused(maps[-num_levels:], parameters):
            backbone.get_parameter(name).requires_grad_(False)
    return backbone


def stage_modules(backbone: PreTrainedModel) -> list[nn.Module]:
    """The module of each selected map whose output is what the next stage is given, for `backbone_join="inside"`.

    Raises:
        ValueError: the network is none of those where that is known.
    """
    if (network := getattr(backbone, "_backbone", None)) is not None and type(network).__name__ in TIMM_WITH_STAGES:
        flat = type(network).__name__ == "FeatureListNet"
        names = [name.replace(".", "_") if flat else name for name in backbone.stage_names]
        stages = [network.get_submodule(name) for name in names]
    elif backbone.config.model_type in STAGES_OF:
        stem, rest = (backbone.get_submodule(name) for name in STAGES_OF[backbone.config.model_type])
        stages = [stem, *rest]
    else:
        kind = backbone.config.model_type if network is None else f"{type(network).__name__} of timm"
        raise ValueError(
            f"backbone_join='inside' is not known for {kind!r}; use backbone_join='neck', or one of timm's EfficientNet, "
            f"ResNet and ConvNeXt or transformers' {', '.join(STAGES_OF)}."
        )
    return [stages[index] for index in backbone.out_indices]


def stage_inputs(backbone: PreTrainedModel, stages: Sequence[nn.Module], num_channels: int) -> list[StageInput]:
    """What each of these stages is given.

    Raises:
        ValueError: a stage does not make the map it is thought to make.
    """
    seen: list[tuple[torch.Size, torch.Size]] = []
    hooks = [
        stage.register_forward_hook(lambda _, args, out: seen.append((args[0].shape, out.shape))) for stage in stages
    ]
    try:
        maps, _ = _run(backbone, num_channels)
    finally:
        for hook in hooks:
            hook.remove()
    if [output for _, output in seen] != [feature_map.shape for feature_map in maps]:
        raise ValueError(
            f"backbone_join='inside' is not known for this {backbone.config.model_type!r}, whose stages are not its maps; "
            "use backbone_join='neck'."
        )
    return [StageInput(given[1], given[2] // output[2]) for given, output in seen]


def _run(backbone: PreTrainedModel, num_channels: int) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Feature maps of one square image, all of it zero, and the stand-ins for the parameters they depend on.

    Stand-ins are one zero that is read again and again: as light as the meta device, on which batch norms take twenty
    times as long as they do when they are computed.
    """
    modes = [(module, module.training) for module in backbone.modules()]
    parameters = {name: _zeros_like(tensor) for name, tensor in backbone.named_parameters()}
    parameters = {name: zeros.requires_grad_(zeros.is_floating_point()) for name, zeros in parameters.items()}
    buffers = {name: _zeros_like(tensor) for name, tensor in backbone.named_buffers()}
    pixel_values = torch.zeros(1, num_channels, LOOKED_AT, LOOKED_AT, device="cpu", dtype=backbone.dtype)
    backbone.eval()
    try:
        with torch.enable_grad(), torch.device("cpu"), _told_in_one_line(backbone.config):
            output = torch.func.functional_call(
                backbone, {**parameters, **buffers}, (pixel_values,), {"return_dict": True}
            )
    finally:
        for module, training in modes:
            module.training = training
    return list(output.feature_maps), parameters


def _zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=tensor.dtype, device="cpu").expand(tensor.shape)


def _drop_unused(backbone: PreTrainedModel, num_channels: int) -> list[torch.Tensor]:
    """Replaces modules that no feature map depends on by nothing, and freezes lone parameters of that kind.

    Returns the feature maps of one image.
    """
    maps, parameters = _run(backbone, num_channels)
    unused = _unused(maps, parameters)
    for name in reversed(_modules_of(backbone, unused)):  # the last first, since what feeds it must still fit it
        module = backbone.get_submodule(name)
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, nn.Identity())
        try:
            _run(backbone, num_channels)
        except ValueError:  # it is called with more than one argument, or gives more than one value
            setattr(backbone.get_submodule(parent), child, module)
        else:
            unused -= {f"{name}.{own}" for own, _ in module.named_parameters()}
    for name in unused:
        backbone.get_parameter(name).requires_grad_(False)
    return maps


def _unused(maps: Sequence[torch.Tensor], parameters: dict[str, torch.Tensor]) -> set[str]:
    """Names of the parameters that none of these maps depends on."""
    waiting = [feature_map.grad_fn for feature_map in maps]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [used for used, _ in node.next_functions]
    used = {id(node.variable) for node in seen if hasattr(node, "variable")}
    return {name for name, parameter in parameters.items() if id(parameter) not in used}


def _modules_of(backbone: nn.Module, parameters: set[str]) -> list[str]:
    """Names of the outermost modules that have no parameters but these."""
    found: list[str] = []
    for name, module in backbone.named_modules():
        own = {f"{name}.{parameter}" for parameter, _ in module.named_parameters()}
        if own and own <= parameters and not name.startswith(tuple(f"{outer}." for outer in found)):
            found.append(name)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# "Same" padding
# ---------------------------------------------------------------------------------------------------------------------


class FixedSameConv2d(nn.Conv2d):
    """TensorFlow's "same" convolution for inputs of whole strides, whose padding then is the same for every size."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = F.pad(hidden_states, self.same_padding)
        return F.conv2d(hidden_states, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    @property
    def same_padding(self) -> tuple[int, int, int, int]:
        """Left, right, top and bottom: (0, 1) for 3 x 3 and (1, 2) for 5 x 5 at stride 2."""
        sides = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        rows, columns = (max((kernel - 1) * dilation + 1 - stride, 0) for kernel, stride, dilation in sides)
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2

    @classmethod
    def of(cls, layer: nn.Conv2d) -> "FixedSameConv2d":
        """A layer with the very parameters of another."""
        with torch.device("meta"):
            made = cls(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                layer.stride,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=layer.bias is not None,
            )
        made.weight, made.bias = layer.weight, layer.bias
        return made


def _fix_same_padding(backbone: PreTrainedModel, num_channels: int, deepest: int) -> None:
    """Replaces timm's `Conv2dSame` wherever its input is of whole strides for every image padded to the `deepest`."""
    layers = {name: module for name, module in backbone.named_modules() if type(module).__name__ == "Conv2dSame"}
    sizes: dict[nn.Module, torch.Size] = {}
    hooks = [m.register_forward_pre_hook(lambda m, args: sizes.update({m: args[0].shape})) for m in layers.values()]
    try:
        if layers:
            _run(backbone, num_channels)
    finally:
        for hook in hooks:
            hook.remove()
    images = LOOKED_AT // deepest  # of the smallest size, side by side in the one that was looked at
    for name, layer in layers.items():
        sides = sizes[layer][2:] if layer in sizes else (1, 1)
        if all(side % (images * stride) == 0 for side, stride in zip(sides, layer.stride, strict=True)):
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, FixedSameConv2d.of(layer))


__all__ = [
    "BACKBONE_JOINS",
    "BackboneLevels",
    "FixedSameConv2d",
    "StageInput",
    "as_backbone_config",
    "build_backbone",
    "default_num_heads",
    "measured_levels",
    "stage_inputs",
    "stage_modules",
]
