"""A small prepared dataset, as scripts/prepare_*.py would leave it: dark blobs on light skin, red or brown."""

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image

from modeling_resformer.data.columns import dataset_features


MASK_CLASSES = ["background", "lesion"]
CLASS_LABELS = ["red", "brown"]


def image_row(number, rng, size=(40, 48)):
    """A blob at a random place; every third row has no mask, every fourth no label, every fifth an unknown one."""
    y, x = np.mgrid[: size[0], : size[1]]
    centre_y, centre_x, radius = rng.uniform(14, 26), rng.uniform(16, 32), rng.uniform(6, 11)
    blob = (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2
    label = number % 2
    image = np.where(blob[..., None], [(150, 40, 40), (90, 60, 30)][label], (220, 180, 170))
    image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    return {
        "image": Image.fromarray(image),
        "mask": None if number % 3 == 2 else Image.fromarray(blob.astype(np.uint8)),
        "class_labels": None if number % 4 == 3 else [CLASS_LABELS[label]],
        "class_labels_unknown": [CLASS_LABELS[1 - label]] if number % 5 == 4 else [],
        "case_id": f"case_{number // 2}",
        "slice_index": number % 2,
        "source": "test",
        "spacing": None,
        "original_size": list(size),
        "mask_classes": None if number % 3 == 2 else ["lesion"],
    }


def prepared_dataset(train=8, validation=5, test=5):
    """Splits of that many rows, two rows a case."""
    rng, features = np.random.default_rng(0), dataset_features(MASK_CLASSES, CLASS_LABELS)
    splits, start = {}, 0
    for name, count in (("train", train), ("validation", validation), ("test", test)):
        rows = [image_row(number, rng) for number in range(start, start + count)]
        splits[name] = Dataset.from_list(rows, features=features)
        start += 2 * count
    return DatasetDict(splits)
