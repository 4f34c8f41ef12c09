"""Every part of the network against an independent source: torchvision, transformers, or the equations written out."""

import pytest
import torch
import torch.nn.functional as F
from small_model import tiny_config
from torch import nn
from transformers import SwinConfig
from transformers.models.swin.modeling_swin import SwinLayer

from modeling_resformer import ResFormerForMultiTask
from modeling_resformer.modeling_resformer import (
    ResFormerBlock,
    ResFormerClassificationHead,
    ResFormerDecoder,
    ResFormerDilatedFeatureEnhancement,
    ResFormerEncoder,
    ResFormerLinear,
    ResFormerResidualLayer,
    ResFormerSegmentationHead,
    ResFormerSpatialAttention,
    ResFormerSwinLayer,
)


def randomised(module: nn.Module) -> nn.Module:
    """Random values everywhere, running statistics too, so that no default hides a difference; in float64."""
    module = module.double()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                values = torch.randn_like(tensor) * 0.3
                tensor.copy_(values.abs() + 0.5 if "var" in name else values)
    return module


@pytest.mark.parametrize("training", [True, False])
def test_residual_layer_is_torchvisions_basic_block(training):
    resnet = pytest.importorskip("torchvision.models.resnet")
    ours, theirs = randomised(ResFormerResidualLayer(8)).train(training), resnet.BasicBlock(8, 8).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs.train(training)(x))


# ---------------------------------------------------------------------------------------------------------------------
# Swin
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 49, 64), (5, 64), (20_481, 1), (1, 321, 64), (9, 49, 64), (3, 23, 29, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_layers_are_torchs_with_gradients_and_without(shape, dtype, has_bias):
    torch.manual_seed(0)
    layer, tokens = ResFormerLinear(shape[-1], 7, bias=has_bias, dtype=dtype), torch.randn(shape, dtype=dtype)
    expected = F.linear(tokens, layer.weight, layer.bias)
    torch.testing.assert_close(layer(tokens), expected)
    strided = tokens.transpose(0, -2).contiguous().transpose(0, -2)
    with torch.no_grad():
        torch.testing.assert_close(layer(tokens), expected)
        torch.testing.assert_close(layer(strided), expected)


def copy_into_swin(ours: ResFormerSwinLayer, theirs: nn.Module) -> None:
    """Copies weights into a transformers SwinLayer, whatever its version calls them."""
    query, key, value = ours.attention.qkv.weight.chunk(3)
    query_bias, key_bias, value_bias = ours.attention.qkv.bias.chunk(3)
    ours_by_role = {
        "query": (query, query_bias),
        "key": (key, key_bias),
        "value": (value, value_bias),
        "output": (ours.attention.output.weight, ours.attention.output.bias),
        "expand": (ours.feed_forward.expand.weight, ours.feed_forward.expand.bias),
        "reduce": (ours.feed_forward.reduce.weight, ours.feed_forward.reduce.bias),
        "before": (ours.attention_norm.weight, ours.attention_norm.bias),
        "after": (ours.feed_forward_norm.weight, ours.feed_forward_norm.bias),
    }
    roles = {
        "query": ("q_proj", "query"),
        "key": ("k_proj", "key"),
        "value": ("v_proj", "value"),
        "output": ("o_proj", "attention.output.dense"),
        "expand": ("fc1", "intermediate.dense"),
        "reduce": ("fc2", "output.dense"),
        "before": ("layernorm_before",),
        "after": ("layernorm_after",),
    }
    modules = dict(theirs.named_modules())
    for role, (weight, bias) in ours_by_role.items():
        name = next(
            name
            for ending in roles[role]
            for name in modules
            if name.endswith(ending) and not (role == "reduce" and "attention" in name)
        )
        modules[name].weight.data.copy_(weight)
        modules[name].bias.data.copy_(bias)
    table = next(p for name, p in theirs.named_parameters() if name.endswith("relative_position_bias_table"))
    table.data.copy_(ours.attention.position_bias.table)


def swin_pair(ours: list[ResFormerSwinLayer], height: int, width: int) -> list[nn.Module]:
    settings = SwinConfig(window_size=4, hidden_act="gelu", mlp_ratio=4.0, attn_implementation="eager")
    theirs = []
    for index, layer in enumerate(ours):
        theirs.append(SwinLayer(settings, 8, (height, width), 2, shift_size=2 * index).double().eval())
        copy_into_swin(layer, theirs[-1])
    return theirs


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 8), (16, 20)])
def test_swin_layers_are_transformers_swin_layers_on_whole_windows(height, width):
    config = tiny_config()
    config._attn_implementation = "sdpa"
    ours = [randomised(ResFormerSwinLayer(config, 8, 2, shift, 0.0)).eval() for shift in (0, 2)]
    theirs = swin_pair(ours, height, width)
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    expected, result = x.flatten(1, 2), x
    for one, other in zip(ours, theirs, strict=True):
        result, expected = one(result)[0], other(expected, (height, width))[0]
        # Theirs takes the softmax in float32.
        torch.testing.assert_close(result.flatten(1, 2), expected, rtol=1e-5, atol=1e-6)


