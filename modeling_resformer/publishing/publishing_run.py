"""From a run to the Hub: a complete folder, tried here, then one commit."""

import logging
from pathlib import Path

import torch
from transformers import AutoImageProcessor

from ..errors import BadInputError
from ..files import scratch_folder
from ..heads import task_named
from ..pipeline_resformer import ResFormerPipeline
from .card import Terms
from .facts import read_facts
from .hub import MAIN, Push, push_folder, with_kept_card_text
from .repository import make_repository
from .repository_checks import read_config
from .space import make_space


logger = logging.getLogger(__name__)


def publish(
    run: Path,
    terms: Terms,
    push: Push,
    output: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    with_space: bool = False,
    with_web: bool = False,
    runtime: Path | None = None,
) -> None:
    """Makes the repository, and the Spaces that are asked for, and sends them.

    Args:
        run: output folder of a training, or a repository that this made.
        terms: what is published as what.
        push: where it goes.
        output: folder to write; a scratch folder where it is not given.
        overwrite: replace an earlier one.
        dry_run: send nothing.
        with_space: make the Space `terms.space_id` too, in a folder beside the repository's.
        with_web: make the static Space `terms.web_id` too, beside it as well.
        runtime: npm's package of what that page runs; by default npm fetches it.

    Raises:
        BadInputError: something speaks against it, or the Hub does; the message says what is there and what is not.
    """
    if with_web and push.public and read_facts(run).known_source.gated:
        raise BadInputError(f"{run}: a page gives its weights to everybody, and these are gated; leave out --with-web")
    with scratch_folder("push") as scratch:
        if not dry_run:
            terms = with_kept_card_text(terms, run, push, scratch)
        folder = make_repository(run, terms, output or scratch / terms.name, overwrite)
        if dry_run:
            logger.info("%s: complete and tried; nothing was sent", folder)
        else:
            logger.info("pushed: %s", push_folder(folder, push))
        if with_space:
            publish_space(folder, terms, push, overwrite, dry_run)
        if with_web:
            publish_web(folder, terms, push, runtime, overwrite, dry_run)


def publish_space(repository: Path, terms: Terms, push: Push, overwrite: bool, dry_run: bool) -> None:
    """Makes the Space that tries the model beside the repository's folder, and sends it unless asked not to."""
    output = repository.with_name(f"{repository.name}-space")
    examples = sorted((repository / "examples").glob("*"))
    revision = push.tag or (None if push.revision == MAIN else push.revision)
    folder = make_space(output, terms.repo_id, examples, revision, overwrite)
    space = Push(terms.space_id, repo_type="space", public=push.public, message="Add the app that tries the model")
    send_beside(folder, space, terms, "Space", dry_run)


def publish_web(
    repository: Path, terms: Terms, push: Push, runtime: Path | None, overwrite: bool, dry_run: bool
) -> None:
    """Makes the page in which the model runs in the browser beside the repository's folder, and sends it unless asked not to.

    Raises:
        BadInputError: what exports models is not installed, the model cannot be exported, or the Hub refuses.
    """
    try:
        from .web_page import make_page  # which needs onnx
    except ImportError as error:
        raise BadInputError(
            f"--with-web: {error.name} is not installed; run: pip install 'modeling-resformer[export]'"
        ) from error
    model_class = task_named(read_config(repository).architectures[0]).model_class
    pipe = ResFormerPipeline(
        model=model_class.from_pretrained(repository).eval(),
        image_processor=AutoImageProcessor.from_pretrained(repository),
        device=torch.device("cpu"),
    )
    output = repository.with_name(f"{repository.name}-web")
    folder = make_page(output, pipe, terms.repo_id, repository, runtime, overwrite)
    message = "Add the page that runs the model"
    space = Push(terms.web_id, repo_type="space", sdk="static", public=push.public, message=message)
    send_beside(folder, space, terms, "page", dry_run)


def send_beside(folder: Path, space: Push, terms: Terms, kind: str, dry_run: bool) -> None:
    """Sends a Space whose model is pushed already, unless asked not to."""
    if dry_run:
        logger.info("%s: the %s; nothing was sent", folder, kind)
        return
    try:
        logger.info("pushed: %s", push_folder(folder, space))
    except BadInputError as error:
        raise BadInputError(f"{terms.repo_id}: is pushed, but its {kind} is not complete: {error}") from error
