"""A saved folder in a process that cannot import the package: `trust_remote_code`, with and without torchvision."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from fresh_process import ROOT, packages_without, run_as_stranger
from hub_stand_in import StandInHub
from PIL import Image
from small_model import tiny_config
from transformers import pipeline

from modeling_resformer import (
    ResFormerForImageClassification,
    ResFormerForMultiTask,
    ResFormerForSemanticSegmentation,
    ResFormerImageProcessor,
    ResFormerImageProcessorPil,
)


CODE_FILES = {
    "backbone_resformer.py",
    "configuration_resformer.py",
    "fusing_resformer.py",
    "modeling_resformer.py",
    "image_processing_resformer.py",
    "image_processing_pil_resformer.py",
    "pipeline_resformer.py",
}

STRANGER = """
import importlib.util, json, sys
import numpy as np, torch
assert importlib.util.find_spec("modeling_resformer") is None
assert (importlib.util.find_spec("torchvision") is None) == (sys.argv[2] == "without")
import transformers
from transformers.models.auto.image_processing_auto import AutoImageProcessor

folder, trust = sys.argv[1], {"trust_remote_code": True}
reference = torch.load(folder + "/../reference.pt", weights_only=True)
processor = AutoImageProcessor.from_pretrained(folder, **trust)
image = np.load(folder + "/../image.npy")
pixel_values = processor(image, return_tensors="pt")["pixel_values"]
torch.testing.assert_close(pixel_values, reference["pixel_values"], atol=0.02, rtol=0)
pixel_values = reference["pixel_values"]
seen = {"processor": type(processor).__name__, "config": type(transformers.AutoConfig.from_pretrained(folder, **trust)).__name__}
for auto, field in [
    ("AutoModel", None),
    ("AutoModelForSemanticSegmentation", "segmentation_logits"),
    ("AutoModelForImageSegmentation", "segmentation_logits"),
    ("AutoModelForImageClassification", "classification_logits"),
]:
    model = getattr(transformers, auto).from_pretrained(folder, **trust)
    seen[auto] = type(model).__name__
    with torch.no_grad():
        output = model(pixel_values)
    for name in [field] if field else ["segmentation_logits", "classification_logits"]:
        torch.testing.assert_close(output.logits if field else output[name], reference[name])
    if auto == "AutoModel":
        result = processor.post_process_multitask(output, model.config, target_sizes=[image.shape[:2]])[0]
        assert result["segmentation"].shape == image.shape[:2]
        model.save_pretrained(folder + "/../again")
backbone = transformers.AutoBackbone.from_config(
    transformers.AutoConfig.from_pretrained(folder, out_indices=[1, 4], **trust), **trust
)
seen["AutoBackbone"] = type(backbone).__name__
assert [f.shape[1] for f in backbone.eval()(pixel_values).feature_maps] == [8, 32]
processor.save_pretrained(folder + "/../again")
again = transformers.AutoModel.from_pretrained(folder + "/../again", **trust)
with torch.no_grad():
    torch.testing.assert_close(again(pixel_values).segmentation_logits, reference["segmentation_logits"])
