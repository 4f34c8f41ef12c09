"""The collator's promises: the keys forward() wants, always, whatever of a row is labelled."""

import inspect

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessorPil
from modeling_resformer.data.collation import MultiTaskCollator, class_label_row


@pytest.fixture
def collator():
    processor = ResFormerImageProcessorPil(size={"height": 32, "width": 32})
    return MultiTaskCollator(processor, num_classes=3, case_ids=["case_b", "case_a"])


def row(**changes):
    mask = np.zeros((20, 24), np.uint8)
    mask[5:15, 5:20] = 1
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8))
    return {
        "image": image,
        "mask": Image.fromarray(mask),
        "class_labels": [1],
        "class_labels_unknown": [],
        "case_id": "case_a",
        **changes,
    }


def test_class_label_row():
    assert class_label_row([0, 2], [], 3).tolist() == [1, 0, 1]
    assert class_label_row([0], [1], 3).tolist() == [1, -100, 0]
    assert class_label_row([], [], 3).tolist() == [0, 0, 0]
    assert class_label_row(None, [], 3).tolist() == [-100, -100, -100]


def test_a_batch_has_what_forward_takes_and_the_case(collator):
    batch = collator([row(), row(case_id="case_b", class_labels=[0, 2])])
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        "pixel_values": (torch.float32, (2, 3, 32, 32)),
        "mask_labels": (torch.int64, (2, 32, 32)),
        "class_labels": (torch.float32, (2, 3)),
        "case_index": (torch.int64, (2,)),
    }
    assert set(batch) - {"case_index"} <= set(inspect.signature(ResFormerForMultiTask.forward).parameters)
    assert [collator.case_ids[index] for index in batch["case_index"]] == ["case_a", "case_b"]
    assert batch["class_labels"].tolist() == [[0, 1, 0], [1, 0, 1]]
    assert batch["mask_labels"].unique().tolist() == [0, 1]
    assert batch["mask_labels"].float().mean() == pytest.approx(10 * 15 / (20 * 24), abs=0.03)


def test_rows_without_mask_or_labels_are_filled_with_the_ignore_values(collator):
    batch = collator([row(mask=None), row(class_labels=None), row(mask=None, class_labels=None)])
    assert [mask.unique().tolist() for mask in batch["mask_labels"]] == [[255], [0, 1], [255]]
    assert batch["class_labels"].tolist() == [[0, 1, 0], [-100] * 3, [-100] * 3]


def test_evaluation_rows_bring_their_masks_at_the_stored_size(collator):
    batch = collator([row(row_index=7), row(row_index=2, mask=None, image=Image.new("RGB", (10, 8)))])
    assert batch["row_index"].tolist() == [7, 2]
    assert [tuple(mask.shape) for mask in batch["stored_masks"]] == [(20, 24), (8, 10)]
    np.testing.assert_array_equal(batch["stored_masks"][0], row()["mask"])
    assert batch["stored_masks"][1].unique().tolist() == [255]