def plain_window_attention(layer: ResFormerSwinLayer, x: torch.Tensor, shift: int) -> torch.Tensor:
    """Attention of every token over the true tokens of its window, one token at a time; x is (h, w, C)."""
    attention, side, (height, width, channels) = layer.attention, 4, x.shape
    heads, dim = attention.num_heads, channels // attention.num_heads
    query, key, value = (attention.qkv(x)).view(height, width, 3, heads, dim).unbind(2)
    table = attention.position_bias.table.view(2 * side - 1, 2 * side - 1, heads)
    shifts = [shift if size > side else 0 for size in (height, width)]

    def window(row: int, column: int) -> tuple[int, int]:
        return (row + side - shifts[0]) // side if shifts[0] else row // side, (
            (column + side - shifts[1]) // side if shifts[1] else column // side
        )

    tokens = [(row, column) for row in range(height) for column in range(width)]
    result = torch.empty(height, width, channels, dtype=x.dtype)
    for row, column in tokens:
        peers = [(r, c) for r, c in tokens if window(r, c) == window(row, column)]
        for head in range(heads):
            scores = torch.stack(
                [
                    query[row, column, head] @ key[r, c, head] / dim**0.5
                    + table[row - r + side - 1, column - c + side - 1, head]
                    for r, c in peers
                ]
            )
            context = scores.softmax(0) @ torch.stack([value[r, c, head] for r, c in peers])
            result[row, column, head * dim : (head + 1) * dim] = context
    return attention.output(result)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (3, 4), (4, 9), (2, 2), (1, 6)])
def test_attention_is_plain_attention_over_each_windows_true_tokens(height, width, shift):
    config = tiny_config()
    config._attn_implementation = "sdpa"
    layer = randomised(ResFormerSwinLayer(config, 8, 2, shift, 0.0)).eval()
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    with torch.no_grad():
        result, _ = layer.attention(x)
        torch.testing.assert_close(result[0], plain_window_attention(layer, x[0], shift))


# ---------------------------------------------------------------------------------------------------------------------
# The paper's equations
# ---------------------------------------------------------------------------------------------------------------------