pipe = transformers.pipeline(model=folder, **trust)
seen["pipeline"] = [type(pipe).__name__, type(pipe.model).__name__]
answer = pipe(image)
assert answer["segmentation"].shape == image.shape[:2]
expected = dict(zip("abc", reference["classification_logits"][0].sigmoid().tolist()))
assert all(abs(score - expected[name]) < 0.01 for name, score in answer["class_scores"].items()), answer
pipe.save_pretrained(folder + "/../by_pipeline")
again = transformers.pipeline(model=folder + "/../by_pipeline", **trust)(image)
assert again["class_scores"] == answer["class_scores"]
print(json.dumps(seen))
"""


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as for the Hub, what it answers to an image, and the image."""
    torch.manual_seed(0)
    model = ResFormerForMultiTask(tiny_config(classification_labels=["a", "b", "c"])).eval()
    processor = ResFormerImageProcessor(size={"height": 48, "width": 64})
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    inputs = processor(image, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    reference = {name: output[name] for name in ("segmentation_logits", "classification_logits")}
    torch.save({**reference, **inputs}, tmp_path / "reference.pt")
    return tmp_path / "checkpoint"


@pytest.mark.long
@pytest.mark.parametrize("torchvision", ["with", "without"])
def test_a_stranger_loads_everything(checkpoint, tmp_path, torchvision):
    if torchvision == "with":
        pytest.importorskip("torchvision")
    assert {path.name for path in checkpoint.glob("*.py")} == CODE_FILES
    packages = packages_without(tmp_path / "packages", *(["torchvision"] if torchvision == "without" else []))
    output, _ = run_as_stranger(STRANGER, packages, str(checkpoint), torchvision)
    assert json.loads(output.splitlines()[-1]) == {
        "processor": "ResFormerImageProcessorPil" if torchvision == "without" else "ResFormerImageProcessor",
        "config": "ResFormerConfig",
        "AutoModel": "ResFormerForMultiTask",
        "AutoModelForSemanticSegmentation": "ResFormerForSemanticSegmentation",
        "AutoModelForImageSegmentation": "ResFormerForSemanticSegmentation",
        "AutoModelForImageClassification": "ResFormerForImageClassification",
        "AutoBackbone": "ResFormerBackbone",
        "pipeline": ["ResFormerPipeline", "ResFormerForMultiTask"],
    }
    for folder in ("again", "by_pipeline"):
        assert {path.name for path in (tmp_path / folder).glob("*.py")} == CODE_FILES, "a re-save must be whole too"


WITHOUT_TORCHVISION = """
import sys
import numpy as np
import modeling_resformer
from transformers.models.auto.image_processing_auto import AutoImageProcessor
assert modeling_resformer.ResFormerImageProcessor is modeling_resformer.ResFormerImageProcessorPil
processor = AutoImageProcessor.from_pretrained(sys.argv[1])
assert type(processor) is modeling_resformer.ResFormerImageProcessorPil
assert processor(np.zeros((9, 8, 3), np.uint8), return_tensors="pt")["pixel_values"].shape == (1, 3, 48, 64)
processor.save_pretrained(sys.argv[2])
"""


@pytest.mark.long
def test_without_torchvision_the_processor_is_the_pil_one(checkpoint, tmp_path):
    packages = packages_without(tmp_path / "packages", "torchvision", with_ours=True)
    run_as_stranger(WITHOUT_TORCHVISION, packages, str(checkpoint), str(tmp_path / "saved"))
    saved = {path.name for path in (tmp_path / "saved").iterdir()}
    assert saved == {"preprocessor_config.json", "image_processing_resformer.py", "image_processing_pil_resformer.py"}


@pytest.mark.parametrize("processor_class", [ResFormerImageProcessor, ResFormerImageProcessorPil])
def test_saved_processor_names_both_back_ends(processor_class, tmp_path):
    processor_class(size={"height": 9, "width": 8}).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "ResFormerImageProcessor"
    assert saved["auto_map"]["AutoImageProcessor"] == {
        "torchvision": "image_processing_resformer.ResFormerImageProcessor",
        "pil": "image_processing_pil_resformer.ResFormerImageProcessorPil",
    }


@pytest.mark.parametrize(
    "model_class", [ResFormerForMultiTask, ResFormerForSemanticSegmentation, ResFormerForImageClassification]
)
def test_every_save_maps_all_auto_classes(model_class, tmp_path):
    model_class(tiny_config()).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_resformer.ResFormerConfig",
        "AutoModel": "modeling_resformer.ResFormerForMultiTask",
        "AutoModelForSemanticSegmentation": "modeling_resformer.ResFormerForSemanticSegmentation",
        "AutoModelForImageSegmentation": "modeling_resformer.ResFormerForSemanticSegmentation",
        "AutoModelForImageClassification": "modeling_resformer.ResFormerForImageClassification",
        "AutoBackbone": "modeling_resformer.ResFormerBackbone",
    }


