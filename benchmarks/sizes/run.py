"""One model, four ways to bring images of any size to its input, scored at the size of the stored masks.

    python benchmarks/sizes/run.py --model hub_cards/resformer-lite-isic2017 --dataset data/native --split train \
        --results runs/sizes/native.json

    squashed          as the paper does it: to the network's input, whatever the shape
    aspect_kept       fitted into the input and padded
    windows_native    windows of the input's size over the image at its own resolution, overlap 0.5
    windows_two       the same over the image resized so that its longer side is two windows long

The dataset is a prepared one; prepare it without --image-size, or its images have lost their shape already. What stands in
--results is not measured again. The table goes to standard output.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from modeling_resformer.data.prepared import PreparedDataset, load_prepared
from modeling_resformer.files import whole_file
from modeling_resformer.metrics.counts import Counts, mask_counts
from modeling_resformer.metrics.scores import Bootstrap, jaccard, occurring, segmentation_scores
from modeling_resformer.pipeline_resformer import ResFormerPipeline
from modeling_resformer.prediction.predictor import load_pipeline


WAYS = {
    "squashed": {"keep_aspect_ratio": False},
    "aspect_kept": {"keep_aspect_ratio": True},
    "windows_native": {"sliding_window": True},
    "windows_two": {"sliding_window": True, "windows_long": 2},
}
SAMPLES, SEED = 2000, 0


def measure(
    pipe: ResFormerPipeline, prepared: PreparedDataset, split: str, way: str, done: list[dict]
) -> Iterator[dict]:
    """Pixel counts of every image with a mask that is not done yet, and the seconds that it took."""
    options = dict(WAYS[way])
    known = {(one["case"], one["slice"]) for one in done}
    windows_long = options.pop("windows_long", None)
    window = max(pipe.image_processor.size["height"], pipe.image_processor.size["width"])
    for row in tqdm(prepared.dataset[split], way, unit="image"):
        if row["mask"] is None or (row["case_id"], row["slice_index"]) in known:
            continue
        scale = {} if windows_long is None else {"window_scale": windows_long * window / max(row["image"].size)}
        start = time.perf_counter()
        predicted = pipe(row["image"], **options, **scale)["segmentation"]
        seconds = time.perf_counter() - start
        true = torch.from_numpy(np.array(row["mask"]))
        counts = [part[0].tolist() for part in mask_counts(predicted[None], true[None], len(prepared.mask_classes))]
        yield {"case": row["case_id"], "slice": row["slice_index"], "counts": counts, "seconds": round(seconds, 3)}


def counts_of(measured: list[dict]) -> Counts:
    return Counts(*np.array([one["counts"] for one in measured]).transpose(1, 0, 2))


def table(results: dict[str, list[dict]], names: list[str]) -> str:
    """Scores of every way, and paired differences to the first over the same images, cases drawn together."""
    lines = ["| way | dice | jaccard | jaccard, less that of squashed | seconds an image |", "|---|---|---|---|---|"]
    first = counts_of(results["squashed"])
    classes = [index for index in np.flatnonzero(occurring(first)) if index > 0]
    for way, measured in results.items():
        counts = counts_of(measured)
        case_index = np.unique([one["case"] for one in measured], return_inverse=True)[1]
        scores = segmentation_scores(counts, case_index, names, bootstrap=Bootstrap(SAMPLES, seed=SEED))
        written = [
            f"{scores[name].value:.3f} ({scores[name].low:.3f} to {scores[name].high:.3f})"
            for name in ("dice", "jaccard")
        ]
        gains = (jaccard(counts) - jaccard(first))[:, classes].mean(axis=1)
        difference = "" if way == "squashed" else paired(gains, case_index)
        seconds = np.mean([one["seconds"] for one in measured])
        lines.append(f"| {way} | {' | '.join(written)} | {difference} | {seconds:.2g} |")
    return "\n".join(lines)


def paired(gains: np.ndarray, case_index: np.ndarray) -> str:
    sums = np.bincount(case_index, gains)
    sizes = np.bincount(case_index)
    draws = np.random.default_rng(SEED).integers(0, len(sizes), (SAMPLES, len(sizes)))
    low, high = np.quantile(sums[draws].sum(1) / sizes[draws].sum(1), (0.025, 0.975))
    return f"{gains.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def by_case(results: dict[str, list[dict]]) -> str:
    """Jaccard of the first foreground class, image by image."""
    lines = [f"| image | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    columns = [jaccard(counts_of(measured))[:, 1] for measured in results.values()]
    for index, one in enumerate(results["squashed"]):
        lines.append(f"| {one['case']} | {' | '.join(f'{column[index]:.3f}' for column in columns)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a ResFormer with masks")
    parser.add_argument("--dataset", required=True, help="a prepared dataset with images at their own size")
    parser.add_argument("--split", default="test")
    parser.add_argument("--results", required=True, type=Path, help="JSON file to write, or to go on with")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--cpu-threads", type=int, default=1)
    parser.add_argument("--by-case", action="store_true", help="print a line an image as well")
    given = parser.parse_args()
    torch.set_num_threads(given.cpu_threads)
    prepared = load_prepared(given.dataset)
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    pipe = load_pipeline(given.model, None, torch.device("cpu"))
    for way in given.ways:
        done = results.setdefault(way, [])
        for one in measure(pipe, prepared, given.split, way, done):
            done.append(one)
            with whole_file(given.results) as partial:
                partial.write_text(json.dumps(results) + "\n")
    # A way that was stopped half-way waits for the rest.
    results = {way: results[way] for way in WAYS if len(results.get(way, ())) == len(results["squashed"])}
    sys.stdout.write(table(results, prepared.mask_classes) + "\n")
    if given.by_case:
        sys.stdout.write("\n" + by_case(results) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
