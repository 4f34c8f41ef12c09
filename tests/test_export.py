"""One ONNX file that answers like the pipeline."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import tiny_config

from modeling_resformer import (
    ResFormerConfig,
    ResFormerForMultiTask,
    ResFormerImageProcessorPil,
    ResFormerPipeline,
)


onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from modeling_resformer.commands.export import main as export_main
from modeling_resformer.commands.predict import main as predict_main
from modeling_resformer.errors import BadInputError
from modeling_resformer.exporting import analysis_graph, onnx_file
from modeling_resformer.handler import Limits


RUNTIMES = ("torch", "onnx", "openvino") if find_spec("openvino") else ("torch", "onnx")
READY = Path(__file__).parents[1] / "hub_cards" / "resformer-lite-isic2017"
MIXING = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)


class Mixture(torch.nn.Module):
    """In the place of a model: mask logits that mix the colours of each pixel, class logits that are their means."""

    segmentation_head = classification_head = None

    def __init__(self, config: ResFormerConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        masks = torch.nn.functional.conv2d(pixel_values, torch.from_numpy(MIXING))
        return {"segmentation_logits": masks, "classification_logits": pixel_values.mean((2, 3))}


def mixture_as_onnx() -> "onnx.ModelProto":
    """The same as a graph."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["pixel_values", "mixing"], ["segmentation_logits"]),
        helper.make_node("ReduceMean", ["pixel_values", "sides"], ["classification_logits"], keepdims=0),
    ]
    constants = [
        onnx.numpy_helper.from_array(MIXING, "mixing"),
        onnx.numpy_helper.from_array(np.array([2, 3]), "sides"),
    ]
    shapes = {"segmentation_logits": ["b", 4, "h", "w"], "classification_logits": ["b", 3]}
    outputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    pixels = helper.make_tensor_value_info("pixel_values", kind, ["b", 3, "h", "w"])
    graph = helper.make_graph(nodes, "mixture", [pixels], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", analysis_graph.OPSET)])


def answers_of(session: "onnxruntime.InferenceSession", images: list[np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": np.stack(images)}), strict=True))


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth colours with some noise, as photographs have them."""
    rng = np.random.default_rng(height * width)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize((width, height), 3)
    return np.clip(np.asarray(coarse) + rng.normal(0, 3, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("settings", "classes"),
    [
        ({}, "multi_label"),
        ({"resample": 3}, "exclusive"),
        ({"keep_aspect_ratio": True, "size": {"height": 40, "width": 48}}, "multi_label"),
        ({"do_resize": False}, "multi_label"),
        ({"do_normalize": False}, "exclusive"),
        ({"keep_largest_component": True}, "multi_label"),
        ({"keep_largest_component": True, "keep_aspect_ratio": True}, "multi_label"),
        ({"keep_largest_component": True, "do_resize": False}, "exclusive"),
        ({"keep_largest_component": True, "size": {"height": 300, "width": 520}}, "exclusive"),
    ],
    ids=str,
)
def test_the_steps_around_the_network_are_the_processors(settings, classes):
    thresholds = [0.5, 0.4, 0.6] if classes == "multi_label" else None
    config = tiny_config(classification_type=classes, classification_thresholds=thresholds)
    processor = ResFormerImageProcessorPil(**{"size": {"height": 48, "width": 48}, **settings})
    model = Mixture(config)
    pipe = type("Pipe", (), {"model": model, "image_processor": processor})
    whole = analysis_graph.analysis_model(mixture_as_onnx(), onnx_file.analysis_settings(pipe))
    onnx.checker.check_model(whole)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((61, 97), (130, 40), (48, 48), (33, 20)):
        image = photograph(height, width)
        found = answers_of(session, [image, image[::-1]])
        for index, one in enumerate((image, image[::-1])):
            outputs = model(processor(one, return_tensors="pt")["pixel_values"])
            (expected,) = processor.post_process_multitask(outputs, config, [(height, width)])
            assert found["segmentation"].dtype == np.uint8
            differing = (found["segmentation"][index] != expected["segmentation"].numpy()).sum()
            assert differing <= max(2, 0.001 * height * width)
            for name in ("area_fraction", "mean_probability"):
                truth = [of[name] or 0 for of in expected["mask_classes"].values()]
                np.testing.assert_allclose(found[name][index], truth, atol=3e-3, err_msg=name)
            scores = list(expected["class_scores"].values())
            np.testing.assert_allclose(found["class_scores"][index], scores, atol=1e-3)
            decided = zip(expected["class_scores"], found["predicted_classes"][index], strict=True)
            assert [name for name, is_one in decided if is_one] == expected["predicted_labels"]


def test_gelus_keep_their_bits_and_become_one_operator(tmp_path):
    """Of a graph in which the exporter's order of multiplications hides them from ONNX Runtime."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    steps = [("Div", "x", "root"), ("Erf", "Div"), ("Add", "Erf", "one"), ("Mul", "half", "Add"), ("Mul", "x", "Mul")]
    nodes = [
        helper.make_node(name, list(inputs), [name if number < 4 else "y"])
        for number, (name, *inputs) in enumerate(steps)
    ]
    constants = [
        onnx.numpy_helper.from_array(np.float32(value), name)
        for name, value in (("root", 2**0.5), ("one", 1), ("half", 0.5))
    ]
    x, y = (helper.make_tensor_value_info(name, kind, ["n"]) for name in "xy")
    graph = helper.make_graph(nodes, "gelu", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", analysis_graph.OPSET)])

    def computed(optimized: Path | None) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if optimized is not None:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.optimized_model_filepath = str(optimized)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        (answer,) = session.run(None, {"x": np.linspace(-9, 9, 1001, dtype=np.float32)})
        return answer

    plain = computed(None)
    onnx_file.regroup_gelus(model.graph)
    np.testing.assert_array_equal(computed(None), plain)
    expected = torch.nn.functional.gelu(torch.linspace(-9, 9, 1001)).numpy()
    np.testing.assert_allclose(computed(tmp_path / "after.onnx"), expected, atol=2e-6)
    assert [node.op_type for node in onnx.load(tmp_path / "after.onnx").graph.node] == ["Gelu"]


def test_int8_multiplies_8_bit_integers_and_answers_nearly_the_same():
    from modeling_resformer.exporting.eight_bits import in_int8
    from modeling_resformer.exporting.onnx_network import onnxruntime_runner

    inputs = np.random.default_rng(1).uniform(-1, 1, (20, 1, 3, 16, 16)).astype(np.float32)
    quantised = in_int8(mixture_as_onnx(), inputs[:10])
    assert onnx.TensorProto.INT8 in [one.data_type for one in quantised.graph.initializer]
    found, expected = onnxruntime_runner(quantised)(inputs[10]), Mixture(tiny_config())(torch.from_numpy(inputs[10]))
    for name, one in expected.items():
        # The inputs' steps of 2 / 255 and the weights' of their largest / 63, rounded, over three colours.
        np.testing.assert_allclose(found[name], one.numpy(), atol=3 * (1 / 255 + 0.5 / 63) * np.abs(MIXING).max())


class Copyist(torch.nn.Module):
    """Answers with the masks and labels it was given, in turn."""

    def __init__(self, masks: list[np.ndarray], labels: list[list[float]]) -> None:
        super().__init__()
        self.answers = iter(zip(masks, labels, strict=True))

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        mask, labels = next(self.answers)
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(mask).long(), 2).permute(2, 0, 1)[None]
        return {"segmentation_logits": one_hot.float(), "classification_logits": torch.tensor([labels])}


def test_int8_is_refused_where_it_loses_as_much_as_it_may_not():
    pytest.importorskip("datasets")
    from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset

    from modeling_resformer.training.eight_bit_export import check_loss, network_scores

    config = tiny_config(id2label=dict(enumerate(MASK_CLASSES)), classification_labels=CLASS_LABELS)
    processor = ResFormerImageProcessorPil(do_resize=False)
    pipe = type("Pipe", (), {"model": Mixture(config), "image_processor": processor})
    rows = prepared_dataset(1, 6, 1)["validation"]
    empty = np.zeros((40, 48), np.uint8)
    masks = [empty if mask is None else np.array(mask) for mask in rows["mask"]]
    labels = [[float(k in (present or [])) for k in range(2)] for present in rows["class_labels"]]
    assert network_scores(Copyist(masks, labels), pipe, rows) == {"dice": 1.0, "auc": 1.0}
    turned = [[1 - one for one in row] for row in labels]
    assert network_scores(Copyist([empty] * 6, turned), pipe, rows) == {"dice": 0.0, "auc": 0.0}
    check_loss({"dice": [0.9, 0.8951], "auc": [0.8, 0.85]}, "validation")
    with pytest.raises(BadInputError, match=r"auc on the test split is 0\.7949, in float32 0\.8000"):
        check_loss({"dice": [0.9, 0.9], "auc": [0.8, 0.7949]}, "test")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_each_runtime_computes_the_graph_for_batches_of_any_size(runtime):
    pytest.importorskip(runtime)
    from modeling_resformer.exporting import onnx_network

    run = getattr(onnx_network, f"{runtime}_runner")(mixture_as_onnx())
    model = Mixture(tiny_config())
    for shape in ((1, 3, 20, 31), (3, 3, 8, 8)):
        pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        found, expected = run(pixels.numpy()), model(pixels)
        assert found.keys() == expected.keys()
        for name, one in expected.items():
            np.testing.assert_allclose(found[name], one.numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("settings", "said"), [({"resample": 1}, "resample"), ({"intensity_range": [0, 10]}, "intensity_range")]
)
def test_what_no_graph_can_do_is_refused(settings, said):
    pipe = type(
        "Pipe", (), {"model": Mixture(tiny_config()), "image_processor": ResFormerImageProcessorPil(**settings)}
    )
    with pytest.raises(BadInputError, match=said):
        onnx_file.analysis_settings(pipe)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["org/model"], "--output is missing"),
        (["org/model", "--output", "model.bin"], "ends in .onnx"),
        (["org/model", "--output", "model.onnx", "--format", "torch"], "ends in .pt2"),
        (["org/model", "--output", "model.pt2", "--format", "torch", "--half"], "neither --int8 nor --half"),
        (["org/model", "--output", "model.onnx", "--int8"], "--calibration"),
        (["org/model", "--output", "model.onnx", "--int8", "--calibration", "d", "--half"], "one of them"),
    ],
)
def test_flags_that_do_not_fit_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        export_main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_torch_program_answers_like_the_model_for_any_batch_and_size(model, tmp_path):
    from modeling_resformer.exporting.torch_program import METADATA

    assert export_main(["--model", model, "--output", str(tmp_path / "model.pt2"), "--format", "torch"]) == 0
    extra = {METADATA: ""}
    run = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    loaded = ResFormerForMultiTask.from_pretrained(model).eval()
    for shape in ((1, 3, 32, 32), (1, 3, 50, 71), (3, 3, 64, 48)):
        pixels = torch.randn(shape)
        with torch.no_grad():
            expected, found = loaded(pixels), run(pixels)
        torch.testing.assert_close(found[0], expected.segmentation_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[1], expected.classification_logits, atol=1e-4, rtol=1e-4)
    facts = json.loads(extra[METADATA])
    assert json.loads(facts["mask_classes"]) == loaded.config.mask_class_names
    assert len(json.loads(facts["scale"])) == 3


