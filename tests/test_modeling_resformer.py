"""The models as users and the Trainer meet them: shapes, gradients, saving, checkpointing, attention, export."""

import copy
import itertools

import pytest
import torch
from small_model import tiny_config
from torch.export import Dim
from torch.fx.experimental import _config as shape_config
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageSegmentation,
    AutoModelForSemanticSegmentation,
)

from modeling_resformer import (
    ResFormerBackbone,
    ResFormerConfig,
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    modeling_resformer,
)


MODEL_CLASSES = [
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerForImageClassification,
    ResFormerBackbone,
]
VARIANTS = [
    {},
    {"block_type": "parallel"},
    {"use_dfe": False},
    {"cnn_depths": [2, 1, 2, 1]},
    {"transformer_depths": [1, 2, 3, 2]},
    {"qkv_bias": False},
    {"window_size": 7},
    {"decoder_hidden_sizes": [12, 10, 6]},
    {
        "hidden_sizes": [8, 16, 24],
        "cnn_depths": [1, 1, 1],
        "transformer_depths": [2, 2, 2],
        "num_attention_heads": [1, 2, 2],
    },
]


def labelled(model_class, batch):
    if model_class is ResFormerForMultiTask:
        return batch
    labels = {
        ResFormerForSemanticSegmentation: batch["mask_labels"],
        ResFormerForImageClassification: batch["class_labels"],
    }
    return {"pixel_values": batch["pixel_values"], "labels": labels[model_class]}


@pytest.mark.parametrize(
    ("cnn_depths", "millions"), [([3, 4, 6, 3], 45.40), ([1, 1, 1, 1], 29.03)], ids=["resnet34", "one_block"]
)
def test_parameter_counts_are_the_known_ones(cnn_depths, millions):
    config = ResFormerConfig(num_labels=4, cnn_depths=cnn_depths)
    with torch.device("meta"):
        model = ResFormerForMultiTask(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_shapes_of_every_level_are_the_papers():
    with torch.device("meta"):
        model = ResFormerForMultiTask(ResFormerConfig(num_labels=4)).eval()
        output = model(torch.empty(2, 3, 224, 224), output_hidden_states=True)
    assert [tuple(h.shape[1:]) for h in output.hidden_states] == [
        (64, 112, 112),
        (64, 112, 112),
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
    ]
    assert output.segmentation_logits.shape == (2, 4, 224, 224)
    assert output.classification_logits.shape == (2, 3)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (48, 112), (65, 16)])
