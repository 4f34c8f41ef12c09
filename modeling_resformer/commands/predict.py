"""Masks, labels and measurements for images, OCT volumes and prepared datasets.

    python scripts/predict.py --model outputs/demo/model image.jpg folder/ "scans/*/oct.mhd" --output outputs/predictions
    python scripts/predict.py --model runs/isic2017 --dataset data/isic2017 --split test --output outputs/test
    accelerate launch --num_processes 4 --multi_gpu scripts/predict.py --model org/model folder/ --tta both --output outputs/all

The model is a folder or a Hub id. A folder of scripts/train_folds.py means all models in it, and --model may be given several
times: probabilities of masks and classes are then averaged, and the tables say over how many. Inputs are images of any kind Pillow reads, 16-bit ones at their full depth; volumes as
MetaImage (.mhd, .mha), NIfTI (.nii, .nii.gz), DICOM (a file of several frames, or a folder with a series) or a TIFF of several
pages; folders of these; and glob patterns. As in RETOUCH, `oct.*` is named after its folder, and `reference.*` beside it is
predicted only where you name it. Written below --output:

    masks/NAME.png              class indices with a palette, at the image's size
    masks/NAME.mha, .nii.gz     the same for a volume, with its spacing, origin and direction
    dicom_seg/NAME.dcm          with --dicom-seg, the masks of DICOM images as DICOM Segmentation, which a PACS shows over them
    overlays/NAME.png           contours on the image, or on the slices of a volume with the largest findings, and below
                                every class at or above its threshold with its score, or that with the highest score
                                where classes exclude each other
    en_face/NAME.png            a volume from the front: the thickness of each class over the B-scans
    predictions.csv, .parquet   one row per image or slice: scores, labels, areas, lesions, diameters
    volumes.csv, .parquet       one row per volume (not for --dataset): mm3, slices affected, the largest slice
    sheet.png                   the first 36 overlays of images
    reports/NAME.html           with --report, one page on each image or volume, complete in itself and printable
    worklist.html               with --report or --worklist, all cases, the doubtful first, with thumbnails/NAME.jpg
    problems.json               what could not be done, and why

Lengths in mm stand only where the input says its spacing. Columns: modeling_resformer/prediction/result_tables.py.

A case that is finished is not done again: a run that was stopped or killed goes on where it was when the same command is
given once more. Other settings need another --output, or --overwrite. The exit status is 1 where something could not be read;
everything else is done all the same.
"""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import MODEL, Parser, add_limits, add_output, add_runtime, check_runtime, take_limits


logger = logging.getLogger(__name__)

VIEWS = ("both", "horizontal")  # of pipeline_resformer.py


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = make_parser()
    given = parser.parse_intermixed_args(arguments)
    if given.model is None and given.inputs:
        given.model, *given.inputs = given.inputs
    elif given.model is not None:
        given.model, *given.more_models = given.model
    check_given(parser, given)
    return given


def make_parser() -> Parser:
    parser = Parser(__doc__, usage="%(prog)s --model FOLDER_OR_HUB_ID --output FOLDER [flags] [inputs ...]")
    add = parser.add_argument
    add("inputs", nargs="*", help="images, volumes, folders, glob patterns; without --model the first is the model")
    add("--model", metavar=MODEL, action="append", help="a ResFormer; several times for an ensemble")
    parser.also("--model", "--model_name_or_path")
    parser.set_defaults(more_models=[])
    add("--dataset", help="a prepared dataset in place of inputs")
    add("--split", default="test", help="split of --dataset (default: test)")
    add_output(parser, type=Path, required=True, help="folder to write, or to go on with")
    add("--overwrite", action="store_true", help="remove the predictions in --output and start anew")
    add("--revision", help="revision of a Hub id")
    add("--threshold", type=float, help="decision threshold on the class scores (default: the model's)")
    add(
        "--tta",
        choices=VIEWS,
        help="average over flips: horizontal, or both with upside down as well, which OCT must not be",
    )
    add(
        "--keep-aspect-ratio",
        action="store_true",
        default=None,
        help="fit images into the network's input and pad them (default: as the model was trained, usually squashed)",
    )
    add(
        "--sliding-window",
        action="store_true",
        help="masks from overlapping windows over the image at its own resolution; scores still from the whole image",
    )
    add("--overlap", type=float, help="share of a window's side that the next one covers again (default: 0.5)")
    add("--window-scale", type=float, help="factor on the image's size before windows are laid over it (default: 1)")
    add("--no-overlays", action="store_true", help="masks and tables only")
    add(
        "--dicom-seg",
        action="store_true",
        help="write the masks of DICOM images and volumes as DICOM Segmentation too (extra dicom-seg)",
    )
    add(
        "--segment-codes",
        type=Path,
        metavar="JSON",
        help="what mask classes mean in --dicom-seg, by SNOMED CT: "
        '{"lesion": {"value": "95324001", "meaning": "Skin lesion"}}',
    )
    add(
        "--keep-identifiers",
        action="store_true",
        help="in --dicom-seg, name patient and study as the images do (default: the case's name stands for both)",
    )
    add("--report", action="store_true", help="write a report of each case as a page of HTML, and the worklist")
    add("--worklist", action="store_true", help="write worklist.html, all cases sorted by doubt")
    add("--batch-size", type=int, default=8, help="images, or windows, a forward pass (default: 8)")
    add("--device", help='torch device, such as "cpu" (default: a GPU if there is one)')
    add_runtime(parser)
    add("--cpu-threads", type=int, help="threads of each process; 1 also reads and writes on that one")
    add_limits(parser)
    return parser


