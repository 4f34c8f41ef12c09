# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""ResFormer: a U-Net whose encoder joins ResNet-34 and Swin, for segmentation and classification together.

The network of "Multi-scale Feature Enhancement in Multi-task Learning for Medical Image Analysis" (arXiv 2412.00351),
written from the paper; not the ResFormer of CVPR 2023 (arXiv 2212.00776). Where the paper is silent the choices are
ours: the 7 x 7 stride-1 stem, ResNet-34 depths, stochastic depth, windows of 7 with padded tokens masked out, decoder
widths that mirror the encoder, bilinear up-sampling, and a width of 32 between the two linear layers of the
classification head.

With `config.backbone_config` a network trained before takes the place of stem and ResNet blocks; the Swin layers, the
enhanced skips, the decoder and the heads stay what they are.

Shapes: B batch, C channels, H x W image, S mask classes with background, K image-level classes.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, ImageClassifierOutput, SemanticSegmenterOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from .backbone_resformer import StageInput, build_backbone, stage_inputs, stage_modules
from .configuration_resformer import ResFormerConfig
from .fusing_resformer import answers_on_cpu, convolved_by_onednn, fuse_convolutions, suits_onednn, tensors_to_record


if TYPE_CHECKING:
    # Never runs; saving and loading by `trust_remote_code` follow it and take the pipeline's file along.
    from .pipeline_resformer import ResFormerPipeline  # noqa: F401

AUTO_MAP = {
    "AutoConfig": "configuration_resformer.ResFormerConfig",
    "AutoModel": "modeling_resformer.ResFormerForMultiTask",
    "AutoModelForSemanticSegmentation": "modeling_resformer.ResFormerForSemanticSegmentation",
    "AutoModelForImageSegmentation": "modeling_resformer.ResFormerForSemanticSegmentation",
    "AutoModelForImageClassification": "modeling_resformer.ResFormerForImageClassification",
    "AutoBackbone": "modeling_resformer.ResFormerBackbone",
}
PIPELINE_TASK = "multitask-image-analysis"
UNLABELLED = -100
FOCAL_GAMMA = 2.0
SHARE_TOLERANCE = 1e-3  # of the shares of classes of one image, whose sum is 1 but for rounding
FUSED_AT = 64  # pixels, side of the image that shows `fuse` which layers follow each other
PART = 1 << 20  # numbers of the largest tensor of a Swin layer on a CPU that answers
POOLED_LEVELS = 2  # the deepest, of which the classification head takes the averages
# Parameters that a loaded model may have by byte of its weights, and on top, for new heads.
LOADED_RATIO, SPARE_PARAMETERS = 4, 1 << 26
# CUDA's memory-efficient attention takes no more images, which windows are to it.
MOST_WINDOWS = 65_535
# Of what keeps two tokens apart, before the scaling of scores; a few of them still fit into float16.
APART = 2.0**14


@dataclass
class ResFormerMultiTaskOutput(ModelOutput):
    """Output of `ResFormerForMultiTask`.

    Attributes:
        loss: Scalar, the weighted sum of both losses; `None` without labels.
        segmentation_loss: Scalar, unweighted; `None` without `mask_labels`.
        classification_loss: Scalar, unweighted; `None` without `class_labels`.
        segmentation_logits: (B, S, H, W) at the input's size, before the softmax over S.
        classification_logits: (B, K), before the sigmoid.
        hidden_states: Stem and levels, each (B, C, h, w) of the input padded to whole strides; with a backbone the
            levels alone.
        attentions: One (B, windows, heads, N, N) per Swin layer of ours, N the tokens of a window.
        distance: (B,) of the pooled features from those of the training images, about 1 for images like them; `None` where
            the config has no `familiarity_components`.
        confidence: (B,) chance that mask and labels are right; `None` without `confidence_weights` in the config.
    """

    loss: torch.FloatTensor | None = None
    segmentation_loss: torch.FloatTensor | None = None
    classification_loss: torch.FloatTensor | None = None
    segmentation_logits: torch.FloatTensor | None = None
    classification_logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    distance: torch.FloatTensor | None = None
    confidence: torch.FloatTensor | None = None


# ---------------------------------------------------------------------------------------------------------------------
# What a training computes twice, to keep less
# ---------------------------------------------------------------------------------------------------------------------


class FirstRun:
    """Passed along with a call, tells its first run from a recomputation, which sees the same object again."""

    def __init__(self) -> None:
        self.is_over = False