def test_stock_pipelines_name_the_classes_of_their_own_task(checkpoint):
    image = Image.fromarray(np.load(checkpoint.parent / "image.npy"))
    reference = torch.load(checkpoint.parent / "reference.pt", weights_only=True)
    segments = pipeline("image-segmentation", model=str(checkpoint))(image)
    labels = ["background", "IRF", "SRF", "PED"]
    resized = torch.nn.functional.interpolate(reference["segmentation_logits"], (60, 70), mode="bilinear")[0].argmax(0)
    assert {segment["label"] for segment in segments} == {labels[index] for index in resized.unique().tolist()}
    for segment in segments:
        expected = (resized == labels.index(segment["label"])).numpy() * 255
        assert np.mean(np.asarray(segment["mask"]) == expected) > 0.999

    scores = pipeline("image-classification", model=str(checkpoint))(image)
    expected = dict(zip("abc", reference["classification_logits"][0].sigmoid().tolist(), strict=True))
    assert {score["label"]: score["score"] for score in scores} == pytest.approx(expected, abs=1e-4)


EXCLUSIVE = """
import sys
import numpy as np
from PIL import Image
from transformers import pipeline

folder, image = sys.argv[1], Image.fromarray(np.load(sys.argv[1] + "/../image.npy"))
stock = pipeline("image-classification", model=folder, device="cpu", trust_remote_code=True)
scores = {one["label"]: one["score"] for one in stock(image)}
answer = pipeline(model=folder, device="cpu", trust_remote_code=True)(image)
assert abs(sum(scores.values()) - 1) < 1e-5 and abs(sum(answer["class_scores"].values()) - 1) < 1e-5
assert all(abs(scores[name] - score) < 0.01 for name, score in answer["class_scores"].items())
assert answer["predicted_labels"] == [max(scores, key=scores.get)]
"""


@pytest.mark.long
def test_classes_that_exclude_each_other_do_so_for_a_stranger(checkpoint, tmp_path):
    stored = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**stored, "classification_type": "exclusive"}))
    run_as_stranger(EXCLUSIVE, packages_without(tmp_path / "packages"), str(checkpoint))


STOCK_PIPELINES = """
import sys
if sys.argv[1] == "package":
    import modeling_resformer
import numpy as np
from PIL import Image
from transformers import pipeline

image = Image.fromarray(np.load(sys.argv[2] + "/../image.npy"))
for task in ("image-segmentation", "image-classification"):
    pipe = pipeline(task, model=sys.argv[2], device="cpu", trust_remote_code=sys.argv[1] == "repository")
    print(task, type(pipe.model).__module__.split(".")[0], len(pipe(image)))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("code", "module"), [("package", "modeling_resformer"), ("repository", "transformers_modules")]
)
def test_stock_pipelines_do_not_call_a_model_unsupported_that_works(code, module, checkpoint, tmp_path):
    packages = packages_without(tmp_path / "packages", with_ours=code == "package")
    printed, logged = run_as_stranger(STOCK_PIPELINES, packages, code, str(checkpoint))
    lines = [line.split() for line in printed.splitlines()[-2:]]
    assert [line[:2] for line in lines] == [["image-segmentation", module], ["image-classification", module]]
    assert all(int(line[2]) > 0 for line in lines)
    assert "not supported" not in logged


PUSH = """
import sys
from small_model import tiny_config
from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor

model, processor = ResFormerForMultiTask(tiny_config()), ResFormerImageProcessor()
if sys.argv[1] == "push_to_hub":
    model.push_to_hub("org/model")
    processor.push_to_hub("org/model")
else:
    model.save_pretrained(sys.argv[2], push_to_hub=True, repo_id="org/model")
    processor.save_pretrained(sys.argv[2], push_to_hub=True, repo_id="org/model")
"""


@pytest.mark.long
@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_a_push_carries_weights_settings_and_code(how, tmp_path):
    hub = StandInHub().start()
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_x"}
    environment |= {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")]),
    }
    command = [sys.executable, "-c", PUSH, how, str(tmp_path / "folder")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    (repository,) = hub.repositories.values()
    names = set(repository["files"])
    hub.shutdown()
    assert names >= CODE_FILES | {"config.json", "model.safetensors", "preprocessor_config.json"}
