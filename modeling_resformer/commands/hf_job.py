r"""Train on a dataset of the Hub and publish what came of it, in one go, on a machine that keeps nothing.

    hf jobs uv run --flavor t4-small --timeout 3h --secrets HF_TOKEN scripts/hf_job.py \
        --dataset me/mine --repo-id me/resformer-mine --recipe small --num_train_epochs 40

The dataset is one that `--push-to-hub` of a scripts/prepare_*.py sent there; a folder will do as well, to try the command at
home. Every other flag is one of scripts/train.py. The model gets its repository as by scripts/push_to_hub.py, private unless
--public. With --dry-run all is done but the sending. Looked at before the training: the flags, that the Hub knows who asks, and
that the dataset is there.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..flags import Parser, add_output
from . import train


# Of a dataset's repository, what a prepared dataset consists of.
PREPARED = ("data/*.parquet", "resformer.json", "splits.csv")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake; flags of a training are in `training`, of which only the recipe is looked for.

    Raises:
        ValueError: there is no such recipe.
    """
    parser = make_parser()
    given, given.training = parser.parse_known_args(arguments)
    train.parse(given.training)
    return given


def make_parser() -> Parser:
    parser = Parser(
        __doc__, usage="%(prog)s --dataset ID --repo-id ID [flags] [flags of train.py]", allow_abbrev=False
    )
    add = parser.add_argument
    add("--dataset", required=True, help="Hub id of a prepared dataset, or a folder")
    add("--dataset-revision", help="revision of the Hub id")
    add("--repo-id", required=True, help="owner/name of the model on the Hub")
    add_output(parser, type=Path, default=Path("run"), help="folder of the training (default: run)")
    add("--public", action="store_true", help="let everybody see the model; private otherwise")
    add("--data-allow-sharing", action="store_true", help="I state that the data's terms allow public weights")
    add("--dry-run", action="store_true", help="write the repository to OUTPUT-repository and send nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from ..errors import BadInputError
    from ..training.arguments import parse_arguments
    from . import push_to_hub

    try:
        given = parse(sys.argv[1:] if argv is None else argv)
        flags = [*given.training, "--output_dir", str(given.output)]
        parse_arguments([*flags, "--dataset", given.dataset])
        if not given.dry_run:
            check_login()
        folder = dataset_folder(given.dataset, given.dataset_revision)
    except (BadInputError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return train.main([*flags, "--dataset", str(folder)]) or push_to_hub.main(push_flags(given))


def push_flags(given: argparse.Namespace) -> list[str]:
    flags = ["--model", str(given.output), "--repo-id", given.repo_id]
    flags += [] if Path(given.dataset).is_dir() else ["--dataset-id", given.dataset]
    flags += ["--public"] if given.public else []
    flags += ["--data-allow-sharing"] if given.data_allow_sharing else []
    return [*flags, "--dry-run", "--output", f"{given.output}-repository"] if given.dry_run else flags


def check_login() -> None:
    """Refuses a training whose model could not be sent.

    Raises:
        BadInputError: the Hub does not know who asks.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    from ..errors import BadInputError, one_line

    try:
        HfApi().whoami()
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise BadInputError(
            f"the Hub does not know who asks ({one_line(error, 160)}); give the job --secrets HF_TOKEN with a token that "
            "may write, or log in by hf auth login"
        ) from error


def dataset_folder(name: str, revision: str | None) -> Path:
    """A prepared dataset: a folder as it is, or a copy of a dataset of the Hub.

    Raises:
        BadInputError: it is on the Hub neither, or cannot be read there.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import HfApi

    from ..errors import BadInputError, one_line

    try:
        kept = HfApi().snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(PREPARED))
    except (OSError, ValueError) as error:  # what the client raises derives from these
        raise BadInputError(
            f"--dataset {name}: neither a folder here nor a dataset of the Hub that can be read ({one_line(error, 160)}); "
            "send one by --push-to-hub of a scripts/prepare_*.py"
        ) from error
    return Path(kept)


if __name__ == "__main__":
    sys.exit(main())