@contextmanager
def kept_batch_norm_statistics(module: nn.Module) -> Iterator[None]:
    """Lets batch norms inside `module` run on clones of their buffers, so that running statistics stay as they are."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: None if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


def recomputed(module: nn.Module, part: str, function: Callable) -> Callable:
    """A function that keeps nothing for the backward pass of a training but what it is given, if the config says so.

    torch runs it again up to the last tensor that is missing: not the convolution or linear layer that it ends with. What
    is compiled is left alone, for the compiler itself weighs what to keep.

    Args:
        module: with everything that `function` calls and that has batch-norm statistics, which move once.
        part: of `RECOMPUTED`.
        function: of tensors.
    """
    config = module.config
    if config is None or part not in config.recompute or not (module.training and torch.is_grad_enabled()):
        return function
    if torch.compiler.is_compiling():
        return function
    first_run = FirstRun()

    def run(*given: Any) -> Any:
        if not first_run.is_over:
            first_run.is_over = True
            return function(*given)
        with kept_batch_norm_statistics(module):
            return function(*given)

    return partial(checkpoint, run, use_reentrant=False)


def unchanged(hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states


def as_tokens(feature_map: torch.Tensor, is_training: bool) -> torch.Tensor:
    """(B, C, h, w) -> (B, h, w, C), of one piece where `as_map` has torn channels apart.

    Not otherwise: to ask whether it is would rule out batches of one in an exported graph.
    """
    tokens = feature_map.permute(0, 2, 3, 1)
    return tokens.contiguous() if is_training and tokens.device.type == "cpu" else tokens


def as_map(tokens: torch.Tensor, is_training: bool) -> torch.Tensor:
    """(B, h, w, C) -> (B, C, h, w), for convolutions to come.

    Channels stay last, as tokens have them, but for a training on a CPU: gradients of the weights take oneDNN two to five
    times as long then, unless it has AVX-512.
    """
    feature_map = tokens.permute(0, 3, 1, 2)
    return feature_map.contiguous() if is_training and tokens.device.type == "cpu" else feature_map


# ---------------------------------------------------------------------------------------------------------------------
# Encoder: ResNet part
# ---------------------------------------------------------------------------------------------------------------------


class ResFormerStem(nn.Module):
    """7 x 7 convolution, batch norm, ReLU and max pooling: (B, num_channels, H, W) -> (B, C, H/2, W/2)."""

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(config.num_channels, config.hidden_sizes[0], 7, padding=3, bias=False)
        self.normalization = nn.BatchNorm2d(config.hidden_sizes[0])
        self.pooling = nn.MaxPool2d(3, stride=2, padding=1)
        self.config = config

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        # What is pooled first is the same, and a quarter as much is rectified.
        finish = recomputed(self, "normalization", lambda maps: F.relu(self.pooling(self.normalization(maps))))
        return finish(self.convolution(pixel_values))


class ResFormerResidualLayer(nn.Module):
    """ResNet-34 basic block of constant size: ReLU(x + BN(conv(ReLU(BN(conv(x)))))) (paper, section 3.1)."""

    def __init__(self, channels: int, config: ResFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        finish = recomputed(self, "normalization", lambda maps: self.conv2(F.relu(self.bn1(maps))))
        residual = finish(self.conv1(hidden_states))
        return F.relu(hidden_states + self.bn2(residual))


# ---------------------------------------------------------------------------------------------------------------------
# Encoder: Swin part
# ---------------------------------------------------------------------------------------------------------------------


class ResFormerLinear(nn.Linear):
    """A linear layer over tokens (..., C), as `nn.Linear`; on a CPU that answers, as the convolution of 1 x 1 that it is.

    torch leaves matrix products to MKL and convolutions to oneDNN, which takes half the time on AMD processors with AVX-512,
    and no more on those without.
    """

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if not suits_onednn(tokens):
            return super().forward(tokens)
        maps = tokens.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)
        maps = convolved_by_onednn(maps, self.weight[:, :, None, None], self.bias)
        return maps.permute(0, 2, 3, 1).reshape(*tokens.shape[:-1], self.out_features)


def fits_by_parts(hidden_states: torch.Tensor) -> bool:
    """Whether a Swin layer answers a map part by part: on a CPU, in whose cache a part stays, and no backward pass follows."""
    return answers_on_cpu(hidden_states) and 4 * hidden_states.numel() > PART


@dataclass
class WindowAxis:
    """How one axis of a feature map falls into (shifted) windows.

    Attributes:
        count: Number of windows.
        source: (count * window_size,) position on the map of each place in the windows; padding repeats the last.
        group: (count * window_size,) which places of a window may see each other: 0 those of a window that lies whole on
            the map, 1 and 2 the far end of the map and its beginning, which a shift brings into one window, 3 padding.
        target: (size,) place in the windows of each position on the map.
        is_whole: Whether all places of every window see each other; False where that depends on a size yet unknown.
    """

    count: int
    source: torch.Tensor
    group: torch.Tensor
    target: torch.Tensor
    is_whole: bool


@dataclass
class WindowGrid:
    """How a (h, w) feature map falls into (shifted) windows of N tokens, one after the other.

    Attributes:
        source: (windows * N,) position on the flattened map of each token; padding repeats the last.
        target: (h * w,) place among the windows' tokens of each position on the map.
        apart: Two (windows, N, 5) bools, for queries and keys: a token may see another of its window where their product
            over the last axis is 0. None where all see each other.
    """

    source: torch.Tensor
    target: torch.Tensor
    apart: tuple[torch.Tensor, torch.Tensor] | None

    def parts(
        self, windows: int, tokens: int
    ) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]]:
        """`source` and `apart` of at most so many windows of N tokens at a time."""
        for first in range(0, len(self.source) // tokens, windows):
            last = first + windows
            apart = None if self.apart is None else (self.apart[0][first:last], self.apart[1][first:last])
            yield self.source[first * tokens : last * tokens], apart


def window_axis(size: int, window_size: int, shift_size: int, device: torch.device) -> WindowAxis:
    """Divides an axis of `size` positions into windows, cyclically shifted unless one window holds them all.

    No branch depends on a symbolic size, so that an exported graph serves every size; there, a second and fully padded
    window keeps the number of windows from being specialised to 1.
    """
    is_known = not isinstance(size, torch.SymInt)
    real = (size + window_size - 1) // window_size
    count = real if is_known else torch.sym_max(real, 2)
    length = count * window_size
    shift = shift_size * torch.sym_min(real - 1, 1)
    place = torch.arange(length, device=device)
    # Wrapped by `where`: ONNX has no remainder by a symbolic size.
    position = torch.where(place + shift < length, place + shift, place + shift - length)
    target = torch.arange(size, device=device) - shift
    wrapped = (place >= length - window_size).long() + (place >= length - shift).long()
    return WindowAxis(
        count=count,
        source=position.clamp(max=size - 1),
        group=torch.where(position < size, wrapped, 3),
        target=torch.where(target < 0, target + length, target),
        is_whole=is_known and shift == 0 and length == size,
    )


def window_grid(height: int, width: int, window_size: int, shift_size: int, device: torch.device) -> WindowGrid:
    """Divides a (height, width) map into windows."""
    rows = window_axis(height, window_size, shift_size, device)
    columns = window_axis(width, window_size, shift_size, device)
    tokens = window_size**2

    def by_windows(places: torch.Tensor) -> torch.Tensor:
        """(rows, columns, ...) of all places -> (windows, N, ...)."""
        rest = places.shape[2:]
        places = places.view(rows.count, window_size, columns.count, window_size, *rest).transpose(1, 2)
        return places.reshape(rows.count * columns.count, tokens, *rest)

    row, column = rows.target // window_size, columns.target // window_size
    from_row = row * (columns.count * tokens) + (rows.target - row * window_size) * window_size
    from_column = column * tokens + columns.target - column * window_size
    apart = None
    if not (rows.is_whole and columns.is_whole):
        apart = tuple(by_windows(flags) for flags in kept_apart(rows.group[:, None], columns.group[None]))
    return WindowGrid(
        source=by_windows(rows.source[:, None] * width + columns.source).flatten(),
        target=(from_row[:, None] + from_column).flatten(),
        apart=apart,
    )


def kept_apart(row: torch.Tensor, column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Flags of queries and of keys, (rows, columns, 5) each, from the places' groups along both axes.

    The far end of a map and its beginning do not see each other, and nobody sees padding.
    """
    padding = (row == 3) | (column == 3)
    far_row, first_row, far_column, first_column = (
        flags.expand_as(padding) for flags in (row == 1, row == 2, column == 1, column == 2)
    )
    query = [far_row, first_row, far_column, first_column, torch.ones_like(padding)]
    key = [first_row, far_row, first_column, far_column, padding]
    return torch.stack(query, dim=-1), torch.stack(key, dim=-1)


def with_apart(heads: torch.Tensor, flags: torch.Tensor, scale: float) -> torch.Tensor:
    """(B, windows, heads, N, d) with flags (windows, N, 5) times `scale` and zeros as further channels.

    So queries and keys do what a mask of (windows, N, N) would do, in memory that grows with the tokens alone.
    """
    flags = F.pad(flags.to(heads.dtype) * scale, (0, extra_channels(heads.shape[-1]) - flags.shape[-1]))
    return torch.cat([heads, flags[:, None].expand(*heads.shape[:-1], -1)], dim=-1)


def extra_channels(head_dim: int) -> int:
    """Room for the flags, such that kernels are given a multiple of 8 channels."""
    return -(head_dim + 5) // 8 * -8 - head_dim


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention by the signature of transformers' attention functions, where windows count as images.

    (windows, heads, N, d) each -> (windows, N, heads, d) and the probabilities (windows, heads, N, N).
    """
    scores = torch.matmul(query, key.transpose(-2, -1)) * scaling + attention_mask
    probabilities = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    probabilities = F.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


class ResFormerRelativePositionBias(nn.Module):
    """One learned bias per head for every offset between two tokens of a window: () -> (heads, N, N)."""

    def __init__(self, window_size: int, num_heads: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer("index", self.offsets(), persistent=False)

    def offsets(self) -> torch.Tensor:
        """(N * N,) row of the table for each pair of tokens."""
        axis = torch.arange(self.window_size)
        tokens = torch.cartesian_prod(axis, axis)
        offset = tokens[:, None] - tokens[None, :] + self.window_size - 1
        return (offset[..., 0] * (2 * self.window_size - 1) + offset[..., 1]).flatten()

    def forward(self) -> torch.Tensor:
        # index_select, since the backward of plain indexing is not deterministic on several CPU threads.
        tokens = self.window_size**2
        return self.table.index_select(0, self.index).view(tokens, tokens, -1).permute(2, 0, 1)


class ResFormerFixedPositionBias(nn.Module):
    """The bias of `ResFormerRelativePositionBias`, looked up once."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias.detach().contiguous(), persistent=False)

    def forward(self) -> torch.Tensor:
        return self.bias


