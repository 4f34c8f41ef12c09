"""The model card: a template of `hub_cards/` filled with what the run recorded and measured."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..configuration_resformer import ResFormerConfig, __version__
from ..errors import BadInputError
from ..escaping import plain_name
from ..metrics.score_table import MAIN_SCORES, main_first
from ..shipped import shipped
from . import card_tables
from .card_text import CardText, markdown
from .facts import NOT_RECORDED, Facts, needs_timm
from .known_datasets import PAPER, SOFTWARE, Source


TEMPLATES = shipped("hub_cards")
ARXIV = "2412.00351"
INDEXED = [score for score in (*main_first("masks"), *main_first("classes")) if score.index is not None]
PROSE = ("description", "intended_use", "out_of_scope", "ethics", "contact")
Held = TypeVar("Held", Source, CardText)


@dataclass(frozen=True)
class Terms:
    """What is published, and under which terms.

    Attributes:
        repo_id: `owner/name` on the Hub.
        licence: Hub id of the weights' licence; by default what the dataset's source suggests.
        dataset_id: Hub id of the dataset, where it is there.
        space_id: Hub id of a Space that tries the model.
        web_id: Hub id of a static Space that runs it in its reader's browser.
        public: everybody will see the repository.
        data_allow_sharing: somebody states that the data's terms allow public weights.
        share_images: somebody states that images of a dataset of their own may be shown.
        synthetic: the data are made up, to test software; nothing measured on them is a result, and nothing is said of
            the dataset whose layout they have.
        card_text: the owner's `card.yaml`; by default the run's own, where there is one.
        folds: folder of a cross-validation on the same data, for a table of its own.
        benchmarks: scores that benchmark datasets of the Hub take, each as `owner/dataset:task=score`.
        revision: tag or branch that the card's examples load.
        templates: folder of the card templates.
    """

    repo_id: str
    licence: str | None = None
    dataset_id: str | None = None
    space_id: str | None = None
    web_id: str | None = None
    public: bool = False
    data_allow_sharing: bool = False
    share_images: bool = False
    synthetic: bool = False
    card_text: Path | None = None
    folds: Path | None = None
    benchmarks: tuple[str, ...] = ()
    revision: str = "main"
    templates: Path = TEMPLATES

    @property
    def name(self) -> str:
        """The repository's own name."""
        return self.repo_id.split("/")[-1]


