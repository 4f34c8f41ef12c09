# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""Fewer and cheaper layers with the same answers, for a network that is not trained any more.

A batch norm in evaluation mode is a factor and an offset for each channel, which the convolution before it can have in its
weights; so can a convolution that a 1 x 1 convolution follows. Which layers follow each other is seen by running the
network once on a small image; so it works for backbones of any library.
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn


# By name, since timm's is there only with timm; their forward is a convolution of the weight, after some padding.
PLAIN_CONVOLUTIONS = ("Conv2d", "FixedSameConv2d", "Conv2dSame")
# timm's, which have an activation inside.
NORMS_WITH_ACTIVATION = ("BatchNormAct2d", "SyncBatchNormAct")
FEWEST_FOR_ONEDNN = 20_481  # numbers of a map alone, below which torch never asks it
HAS_ONEDNN = torch.backends.mkldnn.is_available() and platform.machine().lower() in ("x86_64", "amd64")


def fuse_convolutions(model: nn.Module, run: Callable[[nn.Module], Iterable[torch.Tensor]]) -> None:
    """Folds batch norms and cheap 1 x 1 convolutions of a model in evaluation mode into the convolutions before them.

    The 1 x 1 convolutions that are left are done by oneDNN where it can.

    Args:
        model: changed in place; parameters may be shared with another, which stays as it is.
        run: calls the model, recording gradients, and gives every output that anyone could want.
    """
    for following in (is_norm, is_pointwise):
        for first, second in followers(model, run, following):
            convolution, layer = model.get_submodule(first), model.get_submodule(second)
            if following is is_norm:
                folded, rest = folded_norm(convolution, layer), activation_of(layer)
            elif saves_work(convolution, layer):
                folded, rest = merged_convolutions(convolution, layer), nn.Identity()
            else:
                continue
            model.set_submodule(first, folded)
            model.set_submodule(second, rest)
    for name, module in list(model.named_modules()):
        if is_pointwise(module) and module.groups == 1:
            model.set_submodule(name, with_weights(module, module.weight, module.bias, ResFormerPointwise))


class ResFormerPointwise(nn.Conv2d):
    """A convolution of 1 x 1 that oneDNN does where it can."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if not suits_onednn(maps):
            return super().forward(maps)
        return convolved_by_onednn(maps, self.weight, self.bias)


def suits_onednn(values: torch.Tensor) -> bool:
    """Whether oneDNN takes a convolution of 1 x 1 off torch's hands: many float32 on an x86 CPU, where nobody asks for gradients.

    Other processors may have no kernel for it. Compilers and exported graphs are left what they know how to make fast, and are
    not asked for their sizes.
    """
    if not (answers_on_cpu(values) and HAS_ONEDNN and torch.backends.mkldnn.enabled):
        return False
    return values.dtype == torch.float32 and values.numel() >= FEWEST_FOR_ONEDNN


def answers_on_cpu(values: torch.Tensor) -> bool:
    """Whether numbers are computed on a CPU now, and no backward pass follows."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return values.device.type == "cpu" and not torch.is_grad_enabled()


