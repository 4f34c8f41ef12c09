r"""Evaluate any ResFormer checkpoint on any split of any prepared dataset with the same labels.

    python scripts/evaluate.py --model runs/isic2017 --dataset data/isic2017 --split test \
        --output runs/isic2017/test

The same on every GPU of a machine: `accelerate launch scripts/evaluate.py ...`. The model is a folder or a Hub id; into
the output folder go `results.json`, `per_case.csv`, `report.png` and `samples.png`, as `scripts/train.py` leaves them.

Scores are computed at the size of the dataset's masks. Where these were resized, the source's own masks give scores at
native size, and so comparable with published ones:

    python scripts/evaluate.py --model runs/isic2017 --dataset data/isic2017 --output runs/isic2017/native \
        --raw_masks ISIC2017/ISIC-2017_Test_v2_Part1_GroundTruth

What another program predicted is scored in the same way, from a folder of its masks (CASE.png, CASE_SLICE.png, or CASE.nii.gz
and the like for volumes), a table of its scores (case_id, slice_index, and a column in 0..1 for each class), or both:

    python scripts/evaluate.py --predictions nnunet/masks --scores nnunet/scores.csv --dataset data/isic2017 \
        --output runs/nnunet

With --choose_thresholds the decision thresholds of the image-level classes are first chosen on the validation split, each
class by balanced accuracy, and written to the checkpoint's config (`classification_thresholds`), where inference finds
them too. Balanced accuracy, because it does not depend on how common a class is; no other split is looked at. Of classes that
exclude each other the highest score decides, and there is no threshold to choose.

How far to trust the answers is fitted likewise: --calibrate scales scores and mask probabilities until they come true,
--label_sets 0.9 chooses which classes an answer does not rule out, --fit_confidence tells how unlike the training images
an image is and how likely mask and labels are right (docs/trust.md):

    python scripts/evaluate.py --model runs/isic2017 --dataset data/isic2017 --output runs/isic2017 \
        --calibrate --choose_thresholds --label_sets 0.9 --fit_confidence

The exit status is 1 after bad arguments or bad data.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from ..evaluation.evaluation_options import EvaluationOptions
from ..flags import OneLineParser, add_fields


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises `ValueError` for a mistake."""
    parser = OneLineParser(__doc__)
    add_fields(parser, EvaluationOptions)
    parser.also("--output", "--output_dir")
    given = parser.parse_args(arguments)
    by_others = given.predictions is not None or given.scores is not None
    for name, flag in (("model_name_or_path", "--model"), ("dataset", "--dataset"), ("output", "--output")):
        if getattr(given, name) is None and not (by_others and name == "model_name_or_path"):
            raise ValueError(f"{flag} is missing; see evaluate.py --help.")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr."""
    try:
        given = parse(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from ..errors import BadInputError, NonFiniteLossError
    from ..evaluation.outside_answers import evaluate_predictions
    from ..training.arguments import evaluation_arguments
    from ..training.evaluation_run import evaluate
    from ..training.progress import quieten_libraries

    quieten_libraries()
    try:
        arguments = evaluation_arguments(given)
        (evaluate_predictions if arguments.is_by_others else evaluate)(arguments)
    except (BadInputError, NonFiniteLossError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
