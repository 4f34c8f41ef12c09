"""A run folder as a complete Hub repository, made and tried on this machine before anything is sent."""

import csv
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

# By its own module, since without torchvision transformers 5.17 hides it at the top.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..configuration_resformer import ResFormerConfig
from ..data.fold_folders import FOLDS_NAME
from ..drawing import displayable, draw_contours
from ..errors import BadInputError, one_line
from ..files import finished_folder
from ..heads import task_named
from ..image_processing_pil_resformer import open_image, upright
from ..modeling_resformer import ResFormerPreTrainedModel
from ..pipeline_resformer import ResFormerPipeline
from ..shipped import shipped
from .card import Terms, licence_title, weights_licence, write_model_card
from .card_text import CARD_TEXT_NAME
from .eval_results import write_eval_results
from .facts import Facts, needs_timm, read_facts
from .monai_bundle import write_monai_bundle
from .repository_checks import (
    RESULTS_NAME,
    RUN_NAME,
    WEIGHTS_NAME,
    check_card,
    check_reload,
    check_repo_id,
    check_run,
    refuse_pickles,
)


logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
EXAMPLES = "examples"
OUTLINED = "outlined"
SAMPLE_IMAGES = shipped("examples/isic2017_sample/ISIC-2017_Training_Data")  # of a checkout
NETWORK = shipped("docs/network.png")
IMAGES = ("report.png", "samples.png")
MOST_EXAMPLES = 3
CONTOUR_SHARE = 1 / 160  # of the image's shorter side
# What Inference Endpoints install beside their own torch; the bounds are those of setup.py.
REQUIREMENTS = "transformers>=5.17,<6\nhuggingface-hub>=1.5\npillow>=11.0\nnumpy>=2.0\n"
TIMM = "timm>=1.0.31\n"  # of backbones of timm


def make_repository(run: Path, terms: Terms, output: Path, overwrite: bool = False) -> Path:
    """Writes everything that belongs on the Hub to `output`, which appears when it is complete and was tried.

    Args:
        run: output folder of `scripts/train.py`, or a repository that this made before.
        terms: what is published as what.
        output: the folder to write.
        overwrite: replace an earlier repository.

    Returns:
        `output`.

    Raises:
        BadInputError: something speaks against publishing; nothing is left half-written.
    """
    facts = check_publishable(run, terms)
    with finished_folder(output, overwrite, "Hub repository of this project", is_repository) as folder:
        model = write_model(run, folder)
        write_code(folder)
        write_record(run, folder)
        write_fold_summary(folder, facts)
        write_card_text(run, folder, terms, facts)
        examples = write_images(run, folder, terms, facts)
        outputs = write_example_outputs(folder, model, examples)
        stated = replace(facts, synthetic=terms.synthetic)
        if facts.segments:
            write_monai_bundle(folder, terms.repo_id, terms.revision, licence_title(terms, facts), stated)
        write_eval_results(folder, terms, stated)
        write_model_card(folder, terms, facts, examples, outputs)
        check_card(folder / "README.md")
        refuse_pickles(folder)
        check_reload(folder, model)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    return output


def check_publishable(run: Path, terms: Terms) -> Facts:
    """Refuses a run that must not be published so; returns what is known of it.

    Raises:
        BadInputError: one line that says what speaks against it.
    """
    check_repo_id(terms.repo_id)
    check_run(run)
    facts = read_facts(run, terms.card_text, terms.folds)
    check_terms(terms, facts)
    if facts.known_source.gated and not terms.synthetic and facts.text.data_licence is not None:
        raise BadInputError(
            f"{terms.card_text or run / CARD_TEXT_NAME}: data_licence: that of {facts.known_source.title} stands fixed "
            f"({facts.known_source.licence}); leave the line out, or say --synthetic of made-up data"
        )
    return facts


def is_repository(folder: Path) -> bool:
    """Whether a folder was made by `make_repository`."""
    names = ("README.md", "handler.py", "modeling_resformer.py", RESULTS_NAME, WEIGHTS_NAME)
    return all((folder / name).is_file() for name in names)


def check_terms(terms: Terms, facts: Facts) -> None:
    """Refuses to show the world what was learned from data that are not free, unless somebody answers for it."""
    if not terms.public or terms.data_allow_sharing:
        return
    source = facts.known_source
    if source.gated:
        raise BadInputError(
            f"--public {terms.repo_id}: the weights were trained on {source.title}, which is {source.licence}; "
            "if your agreement with the organisers allows public weights, say so with --data-allow-sharing"
        )
    if not facts.provenance_is_known:
        recorded = facts.recorded("dataset", "name") is not None
        data = f"were trained on {facts.dataset_title}" if recorded else "come from data that nothing records"
        raise BadInputError(
            f"--public {terms.repo_id}: the weights {data}; if those data allow public weights, say so with "
            "--data-allow-sharing"
        )


