"""Masks, overlays and class scores for pictures.

    python scripts/predict.py outputs/demo/model picture.jpg folder/ "more/*.png" --output outputs/predictions

The model is a folder or a Hub id. Written below --output: masks/NAME.png (class indices), overlays/NAME.png,
sheet.png and predictions.json. The exit status is 1 where a picture could not be read; the others are done all the same.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModel

import modeling_resformer  # noqa: F401  registers the Auto classes
from modeling_resformer.image_processing_pil_resformer import open_picture, upright
from modeling_resformer.pipeline_resformer import ResFormerPipeline
from modeling_resformer.prediction.pictures import find_pictures, result_names
from modeling_resformer.prediction.writing import (
    SHEET_PICTURES,
    mask_picture,
    overlay_picture,
    result_row,
    sheet_tile,
    write_rows,
    write_sheet,
    write_whole,
)


logger = logging.getLogger("predict")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of a multi-task ResFormer")
    parser.add_argument("inputs", nargs="+", help="pictures, folders, glob patterns")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--revision", help="revision of a Hub id")
    parser.add_argument("--threshold", type=float, help="decision threshold on the class scores")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures a forward pass")
    parser.add_argument("--device", default="cpu", help='torch device, such as "cuda"')
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        parser.error(f"--batch-size is {arguments.batch_size}; expected 1 or more")
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        parser.error(f"--threshold is {arguments.threshold}; expected a number from 0 to 1")
    return arguments


def load_pipeline(arguments: argparse.Namespace) -> ResFormerPipeline:
    """Raises ValueError where the checkpoint lacks a part of the multi-task model."""
    model, report = AutoModel.from_pretrained(arguments.model, revision=arguments.revision, output_loading_info=True)
    missing = sorted({name.split(".")[0] for name in report["missing_keys"]})
    if missing:
        raise ValueError(
            f"{arguments.model}: no weights for {', '.join(missing)}; predictions need a multi-task checkpoint."
        )
    image_processor = AutoImageProcessor.from_pretrained(arguments.model, revision=arguments.revision)
    return ResFormerPipeline(model=model, image_processor=image_processor, device=arguments.device)


Picture = tuple[Path, Image.Image]
Problems = list[dict[str, str]]


def note(path: Path, error: Exception, problems: Problems) -> None:
    message = str(error) if str(path) in str(error) else f"{path}: {error}"
    problems.append({"picture": str(path), "problem": message})
    logger.error("%s", message)


def readable(paths: Sequence[Path], problems: Problems) -> Iterator[Picture]:
    """Yields the pictures that can be read, upright; notes the others."""
    for path in paths:
        try:
            picture, _ = upright(open_picture(path))
        except (OSError, ValueError) as error:
            note(path, error, problems)
        else:
            yield path, picture


def answered(
    batch: list[Picture], pipeline: ResFormerPipeline, threshold: float | None, problems: Problems
) -> list[tuple[Picture, dict[str, Any]]]:
    """Pictures with their results; one that cannot be processed is noted, and its batch is tried one by one."""
    if not batch:
        return []
    try:
        results = pipeline([picture for _, picture in batch], batch_size=len(batch), threshold=threshold)
    except ValueError as error:
        if len(batch) == 1:
            note(batch[0][0], error, problems)
            return []
        return [pair for one in batch for pair in answered([one], pipeline, threshold, problems)]
    return list(zip(batch, results, strict=True))


def write_result(
    path: Path, picture: Image.Image, result: dict[str, Any], name: str, output: Path
) -> tuple[dict[str, Any], Image.Image]:
    """Writes mask and overlay of one picture; returns its row and its tile of the sheet."""
    mask = result["segmentation"].cpu().numpy().astype(np.uint8)
    overlay = overlay_picture(picture, mask)
    mask_path = write_whole(output / "masks" / f"{name}.png", mask_picture(mask))
    overlay_path = write_whole(output / "overlays" / f"{name}.png", overlay)
    row = result_row(path, result, mask_path, overlay_path)
    return row, sheet_tile(overlay, row, name)


def predict(arguments: argparse.Namespace) -> int:
    paths = find_pictures(arguments.inputs)
    names = result_names(paths)
    pipeline = load_pipeline(arguments)
    rows, tiles, problems = [], [], []
    for start in tqdm(range(0, len(paths), arguments.batch_size), desc="Predicting", unit="batch"):
        batch = list(readable(paths[start : start + arguments.batch_size], problems))
        for (path, picture), result in answered(batch, pipeline, arguments.threshold, problems):
            row, tile = write_result(path, picture, result, names[path], arguments.output)
            rows.append(row)
            tiles.extend([tile] if len(tiles) < SHEET_PICTURES else [])
    written = [write_rows(arguments.output / "predictions.json", rows)]
    if tiles:
        written.append(write_sheet(arguments.output / "sheet.png", tiles, pipeline.model.config.mask_class_names))
    (arguments.output / "problems.json").unlink(missing_ok=True)
    if problems:
        written.append(write_rows(arguments.output / "problems.json", problems))
    for row in rows[:10]:
        scores = ", ".join(f"{name} {score:.2f}" for name, score in row["class_scores"].items())
        sys.stdout.write(f"{row['overlay']}: {scores}\n")
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where something could not be read."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    arguments = parse(argv)
    try:
        return predict(arguments)
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