def test_any_size_gives_masks_of_that_size(config, size):
    model = ResFormerForMultiTask(config).eval()
    output = model(torch.randn(1, 3, *size))
    assert output.segmentation_logits.shape == (1, 4, *size)
    assert output.segmentation_logits.isfinite().all() and output.classification_logits.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("model_class", MODEL_CLASSES[:3])
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(variant, model_class, batch):
    model = model_class(tiny_config(**variant))
    model(**labelled(model_class, batch)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_initialisation_is_the_one_documented():
    torch.manual_seed(0)
    model = ResFormerForMultiTask(tiny_config(hidden_sizes=[32, 64, 96, 128]))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 1000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
        if isinstance(module, torch.nn.Linear):
            assert module.weight.abs().max() < 2.0 and module.bias.abs().max() == 0, name
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15), name
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
    assert model.encoder.stages[0].block.swin_layers[0].attention.position_bias.table.std() > 0.01


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_loading_keeps_every_value(model_class, config, tmp_path):
    model = model_class(config)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor).abs())
    model.save_pretrained(tmp_path)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    for (name, tensor), (_, other) in zip(model.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(tensor, other), name
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    assert not list(tmp_path.glob("*.bin"))


def test_one_multi_task_checkpoint_serves_all_classes_in_silence(config, batch, tmp_path):
    multi_task = ResFormerForMultiTask(config).eval()
    multi_task.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = multi_task(batch["pixel_values"], output_hidden_states=True)
        for model_class, logits in (
            (ResFormerForSemanticSegmentation, expected.segmentation_logits),
            (ResFormerForImageClassification, expected.classification_logits),
        ):
            model, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
            assert not report["missing_keys"] and not report["unexpected_keys"]
            assert torch.equal(model(batch["pixel_values"]).logits, logits)
        backbone = ResFormerBackbone.from_pretrained(tmp_path, out_indices=[0, 1, 2, 3, 4])
        for feature_map, hidden_state in zip(
            backbone(batch["pixel_values"]).feature_maps, expected.hidden_states, strict=True
        ):
            assert torch.equal(feature_map, hidden_state)


@pytest.mark.parametrize(
    ("model_class", "missing"),
    [
        (ResFormerForSemanticSegmentation, {"classification_head"}),
        (ResFormerForImageClassification, {"dilated_feature_enhancement", "decoder", "segmentation_head"}),
    ],
)
def test_a_missing_head_is_named(model_class, missing, config, tmp_path):
    model_class(config).save_pretrained(tmp_path)
    _, report = ResFormerForMultiTask.from_pretrained(tmp_path, output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} == missing


def test_auto_classes_build_and_load_each_class(config, tmp_path):
    ResFormerForMultiTask(config).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ResFormerConfig)
    for auto_class, model_class in (
        (AutoModel, ResFormerForMultiTask),
        (AutoModelForSemanticSegmentation, ResFormerForSemanticSegmentation),
        (AutoModelForImageSegmentation, ResFormerForSemanticSegmentation),
        (AutoModelForImageClassification, ResFormerForImageClassification),
    ):
        assert type(auto_class.from_pretrained(tmp_path)) is model_class
        assert type(auto_class.from_config(config)) is model_class
    assert type(AutoBackbone.from_config(config)) is ResFormerBackbone


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_tuples_hold_what_the_output_holds(model_class, config, batch):
    model = model_class(config).eval()
    options = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        output = model(batch["pixel_values"], **options)
        flat = model(batch["pixel_values"], return_dict=False, **options)
    assert isinstance(flat, tuple)
    assert len(flat) == len(output.to_tuple())
    assert torch.equal(flat[0][0], output.to_tuple()[0][0])


def test_attentions_are_distributions_over_the_true_tokens(config):
    # A 36 x 40 input is padded to 48 x 48: level maps of 24, 12, 6 and 3, of which the last two need padded windows.
    model = ResFormerForMultiTask(config).eval()
    attentions = model(torch.randn(2, 3, 36, 40), output_attentions=True).attentions
    assert len(attentions) == 8
    assert [a.shape for a in attentions[:2]] == [(2, 36, 2, 16, 16)] * 2
    for probabilities in attentions:
        torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities.sum(-1)))
    # 3 x 3 true tokens in one 4 x 4 window: no true token looks at a padded one.
    true = torch.zeros(4, 4, dtype=torch.bool)
    true[:3, :3] = True
    true = true.flatten()
    for probabilities in attentions[-2:]:
        assert probabilities[..., true, :][..., ~true].abs().max() == 0


