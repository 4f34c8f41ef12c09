"""What each signal of doubt is worth: refusing the worst answers, and telling what is no such image.

    python benchmarks/doubt/run.py --model hub_cards/resformer-lite-isic2017 --dataset data/isic2017

For a checkpoint that `scripts/evaluate.py --fit_confidence` was run on. Beside the three signals that its `confidence` is made of
(certainty of the mask and of the labels, distance from the training images) it measures the disagreement of an image and its
mirror image, which costs a second forward pass. Not-skin is made here (noise, colours, drawings), drawn by
examples/oct_phantom.py, or comes with scikit-image. Writes `doubt.json` and `risk_coverage.png` beside itself.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.data.collation import class_label_row
from modeling_resformer.data.prepared import load_prepared
from modeling_resformer.files import write_whole
from modeling_resformer.metrics.counts import Counts, mask_counts
from modeling_resformer.metrics.risk_coverage import area_under_risk, errors_refused, risk_coverage
from modeling_resformer.metrics.scores import area_under_curve, dice
from modeling_resformer.modeling_resformer import confidence_signals


HERE = Path(__file__).resolve().parent
SIDE = 256
SIGNALS = ("mask certainty", "label certainty", "distance", "mirror image")
REFUSED = 0.1
RESAMPLED = 1000


def noise(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def flat_colour(rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 256, 3).tolist()))


def drawing(rng: np.random.Generator) -> Image.Image:
    image = flat_colour(rng)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        corners = np.sort(rng.integers(0, SIDE, (2, 2)), axis=0).T.flatten()[[0, 2, 1, 3]].tolist()
        shape = draw.rectangle if rng.random() < 0.5 else draw.ellipse
        shape(corners, fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def clouds(rng: np.random.Generator) -> Image.Image:
    """Smooth random colours."""
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(4))


def oct_phantoms() -> Iterator[Image.Image]:
    """Two B-scans of three volumes of each vendor."""
    spec = importlib.util.spec_from_file_location("oct_phantom", HERE.parents[1] / "examples" / "oct_phantom.py")
    phantom = importlib.util.module_from_spec(spec)
    sys.modules["oct_phantom"] = phantom  # where its dataclasses look for themselves
    spec.loader.exec_module(phantom)
    for volume in phantom.plan_volumes(3, 2, "small", 0):
        for scan in volume.draw()[0]:
            yield Image.fromarray((scan / scan.max() * 255).astype(np.uint8)).convert("RGB")


def photographs() -> Iterator[Image.Image]:
    """Those that come in scikit-image's package; nothing is loaded from anywhere."""
    from skimage import data

    names = ("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "hubble_deep_field")
    more = ("immunohistochemistry", "moon", "page", "retina", "rocket", "text", "horse", "colorwheel")
    for name in (*names, *more):
        found = np.asarray(getattr(data, name)())
        pixels = (255 * found).astype(np.uint8) if found.dtype == bool else found
        yield Image.fromarray(pixels).convert("RGB")


def answered(model: ResFormerForMultiTask, processor: ResFormerImageProcessor, image: Image.Image) -> dict:
    """Signals (4,), confidence and distance of one image, and its mask logits and scores."""
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output, mirrored = model(pixels), model(pixels.flip(-1))
    odds = confidence_signals(output.segmentation_logits, output.classification_logits, output.distance, model.config)[
        0
    ]
    one, other = (
        logits.softmax(dim=1)[0, 1:] for logits in (output.segmentation_logits, mirrored.segmentation_logits.flip(-1))
    )
    agreement = 2 * torch.minimum(one, other).sum() / (one.sum() + other.sum())
    return {
        "signals": [*odds[:2].tolist(), -odds[2].item(), agreement.item()],
        "distance": output.distance.item(),
        "confidence": output.confidence.item(),
        "logits": output.segmentation_logits,
        "scores": model.config.class_scores(output.classification_logits)[0].numpy(),
    }


def held_out(model: ResFormerForMultiTask, processor: ResFormerImageProcessor, dataset: Path) -> dict[str, np.ndarray]:
    """Signals, and both kinds of errors, of every test image."""
    columns: dict[str, list] = {name: [] for name in ("signals", "distance", "confidence", "wrong", "dice_loss")}
    for row in tqdm(load_prepared(dataset).dataset["test"], desc="Held out"):
        told, mask = answered(model, processor, row["image"]), torch.from_numpy(np.array(row["mask"]))
        (predicted,) = processor.post_process_semantic_segmentation({"logits": told["logits"]}, [tuple(mask.shape)])
        counts = Counts(*mask_counts(predicted[None], mask[None], len(model.config.mask_class_names), 255))
        overlap = float(dice(counts)[0, 1:].mean())
        names = model.config.image_class_names
        labels = class_label_row(row["class_labels"], row["class_labels_unknown"], len(names)).numpy()
        decided = model.config.predicted_classes(told["scores"].tolist())
        right = [name in decided for name in names] == (labels == 1).tolist()
        for name in ("signals", "distance", "confidence"):
            columns[name].append(told[name])
        columns["dice_loss"].append(1 - overlap)
        columns["wrong"].append(float(not (overlap >= 0.8 and right)))
    return {name: np.array(values) for name, values in columns.items()}


def worth(confidence: np.ndarray, errors: np.ndarray) -> dict[str, float | list[float]]:
    """Area under the risk-coverage curve, and the share of errors that the refused tenth holds, with its 95 % interval."""
    rng, drawn = np.random.default_rng(0), []
    for _ in range(RESAMPLED):
        chosen = rng.integers(0, len(errors), len(errors))
        drawn.append(errors_refused(confidence[chosen], errors[chosen], REFUSED))
    return {
        "area": round(area_under_risk(confidence, errors), 4),
        "refused": round(errors_refused(confidence, errors, REFUSED), 4),
        "interval": np.nanquantile(drawn, [0.025, 0.975]).round(4).tolist(),
    }


def draw_curves(rules: dict[str, np.ndarray], kept: dict[str, np.ndarray], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    titles = {"wrong": "wrong in mask or labels", "dice_loss": "1 - Dice"}
    for axes, (errors, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for name, confidence in rules.items():
            coverage, risk = risk_coverage(confidence, kept[errors])
            axes.plot(coverage, risk, label=name, linewidth=2.2 if name == "confidence" else 1.1)
        axes.axhline(kept[errors].mean(), color="0.6", linestyle=":", label="no signal")
        axes.set(title=f"mean error of the answers kept: {title}", xlabel="share of answers kept", xlim=(0.3, 1))
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=HERE)
    given = parser.parse_args()
    model = ResFormerForMultiTask.from_pretrained(given.model).eval().fuse()
    processor = ResFormerImageProcessor.from_pretrained(given.model)
    kept = held_out(model, processor, given.dataset)
    rules = {name: kept["signals"][:, i] for i, name in enumerate(SIGNALS)} | {"confidence": kept["confidence"]}
    rng = np.random.default_rng(0)
    kinds = {
        "noise": (noise(rng) for _ in range(20)),
        "flat colours": (flat_colour(rng) for _ in range(20)),
        "drawings": (drawing(rng) for _ in range(20)),
        "clouds of colour": (clouds(rng) for _ in range(20)),
        "OCT phantoms": oct_phantoms(),
        "photographs of scikit-image": photographs(),
    }
    found = {"refusing": {}, "unlike": {}, "images": len(kept["wrong"])}
    for errors in ("wrong", "dice_loss"):
        found["refusing"][errors] = {name: worth(rule, kept[errors]) for name, rule in rules.items()}
    limits = model.config.distance_limit, model.config.confidence_limit
    found["false alarms"] = [
        float((kept["distance"] > limits[0]).mean()),
        float((kept["confidence"] < limits[1]).mean()),
    ]
    for kind, images in kinds.items():
        told = [answered(model, processor, image) for image in tqdm(images, desc=kind)]
        distance = np.array([one["distance"] for one in told])
        confidence = np.array([one["confidence"] for one in told])
        truth = np.repeat([1.0, 0.0], [len(kept["wrong"]), len(told)])
        others = {name: np.array([one["signals"][i] for one in told]) for i, name in enumerate(SIGNALS)}
        others["confidence"] = confidence
        found["unlike"][kind] = {
            "images": len(told),
            "flagged unlike": round(float((distance > limits[0]).mean()), 4),
            "flagged at all": round(float(((distance > limits[0]) | (confidence < limits[1])).mean()), 4),
            "auroc": {
                name: round(float(area_under_curve(np.concatenate([rules[name], others[name]]), truth)[0]), 4)
                for name in rules
            },
        }
    write_whole(given.output / "doubt.json", json.dumps(found, indent=2) + "\n")
    draw_curves(rules, kept, given.output / "risk_coverage.png")


if __name__ == "__main__":
    main()
