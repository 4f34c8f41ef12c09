"""How many training samples one core makes ready: read, decoded, augmented, resized and normalised.

    taskset -c 1 python benchmarks/speed/input.py --dataset data/isic2017 --size 224

What a training does, by the objects that do it there, in one process and on one thread. Times are CPU times, the median over the
rounds; the last line is their sum. No network runs.

    decode     a row of the prepared dataset, its image and its mask decoded
    augment    the changes that are the default for the data's modality, or --augmentation none
    process    the image processor: resized, rescaled and normalised, and the batch put together
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import ROOT, cpu_seconds, package_in

from modeling_resformer.data.collation import MultiTaskCollator
from modeling_resformer.data.prepared import load_prepared
from modeling_resformer.data.transforms import Augmentation, augment, default_augmentation


STAGES = ("decode", "augment", "process")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", type=Path, required=True, help="a prepared dataset")
    add("--size", type=int, default=224)
    add("--batch", type=int, default=16)
    add("--rounds", type=int, default=7)
    add("--augmentation", choices=("default", "none"), default="default")
    add(
        "--processor",
        choices=("torchvision", "pil"),
        default="torchvision",
        help="as AutoImageProcessor takes, or Pillow's",
    )
    return parser.parse_args()


def main() -> None:
    given = parse()
    torch.set_num_threads(1)
    prepared = load_prepared(str(given.dataset))
    rows = prepared.dataset["train"]
    augmentation = default_augmentation(prepared.modality) if given.augmentation == "default" else Augmentation()
    package = package_in(ROOT)
    kind = package.ResFormerImageProcessor if given.processor == "torchvision" else package.ResFormerImageProcessorPil
    processor = kind(size={"height": given.size, "width": given.size})
    collator = MultiTaskCollator(processor, len(prepared.class_labels), sorted(set(rows["case_id"])))
    order = np.random.default_rng(0).permutation(len(rows)).tolist()

    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for number in range(given.rounds + 1):  # the first warms up
        chosen = [order[i % len(order)] for i in range(number * given.batch, (number + 1) * given.batch)]
        times = timed_batch(rows, chosen, augmentation, collator)
        for stage, time in zip(STAGES, times if number else (), strict=bool(number)):
            seconds[stage].append(time / given.batch)
    sample = rows[0]["image"]
    sys.stdout.write(
        f"{given.dataset.name}, {sample.width} x {sample.height} stored as {sample.format}, to {given.size}, batches of "
        f"{given.batch}, {given.rounds} rounds, {processor.__class__.__name__}\n"
        "| stage | CPU ms a sample | samples a second and core |\n|---|---|---|\n"
    )
    middles = {stage: statistics.median(times) for stage, times in seconds.items()}
    for stage, middle in [*middles.items(), ("all", sum(middles.values()))]:
        sys.stdout.write(f"| {stage} | {1000 * middle:.2f} | {1 / middle:.0f} |\n")


def timed_batch(
    rows: Any, chosen: Sequence[int], augmentation: Augmentation, collator: MultiTaskCollator
) -> tuple[float, float, float]:
    """CPU seconds of each stage for one batch."""
    batch: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []

    def decode() -> None:
        for index in chosen:
            row = rows[index]
            for name in ("image", "mask"):
                if row[name] is not None:
                    row[name].load()  # Pillow decodes when pixels are first asked for
            batch.append(row)

    def change() -> None:
        for index, row in zip(chosen, batch, strict=True):
            image, mask = augment(row["image"], row["mask"], augmentation, 0, 0, index)
            changed.append({**row, "image": image, "mask": mask})

    return cpu_seconds(decode), cpu_seconds(change), cpu_seconds(lambda: collator(changed))


if __name__ == "__main__":
    main()