@pytest.mark.parametrize("size", [(48, 40), (64, 64), (37, 90)])
def test_eager_and_sdpa_agree_forward_and_backward(size):
    eager = ResFormerForMultiTask(tiny_config(window_size=7))
    eager.set_attn_implementation("eager")
    sdpa = copy.deepcopy(eager)
    sdpa.set_attn_implementation("sdpa")
    pixel_values = torch.randn(2, 3, *size)
    for model in (eager.double(), sdpa.double()):
        output = model(pixel_values.double())
        assert output.segmentation_logits.isfinite().all()
        (output.segmentation_logits.square().mean() + output.classification_logits.square().mean()).backward()
    torch.testing.assert_close(
        eager(pixel_values.double()).segmentation_logits, sdpa(pixel_values.double()).segmentation_logits
    )
    for (name, one), other in zip(eager.named_parameters(), sdpa.parameters(), strict=True):
        assert one.grad.isfinite().all(), name
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_more_windows_than_a_kernel_takes_are_answered_in_parts(config, monkeypatch):
    model = ResFormerForMultiTask(config).eval()
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole = model(pixel_values).segmentation_logits
        monkeypatch.setattr(modeling_resformer, "MOST_WINDOWS", 7)
        for implementation in ("sdpa", "eager"):
            model.set_attn_implementation(implementation)
            torch.testing.assert_close(model(pixel_values).segmentation_logits, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", [1, 700, 5_000])  # numbers: a window and a row each, and several
@pytest.mark.parametrize("size", [(48, 48), (40, 65)])
def test_a_map_that_is_answered_part_by_part_is_the_map_at_once(part, size, config, monkeypatch):
    torch.manual_seed(0)
    model, pixel_values = ResFormerForMultiTask(config).eval().double(), torch.randn(2, 3, *size, dtype=torch.float64)
    whole = model(pixel_values).segmentation_logits.detach()  # with gradients
    monkeypatch.setattr(modeling_resformer, "PART", part)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixel_values).segmentation_logits, whole)
        torch.testing.assert_close(model(pixel_values, output_attentions=True).segmentation_logits, whole)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_no_nan_on_padded_windows_in_half_precision(implementation):
    model = ResFormerForMultiTask(tiny_config(window_size=7)).to(torch.bfloat16)
    model.set_attn_implementation(implementation)
    output = model(torch.randn(1, 3, 36, 50, dtype=torch.bfloat16))
    assert output.segmentation_logits.isfinite().all()
    output.segmentation_logits.float().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def trained_once(model, batch):
    torch.manual_seed(3)
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()], dict(model.named_buffers())


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("variant", [{}, {"block_type": "parallel", "drop_path_rate": 0.3}], ids=str)
def test_gradient_checkpointing_changes_neither_loss_nor_gradients_nor_statistics(use_reentrant, variant, batch):
    plain = ResFormerForMultiTask(tiny_config(**variant)).double().train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert checkpointed.is_gradient_checkpointing
    batch["pixel_values"] = batch["pixel_values"].double()
    loss, gradients, buffers = trained_once(plain, batch)
    other_loss, other_gradients, other_buffers = trained_once(checkpointed, batch)
    torch.testing.assert_close(loss, other_loss)
    for one, other in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(one, other)
    for name, buffer in buffers.items():
        torch.testing.assert_close(buffer, other_buffers[name], msg=name)
    assert buffers["encoder.stem.normalization.num_batches_tracked"] == 1


@pytest.mark.parametrize(("window", "side"), [(16, 128), (32, 256)])
def test_large_windows_never_hold_a_number_for_every_pair_of_tokens(window, side):
    """Neither their attention nor a mask: all that a forward pass holds at once is less than that."""
    sizes = {
        "hidden_sizes": [8, 16],
        "cnn_depths": [1, 1],
        "transformer_depths": [2, 2],
        "num_attention_heads": [1, 2],
    }
    model = ResFormerForMultiTask(tiny_config(**sizes, window_size=window)).eval()
    pixel_values = torch.zeros(1, 3, side, side)
    with torch.inference_mode():
        model(pixel_values)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            model(pixel_values)
    held = itertools.accumulate(e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]")
    windows = (side // 2 // window) ** 2
    assert 0 < max(held) < windows * window**4 * 4  # bytes, of the first level and one head


def test_gradient_checkpointing_saves_memory(batch):
    def saved_bytes(model):
        sizes = {}
        hook = torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.setdefault((t.data_ptr(), t.shape), t.numel() * t.element_size()) and t, lambda t: t
        )
        with hook:
            model(**batch)
        return sum(sizes.values())

    model = ResFormerForMultiTask(tiny_config(cnn_depths=[3, 3, 3, 3])).train()
    plain = saved_bytes(model)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    assert saved_bytes(model) < plain / 2


