r"""A trained model to the Hub: first a complete folder to look at, then one commit.

Look before anything is sent; the folder is tried in a fresh process as a stranger would use it:

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 --dry-run --output outputs/repository

Then the same without --dry-run. The repository is private until --public, and gets its files in one commit:

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 --tag v1

With a Space that tries the model in the browser, linked from the card:

    python scripts/push_to_hub.py --model runs/isic2017 --repo-id my-group/resformer-isic2017 \
        --space-id my-group/try-resformer --with-space

The model is the --output_dir of scripts/train.py, or a folder that this script made, such as
hub_cards/resformer-tiny-isic2017. Refused are runs without results.json, weights with NaN, pickle files, cards with an
invalid header, folders that do not reload elsewhere, and --public for weights learned from data that are not free. Log in
with `hf auth login` first. The exit status is 1 after one line on stderr that says what speaks against it.
"""

import argparse
import logging
import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


if __name__ == "__main__":  # before the slow imports
    OPTIONS = Path(__file__).resolve().parents[1] / "modeling_resformer" / "options"
    runpy.run_path(str(OPTIONS / "launch.py"))["launch"](__file__, __doc__)

from modeling_resformer.data.problems import BadInputError
from modeling_resformer.options.push_to_hub import parse
from modeling_resformer.publishing.card import Terms
from modeling_resformer.publishing.hub import Push, push_folder
from modeling_resformer.publishing.repository import make_repository
from modeling_resformer.publishing.space import make_space


logger = logging.getLogger(__name__)


def publish(options: argparse.Namespace) -> None:
    """Makes the folders, and sends them unless asked not to."""
    terms = Terms(
        repo_id=options.repo_id,
        licence=options.license,
        dataset_id=options.dataset_id,
        space_id=options.space_id,
        public=options.public,
        data_allow_sharing=options.data_allow_sharing,
        share_pictures=options.share_pictures,
        synthetic=options.synthetic,
    )
    with tempfile.TemporaryDirectory(prefix="resformer-push-") as scratch:
        output = options.output or Path(scratch) / terms.name
        folder = make_repository(options.model, terms, output, options.overwrite)
        if options.dry_run:
            logger.info("%s: complete and tried; nothing was sent", folder)
        else:
            push = Push(options.repo_id, public=options.public, revision=options.revision, tag=options.tag)
            logger.info("pushed: %s", push_folder(folder, push))
        if options.with_space:
            publish_space(options, folder)


def publish_space(options: argparse.Namespace, repository: Path) -> None:
    """Makes the Space that tries the model beside the repository's folder, and sends it unless asked not to."""
    output = repository.with_name(f"{repository.name}-space")
    examples = sorted((repository / "examples").glob("*"))
    folder = make_space(output, options.repo_id, examples, options.tag, options.overwrite)
    if options.dry_run:
        logger.info("%s: the Space; nothing was sent", folder)
        return
    push = Push(options.space_id, repo_type="space", public=options.public, message="Add the app that tries the model")
    logger.info("pushed: %s", push_folder(folder, push))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr."""
    options = parse(sys.argv[1:] if argv is None else argv, __doc__)
    try:
        publish(options)
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "httpx2"):  # the Hub client names every request
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.exit(main())