def check_given(parser: Parser, given: argparse.Namespace) -> None:
    if given.model is None:
        parser.error(f"--model is missing; expected --model {MODEL}")
    if bool(given.inputs) == bool(given.dataset):
        parser.error("give either inputs (images, volumes, folders, patterns) or --dataset")
    check_runtime(parser, given)
    for flag in ("batch_size", "cpu_threads"):
        value = getattr(given, flag)
        if value is not None and value < 1:
            parser.error(f"--{flag.replace('_', '-')} is {value}; expected 1 or more")
    if given.threshold is not None and not 0 <= given.threshold <= 1:
        parser.error(f"--threshold is {given.threshold}; expected a number from 0 to 1")
    if given.dicom_seg and given.dataset:
        parser.error("--dicom-seg lays masks over DICOM files; expected inputs, not --dataset")
    if given.segment_codes is not None and not given.dicom_seg:
        parser.error("--segment-codes says what the segments of --dicom-seg mean; expected --dicom-seg with it")
    if given.keep_identifiers and not given.dicom_seg:
        parser.error("--keep-identifiers is for --dicom-seg, nothing else carries any; expected --dicom-seg with it")
    for flag in ("overlap", "window_scale"):
        if getattr(given, flag) is not None and not given.sliding_window:
            parser.error(f"--{flag.replace('_', '-')} says how windows are laid; expected --sliding-window with it")
    if given.overlap is not None and not 0 <= given.overlap < 1:
        parser.error(f"--overlap is {given.overlap}; expected a number from 0 to less than 1, such as 0.5")
    if given.window_scale is not None and not 0 < given.window_scale < math.inf:
        parser.error(f"--window-scale is {given.window_scale}; expected a number above 0, such as 0.5")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 where something could not be read or written."""
    given = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    import torch

    from ..errors import BadInputError, OutputError
    from ..pipeline_resformer import OVERLAP
    from ..prediction.job import Request, predict
    from ..prediction.processes import Processes
    from ..training.progress import quieten_libraries

    quieten_libraries()
    if given.cpu_threads is not None:
        torch.set_num_threads(given.cpu_threads)
    try:
        request = Request(
            model=given.model,
            more_models=tuple(given.more_models),
            revision=given.revision,
            inputs=tuple(given.inputs),
            dataset=given.dataset,
            split=given.split,
            output=given.output,
            overwrite=given.overwrite,
            threshold=given.threshold,
            tta=given.tta or False,
            keep_aspect_ratio=given.keep_aspect_ratio,
            sliding_window=given.sliding_window,
            overlap=OVERLAP if given.overlap is None else given.overlap,
            window_scale=1.0 if given.window_scale is None else given.window_scale,
            draw=not given.no_overlays,
            dicom_seg=given.dicom_seg,
            segment_codes=given.segment_codes,
            keep_identifiers=given.keep_identifiers,
            report=given.report,
            worklist=given.worklist,
            batch_size=given.batch_size,
            cpu_threads=given.cpu_threads,
            limits=take_limits(given),
            runtime=given.runtime,
        )
        processes = Processes(given.device)
        summary = predict(request, processes)
    except (BadInputError, OutputError, OSError, ValueError) as error:
        logger.error("%s", error)
        return 1
    if processes.is_first:
        sys.stdout.write(summary.text())
    return 1 if summary.problems else 0


if __name__ == "__main__":
    sys.exit(main())