class ResFormerWindowAttention(nn.Module):
    """Multi-head self-attention inside (shifted) windows of a (B, h, w, C) map."""

    def __init__(self, config: ResFormerConfig, channels: int, num_heads: int, shift_size: int) -> None:
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.head_dim = channels // num_heads
        self.window_size = config.window_size
        self.shift_size = shift_size
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.qkv = ResFormerLinear(channels, 3 * channels, bias=config.qkv_bias)
        self.output = ResFormerLinear(channels, channels)
        self.position_bias = ResFormerRelativePositionBias(config.window_size, num_heads)

    def forward(
        self, hidden_states: torch.Tensor, output_attentions: bool = False, norm: Callable = unchanged
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The context (B, h, w, C) of a map that `norm` is applied to first, and the probabilities where asked for."""
        batch_size, height, width, channels = hidden_states.shape
        grid = window_grid(height, width, self.window_size, self.shift_size, hidden_states.device)
        if output_attentions or not fits_by_parts(hidden_states):
            context, probabilities = self.answer(hidden_states, grid.source, grid.apart, output_attentions, norm)
        else:
            hidden_states, tokens = norm(hidden_states), self.window_size**2
            windows = max(1, PART // (3 * batch_size * channels * tokens))
            contexts = [self.answer(hidden_states, *part)[0] for part in grid.parts(windows, tokens)]
            context, probabilities = torch.cat(contexts, dim=1), None
        context = context.index_select(1, grid.target).view(batch_size, height, width, channels)
        return context, None if probabilities is None else probabilities.unflatten(0, (batch_size, -1))

    def answer(
        self,
        hidden_states: torch.Tensor,
        source: torch.Tensor,
        apart: tuple[torch.Tensor, torch.Tensor] | None,
        output_attentions: bool = False,
        norm: Callable = unchanged,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, h, w, C) -> the context (B, windows * N, C), and the probabilities (B * windows, heads, N, N) where asked for.

        Of the windows of a `WindowGrid` whose `source` and `apart` are given.
        """
        batch_size, channels = hidden_states.shape[0], hidden_states.shape[-1]
        start = recomputed(self, "normalization", lambda x: self.qkv(norm(x).flatten(1, 2).index_select(1, source)))
        qkv = start(hidden_states).view(batch_size, -1, self.window_size**2, 3, self.num_heads, self.head_dim)
        attend = recomputed(self, "attention", self.attend)
        context, probabilities = attend(qkv, apart, output_attentions)
        return self.output(context[..., : self.head_dim].reshape(batch_size, -1, channels)), probabilities

    def attend(
        self, qkv: torch.Tensor, apart: tuple[torch.Tensor, torch.Tensor] | None, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, windows, N, 3, heads, d) -> (B * windows, N, heads, d or more), and the probabilities where asked for."""
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)
        if apart is not None:
            query, key = with_apart(query, apart[0], 1.0), with_apart(key, apart[1], -APART)
            value = F.pad(value, (0, extra_channels(self.head_dim)))  # since kernels take values as wide as keys
        query, key, value = (x.flatten(0, 1) for x in (query, key, value))
        bias = self.position_bias().to(query.dtype)[None]
        attention: Callable = eager_attention_forward
        if not output_attentions:
            attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, attention)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        if output_attentions or torch.compiler.is_compiling() or len(query) <= MOST_WINDOWS:
            context, probabilities = attention(self, query, key, value, bias, dropout=dropout, scaling=self.scaling)
            return context, probabilities if output_attentions else None
        parts = zip(*(x.split(MOST_WINDOWS) for x in (query, key, value)), strict=True)
        contexts = [attention(self, *part, bias, dropout=dropout, scaling=self.scaling)[0] for part in parts]
        return torch.cat(contexts), None


class ResFormerDropPath(nn.Module):
    """Stochastic depth: drops the whole residual of a sample with probability `rate` while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.rate == 0.0 or not self.training:
            return hidden_states
        shape = (hidden_states.shape[0],) + (1,) * (hidden_states.dim() - 1)
        kept = torch.rand(shape, dtype=hidden_states.dtype, device=hidden_states.device) >= self.rate
        return hidden_states * kept / (1.0 - self.rate)


class ResFormerFeedForward(nn.Module):
    """Linear, activation, Linear over the channels of a (B, h, w, C) map."""

    def __init__(self, config: ResFormerConfig, channels: int) -> None:
        super().__init__()
        if config.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={config.hidden_act!r} is unknown; use one of {', '.join(sorted(ACT2FN))}.")
        self.config = config
        width = int(config.mlp_ratio * channels)
        self.expand = ResFormerLinear(channels, width)
        self.activation = ACT2FN[config.hidden_act]
        self.reduce = ResFormerLinear(width, channels)

    def forward(self, hidden_states: torch.Tensor, norm: Callable = unchanged) -> torch.Tensor:
        """Of a map that `norm` is applied to first."""
        start = recomputed(self, "normalization", lambda x: self.expand(norm(x)))
        finish = recomputed(self, "activation", lambda expanded: self.reduce(self.activation(expanded)))
        if not fits_by_parts(hidden_states):
            return finish(start(hidden_states))
        batch_size, _, width, _ = hidden_states.shape
        rows = max(1, PART // (batch_size * width * self.expand.out_features))
        return torch.cat([finish(start(part)) for part in hidden_states.split(rows, dim=1)], dim=1)


class ResFormerSwinLayer(nn.Module):
    """Pre-norm attention and feed-forward network, each with a residual, on a (B, h, w, C) map."""

    def __init__(
        self, config: ResFormerConfig, channels: int, num_heads: int, shift_size: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.attention = ResFormerWindowAttention(config, channels, num_heads, shift_size)
        self.feed_forward_norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.feed_forward = ResFormerFeedForward(config, channels)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = ResFormerDropPath(drop_path_rate)

    def forward(
        self, hidden_states: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        context, probabilities = self.attention(hidden_states, output_attentions, self.attention_norm)
        hidden_states = hidden_states + self.drop_path(self.dropout(context))
        update = self.feed_forward(hidden_states, self.feed_forward_norm)
        return hidden_states + self.drop_path(self.dropout(update)), probabilities


# ---------------------------------------------------------------------------------------------------------------------
# Gradient checkpointing
# ---------------------------------------------------------------------------------------------------------------------


class ResFormerCheckpointedLayer(GradientCheckpointingLayer):
    """A layer with batch norms that gradient checkpointing may run twice and whose statistics move once."""

    def forward(self, hidden_states: torch.Tensor, first_run: FirstRun | None = None, **options: bool) -> Any:
        if first_run is None or not first_run.is_over:
            if first_run is not None:
                first_run.is_over = True
            return self.compute(hidden_states, **options)
        with kept_batch_norm_statistics(self):
            return self.compute(hidden_states, **options)

    def compute(self, hidden_states: torch.Tensor, **options: bool) -> Any:
        """What the layer does; `forward` decides on the batch-norm statistics."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it computes")

    def new_run(self) -> FirstRun | None:
        """A fresh token for one call, where it can be run again."""
        return FirstRun() if self.gradient_checkpointing and self.training else None


# ---------------------------------------------------------------------------------------------------------------------
# Encoder: both together
# ---------------------------------------------------------------------------------------------------------------------


class ResFormerBlock(nn.Module):
    """ResNet and Swin parts joined in sequence or in parallel (paper, Figure 3 a and b): (B, C, h, w) -> same."""

    def __init__(self, config: ResFormerConfig, level: int, drop_path_rates: Sequence[float]) -> None:
        super().__init__()
        channels, num_heads = config.hidden_sizes[level], config.num_attention_heads[level]
        self.block_type = config.block_type
        self.residual_layers = nn.Sequential(
            *(ResFormerResidualLayer(channels, config) for _ in range(config.cnn_depths[level]))
        )
        self.swin_layers = nn.ModuleList(
            ResFormerSwinLayer(config, channels, num_heads, config.window_size // 2 * (index % 2), rate)
            for index, rate in enumerate(drop_path_rates)
        )

    def forward(
        self, hidden_states: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        local = self.residual_layers(hidden_states)
        tokens = as_tokens(local if self.block_type == "sequential" else hidden_states, self.training)
        attentions = []
        for layer in self.swin_layers:
            tokens, probabilities = layer(tokens, output_attentions)
            attentions.append(probabilities)
        context = as_map(tokens, self.training)
        return context if self.block_type == "sequential" else local + context, attentions


class ResFormerStage(ResFormerCheckpointedLayer):
    """One encoder level: the convolution that halves the size (the paper's PatchMerging), then a ResFormer block."""

    def __init__(self, config: ResFormerConfig, level: int, drop_path_rates: Sequence[float]) -> None:
        super().__init__()
        sizes = config.hidden_sizes
        self.patch_merging = nn.Conv2d(sizes[level - 1], sizes[level], 3, stride=2, padding=1) if level else None
        self.block = ResFormerBlock(config, level, drop_path_rates)

    def compute(
        self, hidden_states: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        if self.patch_merging is not None:
            hidden_states = self.patch_merging(hidden_states)
        return self.block(hidden_states, output_attentions)


class ResFormerPadding(nn.Module):
    """Zeros on the right and bottom up to whole strides: (B, C, H, W) -> (B, C, h, w)."""

    def __init__(self, num_channels: int, stride: int) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.stride = stride

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        self.check_input(pixel_values)
        height, width = pixel_values.shape[-2:]
        bottom = (height + self.stride - 1) // self.stride * self.stride - height
        right = (width + self.stride - 1) // self.stride * self.stride - width
        return F.pad(pixel_values, (0, right, 0, bottom))

    def check_input(self, pixel_values: torch.Tensor) -> None:
        if pixel_values.dim() != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"pixel_values has the shape {tuple(pixel_values.shape)}; expected (batch, {self.num_channels}, height, "
                "width). The image processor makes it from any image."
            )
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values has the type {pixel_values.dtype}; expected normalised floats, as the image processor "
                "makes them."
            )


def drop_path_rates_by_level(config: ResFormerConfig) -> list[list[float]]:
    """Rates of the Swin layers by level, rising linearly from 0 over all of them."""
    total = sum(config.transformer_depths)
    rates = [config.drop_path_rate * index / max(total - 1, 1) for index in range(total)]
    starts = [sum(config.transformer_depths[:level]) for level in range(len(config.hidden_sizes))]
    return [rates[start : start + depth] for start, depth in zip(starts, config.transformer_depths, strict=True)]


class ResFormerEncoder(nn.Module):
    """Stem and levels at 1/2, 1/4, 1/8 and 1/16 of the image, which is padded to a multiple of 16 first."""

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__()
        self.padding = ResFormerPadding(config.num_channels, config.strides[-1])
        self.stem = ResFormerStem(config)
        self.stages = nn.ModuleList(
            ResFormerStage(config, level, rates) for level, rates in enumerate(drop_path_rates_by_level(config))
        )

    def forward(
        self, pixel_values: torch.Tensor, output_attentions: bool = False
    ) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...] | None]:
        """(B, num_channels, H, W) -> stem and level feature maps, and the attention probabilities where asked for."""
        padded = self.padding(pixel_values)
        # All maps then are channels last, as the Swin layers have them, and convolutions a seventh faster. Weights stay as
        # they are loaded: in an exported graph such a layout of theirs would rule out batches of one. Not in training, see
        # `as_map`.
        if padded.device.type == "cpu" and not self.training:
            padded = padded.contiguous(memory_format=torch.channels_last)
        hidden_states = self.stem(padded)
        feature_maps, attentions = [hidden_states], []
        for stage in self.stages:
            hidden_states, probabilities = stage(
                hidden_states, first_run=stage.new_run(), output_attentions=output_attentions
            )
            feature_maps.append(hidden_states)
            attentions.extend(probabilities)
        return feature_maps, tuple(attentions) if output_attentions else None


# ---------------------------------------------------------------------------------------------------------------------
# Encoder: a backbone with the Swin part
# ---------------------------------------------------------------------------------------------------------------------


class ResFormerGlobalBranch(GradientCheckpointingLayer):
    """The Swin layers of a level whose local branch is a stage of a backbone; they start by changing nothing."""

    def __init__(
        self, config: ResFormerConfig, level: int, stage_input: StageInput, drop_path_rates: Sequence[float]
    ) -> None:
        super().__init__()
        channels, num_heads = config.hidden_sizes[level], config.num_attention_heads[level]
        self.swin_layers = nn.ModuleList(
            ResFormerSwinLayer(config, channels, num_heads, config.window_size // 2 * (index % 2), rate)
            for index, rate in enumerate(drop_path_rates)
        )
        for layer in self.swin_layers:
            layer.attention.output.starts_at_zero = layer.feed_forward.reduce.starts_at_zero = True
        # As the paper's patch merging, which is a convolution of 3 x 3 at stride 2.
        ratio = stage_input.ratio
        kernel = ratio // 2 * 2 + 1
        self.patch_merging = (
            nn.Conv2d(stage_input.channels, channels, kernel, stride=ratio, padding=kernel // 2)
            if config.block_type == "parallel" and len(self.swin_layers) > 0
            else None
        )
        self.kept_attentions: list[torch.Tensor] | None = None
        self.is_depthwise = False  # the backbone, whose maps then are channels last in training too

    def forward(
        self, local: torch.Tensor, stage_input: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """A stage's output (B, C, h, w) and its input -> the level's map (B, C, h, w), and attention probabilities."""
        start = local if self.patch_merging is None else self.patch_merging(stage_input)
        tears_channels = self.training and not self.is_depthwise
        tokens, attentions = as_tokens(start, tears_channels), []
        for layer in self.swin_layers:
            tokens, probabilities = layer(tokens, output_attentions)
            attentions.append(probabilities)
        context = as_map(tokens, tears_channels)
        return context if self.patch_merging is None else local + (context - start), attentions

    def join(self, stage: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """A forward hook of the stage: what follows is given the level's map in place of the stage's output."""
        joined, attentions = self(output, args[0], output_attentions=self.kept_attentions is not None)
        if self.kept_attentions is not None:
            self.kept_attentions.extend(attentions)
        return joined


class ResFormerBackboneEncoder(nn.Module):
    """A backbone's maps with Swin layers beside it or inside it, of the image padded to the deepest stride used.

    Inside, the Swin layers run in forward hooks of the backbone's stages. These leave attention probabilities with their
    module, so that a model that is asked for them there must not run in two threads at once.
    """

    def __init__(self, config: ResFormerConfig, num_levels: int | None = None) -> None:
        super().__init__()
        self.padding = ResFormerPadding(config.num_channels, config.strides[-1])
        self.backbone = build_backbone(config, num_levels)
        # Whole on one device where the backbone does not say what may be torn apart; read by `device_map`.
        self._no_split_modules = set(self.backbone._no_split_modules or {type(self.backbone).__name__})
        self.is_inside = config.backbone_join == "inside"
        if self.is_inside:
            stages = stage_modules(self.backbone)
            inputs = stage_inputs(self.backbone, stages, config.num_channels)
        else:
            channels, strides = [config.num_channels, *config.hidden_sizes], [1, *config.strides]
            inputs = [StageInput(channels[i], strides[i + 1] // strides[i]) for i in range(len(config.strides))]
        self.global_branches = nn.ModuleList(
            ResFormerGlobalBranch(config, level, stage_input, rates)
            for level, (stage_input, rates) in enumerate(zip(inputs, drop_path_rates_by_level(config), strict=True))
        )
        if self.is_inside:
            for stage, branch in zip(stages, self.global_branches, strict=True):
                # Before the hooks by which the backbone itself takes its maps.
                stage.register_forward_hook(branch.join, prepend=True)
        elif num_levels is not None:
            for branch in list(self.global_branches)[:-num_levels]:
                branch.requires_grad_(False)
        self.is_depthwise = has_depthwise_convolutions(self.backbone)
        for branch in self.global_branches:
            branch.is_depthwise = self.is_depthwise

    def forward(
        self, pixel_values: torch.Tensor, output_attentions: bool = False
    ) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...] | None]:
        """(B, num_channels, H, W) -> level feature maps, and the Swin layers' attention probabilities where asked for."""
        pixel_values = self.padding(pixel_values)
        # Gradients of depthwise convolutions take a third of the time channels last; of others see `as_map`. In evaluation
        # the backbone answers bit for bit as it does alone, and `fuse()` makes that fast.
        if pixel_values.device.type == "cpu" and self.training and self.is_depthwise:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        join = self.joined_inside if self.is_inside else self.joined_at_the_neck
        feature_maps, attentions = join(pixel_values, output_attentions)
        return feature_maps, tuple(attentions) if output_attentions else None

    def joined_at_the_neck(
        self, pixel_values: torch.Tensor, output_attentions: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
        local_maps = self.backbone(pixel_values, return_dict=True).feature_maps
        feature_maps, attentions = [], []
        for branch, local, finer in zip(self.global_branches, local_maps, [pixel_values, *local_maps], strict=False):
            joined, probabilities = branch(local, finer, output_attentions=output_attentions)
            feature_maps.append(joined)
            attentions.extend(probabilities)
        return feature_maps, attentions

    def joined_inside(
        self, pixel_values: torch.Tensor, output_attentions: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
        if not output_attentions:
            return list(self.backbone(pixel_values, return_dict=True).feature_maps), []
        kept: list[torch.Tensor | None] = []
        try:
            for branch in self.global_branches:
                branch.kept_attentions = kept
            feature_maps = list(self.backbone(pixel_values, return_dict=True).feature_maps)
        finally:
            for branch in self.global_branches:
                branch.kept_attentions = None
        return feature_maps, kept


def has_depthwise_convolutions(module: nn.Module) -> bool:
    """Whether there are any that look at each channel by itself."""
    convolutions = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    return any(layer.groups == layer.in_channels > 1 for layer in convolutions)


def build_encoder(
    config: ResFormerConfig, num_levels: int | None = None
) -> ResFormerEncoder | ResFormerBackboneEncoder:
    """The paper's encoder, or the one around the config's backbone.

    Args:
        config: of the model.
        num_levels: The number of levels, from the deepest, that a model learns by, where it is not all of them. What
            does not lead there, such as Swin layers at the neck of a finer level, is frozen, since it gets no gradient.
    """
    if config.backbone_config is None:
        return ResFormerEncoder(config)
    return ResFormerBackboneEncoder(config, num_levels)


# ---------------------------------------------------------------------------------------------------------------------
# Skips, decoder and heads
# ---------------------------------------------------------------------------------------------------------------------


class ResFormerSpatialAttention(nn.Module):
    """CBAM's spatial attention: a 7 x 7 convolution over channel mean and maximum gates every position."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        summary = torch.cat([hidden_states.mean(1, keepdim=True), hidden_states.amax(1, keepdim=True)], dim=1)
        return hidden_states * self.convolution(summary).sigmoid()


class ResFormerDilatedFeatureEnhancement(ResFormerCheckpointedLayer):
    """Dilated branches summed, rectified and gated (paper, section 3.2): (B, in_channels, h, w) -> (B, C, h, w)."""

    def __init__(
        self, in_channels: int, channels: int, dilation_rates: Sequence[int], config: ResFormerConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else None
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate, bias=False),
                nn.BatchNorm2d(channels),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
            for rate in dilation_rates
        )
        self.spatial_attention = ResFormerSpatialAttention()

    def compute(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.projection is not None:
            hidden_states = self.projection(hidden_states)
        total = self.branch_output(self.branches[0], hidden_states)
        for branch in self.branches[1:]:
            total = total + self.branch_output(branch, hidden_states)
        return self.spatial_attention(F.relu(total))

    def branch_output(self, branch: nn.Sequential, hidden_states: torch.Tensor) -> torch.Tensor:
        dilated, norm, mixing, last_norm = branch
        mix = recomputed(self, "normalization", lambda maps: mixing(norm(maps)))
        return last_norm(mix(dilated(hidden_states)))


class ResFormerSkipConnections(nn.ModuleList):
    """One dilated feature enhancement per level, or plain skips with `use_dfe=False` (paper, Table 9)."""

    def __init__(self, config: ResFormerConfig) -> None:
        levels = zip(config.hidden_sizes, config.skip_sizes, config.level_dilation_rates, strict=True)
        super().__init__(
            ResFormerDilatedFeatureEnhancement(size, skip, rates, config) if rates else self.plain(size, skip)
            for size, skip, rates in levels
        )

    @staticmethod
    def plain(in_channels: int, channels: int) -> nn.Module:
        return nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)

    def forward(self, feature_maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The levels' maps, after a stem's where there is one -> the levels' skips."""
        return [
            layer(feature_map, first_run=layer.new_run())
            if isinstance(layer, ResFormerDilatedFeatureEnhancement)
            else layer(feature_map)
            for layer, feature_map in zip(self, feature_maps[-len(self) :], strict=True)
        ]


def upsample(hidden_states: torch.Tensor, factor: int = 2) -> torch.Tensor:
    """Bilinear up-sampling."""
    return F.interpolate(hidden_states, scale_factor=factor, mode="bilinear", align_corners=False)


class ResFormerDecoderLayer(nn.Module):
    """ReLU(BN(conv(cat(skip, up-sampled coarser)))), the two maps then being of one size."""

    def __init__(self, in_channels: int, out_channels: int, config: ResFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.normalization = nn.BatchNorm2d(out_channels)

    def forward(self, skip_connection: torch.Tensor, hidden_states: torch.Tensor, factor: int) -> torch.Tensor:
        def convolved(skip: torch.Tensor, coarser: torch.Tensor) -> torch.Tensor:
            return self.convolution(torch.cat([skip, upsample(coarser, factor)], dim=1))

        convolve = recomputed(self, "normalization", convolved)
        return F.relu(self.normalization(convolve(skip_connection, hidden_states)))


class ResFormerDecoder(nn.Module):
    """From the skips, finest first, to the size of the finest, (B, C, H/2, W/2) in the paper's network.

    The paper's last up-sampling is left to the head.
    """

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__()
        deepest, *skips = reversed(config.skip_sizes)
        sizes = [deepest, *config.decoder_sizes]
        self.layers = nn.ModuleList(
            ResFormerDecoderLayer(skip + previous, size, config)
            for skip, previous, size in zip(skips, sizes[:-1], sizes[1:], strict=True)
        )
        strides = list(reversed(config.strides))
        self.factors = [coarse // fine for coarse, fine in pairwise(strides)]

    def forward(self, skip_connections: Sequence[torch.Tensor]) -> torch.Tensor:
        hidden_states = skip_connections[-1]
        steps = zip(self.layers, reversed(skip_connections[:-1]), self.factors, strict=True)
        for layer, skip_connection, factor in steps:
            hidden_states = layer(skip_connection, hidden_states, factor)
        return hidden_states


class ResFormerSegmentationHead(nn.Module):
    """1 x 1 convolution, up-sampling and cropping: (B, C, h, w) -> logits (B, S, H, W).

    Convolving before the up-sampling gives exactly what the paper's order gives, at a quarter of the cost.
    """

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(config.decoder_sizes[-1], len(config.mask_class_names), 1)
        self.factor = config.strides[0]
        self.config = config  # whose calibration may be fitted after the model was built

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        logits = self.classifier(hidden_states)
        if self.config.mask_temperature != 1:
            logits = logits / self.config.mask_temperature
        return upsample(logits, self.factor)[..., :height, :width]


def pooled_features(feature_maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, C) global averages of the last two levels' maps."""
    return torch.cat([feature_map.mean((2, 3)) for feature_map in feature_maps[-POOLED_LEVELS:]], dim=1)


class ResFormerFamiliarity(nn.Module):
    """Distance of pooled features (B, C) from those of the training images: -> (B,), 1 in the mean over these.

    The Mahalanobis distance (Lee et al. 2018) under a normal distribution with a few principal components and the same
    variance in all other directions (probabilistic PCA, Tipping and Bishop 1999), squared and divided by C.
    """

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__()
        size, rank = sum(config.hidden_sizes[-POOLED_LEVELS:]), config.familiarity_components
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.eye(rank, size))
        self.register_buffer("variances", torch.ones(rank))
        self.register_buffer("noise", torch.ones(1))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        away = pooled.float() - self.mean.float()
        components = self.components.float()
        # No matrix products, which autocast would take in half precision.
        along = (away[:, None] * components).sum(dim=2)
        rest = away - (along[:, :, None] * components).sum(dim=1)
        squared = (along.square() / self.variances.float()).sum(dim=1) + rest.square().sum(dim=1) / self.noise.float()
        return squared / away.shape[1]


def mask_certainty(logits: torch.Tensor) -> torch.Tensor:
    """(B,) in [0, 1] from mask logits (B, S, H, W): the Dice that the predicted mask can expect by its own probabilities.

    2 I / (P + M) over all foreground classes, P the sum of their probabilities, M the number of pixels of the predicted
    mask and I the sum of probabilities inside it; a thousandth of the image is added to both halves for empty masks.
    """
    probabilities = logits.float().softmax(dim=1)
    highest, chosen = probabilities.max(dim=1)
    inside = (chosen > 0).float()
    smooth = 1e-3 * inside[0].numel()
    shared, chosen_pixels = (highest * inside).sum((1, 2)), inside.sum((1, 2))
    return (2 * shared + smooth) / (probabilities[:, 1:].sum((1, 2, 3)) + chosen_pixels + smooth)


def label_certainty(logits: torch.Tensor, config: ResFormerConfig) -> torch.Tensor:
    """(B,) in [0, 1] from class logits (B, K): the chance that all decisions are right, by the scores themselves."""
    scores = config.class_scores(logits)
    thresholds = config.decision_thresholds()
    if thresholds is None:
        return scores.amax(dim=1)
    return torch.where(scores >= scores.new_tensor(thresholds), scores, 1 - scores).prod(dim=1)


def confidence_signals(
    mask_logits: torch.Tensor, class_logits: torch.Tensor, distance: torch.Tensor, config: ResFormerConfig
) -> torch.Tensor:
    """(B, 3) of what `confidence_weights` weigh: log odds of both certainties, and the logarithm of the distance."""
    certainties = torch.stack([mask_certainty(mask_logits), label_certainty(class_logits, config)], dim=1)
    odds = certainties.clamp(1e-4, 1 - 1e-4).logit()
    return torch.cat([odds, distance.clamp(min=1e-6).log()[:, None]], dim=1)


class ResFormerClassificationHead(nn.Module):
    """Global averages of the last two levels through two linear layers (paper, section 3.3): -> logits (B, K)."""

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(sum(config.hidden_sizes[-POOLED_LEVELS:]), config.classifier_hidden_size)
        self.classifier = nn.Linear(config.classifier_hidden_size, len(config.image_class_names))
        self.config = config  # whose calibration may be fitted after the model was built

    def forward(self, feature_maps: Sequence[torch.Tensor]) -> torch.Tensor:
        logits = self.classifier(self.hidden(pooled_features(feature_maps)))
        scale, shift = self.config.classification_scale, self.config.classification_shift
        if scale is not None:
            logits = logits * logits.new_tensor(scale)
        return logits if shift is None else logits + logits.new_tensor(shift)


# ---------------------------------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------------------------------


def dice_statistics(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over pixels that the soft Dice coefficient is made of, without ignored pixels.

    Args:
        logits: (B, S, H, W).
        labels: (B, H, W) integers in 0..S-1 or `ignore_index`.
        ignore_index: Value of pixels to leave out.

    Returns:
        Intersection, predicted and target, each (B, S) in float32.
    """
    probabilities = logits.float().softmax(dim=1)
    classes = torch.arange(logits.shape[1], device=logits.device)
    target = (labels[:, None] == classes[:, None, None]).float()
    known = (labels != ignore_index)[:, None]
    intersection = (probabilities * target).sum((2, 3))
    predicted = (probabilities * known).sum((2, 3))
    return intersection, predicted, target.sum((2, 3))


def dice_loss_from_statistics(
    intersection: torch.Tensor,
    predicted: torch.Tensor,
    target: torch.Tensor,
    smooth: float,
    include_background: bool = True,
) -> torch.Tensor:
    """1 - mean over classes of (2I + s) / (P + T + s), from pooled (S,) sums; exactly 0 where all are empty."""
    dice = (2 * intersection + smooth) / (predicted + target + smooth)
    return (1 - dice[0 if include_background else 1 :]).mean()


def classification_loss_sum_and_count(
    logits: torch.Tensor, labels: torch.Tensor, config: ResFormerConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of the classification loss, and the number of entries or, where classes exclude each other, rows behind it.

    Args:
        logits: (B, K).
        labels: (B, K) floats in [0, 1]; -100 or NaN marks an entry as unlabelled.
        config: Kind of the classes, their weights, label smoothing.
    """
    logits, labels = logits.float(), labels.float()
    known = (labels != UNLABELLED) & ~labels.isnan()
    truth = labels.masked_fill(~known, 0.0)
    weights = torch.tensor(config.class_weights or [1.0] * logits.shape[1], dtype=logits.dtype)
    weights = weights.to(logits.device, non_blocking=True)  # an accelerator is not waited for
    summed = exclusive_loss_sum_and_count if config.classes_exclude else multi_label_loss_sum_and_count
    return summed(logits, truth, known, weights, config.label_smoothing)


def multi_label_loss_sum_and_count(
    logits: torch.Tensor, truth: torch.Tensor, known: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy summed over labelled entries, and their number; a weight scales both terms of its class.

    Args:
        logits, truth: (B, K) floats, the truth 0 where unlabelled.
        known: (B, K) booleans.
        weights: (K,) of the classes.
        smoothing: Truth y counts as y (1 - smoothing) + smoothing / 2.
    """
    smoothed = truth * (1 - smoothing) + smoothing / 2
    terms = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none") * weights
    return (terms * known).sum(), known.sum()


def exclusive_loss_sum_and_count(
    logits: torch.Tensor, truth: torch.Tensor, known: torch.Tensor, weights: torch.Tensor, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy summed over the rows whose labels say something, and their number.

    The negative logarithm of the likelihood of what is known: what the known labels leave of 1 belongs to the unlabelled
    classes together. So a row with a 1 is -log p of that class whatever else is unlabelled; a row of zeros is -log of the
    summed probability of the classes that it leaves open; and shares that add up to 1, as mixing images makes them, are
    torch's cross-entropy with class probabilities. Rows in which nothing is labelled, and rows that no image can have
    (several classes, or none at all), are left out.

    Weights scale the terms of their classes, that of several open ones by its mean. The sum is to be divided by the number
    of rows, as torch does for class probabilities, and not by the weights that a batch happens to hold: so the mean over
    micro-batches is that of the batch.

    Args:
        logits, truth: (B, K) floats, the truth 0 where unlabelled.
        known: (B, K) booleans.
        weights: (K,) of the classes.
        smoothing: Share of the truth that is spread evenly over all classes.
    """
    open_share = (1 - truth.sum(1)).clamp(min=0)
    counted = known.any(1) & ~contradicts_exclusion(truth, known)
    # Without an open class the share is 0; all are taken for open then, since the gradient of log 0 is NaN.
    is_open = ~known | known.all(1, keepdim=True)
    log_probabilities = logits.log_softmax(1)
    log_open = log_probabilities.masked_fill(~is_open, float("-inf")).logsumexp(1)
    open_weight = (weights * is_open).sum(1) / is_open.sum(1)
    terms = (truth * weights * log_probabilities).sum(1) + open_share * open_weight * log_open
    if smoothing:
        terms = (1 - smoothing) * terms + smoothing * (weights * log_probabilities).mean(1)
    return -(terms * counted).sum(), counted.sum()


def contradicts_exclusion(truth: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """(B,) whether labels allow no single class: several are present, or none is and none is unlabelled."""
    total = truth.sum(1)
    return (total > 1 + SHARE_TOLERANCE) | ((total < 1 - SHARE_TOLERANCE) & known.all(1))


def pixel_losses(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and focal loss (gamma 2), each the mean over pixels that are not ignored, 0 without any."""
    terms = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none")
    count = (labels != ignore_index).sum().clamp(min=1)
    focal = (1 - torch.exp(-terms)) ** FOCAL_GAMMA * terms
    return terms.sum() / count, focal.sum() / count


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, config: ResFormerConfig) -> torch.Tensor:
    """Soft Dice loss pooled over the batch, plus the optional terms of the config; float32, 0 for no labelled pixel.

    Args:
        logits: (B, S, H, W).
        labels: (B, H, W) integers in 0..S-1 or the config's `semantic_loss_ignore_index`.
        config: Loss settings.

    Raises:
        ValueError: The labels have another shape, are not integers or, on a CPU, hold a value that is no class.
    """
    ignore_index = config.semantic_loss_ignore_index
    labels = checked_mask_labels(logits, labels.to(logits.device), ignore_index)
    statistics = [total.sum(0) for total in dice_statistics(logits, labels, ignore_index)]
    loss = dice_loss_from_statistics(*statistics, config.dice_smooth, config.dice_include_background)
    if config.cross_entropy_weight or config.focal_weight:
        cross_entropy, focal = pixel_losses(logits, labels, ignore_index)
        loss = loss + config.cross_entropy_weight * cross_entropy + config.focal_weight * focal
    return loss


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, config: ResFormerConfig) -> torch.Tensor:
    """Weighted cross-entropy, float32, 0 without any label.

    Binary, the mean over labelled entries; of classes that exclude each other by softmax, the mean over labelled rows.

    Args:
        logits: (B, K).
        labels: (B, K) in [0, 1] with -100 or NaN where unlabelled, or (B,) integer class indices.
        config: Loss settings.

    Raises:
        ValueError: The labels have another shape or, on a CPU, values outside their range, or say of classes that exclude
            each other that an image has several or none.
    """
    labels = checked_class_labels(logits, labels.to(logits.device))
    if config.classes_exclude:
        check_exclusion(labels)
    total, count = classification_loss_sum_and_count(logits, labels, config)
    return total / count.clamp(min=1)


def checked_mask_labels(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    batch_size, num_classes, height, width = logits.shape
    if labels.shape != (batch_size, height, width) or labels.is_floating_point():
        raise ValueError(
            f"Mask labels are {labels.dtype} of shape {tuple(labels.shape)}; expected integers of shape "
            f"{(batch_size, height, width)}, the pixel_values' batch and size."
        )
    labels = labels.long()
    check_values(f"Mask labels other than {ignore_index}", labels, labels != ignore_index, num_classes - 1)
    return labels


def checked_class_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    num_classes = logits.shape[1]
    if labels.dim() == 1 and len(labels) == len(logits) and not labels.is_floating_point() and num_classes > 1:
        check_values("Class indices", labels, labels >= 0, num_classes - 1)
        multi_hot = F.one_hot(labels.clamp(min=0), num_classes).float()
        return multi_hot.masked_fill((labels < 0)[:, None], UNLABELLED)
    if labels.shape != logits.shape:
        indices = f", or ({len(logits)},) class indices" if num_classes > 1 else ""
        raise ValueError(
            f"Class labels have the shape {tuple(labels.shape)}; expected {tuple(logits.shape)} with 1 for every class "
            f"that is present (-100 where unknown){indices}."
        )
    check_values("Class labels", labels, (labels != UNLABELLED) & ~labels.isnan(), 1)
    return labels


def check_exclusion(labels: torch.Tensor) -> None:
    """Refuses (B, K) labels of several classes or of none; not on an accelerator, where the loss leaves them out."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    known = (labels != UNLABELLED) & ~labels.isnan()
    wrong = contradicts_exclusion(labels.float().masked_fill(~known, 0.0), known)
    if wrong.any():
        raise ValueError(
            f"Class labels hold the row {labels[wrong][0].tolist()}; expected exactly one class an image "
            "(classification_type='exclusive'). Correct the labels, or use 'multi_label'."
        )


def check_values(kind: str, labels: torch.Tensor, known: torch.Tensor, highest: int) -> None:
    """Refuses labels outside 0..highest; on an accelerator the look would wait for it at every step, so not there."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    values = labels[known]
    if values.numel() and (values.min() < 0 or values.max() > highest):
        raise ValueError(f"{kind} hold values from {values.min()} to {values.max()}; expected 0..{highest}.")


# ---------------------------------------------------------------------------------------------------------------------
# Models
# ---------------------------------------------------------------------------------------------------------------------


def first_not_finite(model: nn.Module) -> str | None:
    """Name of the first parameter or buffer with NaN or infinite values; None if there is none.

    Integers and tensors without storage (meta device) pass; types of 8 bits, which torch cannot ask, are widened.
    """
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta or not tensor.is_floating_point():
            continue
        values = tensor.detach()
        if not (values.float() if values.element_size() < 2 else values).isfinite().all():
            return name
    return None


# Parameters that a model may have while it is loaded, None for any number: `from_pretrained` tells `__init__`, which
# transformers calls with a config alone.
_ROOM: ContextVar[int | None] = ContextVar("room for parameters", default=None)


def room_of(folder: Any) -> int | None:
    """How many parameters the weights of a folder justify, those of new heads among them; None where it has none."""
    path = Path(str(folder))
    if not path.is_dir():
        return None
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return SPARE_PARAMETERS + LOADED_RATIO * stored if stored else None


def every_output(model: "ResFormerPreTrainedModel") -> list[torch.Tensor]:
    """What a model gives for a small grey image, feature maps included, with the graph that leads there."""
    options = {"output_hidden_states": True, "output_attentions": False, "return_dict": True}
    with torch.inference_mode(False), torch.enable_grad():
        # Twenty times as fast as on the meta device, where batch norms run in Python.
        image = torch.zeros(1, model.config.num_channels, FUSED_AT, FUSED_AT, dtype=model.dtype, device=model.device)
        output = torch.func.functional_call(model, tensors_to_record(model), (image,), options)
    return [
        tensor
        for value in output.to_tuple()
        for tensor in (value if isinstance(value, tuple) else (value,))
        if tensor.grad_fn is not None
    ]


class ResFormerPreTrainedModel(PreTrainedModel):
    """Weight initialisation, saving and loading shared by all ResFormer models.

    The models name their parts alike (`encoder`, `dilated_feature_enhancement`, `decoder`, `segmentation_head`,
    `classification_head`), so that one checkpoint serves them all.
    """

    config: ResFormerConfig
    config_class = ResFormerConfig
    base_model_prefix = "resformer"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "ResFormerStage",
        "ResFormerGlobalBranch",
        "ResFormerDilatedFeatureEnhancement",
        "ResFormerDecoderLayer",
        "ResFormerSegmentationHead",
        "ResFormerClassificationHead",
    ]
    _supports_sdpa = True
    _supports_attention_backend = True
    # The losses are means over a micro-batch, which the Trainer has to divide by the accumulation steps.
    accepts_loss_kwargs = False
    # By which Auto class `pipeline(model=folder, trust_remote_code=True)` loads what this class has saved.
    _pipeline_auto_class: str | None = None
    # Of a fused model, the one that it was made from.
    _plain: tuple[PreTrainedModel] | None = None

    def __init__(self, config: ResFormerConfig) -> None:
        config.check()
        super().__init__(config)

    def post_init(self) -> None:
        """As transformers does, once it is known that there may be memory for all of it."""
        room = _ROOM.get()
        count = sum(parameter.numel() for parameter in self.parameters())
        if room is not None and count > room:
            raise ValueError(
                f"the config asks for {count:,} parameters, many times what the weights beside it hold; copy the folder again."
            )
        super().post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Kaiming for convolutions, truncated normal for linear layers and bias tables, unit normalisations."""
        std = self.config.initializer_range
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            if getattr(module, "starts_at_zero", False):
                init.zeros_(module.weight)
            else:
                init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, ResFormerRelativePositionBias):
            init.trunc_normal_(module.table, std=std)
            init.copy_(module.index, module.offsets())
        elif isinstance(module, ResFormerFamiliarity):
            init.zeros_(module.mean)
            init.copy_(module.components, torch.eye(*module.components.shape))
            init.ones_(module.variances)
            init.ones_(module.noise)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None, *args: Any, **kwargs: Any) -> Any:
        """Loads a model as transformers does, and refuses one that could only answer nonsense.

        Only safetensors are read: a pickle may run whatever it likes.

        Raises:
            ValueError: a weight or a buffer is NaN or infinite; the message names the folder and the first such tensor.
                Or the config asks for many times the weights that the folder holds.
        """
        room = _ROOM.set(room_of(pretrained_model_name_or_path))
        try:
            loaded = super().from_pretrained(
                pretrained_model_name_or_path, *args, **{"use_safetensors": True, **kwargs}
            )
        finally:
            _ROOM.reset(room)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info=True
        name = first_not_finite(model)
        if name is not None:
            raise ValueError(
                f"{pretrained_model_name_or_path}: its weights are damaged, {name} holds NaN or infinite values; "
                "load another checkpoint, or copy it again."
            )
        return loaded

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Saves weights and config and, for `trust_remote_code`, the code of model and pipeline."""
        if self._plain is not None:
            self._plain[0].save_pretrained(save_directory, *args, **kwargs)
            return
        self.config.auto_map = dict(AUTO_MAP)
        if self._pipeline_auto_class is not None:
            implementation = {"impl": "pipeline_resformer.ResFormerPipeline", "type": "image"}
            self.config.custom_pipelines = {PIPELINE_TASK: {**implementation, "pt": [self._pipeline_auto_class]}}
        super().save_pretrained(save_directory, *args, **kwargs)

    def fuse(self) -> "ResFormerPreTrainedModel":
        """The evaluation form: another model with the same answers, but for rounding, from less arithmetic.

        Batch norms and the second convolutions of the enhanced skips are folded into the convolutions before them, those of
        a backbone too, and position biases are looked up once. Weights lie channels last. What is not folded is in memory
        once for both models. The result shares this model's config, does not train, and its `state_dict` and
        `save_pretrained` are this model's. A fused model returns itself.

        Raises:
            ValueError: the model is in training mode, or its weights are not in memory.
        """
        if self._plain is not None:
            return self
        if self.training:
            raise ValueError(
                "fuse() is for a model in evaluation mode, this one is in training mode; call eval() first."
            )
        if any(tensor.is_meta for tensor in chain(self.parameters(), self.buffers())):
            raise ValueError(
                "fuse() needs the weights, and some are on the meta device; load the model onto a device."
            )
        shared: dict[int, Any] = {id(self.config): self.config}
        for parameter in self.parameters():
            shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        fused = copy.deepcopy(self, shared)
        fuse_convolutions(fused, every_output)
        for name, module in list(fused.named_modules()):
            if isinstance(module, ResFormerRelativePositionBias):
                fused.set_submodule(name, ResFormerFixedPositionBias(module()))
        fused._plain = (self,)  # in a tuple, which keeps it from being a part of the fused model
        return fused.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Any:
        """Sets training or evaluation mode; raises ValueError for training a fused model."""
        if mode and self._plain is not None:
            raise ValueError(
                "A fused model does not train; train the model that fuse() was called on, or load it again."
            )
        return super().train(mode)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Weights by name; of a fused model those it was made from."""
        return (
            super().state_dict(*args, **kwargs) if self._plain is None else self._plain[0].state_dict(*args, **kwargs)
        )

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of `config.backbone_config`'s network, to be frozen or to learn at a rate of their own.

        They exclude the Swin layers that join it; none without a backbone.
        """
        if self.config.backbone_config is not None:
            yield from self.encoder.backbone.parameters()

    def option(self, given: bool | None, name: str) -> bool:
        """An argument of `forward`, or the config's default for it."""
        return bool(getattr(self.config, name) if given is None else given)


class ResFormerBackbone(BackboneMixin, ResFormerPreTrainedModel):
    """The encoder alone, as a backbone for other models: (B, C, H, W) -> feature maps named by `out_features`."""

    _keys_to_ignore_on_load_unexpected = [
        r"^dilated_feature_enhancement\.",
        r"^decoder\.",
        r"^segmentation_head\.",
        r"^classification_head\.",
    ]

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__(config.as_shared())
        stem = [self.config.hidden_sizes[0]] if self.config.backbone_config is None else []
        self.num_features = [*stem, *self.config.hidden_sizes]
        self.encoder = build_encoder(self.config)
        self.post_init()

    def post_init(self) -> None:
        # Without the mixin's, by which a backbone inside this one would take down each of its hidden states twice.
        super(BackboneMixin, self).post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple:
        """Feature maps of the input padded on the right and bottom to whole strides (16 without a backbone).

        Args:
            pixel_values: (B, num_channels, H, W) normalised floats.
            output_hidden_states: Whether to return the stem's and every level's feature map.
            output_attentions: Whether to return the attention probabilities of every Swin layer.
            return_dict: `False` gives a tuple.
        """
        feature_maps, attentions = self.encoder(pixel_values, self.option(output_attentions, "output_attentions"))
        output = BackboneOutput(
            feature_maps=tuple(feature_maps[self.stage_names.index(name)] for name in self.out_features),
            hidden_states=tuple(feature_maps) if self.option(output_hidden_states, "output_hidden_states") else None,
            attentions=attentions,
        )
        return output if self.option(return_dict, "return_dict") else output.to_tuple()


class ResFormerForMultiTask(ResFormerPreTrainedModel):
    """Segmentation and classification of an image by one network, trained together (paper, Figure 2)."""

    _keys_to_ignore_on_load_unexpected = [r"^familiarity\."]  # of a checkpoint that is trained on
    _pipeline_auto_class = "AutoModel"

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__(config.as_shared())
        self.encoder = build_encoder(self.config)
        self.dilated_feature_enhancement = ResFormerSkipConnections(self.config)
        self.decoder = ResFormerDecoder(self.config)
        self.segmentation_head = ResFormerSegmentationHead(self.config)
        self.classification_head = ResFormerClassificationHead(self.config)
        self.familiarity = ResFormerFamiliarity(self.config) if self.config.familiarity_components else None
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        mask_labels: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> ResFormerMultiTaskOutput | tuple:
        """Logits of both tasks, and their losses where labels are given.

        Args:
            pixel_values: (B, num_channels, H, W) normalised floats of any size; 32 x 32 and up is sensible.
            mask_labels: (B, H, W) integers in 0..S-1, 255 (`semantic_loss_ignore_index`) where unlabelled.
            class_labels: (B, K) with 1 for present and 0 for absent classes, -100 or NaN where unknown; at most one present
                where the config says that classes exclude each other.
            output_hidden_states: Whether to return the stem's and every level's feature map.
            output_attentions: Whether to return the attention probabilities of every Swin layer.
            return_dict: `False` gives a tuple.

        Raises:
            ValueError: An input has another shape or type or, on a CPU, another range than stated.
        """
        height, width = pixel_values.shape[-2:]
        feature_maps, attentions = self.encoder(pixel_values, self.option(output_attentions, "output_attentions"))
        decoded = self.decoder(self.dilated_feature_enhancement(feature_maps))
        segmentation_logits = self.segmentation_head(decoded, height, width)
        classification_logits = self.classification_head(feature_maps)

        config, losses = self.config, {}
        if mask_labels is not None:
            losses["segmentation_loss"] = segmentation_loss(segmentation_logits, mask_labels, config)
        if class_labels is not None:
            losses["classification_loss"] = classification_loss(classification_logits, class_labels, config)
        output = ResFormerMultiTaskOutput(
            loss=self.total_loss(**losses) if losses else None,
            **losses,
            segmentation_logits=segmentation_logits,
            classification_logits=classification_logits,
            hidden_states=tuple(feature_maps) if self.option(output_hidden_states, "output_hidden_states") else None,
            attentions=attentions,
            **self.trust(feature_maps, segmentation_logits, classification_logits),
        )
        return output if self.option(return_dict, "return_dict") else output.to_tuple()

    def trust(
        self, feature_maps: Sequence[torch.Tensor], mask_logits: torch.Tensor, class_logits: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`distance` and `confidence`, as far as they were fitted."""
        if self.familiarity is None:
            return {}
        distance, weights = self.familiarity(pooled_features(feature_maps)), self.config.confidence_weights
        if weights is None:
            return {"distance": distance}
        signals = confidence_signals(mask_logits, class_logits, distance, self.config)
        odds = weights[0] + (signals * signals.new_tensor(weights[1:])).sum(dim=1)
        return {"distance": distance, "confidence": odds.sigmoid()}

    def total_loss(
        self, segmentation_loss: torch.Tensor | float = 0.0, classification_loss: torch.Tensor | float = 0.0
    ) -> torch.Tensor:
        """The paper's lambda 1 * classification + lambda 2 * segmentation."""
        weighted = self.config.classification_loss_weight * classification_loss
        return weighted + self.config.segmentation_loss_weight * segmentation_loss


class ResFormerForSemanticSegmentation(ResFormerPreTrainedModel):
    """The segmentation half alone: the paper's "Seg. only" of Table 8, or one use of a multi-task checkpoint."""

    _keys_to_ignore_on_load_unexpected = [r"^classification_head\.", r"^familiarity\."]
    _pipeline_auto_class = "AutoModelForSemanticSegmentation"

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__(config.as_shared())
        self.encoder = build_encoder(self.config)
        self.dilated_feature_enhancement = ResFormerSkipConnections(self.config)
        self.decoder = ResFormerDecoder(self.config)
        self.segmentation_head = ResFormerSegmentationHead(self.config)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SemanticSegmenterOutput | tuple:
        """Mask logits (B, S, H, W), and the segmentation loss for `labels` (B, H, W); see `ResFormerForMultiTask`."""
        height, width = pixel_values.shape[-2:]
        feature_maps, attentions = self.encoder(pixel_values, self.option(output_attentions, "output_attentions"))
        decoded = self.decoder(self.dilated_feature_enhancement(feature_maps))
        logits = self.segmentation_head(decoded, height, width)
        output = SemanticSegmenterOutput(
            loss=None if labels is None else segmentation_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=tuple(feature_maps) if self.option(output_hidden_states, "output_hidden_states") else None,
            attentions=attentions,
        )
        return output if self.option(return_dict, "return_dict") else output.to_tuple()


class ResFormerForImageClassification(ResFormerPreTrainedModel):
    """The classification half alone: the paper's "Cls. only" of Table 8, or one use of a multi-task checkpoint.

    Its `config` is a view whose `id2label` and `problem_type` are those of the image-level classes, as the stock
    pipeline reads them; saving writes the shared config, as from every other class.
    """

    _keys_to_ignore_on_load_unexpected = [
        r"^dilated_feature_enhancement\.",
        r"^decoder\.",
        r"^segmentation_head\.",
        r"^familiarity\.",
    ]
    _pipeline_auto_class = "AutoModelForImageClassification"

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__(config.as_classification())
        self.encoder = build_encoder(self.config, POOLED_LEVELS)
        self.classification_head = ResFormerClassificationHead(self.config)
        self.post_init()

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple:
        """Class logits (B, K), and the classification loss for `labels` (B, K); see `ResFormerForMultiTask`."""
        feature_maps, attentions = self.encoder(pixel_values, self.option(output_attentions, "output_attentions"))
        logits = self.classification_head(feature_maps)
        output = ImageClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=tuple(feature_maps) if self.option(output_hidden_states, "output_hidden_states") else None,
            attentions=attentions,
        )
        return output if self.option(return_dict, "return_dict") else output.to_tuple()


# Saving copies the code of registered classes, in time for an upload.
ResFormerForMultiTask.register_for_auto_class("AutoModel")
ResFormerForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
ResFormerForImageClassification.register_for_auto_class("AutoModelForImageClassification")
ResFormerBackbone.register_for_auto_class("AutoBackbone")

# The stock image-segmentation pipeline looks names up in a copy of this table, which no `register` reaches, and would
# log that the model is not supported although it works.
try:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
except ImportError:  # of another transformers: all it costs is that line in the log
    pass
else:
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.setdefault(
        ResFormerConfig.model_type, ResFormerForSemanticSegmentation.__name__
    )

__all__ = [
    "ResFormerBackbone",
    "ResFormerForImageClassification",
    "ResFormerForMultiTask",
    "ResFormerForSemanticSegmentation",
    "ResFormerMultiTaskOutput",
    "ResFormerPreTrainedModel",
]
