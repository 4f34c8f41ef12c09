"""Loads a repository as somebody does who never heard of the package. Run by its path in a fresh process, never imported:

    python -P stranger.py FOLDER EXPECTED.safetensors

The last line on stderr says what differs; the exit status is 0 where nothing does.
"""

import base64
import importlib.util
import io
import sys
from pathlib import Path

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers.models.auto.image_processing_auto import AutoImageProcessor


TRUST = {"trust_remote_code": True}
AUTO_CLASSES = {
    "ResFormerForMultiTask": "AutoModel",
    "ResFormerForSemanticSegmentation": "AutoModelForSemanticSegmentation",
    "ResFormerForImageClassification": "AutoModelForImageClassification",
}


def compare_outputs(what: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Ends the process where two tensors differ by more than a different order of additions explains."""
    if actual.shape != expected.shape:
        sys.exit(f"{what} has the shape {tuple(actual.shape)}, not {tuple(expected.shape)}")
    difference = (actual - expected).abs().max().item()
    if not difference <= 1e-4 * max(1.0, expected.abs().max().item()):
        sys.exit(f"{what} differs from the original by up to {difference:.3g}")


def try_model(folder: str, expected: dict[str, torch.Tensor]) -> None:
    config = transformers.AutoConfig.from_pretrained(folder, **TRUST)
    auto_class = getattr(transformers, AUTO_CLASSES[config.architectures[0]])
    model, report = auto_class.from_pretrained(folder, output_loading_info=True, **TRUST)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            sys.exit(f"{problem} of the weights: {', '.join(sorted(map(str, report[problem]))[:3])}")
    with torch.no_grad():
        output = model.eval()(expected["pixel_values"])
    for name in expected:
        if name.endswith("logits"):
            compare_outputs(name, output[name], expected[name])


def try_processor_and_pipeline(folder: str, expected: dict[str, torch.Tensor]) -> None:
    image = Image.fromarray(expected["image"].numpy())
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **TRUST)
    compare_outputs("pixel_values", processor(image, return_tensors="pt")["pixel_values"], expected["pixel_values"])
    AutoImageProcessor.from_pretrained(folder, **TRUST)
    answer = transformers.pipeline(model=folder, device="cpu", **TRUST)(image)
    if "segmentation" in answer and tuple(answer["segmentation"].shape) != (image.height, image.width):
        sys.exit(f"the pipeline's mask has the shape {tuple(answer['segmentation'].shape)}")
    if not {"segmentation", "class_scores"} & set(answer):
        sys.exit(f"the pipeline answers {sorted(answer)}")


def try_handler(folder: str, image: Image.Image) -> None:
    """As Inference Endpoints do: by its path, as the module `handler`."""
    spec = importlib.util.spec_from_file_location("handler", Path(folder) / "handler.py")
    handler = importlib.util.module_from_spec(spec)
    sys.modules["handler"] = handler
    spec.loader.exec_module(handler)
    endpoint = handler.EndpointHandler(folder)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    text = base64.b64encode(encoded.getvalue()).decode()
    for task in endpoint.tasks:
        answer = endpoint({"inputs": text, "parameters": {"task": task}})
        if not all(isinstance(part["label"], str) and isinstance(part["score"], float) for part in answer):
            sys.exit(f"handler.py answers {task} with {answer!r:.200}")


def main(folder: str, expected_path: str) -> None:
    sys.modules["modeling_resformer"] = None  # whatever is installed here: a stranger has only the folder
    expected = load_file(expected_path)
    try_model(folder, expected)
    try_processor_and_pipeline(folder, expected)
    try_handler(folder, Image.fromarray(expected["image"].numpy()))


if __name__ == "__main__":
    main(*sys.argv[1:])
