"""`--push_to_hub` of `scripts/train.py`: one push of the finished run, by the same code as `scripts/push_to_hub.py`."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from transformers import TrainingArguments

from ..errors import BadInputError


def take_push(args: TrainingArguments) -> Callable[[Path], None] | None:
    """Takes `--push_to_hub` from the Trainer, which would push a card of its own, every checkpoint, and in public.

    Called before the Trainer is made. `--hub_model_id` names the repository, `--hub_revision` a branch; it is private
    unless `--hub_private_repo false`. The owner's `card.yaml` lies in the run's folder, or in the repository already.

    Returns:
        What pushes the run's folder once it is complete; None where no push is asked for.

    Raises:
        BadInputError: no repository is named, `card.yaml` is wrong, or the extra `hub` is not installed; said before
            anything is trained.
    """
    token, args.hub_token = args.hub_token, None  # the Trainer would leave it in training_args.bin
    if not args.push_to_hub:
        return None
    args.push_to_hub = False
    if args.hub_model_id is None:
        raise BadInputError("--push_to_hub needs --hub_model_id owner/name, the repository to push to")
    if find_spec("jinja2") is None:
        raise BadInputError('--push_to_hub needs Jinja2 for the model card; pip install "modeling-resformer[hub]"')
    from .facts import find_card_text
    from .repository_checks import check_repo_id

    check_repo_id(args.hub_model_id)
    find_card_text(Path(args.output_dir))
    return lambda run: push_run(run, args, token)


def push_run(run: Path, args: TrainingArguments, token: str | None = None) -> None:
    """Makes the repository of a finished run and sends it.

    Raises:
        BadInputError: something speaks against it; the run itself stays as it is.
    """
    from .card import Terms
    from .hub import MAIN, Push
    from .publishing_run import publish

    public = args.hub_private_repo is False
    push = Push(args.hub_model_id, public=public, revision=args.hub_revision or MAIN, token=token)
    publish(run, Terms(args.hub_model_id, public=public, revision=push.revision), push)
