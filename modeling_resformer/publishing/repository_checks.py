"""Reasons not to publish, each as one line, before anything is sent."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..configuration_resformer import ResFormerConfig
from ..errors import BadInputError, named_load_failure, one_line
from ..files import scratch_folder
from ..image_processing_pil_resformer import ResFormerImageProcessorPil
from ..metrics.thresholds import measured_elsewhere
from ..modeling_resformer import ResFormerPreTrainedModel


WEIGHTS_NAME = "model.safetensors"
RESULTS_NAME = "results.json"
RUN_NAME = "run.json"
# Whoever loads one of these runs whatever program is inside.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
# The Trainer leaves its settings so; they are left out of a repository.
TRAINER_PICKLES = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
STRANGER = Path(__file__).with_name("stranger.py")
STRANGER_SECONDS = 600


def check_run(run: Path) -> None:
    """Refuses a run that cannot be published.

    Raises:
        BadInputError: a file is missing, there is no evaluation result, the weights are not finite or a pickle.
    """
    if not run.is_dir():
        raise BadInputError(f"{run}: no such folder; give the --output_dir of scripts/train.py")
    refuse_pickles(run, allowed=TRAINER_PICKLES)
    for name in ("config.json", WEIGHTS_NAME, "preprocessor_config.json"):
        if not (run / name).is_file():
            raise BadInputError(
                f"{run}: {name} is missing; give the --output_dir of a run of scripts/train.py that ended"
            )
    check_results(run / RESULTS_NAME)
    check_thresholds(run)
    check_calibration(run)
    check_weights(run / WEIGHTS_NAME)


def check_results(path: Path) -> None:
    """Refuses a run that nobody has evaluated, or whose evaluation was cut short."""
    if not path.is_file():
        raise BadInputError(
            f"{path.parent}: has no {path.name}, and a model without an evaluation is not published; make one with "
            f"scripts/evaluate.py --model {path.parent} --dataset ... --output {path.parent}"
        )
    results = read_json(path)
    scores = results.get("model")
    if not isinstance(scores, Mapping) or not any(isinstance(s, Mapping) and s.get("n") for s in scores.values()):
        raise BadInputError(f"{path}: holds no score of the model; evaluate it with scripts/evaluate.py")


def check_thresholds(run: Path) -> None:
    """Refuses results whose decisions were measured at other thresholds than the model decides by."""
    measured = read_json(run / RESULTS_NAME).get("thresholds")
    if measured is None:  # of a model, or an evaluation, without image-level classes
        return
    config = read_config(run)
    thresholds = config.decision_thresholds()
    decided = {} if thresholds is None else dict(zip(config.image_class_names, thresholds, strict=True))
    names = measured_elsewhere(decided, measured)
    if names:
        stated = ", ".join(f"{name} {decided[name]:.4g}" if name in decided else f"{name} none" for name in names)
        found = ", ".join(
            f"{name} {measured[name]:.4g}" if name in measured else f"{name} not at all" for name in names
        )
        raise BadInputError(
            f"{run / RESULTS_NAME}: was measured at other thresholds ({found}) than config.json decides by ({stated}); "
            f"measure again by scripts/evaluate.py --model {run} --dataset ... --output {run}"
        )


def check_calibration(run: Path) -> None:
    """Refuses results that were measured before the model was calibrated or given its label sets, or before it lost them."""
    results, config = read_json(run / RESULTS_NAME), read_config(run)
    differing = ["calibration"] if config.is_calibrated != ("uncalibrated" in results) else []
    if results.get("thresholds") is not None:  # of a model with image-level classes
        measured = (results.get("label_sets") or {}).get("thresholds") or {}
        stated = dict(zip(config.image_class_names, config.label_set_thresholds or (), strict=False))
        differing += ["label sets"] if measured_elsewhere(stated, measured) else []
    if differing:
        raise BadInputError(
            f"{run / RESULTS_NAME}: was measured with other {' and '.join(differing)} than config.json has; measure again by "
            f"scripts/evaluate.py --model {run} --dataset ... --output {run}"
        )


def read_config(run: Path) -> ResFormerConfig:
    """The config of a run.

    Raises:
        BadInputError: it is none of a ResFormer.
    """
    with named_load_failure("--model", str(run), "the folder of a ResFormer"):
        return ResFormerConfig.from_pretrained(run)


def check_weights(path: Path) -> None:
    """Refuses weights that hold NaN or infinite values, or are no safetensors."""
    try:
        with safe_open(path, framework="pt") as weights:
            bad = [name for name in weights.keys() if not weights.get_tensor(name).isfinite().all()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path}: is no readable safetensors file ({error}); save the model again") from error
    if bad:
        raise BadInputError(
            f"{path}: {len(bad)} of its tensors hold NaN or infinite values, {bad[0]} first; publish an earlier checkpoint"
        )


def refuse_pickles(folder: Path, allowed: tuple[str, ...] = ()) -> None:
    """Refuses a folder with files that run code when they are read; checkpoints of the Trainer are not looked into."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if inside.parts[0].startswith("checkpoint-") and allowed:
            continue
        if path.suffix.lower() in PICKLES and path.name not in allowed:
            raise BadInputError(f"{path}: pickle files are not published; save weights as safetensors and remove it")