def convolved_by_onednn(maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(B, C, h, w) convolved by (O, C, 1, 1).

    On one thread torch takes MKL for that, up to twice as slow; a dilated convolution it leaves to oneDNN, and where a
    kernel has one number, dilation means nothing.
    """
    return F.conv2d(maps, weight, bias, dilation=2)


def followers(
    model: nn.Module, run: Callable[[nn.Module], Iterable[torch.Tensor]], following: Callable[[nn.Module], bool]
) -> list[tuple[str, str]]:
    """Names of convolutions and of the layers of a kind that alone are given their outputs, both called once."""
    names = {module: name for name, module in model.named_modules()}
    calls: Counter[str] = Counter()
    made: dict[int, tuple[str, torch.Tensor, torch.autograd.graph.Node]] = {}
    pairs = []

    def called(module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        name = names[module]
        calls[name] += 1
        if following(module) and id(given[0]) in made:
            maker, tensor, node = made[id(given[0])]
            if tensor.grad_fn is node:  # and not of an activation that works in place
                pairs.append((maker, name, node))
        if is_convolution(module):
            made[id(output)] = name, output, output.grad_fn  # kept, so that no other tensor gets its id

    hooks = [module.register_forward_hook(called) for module in names if is_convolution(module) or following(module)]
    try:
        users = uses(run(model))
    finally:
        for hook in hooks:
            hook.remove()
    return [(one, other) for one, other, node in pairs if calls[one] == calls[other] == 1 and users[node] == 1]


def uses(outputs: Iterable[torch.Tensor]) -> Counter[torch.autograd.graph.Node]:
    """How often the result of each node of the graph is used, being an output included."""
    counts: Counter[torch.autograd.graph.Node] = Counter()
    waiting = [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        counts[node] += 1
        if counts[node] == 1:
            waiting += [used for used, _ in node.next_functions if used is not None]
    return counts


def is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and type(module).__name__ in PLAIN_CONVOLUTIONS


def is_norm(module: nn.Module) -> bool:
    """Whether a layer is a batch norm of running statistics, and at most an activation."""
    plain = type(module) in (nn.BatchNorm2d, nn.SyncBatchNorm) or type(module).__name__ in NORMS_WITH_ACTIVATION
    return plain and module.running_mean is not None


def is_pointwise(module: nn.Module) -> bool:
    """Whether a layer only mixes the channels of each position."""
    return type(module) is nn.Conv2d and module.kernel_size == module.stride == (1, 1) and module.padding == (0, 0)


def saves_work(first: nn.Conv2d, second: nn.Conv2d) -> bool:
    """Whether one convolution in place of two multiplies less; a narrow layer between two wide ones is there to do so."""
    if first.groups != 1 or second.groups != 1:
        return False
    area = first.kernel_size[0] * first.kernel_size[1]
    apart = first.in_channels * first.out_channels * area + second.in_channels * second.out_channels
    return first.in_channels * second.out_channels * area <= apart


def activation_of(norm: nn.Module) -> nn.Module:
    """What a batch norm does beside norming."""
    return nn.Sequential(norm.drop, norm.act) if type(norm).__name__ in NORMS_WITH_ACTIVATION else nn.Identity()


@torch.no_grad()
def folded_norm(convolution: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """The convolution with the batch norm that follows it; computed in float64."""
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    offset = -norm.running_mean.double() * factor
    if norm.bias is not None:
        offset = offset + norm.bias.double()
    if convolution.bias is not None:
        offset = offset + convolution.bias.double() * factor
    return with_weights(convolution, convolution.weight.double() * factor[:, None, None, None], offset)


@torch.no_grad()
def merged_convolutions(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """One convolution for two of which the second is 1 x 1; computed in float64."""
    mixing = second.weight.double()[:, :, 0, 0]
    weight = torch.einsum("om,mihw->oihw", mixing, first.weight.double())
    biases = [mixing @ first.bias.double()] if first.bias is not None else []
    biases += [second.bias.double()] if second.bias is not None else []
    return with_weights(first, weight, sum(biases) if biases else None)


def with_weights(
    convolution: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor | None, kind: type[nn.Conv2d] | None = None
) -> nn.Conv2d:
    """A convolution that pads and steps as another does, of its class or another, with weights that learn nothing."""
    like, kind = convolution.weight, kind or type(convolution)
    changed = kind.__new__(kind)
    changed.__dict__ = dict(convolution.__dict__)
    for kept in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
        changed.__dict__[kept] = type(convolution.__dict__[kept])(convolution.__dict__[kept])
    changed.out_channels = weight.shape[0]
    changed.weight = nn.Parameter(weight.to(like), requires_grad=False)
    changed.bias = None if bias is None else nn.Parameter(bias.to(like), requires_grad=False)
    return changed


def tensors_to_record(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's parameters, asking for gradients, and buffers, by name and in the same memory; its own stay as they are."""
    tensors = {
        # What was made in inference mode can be no part of a graph.
        name: tensor.clone() if tensor.is_inference() else tensor.detach()
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
    }
    for name, parameter in model.named_parameters():
        tensors[name].requires_grad_(parameter.is_floating_point())
    return tensors
