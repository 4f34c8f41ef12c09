"""The Space that tries a model in the browser: a complete folder, as it goes to the Hub."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ..errors import BadInputError
from ..files import finished_folder
from ..shipped import shipped


PACKAGE = Path(__file__).parents[1]
TEMPLATE = shipped("hub_cards/space")
TEMPLATE_FILES = ("app.py", "analysis.py", "requirements.txt")
PACKAGE_FILES = ("drawing.py", "handler.py")
SDK_VERSION = "6.31.0"  # of gradio, with which the app was tried


def make_space(
    output: Path, model_id: str, examples: Sequence[Path], revision: str | None = None, overwrite: bool = False
) -> Path:
    """Writes everything a Space needs; `HfApi().upload_folder(repo_type="space", ...)` sends it.

    Args:
        output: the folder to write.
        model_id: Hub id of the model it tries.
        examples: images to offer, free to be shown to anybody.
        revision: of the model, whose code the Space runs; the newest if not given.
        overwrite: replace an earlier Space.

    Returns:
        `output`.

    Raises:
        BadInputError: the template is missing, or the folder exists.
    """
    missing = [name for name in (*TEMPLATE_FILES, "README.md") if not (TEMPLATE / name).is_file()]
    if missing:
        raise BadInputError(
            f"{TEMPLATE / missing[0]}: the Space's template is missing; install the package again, or run from a checkout"
        )
    with finished_folder(output, overwrite, "Space of this project", is_space) as folder:
        for name in TEMPLATE_FILES:
            shutil.copyfile(TEMPLATE / name, folder / name)
        for name in PACKAGE_FILES:
            shutil.copyfile(PACKAGE / name, folder / name)
        settings = {"model_id": model_id, "revision": revision}
        (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(space_card(model_id, revision), encoding="utf-8")
        for path in examples:
            (folder / "examples").mkdir(exist_ok=True)
            shutil.copyfile(path, folder / "examples" / path.name)
    return output


def is_space(folder: Path) -> bool:
    """Whether a folder was made by `make_space`."""
    return all((folder / name).is_file() for name in (*TEMPLATE_FILES, *PACKAGE_FILES, "settings.json"))


def space_card(model_id: str, revision: str | None) -> str:
    """The Space's README with its YAML head."""
    # Not through RepoCard's renderer: StrictUndefined makes a missing value an error instead of an empty string.
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False).from_string(
        (TEMPLATE / "README.md").read_text(encoding="utf-8")
    )
    title = f"Try {model_id.rpartition('/')[2]}"
    return template.render(title=title, model_id=model_id, revision=revision, sdk_version=SDK_VERSION)


__all__ = ["is_space", "make_space", "space_card"]