def check_card(path: Path) -> None:
    """Refuses a card whose header is no YAML, names a wrong type, or an image that is not in the repository.

    The Hub's own rules are asked for by `hub.push`; these are the ones that can be known here.
    """
    text = path.read_text(encoding="utf-8")
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    try:
        header = yaml.safe_load(found[1]) if found else None
        ModelCard(text)
    except (yaml.YAMLError, ValueError) as error:
        raise BadInputError(f"{path}: its YAML header is invalid ({one_line(error)})") from error
    if not isinstance(header, dict):
        raise BadInputError(f"{path}: has no YAML header between two lines of ---")
    problems = [*header_problems(header), *missing_examples(header, path.parent)]
    if problems:
        raise BadInputError(f"{path}: its YAML header is invalid: {problems[0]}")


def header_problems(header: Mapping[str, Any]) -> Iterator[str]:
    """What the Hub is known to refuse in a card's header."""
    for name in ("tags", "datasets", "metrics"):
        values = header.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            yield f"{name} must be a list of texts"
    for name in ("license", "library_name", "pipeline_tag"):
        if name in header and not isinstance(header[name], str):
            yield f"{name} must be a text"
    if header.get("license") == "other" and not header.get("license_name"):
        yield "license: other needs a license_name"
    for entry in header.get("widget", []):
        if not isinstance(entry, dict) or not re.match(r"https://|(?![/.])[^:\\]+$", str(entry.get("src", ""))):
            yield "every entry of widget needs a src: a file of the repository, such as examples/a.jpg, or https://..."
    for model in header.get("model-index", []):
        for result in model.get("results", []):
            for metric in result.get("metrics", []):
                if not isinstance(metric.get("value"), int | float):
                    yield f"model-index: the value of {metric.get('name')} must be a number"


def missing_examples(header: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Images of the repository that the widget would offer and that are not there."""
    for entry in header.get("widget", []):
        entry = entry if isinstance(entry, dict) else {}
        output = entry.get("output")
        shown = [output["url"]] if isinstance(output, dict) and "url" in output else []
        for source in map(str, [entry.get("src", ""), *shown]):
            if not source.startswith("https://") and not (folder / source).is_file():
                yield f"widget: {source} is no file of the repository"


def check_repo_id(repo_id: str) -> None:
    """Refuses what cannot be the name of a repository."""
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise BadInputError(f"--repo-id {repo_id}: {str(error).splitlines()[0]}") from error
    if repo_id.count("/") != 1:
        raise BadInputError(f"--repo-id {repo_id}: expected owner/name, such as my-group/resformer-isic2017")


@torch.no_grad()
def check_reload(folder: Path, model: ResFormerPreTrainedModel) -> None:
    """Refuses a folder that a process without this package does not load by `trust_remote_code` to the same answers.

    Tried are config, processor, model, pipeline and handler on one image of fixed noise.

    Args:
        folder: the repository.
        model: the original, on the CPU.

    Raises:
        BadInputError: with the last line of what went wrong there.
    """
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8))
    processor = ResFormerImageProcessorPil.from_pretrained(folder)
    pixel_values = processor(image.numpy(), return_tensors="pt")["pixel_values"]
    output = model.eval()(pixel_values)
    logits = {name: output[name].contiguous() for name in output if name.endswith("logits")}
    with scratch_folder("reload") as scratch:
        save_file({"image": image, "pixel_values": pixel_values, **logits}, scratch / "expected.safetensors")
        environment = os.environ | {"HF_HOME": str(scratch), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [
            sys.executable,
            "-P",
            "-B",  # no bytecode of handler.py into the repository
            str(STRANGER),
            str(folder.resolve()),
            str(scratch / "expected.safetensors"),
        ]
        try:
            tried = subprocess.run(
                command, env=environment, cwd=scratch, capture_output=True, text=True, timeout=STRANGER_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BadInputError(f"{folder}: did not load in a fresh process within {STRANGER_SECONDS} s") from error
    if tried.returncode != 0:
        lines = tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"]
        raise BadInputError(f"{folder}: does not reload in a fresh process by trust_remote_code ({lines[-1]})")


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        BadInputError: it is something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: is no readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: holds a {type(value).__name__}; expected a JSON object")
    return value