def write_model(run: Path, folder: Path) -> ResFormerPreTrainedModel:
    """Saves model and image processor with their code, in float32; returns the model as it was loaded from the run."""
    config = ResFormerConfig.from_pretrained(run)
    try:
        model_class = task_named((config.architectures or ["no architecture"])[0]).model_class
        model, report = model_class.from_pretrained(run, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInputError(f"{run}: {one_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise BadInputError(
            f"{run / WEIGHTS_NAME}: lacks {len(missing)} tensors, {missing[0]} first; save the model again"
        )
    model.save_pretrained(folder)
    AutoImageProcessor.from_pretrained(run).save_pretrained(folder)
    return model


def write_code(folder: Path) -> None:
    """Adds what serves the model: the handler of Inference Endpoints and what it needs."""
    shutil.copyfile(PACKAGE / "handler.py", folder / "handler.py")
    timm = TIMM if needs_timm(ResFormerConfig.from_pretrained(folder)) else ""
    (folder / "requirements.txt").write_text(REQUIREMENTS + timm, encoding="utf-8")


def write_record(run: Path, folder: Path) -> None:
    """Adds results and, where there is one, the record of the run, which names no local folders."""
    for name in (RESULTS_NAME, RUN_NAME):
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)


def write_fold_summary(folder: Path, facts: Facts) -> None:
    """Adds what a cross-validation found, so that later pushes keep it in the card."""
    if facts.folds:
        (folder / FOLDS_NAME).write_text(json.dumps(facts.folds, indent=2) + "\n", encoding="utf-8")


def write_card_text(run: Path, folder: Path, terms: Terms, facts: Facts) -> None:
    """Adds the owner's text, so that later pushes keep it; says where one is wanted, and where a licence is."""
    path = terms.card_text or run / CARD_TEXT_NAME
    if path.is_file():
        shutil.copyfile(path, folder / CARD_TEXT_NAME)
    elif not facts.provenance_is_known:
        logger.warning(
            "%s: the card can say little of the data; tell what they are in a %s, as hub_cards/%s shows",
            *(run, CARD_TEXT_NAME, CARD_TEXT_NAME),
        )
    if weights_licence(terms, facts)[0] is None:
        logger.warning(
            "%s: no licence of the weights is named, so the header says 'license: other', %s; name one by --license or "
            "weights_licence",
            *(run, weights_licence(terms, facts)[1]),
        )


def write_images(run: Path, folder: Path, terms: Terms, facts: Facts) -> list[str]:
    """Adds the network figure and, where the data may be shown, the run's pages and example inputs; names the examples."""
    figure = next((path for path in (NETWORK, run / "network.png") if path.is_file()), None)
    if figure is None:
        raise BadInputError(
            f"{NETWORK}: the network figure is missing; install the package again, or run from a checkout"
        )
    shutil.copyfile(figure, folder / "network.png")
    source = facts.known_source
    if not source.images_are_free and (source.gated or not terms.share_images):
        return []
    for name in IMAGES:
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)
    examples = example_images(run) if source.images_are_free else []
    for path in examples:
        (folder / EXAMPLES).mkdir(exist_ok=True)
        shutil.copyfile(path, folder / EXAMPLES / path.name)
    return [path.name for path in examples]


def write_example_outputs(folder: Path, model: ResFormerPreTrainedModel, examples: Sequence[str]) -> dict[str, Any]:
    """What the widget shows beside each example, by its name, in the Hub's format: an image of the contours, or scores."""
    if not examples:
        return {}
    processor = AutoImageProcessor.from_pretrained(folder)
    pipe = ResFormerPipeline(model=model, image_processor=processor, device=torch.device("cpu"))
    outputs: dict[str, Any] = {}
    for name in examples:
        path = folder / EXAMPLES / name
        answer = pipe(str(path))
        if "segmentation" not in answer:
            scores = sorted(answer["class_scores"].items(), key=lambda one: -one[1])
            outputs[name] = [{"label": label, "score": round(score, 4)} for label, score in scores]
            continue
        image, _ = upright(open_image(path))
        width = max(1, round(min(image.size) * CONTOUR_SHARE))
        drawn = draw_contours(displayable(image), answer["segmentation"].numpy(), width)
        (folder / OUTLINED).mkdir(exist_ok=True)
        drawn.save(folder / OUTLINED / f"{path.stem}.jpg", quality=90)
        outputs[name] = {"url": f"{OUTLINED}/{path.stem}.jpg"}
    return outputs


def example_images(run: Path) -> list[Path]:
    """Free photographs for the widget, those that the run was tested on where there are such."""
    if (run / EXAMPLES).is_dir():
        return sorted((run / EXAMPLES).glob("*.jpg"))
    free = sorted(SAMPLE_IMAGES.glob("*.jpg"))
    if (run / "per_case.csv").is_file():
        with open(run / "per_case.csv", newline="", encoding="utf-8") as file:
            tested = {row["case_id"] for row in csv.DictReader(file)}
        free = [path for path in free if path.stem in tested]
    return free[:MOST_EXAMPLES]