def write_model_card(
    folder: Path,
    terms: Terms,
    facts: Facts,
    examples: Sequence[str] = (),
    outputs: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes `folder/README.md`.

    Args:
        folder: the repository; figures that lie in it are shown.
        terms: what is published as what.
        facts: of the run.
        examples: file names in `folder/examples` that the widget offers.
        outputs: what it shows beside them, by their names.

    Raises:
        BadInputError: the template is missing.
    """
    facts = replace(facts, synthetic=terms.synthetic)
    template = terms.templates / "model_card.md"
    if not template.is_file():
        raise BadInputError(f"{template}: no such card template; install the package again, or run from a checkout")
    card = ModelCard.from_template(
        card_data(terms, facts, examples, outputs),
        template_str=template.read_text(encoding="utf-8"),
        **values(folder, terms, facts),
    )
    lines = [line.rstrip() for line in str(card).splitlines()]
    kept = [line for before, line in zip(["", *lines], lines, strict=False) if line or before]
    (folder / "README.md").write_text("\n".join(kept) + "\n", encoding="utf-8")


def card_data(terms: Terms, facts: Facts, examples: Sequence[str], outputs: Mapping[str, Any]) -> ModelCardData:
    """The card's header."""
    segmentation, classification = ["image-segmentation"] * facts.segments, ["image-classification"] * facts.classifies
    tags = [
        "resformer",
        "medical",
        *segmentation,
        *classification,
        *facts.source.tags,
        "custom_code",
        f"arxiv:{ARXIV}",
    ]
    licence, name = weights_licence(terms, facts)
    results = [] if terms.synthetic else list(eval_results(terms, facts))
    return ModelCardData(
        license=licence or "other",
        **({"license_name": name} if name else {}),
        library_name="transformers",
        pipeline_tag=(segmentation + classification)[0],
        datasets=[terms.dataset_id] if terms.dataset_id else None,
        metrics=[entry.name for entry in INDEXED if facts.score(entry.name) is not None],
        tags=[*tags, "synthetic-data"] if terms.synthetic else tags,
        widget=[
            {
                "src": f"examples/{name}",  # from the repository's root
                "example_title": Path(name).stem,
                **({"output": outputs[name]} if name in outputs else {}),
            }
            for name in examples
        ]
        or None,
        model_name=terms.name if results else None,
        eval_results=results or None,
    )


def weights_licence(terms: Terms, facts: Facts) -> tuple[str | None, str | None]:
    """Hub id of the weights' licence, None where nobody named one, and the name the Hub asks for in place of an id."""
    licence = terms.licence or facts.source.weights_licence
    if licence is None:
        return None, "ask-the-owner"
    return licence, facts.text.weights_licence_name if licence == "other" else None


def licence_title(terms: Terms, facts: Facts) -> str | None:
    """The weights' licence in words."""
    licence, name = weights_licence(terms, facts)
    return licence and (name or licence)


def eval_results(terms: Terms, facts: Facts) -> list[EvalResult]:
    """One entry of the model index for every score, under one dataset config for every vendor."""
    parts = {facts.recorded("dataset", "config") or "default": facts.results["model"]}
    parts |= {name: group["model"] for name, group in facts.groups.items()}
    return [
        EvalResult(
            task_type="image-segmentation" if entry.of == "masks" else "image-classification",
            dataset_type=terms.dataset_id or facts.dataset_identifier,
            dataset_name=facts.dataset_name or "not recorded",
            dataset_config=str(config),
            dataset_split=facts.results.get("split"),
            metric_type=entry.name,
            metric_name=f"{entry.index} ({facts.results.get('split')}, n={score.n})",
            metric_value=round(score.value, 4),
        )
        for config, scores in parts.items()
        for entry in INDEXED
        if (score := facts.score(entry.name, scores)) is not None
    ]


def values(folder: Path, terms: Terms, facts: Facts) -> dict[str, Any]:
    """What the template asks for, the header apart."""
    config, recorded = facts.config, facts.recorded
    source, text = escaped(facts.source, "modality", "limits", "unseen"), escaped(facts.text, *PROSE)
    classes = ", ".join(map(plain_name, config.image_class_names))
    height, width = facts.size
    return {
        **tables(facts),
        "repo_id": terms.repo_id,
        "name": terms.name,
        "space_id": terms.space_id,
        "web_id": terms.web_id,
        "synthetic": terms.synthetic,
        "task": facts.task,
        "segments": facts.segments,
        "classifies": facts.classifies,
        "revision": terms.revision,
        "source": source,
        "text": text,
        "dataset_title": markdown(facts.dataset_title),
        "data_licence": markdown(facts.data_licence),
        "kept_apart": facts.kept_apart,
        "files": {path.name for path in folder.iterdir()},
        "height": height,
        "width": width,
        "resized": "fitted and padded" if facts.preprocessor.get("keep_aspect_ratio") else "squashed",
        "largest_only": bool(facts.segments and facts.preprocessor.get("keep_largest_component")),
        "timm": needs_timm(config),
        "normalised": normalisation(facts.preprocessor),
        "mask_classes": ", ".join(f"{index} {plain_name(name)}" for index, name in enumerate(config.mask_class_names)),
        "foreground": ", ".join(map(plain_name, config.mask_class_names[1:])),
        "image_classes": classes,
        "several_classes": len(config.image_class_names) > 1,
        "exclusive": config.classes_exclude,
        "scored": f"a score for {'each of ' if len(config.image_class_names) > 1 else ''}{classes}"
        + (", of which each image has exactly one" if config.classes_exclude else ""),
        "thresholds": ", ".join(
            f"{plain_name(name)} {threshold:.3g}"
            for name, threshold in zip(config.image_class_names, config.classification_thresholds or (), strict=False)
        ),
        "results": facts.results,
        "scores": {name: facts.score(name) for name in (*MAIN_SCORES, "calibration_error")},
        "calibration": card_tables.calibration_table(facts),
        "label_sets": card_tables.label_set_sentence(facts),
        "interval": facts.results.get("interval") or {},
        "has_intervals": has_interval(facts, facts.results["model"]),
        "headline_has_intervals": has_interval(facts, MAIN_SCORES),
        "volumes": facts.volumes,
        "image": "bscan.png" if facts.volumes else "photo.jpg",
        "group_by": facts.results.get("group_by") and plain_name(facts.results["group_by"]),
        "settings": None if recorded("settings") is None else recipe(recorded("settings")),
        "dataset": {
            key: described(recorded("dataset", key))
            for key in ("name", "config", "licence", "split_rule", "mask_resolution", "fingerprint")
        },
        "network": network(facts),
        "licence": licence_title(terms, facts),
        "dataset_id": terms.dataset_id,
        "version": __version__,
        "citations": "\n\n".join(text for text in (PAPER, facts.source.citation, SOFTWARE) if text),
    }


def normalisation(preprocessor: Mapping[str, Any]) -> str:
    """What is taken off the pixels and what they are divided by, in words."""
    mean, std = (preprocessor[name] for name in ("image_mean", "image_std"))
    if (mean, std) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD):
        return "ImageNet mean and standard deviation"
    values = [numbers if isinstance(numbers, Sequence) else [numbers] for numbers in (mean, std)]
    # One number where the channels have the same.
    mean, std = (", ".join(dict.fromkeys(f"{number:.3g}" for number in numbers)) for numbers in values)
    return f"mean {mean} and standard deviation {std}"


