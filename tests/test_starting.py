"""A start from a checkpoint of other labels or another class: what it keeps, what is new, and what the log says."""

import logging

import pytest
import torch
from prepared_data import CLASS_LABELS, MASK_CLASSES, prepared_dataset
from small_model import tiny_config

from modeling_resformer import ResFormerForMultiTask, ResFormerForSemanticSegmentation
from modeling_resformer.data.prepared import PreparedDataset
from modeling_resformer.errors import BadInputError
from modeling_resformer.training.arguments import ModelArguments
from modeling_resformer.training.building import build_model


MASK_HEAD = {"segmentation_head.classifier.weight", "segmentation_head.classifier.bias"}
LABEL_HEAD = {"classification_head.classifier.weight", "classification_head.classifier.bias"}
HIDDEN = {"classification_head.hidden.weight", "classification_head.hidden.bias"}


@pytest.fixture(scope="module")
def prepared():
    return PreparedDataset(prepared_dataset(train=4, validation=2, test=2), MASK_CLASSES, CLASS_LABELS, {})


def saved(folder, model_class=ResFormerForMultiTask, **settings):
    """A checkpoint whose every number is unlike a fresh one, by default with the dataset's labels."""
    labels = {"id2label": dict(enumerate(MASK_CLASSES)), "classification_labels": CLASS_LABELS}
    model = model_class(tiny_config(**{**labels, **settings}))
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(1, 2)
    model.save_pretrained(folder)
    return model.state_dict()


def start(folder, prepared, caplog, **arguments):
    """The model, and the one line about it."""
    with caplog.at_level(logging.INFO, logger="modeling_resformer"):
        model = build_model(ModelArguments(model_name_or_path=str(folder), **arguments), prepared)
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Start from")]
    assert len(lines) == 1
    return model, lines[0]


def changed(model, source):
    return {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, source.get(name, tensor + 1))
    }


@pytest.mark.parametrize(
    ("theirs", "new", "said"),
    [
        ({}, set(), ["every weight is the checkpoint's"]),
        # As many classes of other names: the sizes fit, and the weights mean nothing.
        ({"classification_labels": ["one", "two"]}, LABEL_HEAD, ["classification_head: ['one', 'two'] there"]),
        ({"classification_labels": ["a", "b", "c"]}, LABEL_HEAD, ["classification_head (2 of 4 tensors)"]),
        ({"id2label": {0: "background", 1: "drusen"}}, MASK_HEAD, ["random weights for segmentation_head, the"]),
        (
            {"id2label": {0: "background", 1: "a", 2: "b"}, "classification_labels": ["brown", "red"]},
            MASK_HEAD | LABEL_HEAD,
            ["segmentation_head: ['background', 'a', 'b'] there", "['brown', 'red'] there, ['red', 'brown'] here"],
        ),
    ],
)
def test_heads_for_other_classes_start_anew_and_are_named(prepared, tmp_path, caplog, theirs, new, said):
    source = saved(tmp_path, **theirs)
    model, line = start(tmp_path, prepared, caplog)
    assert changed(model, source) == new
    # Truncated normal of 0.02 for the linear head, Kaiming for the convolution: neither is what uniform(1, 2) was.
    assert all(model.state_dict()[name].abs().max() < 1 for name in LABEL_HEAD & new)
    assert (model.config.mask_class_names, model.config.image_class_names) == (MASK_CLASSES, CLASS_LABELS)
    assert all(text in line for text in said)


def test_a_segmentation_checkpoint_grows_a_classification_head(prepared, tmp_path, caplog):
    source = saved(tmp_path, ResFormerForSemanticSegmentation)
    model, line = start(tmp_path, prepared, caplog)
    assert changed(model, source) == LABEL_HEAD | HIDDEN
    assert "random weights for classification_head, the checkpoint's for the rest" in line


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_single_task_takes_its_part_of_a_multi_task_checkpoint(prepared, tmp_path, caplog, task):
    source = saved(tmp_path)
    model, line = start(tmp_path, prepared, caplog, task=task)
    assert changed(model, source) == set()
    assert "every weight is the checkpoint's" in line


def test_weights_and_thresholds_of_other_classes_are_dropped(prepared, tmp_path, caplog):
    values = {"class_weights": [1.0, 5.0], "classification_thresholds": [0.1, 0.9]}
    saved(tmp_path, classification_labels=["one", "two"], **values)
    model, _ = start(tmp_path, prepared, caplog)
    assert (model.config.class_weights, model.config.classification_thresholds) == (None, None)


def test_a_checkpoint_of_broken_weights_is_refused_in_one_line(prepared, tmp_path):
    saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadInputError, match="--model ") as caught:
        build_model(ModelArguments(model_name_or_path=str(tmp_path)), prepared)
    assert "\n" not in str(caught.value)
