"""What `scripts/train.py` leaves behind, with made-up results: nothing here was measured."""

import json
from pathlib import Path

import torch
from small_model import tiny_config

from modeling_resformer import ResFormerImageProcessor
from modeling_resformer.heads import TASKS


ISIC = {
    "id2label": {0: "background", 1: "lesion"},
    "classification_labels": ["melanoma", "seborrheic_keratosis", "nevus"],
}
FLUIDS = {"id2label": {0: "background", 1: "IRF", 2: "SRF", 3: "PED"}, "classification_labels": ["IRF", "SRF", "PED"]}


def score(value, low=None, high=None, n=300):
    return {"value": value, "low": low, "high": high, "n": n}


def mask_scores(value, low, high, classes):
    names = ("dice", "jaccard", "dice_present", "jaccard_present", "dice_volume")
    return {
        f"{name}{suffix}": score(value, low, high)
        for name in names
        for suffix in ("", *(f"_{label}" for label in classes))
    }


def made_up_results(labels=ISIC, task="multi_task", auc=(0.85, 0.8, 0.9), dice=(0.88, 0.86, 0.9)):
    """The fields of results.json; `auc` and `dice` are value, low and high of every class."""
    masks, classes = list(labels["id2label"].values()), labels["classification_labels"]
    model, results = {}, {"split": "test", "images": 300, "cases": 250, "group_by": None, "groups": {}}
    results["interval"] = {"level": 0.95, "samples": 1000, "resampled": "cases"}
    results["mask_resolution"] = "as stored in the dataset"
    if task != "classification":
        model |= mask_scores(*dice, masks)
        results["baselines"] = {"otsu_threshold": mask_scores(0.58, 0.55, 0.61, masks)}
    if task != "segmentation":
        for name in ("accuracy", "sensitivity", "specificity", "auc", "calibration_error"):
            value = {"auc": auc, "calibration_error": (0.05, 0.03, 0.08)}.get(name, (0.75, 0.7, 0.8))
            model |= {f"{name}{suffix}": score(*value) for suffix in ("", *(f"_{label}" for label in classes))}
        results["thresholds"] = dict.fromkeys(classes, 0.5)
        results["decisions"] = {label: {"tp": 42, "fp": 61, "fn": 14, "tn": 183} for label in classes}
        one_bin = {"low": 0.1, "high": 0.2, "n": 17, "mean_probability": 0.15, "share_present": 0.12}
        results["reliability"] = {label: [one_bin] for label in classes}
    return {**results, "model": model}


def made_up_record(labels=ISIC, task="multi_task", source="isic2017", config="default"):
    """The fields of run.json."""
    classes = labels["classification_labels"]
    part = {"rows": 300, "cases": 250, "rows_with_mask": 300, "rows_with_labels": 300}
    part["class_counts"] = dict.fromkeys(classes, 56)
    return {
        "format": 1,
        "task": task,
        "seeds": {"seed": 7, "data_seed": None},
        "settings": {"learning_rate": 0.002, "config": {"hidden_sizes": [8, 16, 24, 32]}},
        "model": {"parameters": 123456, "initial_weights": {"checkpoint": None, "resnet": "microsoft/resnet-34"}},
        "code": {"version": "0.1.0", "commit": "0123abcd", "modified": False},
        "libraries": {"python": "3.11.2", "torch": "2.14.1"},
        "hardware": {"device": "cpu", "name": "Abacus 9000", "processes": 1, "threads": 2, "cores": 2},
        "duration_seconds": 1800.0,
        "training": {"epochs": 15.0, "steps": 1875, "batch_size": 12, "selected": None},
        "dataset": {
            "name": "data",
            "source": source,
            "config": config,
            "licence": None,
            "split_rule": "by case, seed 0",
            "mask_resolution": [256, 256],
            "fingerprint": "f00d",
            "splits": {"train": part, "test": part},
        },
    }


def write_run(folder: Path, labels=ISIC, task="multi_task", results=None, record=None, weights=True) -> Path:
    """A run folder with a tiny model of random weights, or with its config alone."""
    torch.manual_seed(0)
    config, model_class = tiny_config(**labels), TASKS[task].model_class
    if weights:
        model_class(config).save_pretrained(folder)
    else:
        config.architectures = [model_class.__name__]
        config.save_pretrained(folder)
    ResFormerImageProcessor(size={"height": 48, "width": 64}).save_pretrained(folder)
    results = made_up_results(labels, task) if results is None else results
    (folder / "results.json").write_text(json.dumps(results))
    record = made_up_record(labels, task) if record is None else record
    if record:
        (folder / "run.json").write_text(json.dumps(record))
    (folder / "training_args.bin").write_bytes(b"the Trainer's own pickle")
    return folder
