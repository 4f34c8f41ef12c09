"""The ONNX file in 8-bit integers, written only where the network answers nearly as well as in float32."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import nn

from ..data.collation import class_label_row
from ..data.prepared import PreparedDataset
from ..errors import BadInputError
from ..evaluation.answers import Classes, ScoredRows, completed_labels, row_scores
from ..exporting.eight_bits import in_int8
from ..exporting.onnx_file import analysis_settings, network_model, write_file
from ..exporting.onnx_network import OnnxNetwork, onnxruntime_runner
from ..metrics.counts import Counts, mask_counts
from ..metrics.scores import Score
from ..pipeline_resformer import ResFormerPipeline


MOST_LOST = 0.005  # of each of these scores
COMPARED = ("dice", "auc")
CALIBRATION_IMAGES = 100

Measured = dict[str, dict[str, list[float]]]


def export_in_int8(pipe: ResFormerPipeline, path: Path, prepared: PreparedDataset) -> Measured:
    """Writes the file of `onnx_file.export` with convolutions in 8-bit integers.

    Args:
        pipe: with a float32 model on the CPU, in evaluation mode.
        path: of the file.
        prepared: with the labels of the model. Scales are taken from its training split; on its validation split, and on
            its test split where it has one, both forms are scored.

    Returns:
        By split and score that of float32 and that of int8; in the file's metadata too, as `measured`.

    Raises:
        BadInputError: a split is missing, or one of the scores loses too much; there is no file then.
    """
    splits = [name for name in ("validation", "test") if name in prepared.dataset]
    if "train" not in prepared.dataset or "validation" not in splits:
        raise BadInputError(
            f"--calibration: has the splits {sorted(prepared.dataset)}; int8 takes its scales from train and is measured on "
            "validation"
        )
    settings = analysis_settings(pipe)
    network = network_model(pipe.model, settings)
    quantised = in_int8(network, calibration_inputs(pipe, prepared.dataset["train"]))
    forms = [OnnxNetwork(pipe.model, onnxruntime_runner(one)) for one in (network, quantised)]
    measured = {}
    for split in splits:
        rows = prepared.dataset[split]
        each = [network_scores(form, pipe, rows) for form in forms]
        measured[split] = {name: [one.get(name, math.nan) for one in each] for name in each[0]}
        check_loss(measured[split], split)
    write_file(path, pipe, settings, quantised, "int8", measured)
    return measured


def calibration_inputs(pipe: ResFormerPipeline, rows: datasets.Dataset) -> Iterator[np.ndarray]:
    """(1, C, H, W) each, of images all over the split."""
    for index in np.linspace(0, len(rows) - 1, min(CALIBRATION_IMAGES, len(rows))).astype(int).tolist():
        yield pipe.image_processor(rows[index]["image"], return_tensors="np")["pixel_values"]


def check_loss(scores: dict[str, list[float]], split: str) -> None:
    """Refuses a form of a network that answers worse.

    Raises:
        BadInputError: naming the first score that loses too much.
    """
    if not scores:
        raise BadInputError(f"int8: the {split} split allows neither Dice nor AUC; expected masks or labels in it")
    for name, (before, after) in scores.items():
        if not before - after < MOST_LOST:
            raise BadInputError(
                f"int8: {name} on the {split} split is {after:.4f}, in float32 {before:.4f}; expected to lose less than "
                f"{MOST_LOST}. Nothing is written; export in float32, or with --half"
            )


@torch.no_grad()
def network_scores(network: nn.Module, pipe: ResFormerPipeline, rows: datasets.Dataset) -> dict[str, float]:
    """Dice and AUC of a network in the place of a pipeline's, those of them that the rows allow."""
    config, processor = pipe.model.config, pipe.image_processor
    counts, probabilities, labels = [], [], []
    for row in rows:
        image, mask = row["image"], row["mask"]
        outputs = network(processor(image, return_tensors="pt")["pixel_values"])
        (answer,) = processor.post_process_multitask(outputs, config, [(image.height, image.width)])
        if "segmentation" in answer:
            found = answer["segmentation"].numpy()
            true = np.full(found.shape, config.semantic_loss_ignore_index) if mask is None else np.array(mask)
            counts.append(
                mask_counts(found[None], true[None], len(config.mask_class_names), config.semantic_loss_ignore_index)
            )
        if "class_scores" in answer:
            probabilities.append(list(answer["class_scores"].values()))
            unknown = row.get("class_labels_unknown") or ()
            labels.append(class_label_row(row["class_labels"], unknown, len(config.image_class_names)).numpy())
    scored = ScoredRows(
        row_index=np.arange(len(rows)),
        case_index=np.unique(rows["case_id"], return_inverse=True)[1],
        annotated=np.ones(len(rows), dtype=bool),
        counts=Counts.join(counts) if counts else None,
        probabilities=np.array(probabilities) if probabilities else None,
        class_labels=known_labels(labels, config.classes_exclude) if labels else None,
    )
    return compared_values(row_scores(scored, Classes.of(config)))


def known_labels(labels: list[np.ndarray], exclude: bool) -> np.ndarray:
    """(N, K) of rows of K labels."""
    return completed_labels(np.stack(labels)) if exclude else np.stack(labels)


def compared_values(scores: Mapping[str, Score]) -> dict[str, float]:
    """The values that are compared, of those that could be computed."""
    values = {name: float(scores[name].value) for name in COMPARED if name in scores}
    return {name: value for name, value in values.items() if math.isfinite(value)}