def test_recomputing_parts_saves_memory_and_changes_no_gradient(batch):
    def trained(parts):
        torch.manual_seed(0)
        model, sizes = ResFormerForMultiTask(tiny_config(recompute=parts)).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            loss = model(**batch).loss
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        return sum(sizes), gradients, [loss, *model.buffers()]

    parts = ([], ["attention"], ["attention", "activation"], ["attention", "activation", "normalization"])
    kept, gradients, others = zip(*map(trained, parts), strict=True)
    assert kept[0] > kept[1] > kept[2] > kept[3]
    for one, *rest in [*zip(*gradients, strict=True), *zip(*others, strict=True)]:
        for other in rest:
            torch.testing.assert_close(one, other)
    assert tiny_config().recompute == ("normalization", "activation")
    with pytest.raises(ValueError, match=r"recompute=.*'all'.*normalization, activation, attention"):
        tiny_config(recompute=["all"])


def test_a_paper_sized_training_image_leaves_300_megabytes_and_with_checkpointing_76():
    """Of activations in float32 at 224 x 224; each storage counts once, weights do not."""

    def kept_megabytes(checkpointed):
        model = ResFormerForSemanticSegmentation(ResFormerConfig(num_labels=4)).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
        storages = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.zeros(1, 3, 224, 224), labels=torch.zeros(1, 224, 224, dtype=torch.long))
        return sum(storage.nbytes() for storage in storages.values()) / 1e6

    assert kept_megabytes(checkpointed=False) <= 300
    assert kept_megabytes(checkpointed=True) <= 76


def test_stochastic_depth_rises_linearly_and_stays_out_of_evaluation(batch):
    model = ResFormerForMultiTask(tiny_config(drop_path_rate=0.7))
    rates = [layer.drop_path.rate for stage in model.encoder.stages for layer in stage.block.swin_layers]
    assert rates == pytest.approx([0.1 * index for index in range(8)])
    drop = model.encoder.stages[3].block.swin_layers[1].drop_path
    dropped = drop.train()(torch.ones(4000, 1, 1, 1)).flatten()
    assert sorted(dropped.unique().tolist()) == pytest.approx([0.0, 1 / 0.3])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.1)
    model.eval()
    with torch.no_grad():
        one, other = model(batch["pixel_values"]), model(batch["pixel_values"])
    assert torch.equal(one.segmentation_logits, other.segmentation_logits)


def test_a_image_of_a_batch_is_answered_as_alone(config):
    model = ResFormerForMultiTask(config).eval()
    pixel_values = torch.randn(3, 3, 40, 56)
    with torch.no_grad():
        together, alone = model(pixel_values), model(pixel_values[1:2])
    torch.testing.assert_close(together.segmentation_logits[1:2], alone.segmentation_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.classification_logits[1:2], alone.classification_logits, rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_trains(config):
    model = ResFormerForMultiTask(config).train()
    output = model(torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long), torch.ones(1, 3))
    output.loss.backward()
    assert output.loss.isfinite()


@pytest.mark.long
def test_a_network_of_this_kind_learns_four_images(batch):
    torch.manual_seed(0)
    model = ResFormerForMultiTask(tiny_config()).train()
    batch["mask_labels"] = torch.zeros(2, 48, 40, dtype=torch.long)
    batch["mask_labels"][0, 10:30, 5:25], batch["mask_labels"][1, 20:40, 10:30] = 1, 2
    batch["pixel_values"][0, :, 10:30, 5:25] += 3
    batch["pixel_values"][1, :, 20:40, 10:30] -= 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
    predicted = output.segmentation_logits.argmax(1)
    assert (predicted == batch["mask_labels"]).float().mean() > 0.97
    assert output.classification_loss < 0.1


