"""Masks, overlays and class scores for pictures.

    python scripts/predict.py outputs/demo/model picture.jpg folder/ "more/*.png" --output outputs/predictions

The model is a folder or a Hub id. Written below --output: masks/NAME.png (class indices), overlays/NAME.png,
sheet.png and predictions.json. The exit status is 1 where a picture could not be read; the others are done all the same.
"""

import argparse
import json
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
    return parser.parse_args(argv)


def load_pipeline(arguments: argparse.Namespace) -> ResFormerPipeline:
    return ResFormerPipeline(
        model=AutoModel.from_pretrained(arguments.model, revision=arguments.revision),
        image_processor=AutoImageProcessor.from_pretrained(arguments.model, revision=arguments.revision),
        device=arguments.device,
    )


def readable(paths: Sequence[Path], problems: list[dict[str, str]]) -> Iterator[tuple[Path, Image.Image]]:
    """Yields the pictures that can be read, upright; notes the others."""
    for path in paths:
        try:
            picture, _ = upright(open_picture(path))
        except (OSError, ValueError) as error:
            problems.append({"picture": str(path), "problem": str(error)})
            logger.error("%s", error)
        else:
            yield path, picture


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
        pictures = [picture for _, picture in batch]
        results = pipeline(pictures, batch_size=len(batch), threshold=arguments.threshold) if batch else []
        for (path, picture), result in zip(batch, results, strict=True):
            row, tile = write_result(path, picture, result, names[path], arguments.output)
            rows.append(row)
            tiles.extend([tile] if len(tiles) < SHEET_PICTURES else [])
    written = [write_rows(arguments.output / "predictions.json", rows)]
    if tiles:
        written.append(write_sheet(arguments.output / "sheet.png", tiles, pipeline.model.config.mask_class_names))
    if problems:
        write_whole(arguments.output / "problems.json", (json.dumps(problems, indent=2) + "\n").encode())
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
    except FileNotFoundError as error:
        logger.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