def test_another_runtime_runs_on_the_cpu_and_wants_its_file(model, tmp_path, capsys, caplog):
    with pytest.raises(SystemExit):
        predict_main(["--model", model, "x.png", "--output", str(tmp_path), "--runtime", "onnx", "--device", "cuda"])
    assert "expected cpu" in capsys.readouterr().err
    Image.fromarray(photograph(40, 40)).save(tmp_path / "x.png")
    arguments = ["--model", model, str(tmp_path / "x.png"), "--output", str(tmp_path / "out"), "--runtime", "onnx"]
    assert predict_main(arguments) == 1
    assert f"scripts/export.py --model {model}" in caplog.text


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The checkpoint that comes along, with its file."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(READY, folder)
    assert export_main(["--model", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_the_file_answers_like_the_pipeline_on_photographs(exported):
    from modeling_resformer.exporting.onnx_network import known
    from modeling_resformer.prediction.predictor import load_pipeline

    loaded = load_pipeline(str(exported), None, torch.device("cpu"))
    # Pillow's filter, since torchvision's own rounds up to 3 % of the 8-bit values otherwise.
    processor = ResFormerImageProcessorPil.from_pretrained(exported)
    pipe = ResFormerPipeline(model=loaded.model, image_processor=processor, device="cpu")
    file = exported / "model.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for path in sorted((exported / "examples").glob("*.jpg")):
        for size in ((300, 200), (150, 333), (767, 1022), (224, 224)):
            image = Image.open(path).convert("RGB").resize(size)
            expected, found = pipe(image), answers_of(session, [np.asarray(image)])
            assert (found["segmentation"][0] == expected["segmentation"].numpy()).mean() >= 0.999
            scores = list(expected["class_scores"].values())
            np.testing.assert_allclose(found["class_scores"][0], scores, atol=1e-3)
            np.testing.assert_allclose(found["confidence"][0], expected["confidence"], atol=2e-3)
            np.testing.assert_allclose(found["distance"][0], expected["distance"], rtol=1e-2)
    facts = known(onnx.load(file))
    assert facts["mask_classes"] == ["background", "lesion"]
    assert facts["image_classes"] == ["melanoma", "seborrheic_keratosis", "nevus"]
    assert facts["thresholds"] == loaded.model.config.classification_thresholds
    assert facts["label_set_thresholds"] == loaded.model.config.label_set_thresholds
    assert facts["distance_limit"] == loaded.model.config.distance_limit
    assert facts["size"] == [224, 224]


@pytest.mark.slow
def test_half_the_size_gives_nearly_the_same(exported, tmp_path):
    file = tmp_path / "half.onnx"
    assert export_main(["--model", str(exported), "--output", str(file), "--half"]) == 0
    assert file.stat().st_size < 0.6 * (exported / "model.onnx").stat().st_size
    image = [photograph(300, 200)]
    half, whole = (
        answers_of(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), image)
        for path in (file, exported / "model.onnx")
    )
    assert (half["segmentation"] == whole["segmentation"]).mean() >= 0.99
    np.testing.assert_allclose(half["class_scores"], whole["class_scores"], atol=2e-2)


@pytest.mark.slow
def test_predict_and_serve_give_the_same_by_every_runtime(exported, tmp_path):
    from modeling_resformer.serving.server import Served, load_handler

    image = sorted((exported / "examples").glob("*.jpg"))[0]
    masks = {}
    for runtime in RUNTIMES:
        output = tmp_path / runtime
        arguments = [
            "--model",
            str(exported),
            str(image),
            "--output",
            str(output),
            "--runtime",
            runtime,
            "--tta",
            "both",
        ]
        assert predict_main([*arguments, "--device", "cpu"]) == 0
        masks[runtime] = np.asarray(Image.open(output / "masks" / f"{image.stem}.png"))
    for runtime in RUNTIMES[1:]:
        assert (masks["torch"] == masks[runtime]).mean() >= 0.999, runtime
    scores = [
        load_handler(Served(str(exported), runtime=runtime), Limits())(
            {"inputs": image.read_bytes(), "parameters": {"task": "classification"}}
        )
        for runtime in RUNTIMES
    ]
    for of_another in scores[1:]:
        for one, other in zip(scores[0], of_another, strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


@pytest.mark.slow
def test_a_file_of_other_weights_is_refused(exported, model, tmp_path):
    from modeling_resformer.exporting.onnx_network import onnx_network
    from modeling_resformer.prediction.predictor import load_pipeline

    folder = tmp_path / "other"
    shutil.copytree(model, folder)
    shutil.copy(exported / "model.onnx", folder)
    with pytest.raises(BadInputError, match="other weights"):
        onnx_network(load_pipeline(str(folder), None, torch.device("cpu")).model, str(folder))