def tables(facts: Facts) -> dict[str, Any]:
    """The tables of the template, and the sentences that sum them up."""
    return {
        "verdicts": list(card_tables.verdicts(facts)),
        "overall_table": card_tables.overall_table(facts, facts.results),
        "mask_class_table": card_tables.mask_class_table(facts),
        "image_class_table": card_tables.image_class_table(facts),
        "decision_table": card_tables.decision_table(facts),
        "reliability_table": card_tables.reliability_table(facts),
        "groups": card_tables.group_sections(facts),
        "subgroups": card_tables.subgroup_tables(facts),
        "doubt": card_tables.doubt_sentences(facts),
        "cross_validation": card_tables.cross_validation(facts),
        "paper_table": card_tables.paper_table(facts),
        "training_table": card_tables.training_table(facts),
        "data_table": card_tables.data_table(facts),
    }


def has_interval(facts: Facts, names: Iterable[str]) -> bool:
    """Whether one of these scores of the model has an interval, and how intervals are made is recorded."""
    scores = filter(None, map(facts.score, names))
    return bool((facts.results.get("interval") or {}).get("samples")) and any(
        score.low is not None for score in scores
    )


def escaped(holder: Held, *names: str) -> Held:
    """The same with these texts made safe for the card."""
    return replace(holder, **{name: markdown(value) for name in names if (value := getattr(holder, name))})


def recipe(settings: Mapping[str, Any]) -> str:
    """Settings as JSON with every list on one line."""
    text = json.dumps(settings, indent=2)
    return re.sub(
        r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text
    )


def described(value: Any) -> str:
    """A recorded value in words."""
    if isinstance(value, list):
        return f"{' x '.join(map(str, value))} (height x width)"
    return NOT_RECORDED if value is None else markdown(str(value))


def network(facts: Facts) -> str:
    """The variant of the network in one sentence."""
    config = facts.config
    blocks = "in sequence" if config.block_type == "sequential" else "in parallel"
    skips = "with dilated feature enhancement" if config.use_dfe else "without dilated feature enhancement"
    if config.backbone_config is not None:
        return (
            f"a backbone of type {config.backbone_config.model_type} ({getattr(config.backbone_config, 'backbone', None)}) "
            f"with {'-'.join(map(str, config.transformer_depths))} Swin layers at its levels ({config.backbone_join}), "
            f"{blocks}; windows of {config.window_size} x {config.window_size}; skips {skips}"
        ).replace(" (None)", "")
    widths, residual, swin = ("-".join(map(str, sizes)) for sizes in sizes_of(config))
    return (
        f"residual and Swin layers {blocks}; widths {widths}, {residual} residual blocks and {swin} Swin layers at the "
        f"{len(config.hidden_sizes)} levels; windows of {config.window_size} x {config.window_size}; skips {skips}"
    )


def sizes_of(config: ResFormerConfig) -> tuple[Sequence[int], ...]:
    """Widths, residual blocks and Swin layers by level."""
    return config.hidden_sizes, config.cnn_depths, config.transformer_depths