@pytest.mark.parametrize(
    "model_class", [MODEL_CLASSES[0], *(pytest.param(other, marks=pytest.mark.slow) for other in MODEL_CLASSES[1:3])]
)
@pytest.mark.long
def test_export_runs_at_sizes_it_has_not_seen(model_class):
    levels = {
        "hidden_sizes": [8, 16],
        "cnn_depths": [1, 1],
        "transformer_depths": [2, 2],
        "num_attention_heads": [2, 2],
    }
    model = model_class(tiny_config(**levels, window_size=8)).eval()
    dynamic = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with shape_config.patch(backed_size_oblivious=True):
        program = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(dynamic,)).module()
    # At 32 x 32 the levels are 16 and 8: the last lies within one window.
    for shape in ((1, 3, 32, 32), (3, 3, 50, 67), (2, 3, 128, 48), (1, 3, 33, 160)):
        pixel_values = torch.randn(*shape)
        with torch.no_grad():
            exported, expected = program(pixel_values), model(pixel_values)
        for name in expected:
            # Kernels, and so the last digits, differ from one kind of processor to the next.
            torch.testing.assert_close(exported[name], expected[name], rtol=1e-4, atol=5e-5)


@pytest.mark.slow
def test_compile_gives_the_same_answers():
    config = tiny_config(
        hidden_sizes=[8, 16], cnn_depths=[1, 1], transformer_depths=[2, 2], num_attention_heads=[1, 2], use_dfe=False
    )
    model = ResFormerForMultiTask(config).eval()
    pixel_values = torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        expected, compiled = model(pixel_values), torch.compile(model)(pixel_values)
    torch.testing.assert_close(compiled.segmentation_logits, expected.segmentation_logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(compiled.classification_logits, expected.classification_logits, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("is_training", [False, True])
def test_two_graphs_at_most_serve_all_sizes_of_whole_windows(is_training):
    from torch._dynamo.testing import CompileCounterWithBackend  # seconds to import

    config = tiny_config(
        hidden_sizes=[8, 16], cnn_depths=[1, 1], transformer_depths=[2, 2], num_attention_heads=[1, 2], use_dfe=False
    )
    model = ResFormerForMultiTask(config).train(is_training)
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=graphs, fullgraph=True, dynamic=True)
    with torch.set_grad_enabled(is_training):
        for height, width in ((64, 128), (128, 64), (192, 128), (128, 192)):
            pixel_values = torch.randn(2, 3, height, width)
            labels = {"mask_labels": torch.zeros(2, height, width, dtype=torch.long)} if is_training else {}
            expected, answer = model(pixel_values, **labels), compiled(pixel_values, **labels)
            torch.testing.assert_close(answer.segmentation_logits, expected.segmentation_logits, rtol=1e-3, atol=1e-3)
            if is_training:
                torch.testing.assert_close(answer.loss, expected.loss)
                answer.loss.backward()
    assert graphs.frame_count <= 2


@pytest.mark.parametrize(
    ("pixel_values", "said"),
    [
        (torch.randn(3, 48, 40), r"\(3, 48, 40\).*\(batch, 3, height, width\)"),
        (torch.randn(1, 1, 48, 40), r"\(1, 1, 48, 40\)"),
        (torch.zeros(1, 3, 48, 40, dtype=torch.uint8), "uint8"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(config, pixel_values, said):
    with pytest.raises(ValueError, match=said):
        ResFormerForMultiTask(config)(pixel_values)


@pytest.mark.slow
def test_onnx_gives_the_same_answers_at_sizes_it_has_not_seen(config, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = ResFormerForMultiTask(config).eval()
    dynamic = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with shape_config.patch(backed_size_oblivious=True):
        program = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(dynamic,))
        torch.onnx.export(program, dynamo=True).save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for shape in ((1, 3, 32, 32), (3, 3, 50, 67)):
        pixel_values = torch.randn(*shape)
        masks, classes = session.run(None, {session.get_inputs()[0].name: pixel_values.numpy()})
        with torch.no_grad():
            expected = model(pixel_values)
        torch.testing.assert_close(torch.from_numpy(masks), expected.segmentation_logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(torch.from_numpy(classes), expected.classification_logits, rtol=1e-3, atol=1e-3)
