"""Masks, labels and measurements for images, OCT volumes and prepared datasets.

    python scripts/predict.py --model outputs/demo/model image.jpg folder/ "scans/*/oct.mhd" --output outputs/predictions
    python scripts/predict.py --model runs/isic2017 --dataset data/isic2017 --split test --output outputs/test
    accelerate launch --num_processes 4 --multi_gpu scripts/predict.py --model org/model folder/ --tta both --output outputs/all

The model is a folder or a Hub id. Inputs are images of any kind Pillow reads, 16-bit ones at their full depth; volumes as
MetaImage (.mhd, .mha), NIfTI (.nii, .nii.gz), DICOM (a file of several frames, or a folder with a series) or a TIFF of several
pages; folders of these; and glob patterns. As in RETOUCH, `oct.*` is named after its folder, and `reference.*` beside it is
predicted only where you name it. Written below --output:

    masks/NAME.png              class indices with a palette, at the image's size
    masks/NAME.mha, .nii.gz     the same for a volume, with its spacing, origin and direction
    overlays/NAME.png           contours on the image, or on the slices of a volume with the largest findings, and below
                                every class at or above its threshold with its score
    en_face/NAME.png            a volume from the front: the thickness of each class over the B-scans
    predictions.csv, .parquet   one row per image or slice: scores, labels, areas, lesions, diameters
    volumes.csv, .parquet       one row per volume (not for --dataset): mm3, slices affected, the largest slice
    sheet.png                   the first 36 overlays of images
    problems.json               what could not be done, and why

Lengths in mm stand only where the input says its spacing. Columns: modeling_resformer/prediction/result_tables.py.

A case that is finished is not done again: a run that was stopped or killed goes on where it was when the same command is
given once more. Other settings need another --output, or --overwrite. The exit status is 1 where something could not be read;
everything else is done all the same.
"""

import argparse
import logging
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

import torch

from modeling_resformer.errors import BadInputError, OutputError
from modeling_resformer.options.predict import parse
from modeling_resformer.prediction.job import Request, predict
from modeling_resformer.prediction.processes import Processes
from modeling_resformer.training.progress import quieten_libraries


logger = logging.getLogger("predict")


def request(arguments: argparse.Namespace) -> Request:
    return Request(
        model=arguments.model,
        revision=arguments.revision,
        inputs=tuple(arguments.inputs),
        dataset=arguments.dataset,
        split=arguments.split,
        output=arguments.output,
        overwrite=arguments.overwrite,
        threshold=arguments.threshold,
        tta=arguments.tta or False,
        draw=not arguments.no_overlays,
        batch_size=arguments.batch_size,
        cpu_threads=arguments.cpu_threads,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where something could not be read or written."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    arguments = parse(sys.argv[1:] if argv is None else argv, __doc__)
    quieten_libraries()
    if arguments.cpu_threads is not None:
        torch.set_num_threads(arguments.cpu_threads)
    try:
        processes = Processes(arguments.device)
        summary = predict(request(arguments), processes)
    except (BadInputError, OutputError, OSError, ValueError) as error:
        logger.error("%s", error)
        return 1
    if processes.is_first:
        sys.stdout.write(summary.text())
    return 1 if summary.problems else 0


if __name__ == "__main__":
    sys.exit(main())