def batch_norm(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def spatial_attention(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """CBAM (Woo et al. 2018), equation 3: sigmoid(f7x7([mean; max])), here channel by channel."""
    mean, maximum = x.sum(1) / x.shape[1], x.max(dim=1).values
    gate = F.conv2d(mean[:, None], weight[:, :1], padding=3) + F.conv2d(maximum[:, None], weight[:, 1:], padding=3)
    return x / (1 + torch.exp(-gate))


def enhanced(x: torch.Tensor, module: ResFormerDilatedFeatureEnhancement, rates: list[int]) -> torch.Tensor:
    """Section 3.2: SA(ReLU(sum over d of BN(Conv1x1(BN(DConv3x3^d(F))))))."""
    total = 0
    for branch, rate in zip(module.branches, rates, strict=True):
        dilated = batch_norm(F.conv2d(x, branch[0].weight, padding=rate, dilation=rate), branch[1])
        total = total + batch_norm(torch.einsum("oi,bihw->bohw", branch[2].weight[..., 0, 0], dilated), branch[3])
    return spatial_attention(total.clamp(min=0), module.spatial_attention.convolution.weight)


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Bilinear up-sampling by 2 without aligned corners: weights 3/4 and 1/4, edges repeated."""
    for axis in (2, 3):
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
        before = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), last], axis)
        x = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1).flatten(axis, axis + 1)
    return x


def test_spatial_attention_is_cbams():
    module = randomised(ResFormerSpatialAttention())
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x), spatial_attention(x, module.convolution.weight))


def test_dilated_feature_enhancement_is_the_papers():
    rates = [6, 12, 18]
    module = randomised(ResFormerDilatedFeatureEnhancement(6, 6, rates)).eval()
    x = torch.randn(2, 6, 24, 20, dtype=torch.float64)
    torch.testing.assert_close(module(x), enhanced(x, module, rates))


@pytest.mark.parametrize("block_type", ["sequential", "parallel"])
def test_block_joins_its_parts_as_the_paper_says(block_type):
    config = tiny_config(block_type=block_type)
    config._attn_implementation = "sdpa"
    block = randomised(ResFormerBlock(config, 0, [0.0, 0.0])).eval()
    x = torch.randn(1, 8, 8, 12, dtype=torch.float64)
    local = block.residual_layers(x)
    tokens = (local if block_type == "sequential" else x).permute(0, 2, 3, 1)
    for layer in block.swin_layers:
        update = layer.attention(layer.attention_norm(tokens))[0] + tokens
        tokens = layer.feed_forward(layer.feed_forward_norm(update)) + update
    tokens = tokens.permute(0, 3, 1, 2)
    torch.testing.assert_close(block(x)[0], tokens if block_type == "sequential" else local + tokens)
    assert [layer.attention.shift_size for layer in block.swin_layers] == [0, 2]


def test_stem_and_patch_merging_halve_the_size_as_settled():
    encoder = randomised(ResFormerEncoder(tiny_config())).eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    stem = encoder.stem
    first = batch_norm(F.conv2d(x, stem.convolution.weight, padding=3), stem.normalization).clamp(min=0)
    torch.testing.assert_close(stem(x), F.max_pool2d(first, 3, stride=2, padding=1))
    assert encoder.stages[0].patch_merging is None
    for stage in encoder.stages[1:]:
        merging = stage.patch_merging
        assert (merging.kernel_size, merging.stride, merging.padding) == ((3, 3), (2, 2), (1, 1))
        assert merging.bias is not None


def test_decoder_and_segmentation_head_are_the_papers():
    config = tiny_config()
    decoder = randomised(ResFormerDecoder(config)).eval()
    head = randomised(ResFormerSegmentationHead(config)).eval()
    skips = [
        torch.randn(1, size, 32 // 2**level, 48 // 2**level, dtype=torch.float64)
        for level, size in enumerate(config.hidden_sizes)
    ]
    # Section 3.2: d1 = Up(e4); d_i = Up(ReLU(BN(Conv(Concat(e_{5-i}, d_{i-1}))))), i = 2, 3, 4.
    d = doubled(skips[3])
    for i in (2, 3, 4):
        layer = decoder.layers[i - 2]
        joined = F.conv2d(torch.cat([skips[4 - i], d], 1), layer.convolution.weight, padding=1)
        d = doubled(batch_norm(joined, layer.normalization).clamp(min=0))
    # Section 3.3: the 1 x 1 convolution on the full-size decoder output.
    logits = torch.einsum("oi,bihw->bohw", head.classifier.weight[..., 0, 0], d) + head.classifier.bias[:, None, None]
    torch.testing.assert_close(head(decoder(skips), 64, 96), logits)


def test_classification_head_is_the_papers():
    config = tiny_config()
    head = randomised(ResFormerClassificationHead(config))
    maps = [torch.randn(2, size, 6, 5, dtype=torch.float64) for size in [8, *config.hidden_sizes]]
    pooled = torch.cat([maps[3].flatten(2).sum(2) / 30, maps[4].flatten(2).sum(2) / 30], 1)
    expected = (pooled @ head.hidden.weight.T + head.hidden.bias) @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head(maps), expected)


@pytest.mark.parametrize("use_dfe", [True, False])
def test_the_whole_is_its_parts(use_dfe):
    model = randomised(ResFormerForMultiTask(tiny_config(use_dfe=use_dfe, dilation_rates=[1, 2]))).eval()
    x = torch.randn(1, 3, 40, 33, dtype=torch.float64)
    with torch.no_grad():
        output = model(x, output_hidden_states=True)
        # Zeros on the right and bottom to 48 x 48, the smallest multiples of 16.
        padded = torch.zeros(1, 3, 48, 48, dtype=torch.float64)
        padded[..., :40, :33] = x
        maps = [model.encoder.stem(padded)]
        for stage in model.encoder.stages:
            merged = maps[-1] if stage.patch_merging is None else stage.patch_merging(maps[-1])
            maps.append(stage.block(merged)[0])
        skips = maps[1:]
        if use_dfe:
            skips = [
                enhanced(m, layer, [1, 2]) for m, layer in zip(skips, model.dilated_feature_enhancement, strict=True)
            ]
        logits = model.segmentation_head(model.decoder(skips), 48, 48)[..., :40, :33]
    for one, other in zip(output.hidden_states, maps, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(output.segmentation_logits, logits)
    torch.testing.assert_close(output.classification_logits, model.classification_head(maps))
