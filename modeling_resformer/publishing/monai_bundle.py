"""The two files that make a Hub repository a MONAI bundle: `configs/metadata.json` and `configs/inference.json`.

What MONAI runs are the repository's own weights, image processor and code, so that its masks are those of the pipeline. A
bundle's `models/model.pt` is a pickle, and pickles are not published: the config loads `model.safetensors`. Nothing here needs
MONAI; what the files must hold stands in https://docs.monai.io/en/stable/mb_specification.html.
"""

import json
import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from ..configuration_resformer import __version__
from .facts import Facts, needs_timm


CONFIGS = "configs"
METADATA_NAME, INFERENCE_NAME = "metadata.json", "inference.json"
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
# With which the files were last run.
MONAI_VERSION, IGNITE_VERSION = "1.6.1", "0.5.5"


def write_monai_bundle(folder: Path, repo_id: str, revision: str, licence: str | None, facts: Facts) -> None:
    """Writes both files into `folder/configs`, of a model that has masks.

    Args:
        folder: the repository.
        repo_id: `owner/name`.
        revision: tag or branch that it is published as.
        licence: of the weights, in words; None where there is none.
        facts: of the run.
    """
    (folder / CONFIGS).mkdir()
    for name, content in (
        (METADATA_NAME, bundle_metadata(repo_id, revision, licence, facts)),
        (INFERENCE_NAME, inference()),
    ):
        (folder / CONFIGS / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def bundle_metadata(repo_id: str, revision: str, licence: str | None, facts: Facts) -> dict[str, Any]:
    """What the model is, in the words of MONAI's specification."""
    classes = {str(index): name for index, name in enumerate(facts.config.mask_class_names)}
    foreground = ", ".join(facts.config.mask_class_names[1:])
    number = revision.removeprefix("v") if re.fullmatch(r"v?\d+(\.\d+)*", revision) else "0.1.0"
    scores = {name: facts.score(name) for name in ("dice", "jaccard")}
    what = {
        "type": "image",
        "modality": facts.source.modality or "n/a",
        "spatial_shape": list(facts.size),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
    }
    return {
        "schema": SCHEMA,
        "version": number,
        "changelog": {number: f"as published by modeling-resformer {__version__}"},
        "monai_version": MONAI_VERSION,
        "pytorch_version": installed_version("torch").split("+")[0],
        "numpy_version": installed_version("numpy"),
        "required_packages_version": packages(facts),
        "name": repo_id.split("/")[-1],
        "task": f"Segmentation of {foreground}",
        "description": f"A ResFormer that outlines {foreground}, trained on {facts.dataset_title}.",
        "authors": f"the owner of {repo_id}",
        "copyright": f"weights: {licence or 'no licence named, ask the owner'}; code: Apache 2.0",
        "data_source": facts.dataset_title,
        "data_type": "image files",
        "image_classes": "three channels, prepared by the image processor of the repository",
        "label_classes": ", ".join(f"{index} is {name}" for index, name in classes.items()),
        "pred_classes": "logits of " + ", ".join(f"{index} {name}" for index, name in classes.items()),
        "eval_metrics": {
            name: round(score.value, 4) for name, score in scores.items() if score is not None and not facts.synthetic
        },
        "intended_use": "Research only; not a medical device.",
        "references": ["arXiv 2412.00351"],
        "network_data_format": {
            "inputs": {
                "image": what
                | {"format": "magnitude", "num_channels": 3, "channel_def": {"0": "red", "1": "green", "2": "blue"}}
            },
            "outputs": {
                "pred": what | {"format": "labels", "num_channels": len(classes), "channel_def": classes},
            },
        },
    }


def packages(facts: Facts) -> dict[str, str]:
    """What the config needs beside MONAI, torch and NumPy."""
    names = ["transformers", "pillow", *(["timm"] if needs_timm(facts.config) else [])]
    return {name: installed_version(name) for name in names} | {"pytorch-ignite": IGNITE_VERSION}


def inference() -> dict[str, Any]:
    """Images of `dataset_dir` to masks (class indices, PNG) in `output_dir`, by `python -m monai.bundle run`.

    MONAI lays images out as (width, height): masks are turned that way before it saves them.
    """
    load = "from_pretrained(@bundle_root, trust_remote_code=True)"
    opened = "{'path': item['image'], 'image': @image_processor.open_upright(item['image'])}"
    prepared = (
        "{**item, 'height': item['image'].height, 'width': item['image'].width, "
        "'image': @image_processor(item['image'], return_tensors='pt')['pixel_values'][0]}"
    )
    mask = (
        "@image_processor.post_process_semantic_segmentation({'logits': item['pred'][None]}, "
        "target_sizes=[(int(item['height']), int(item['width']))])[0].T[None]"
    )
    return {
        "imports": ["$import glob", "$import transformers"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/examples'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.*'))",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "image_processor": f"$transformers.AutoImageProcessor.{load}",
        "network_def": f"$transformers.AutoModelForSemanticSegmentation.{load}",
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [f"$lambda item: {opened}", f"$lambda item: {prepared}"],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": "$lambda inputs, network, *args, **kwargs: network(inputs).logits",
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                f"$lambda item: {{**item, 'pred': monai.data.MetaTensor({mask}, "
                "meta={'filename_or_obj': item['path']})}",
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_ext": ".png",
                    "output_postfix": "mask",
                    "output_dtype": "$numpy.uint8",
                    "resample": False,
                    "separate_folder": False,
                },
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }
