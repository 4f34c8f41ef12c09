"""Markdown tables and sentences of the model card, each made of what the run measured and of nothing else."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from ..configuration_resformer import CONFIDENT_DICE
from ..escaping import plain_name
from ..metrics.score_table import CALIBRATION_SCORES, MAIN_SCORES, SCORES, main_first
from ..metrics.scores import figure
from .facts import NOT_RECORDED, Facts, Interval


CHANCE = 0.5  # area under the ROC curve of a coin
FEW_CASES = 100
BASELINES = {"otsu_threshold": "Otsu's threshold", "mean_training_mask": "mean training mask"}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown; an empty text without rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in line) + " |" for line in lines)


def baseline_title(facts: Facts, name: str) -> str:
    """The name of a trivial baseline in words."""
    if name == "everything_lesion":
        foreground = facts.config.mask_class_names[1:]
        return f"everything {plain_name(foreground[0]) if len(foreground) == 1 else 'the most common class'}"
    return BASELINES.get(name, name.replace("_", " "))


def overall_table(facts: Facts, part: Mapping[str, Any]) -> str:
    """Scores over all classes with n and interval, beside the trivial baselines.

    Args:
        facts: of the run.
        part: `model` and `baselines`, of the results or of one of their groups.
    """
    baselines: Mapping[str, Any] = part.get("baselines") or {}
    rows = []
    for entry in SCORES:
        score = facts.score(entry.name, part["model"])
        if score is not None and not is_repeated(facts, entry.name, part["model"]):
            others = [facts.score(entry.name, scores) for scores in baselines.values()]
            rows.append(
                [
                    entry.card_title,
                    str(score.n),
                    f"**{score}**",
                    *("-" if o is None else figure(o.value) for o in others),
                ]
            )
    table = markdown_table(["score", "n", "this model", *(baseline_title(facts, name) for name in baselines)], rows)
    return "\n\n".join(text for text in (table, left_out(part)) if text)


def left_out(part: Mapping[str, Any]) -> str:
    """Which classes the means of Dice and Jaccard of the results, or of a group, leave out; empty where none."""
    names = part.get("left_out_of_means")
    if not names:
        return ""
    return f"Means of Dice and Jaccard leave out {', '.join(map(plain_name, names))}: no true mask here holds any."


def unannotated(part: Mapping[str, Any]) -> str:
    """How many more images the results, or one of their groups, left out; empty where none."""
    more = part.get("unannotated")
    return f" ({more} more {'is' if more == 1 else 'are'} not annotated)" if more else ""


def is_repeated(facts: Facts, name: str, scores: Mapping[str, Any]) -> bool:
    """Whether another convention gives the very figures of `dice` or `jaccard`: every image a case with every class."""
    plain = name.removesuffix("_present").removesuffix("_volume")
    return plain != name and facts.score(plain, scores) == facts.score(name, scores)


def mask_class_table(facts: Facts, scores: Mapping[str, Any] | None = None) -> str:
    """A line for every mask class, background last."""
    names = [*facts.config.mask_class_names[1:], facts.config.mask_class_names[0]]
    return class_table(facts, names, "masks", scores) if facts.segments else ""


def image_class_table(facts: Facts, scores: Mapping[str, Any] | None = None) -> str:
    """A line for every image-level class."""
    return class_table(facts, facts.config.image_class_names, "classes", scores) if facts.classifies else ""


def class_table(
    facts: Facts, names: Sequence[str], of: Literal["masks", "classes"], scores: Mapping[str, Any] | None = None
) -> str:
    """A line a class, a column a score; columns that the data define for no class are left out.

    The column n holds the largest of a line; a score computed from fewer says so in its cell.
    """
    model = facts.results["model"] if scores is None else scores
    by_class = [score.name for score in main_first(of) if score.by_class]
    columns = [column for column in by_class if not is_repeated(facts, column, model)]
    cells = {column: [facts.score(f"{column}_{name}", scores) for name in names] for column in columns}
    cells = {column: values for column, values in cells.items() if any(value is not None for value in values)}
    rows = []
    for name, *values in zip(names, *cells.values(), strict=True):
        most = max((value.n for value in values if value is not None), default=0)
        figures = ["-" if v is None else f"{v}, n={v.n}" if v.n < most else str(v) for v in values]
        rows.append([plain_name(name), str(most) if most else "", *figures])
    return markdown_table(["class", "n", *(f"`{column}`" for column in cells)], rows if cells else [])


def decision_table(facts: Facts) -> str:
    """How the image-level decisions fell, by class."""
    thresholds = facts.results.get("thresholds") or {}
    rows = [
        [
            plain_name(name),
            *([] if facts.config.classes_exclude else [f"{thresholds[name]:.3g}" if name in thresholds else "-"]),
            *(str(counts[key]) for key in ("tp", "fn", "fp", "tn")),
        ]
        for name, counts in (facts.results.get("decisions") or {}).items()
    ]
    threshold = [] if facts.config.classes_exclude else ["threshold"]
    return markdown_table(["class", *threshold, "found", "missed", "false alarms", "rightly absent"], rows)


def reliability_table(facts: Facts) -> str:
    """Predicted probability against how often the class was there, by class and bin."""
    rows = [
        [
            plain_name(name),
            f"{b['low']:.1f} to {b['high']:.1f}",
            str(b["n"]),
            f"{b['mean_probability']:.2f}",
            f"{b['share_present']:.2f}",
        ]
        for name, bins in (facts.results.get("reliability") or {}).items()
        for b in bins
        if b["n"]
    ]
    return markdown_table(["class", "score", "images", "mean score", "share with the class"], rows)


def calibration_table(facts: Facts) -> str:
    """The scores that calibration moves, without and with it; empty where the model has none."""
    before = (facts.results.get("uncalibrated") or {}).get("model") or {}
    titles = {score.name: score.card_title for score in SCORES}
    rows = [
        [titles[name], str(facts.score(name, before)), str(facts.score(name))]
        for name in CALIBRATION_SCORES
        if facts.score(name, before) is not None and facts.score(name) is not None
    ]
    return markdown_table(["score", "without calibration", "with it"], rows)


def label_set_sentence(facts: Facts) -> str:
    """What the label sets promise, and what they kept; empty where the model has none."""
    sets = facts.results.get("label_sets")
    if not sets:
        return ""
    coverage, size = (facts.score(name, sets["model"]) for name in ("coverage", "size"))
    by_class = ", ".join(
        f"{plain_name(name)} {score}"
        for name in facts.config.image_class_names
        if (score := facts.score(f"coverage_{name}", sets["model"])) is not None
    )
    return (
        f"`label_set` names the classes that are not ruled out: by split conformal prediction on the validation split, a "
        f"class that is present is among them with a chance of {sets['level']:.0%}, for images like those. Here it was for "
        f"{coverage} of the classes present ({by_class}), with {size} classes a set in the mean."
    )


def group_sections(facts: Facts) -> str:
    """Overall and per-class scores of every vendor, or other group."""
    sections = []
    for name, part in facts.groups.items():
        parts = [
            f"#### {plain_name(name)}: {part.get('images')} images of {part.get('cases')} cases{unannotated(part)}",
            overall_table(facts, part),
        ]
        parts += [mask_class_table(facts, part["model"]), image_class_table(facts, part["model"])]
        sections.append("\n\n".join(text for text in parts if text))
    return "\n\n".join(sections)


def subgroup_tables(facts: Facts) -> str:
    """Main scores by what is known of the people or images (`--subgroups`), and the largest gap of each."""
    sections = []
    for column, part in (facts.results.get("subgroups") or {}).items():
        names = [name for name in MAIN_SCORES if facts.score(name) is not None]
        rows = [
            [plain_name(str(group)), str(found["images"]), *(_score(facts, name, found["model"]) for name in names)]
            for group, found in sorted(part["groups"].items(), key=lambda pair: _place(str(pair[0])))
        ]
        titles = [next(entry.card_title for entry in SCORES if entry.name == name) for name in names]
        gaps = [
            f"{title} {figure(gap['gap'])} ({plain_name(str(gap['highest']))} against {plain_name(str(gap['lowest']))})"
            for name, title in zip(names, titles, strict=True)
            if (gap := part["largest_gaps"].get(name))
        ]
        sections.append(markdown_table([plain_name(column), "images", *titles], rows))
        if gaps:
            sections.append(f"Largest gaps between groups that are known: {'; '.join(gaps)}.")
    return "\n\n".join(sections)


def _place(group: str) -> tuple[bool, bool, str]:
    """Thirds of a number from below, what is unknown last."""
    return group == "unknown", not group.startswith("up to "), group


def _score(facts: Facts, name: str, scores: Mapping[str, Any]) -> str:
    score = facts.score(name, scores)
    return "-" if score is None else str(score)


def doubt_sentences(facts: Facts) -> str:
    """What the confidence and the flags of the answers were worth on the scored split; empty where the model has none."""
    trust = facts.results.get("trust")
    if not trust or trust.get("right") is None:
        return ""
    flags, refused = trust["flags"], trust["errors_refused"]
    told = " and ".join(
        f"{refused[name]:.0%} of {what}"
        for name, what in (("wrong", "the wrong answers"), ("dice", "the missing Dice"))
        if refused.get(name) is not None
    )
    return (
        f"Each answer says how far to trust it: `distance` from the training images, `confidence`, the estimated chance that "
        f"it is right (a Dice of {CONFIDENT_DICE} or more and every label decided rightly), and `flags`. Here {trust['right']:.0%} of the answers were right and the mean confidence "
        f"was {trust['mean_confidence']:.0%}; the tenth with the least held {told}. "
        f"{flags.get('unlike_training_images', 0):.1%} of these images were flagged as unlike the training images, which "
        "says nothing about how many others would be."
    )


def cross_validation(facts: Facts) -> str:
    """What was measured out of fold, on how many images, and how these weights stand to it; empty without folds."""
    found = facts.folds
    if not found:
        return ""
    pooled, number, together = found["pooled"], found["number"], found.get("near_duplicates")
    nor = "" if together is None else ", nor a near-duplicate of it"
    unlike = f"; they differ from these weights in {', '.join(found['differing'])}" if found["differing"] else ""
    text = [
        f"{pooled['images']} images of {pooled['cases']} cases{unannotated(pooled)}, each answered by the one of {number} "
        f"models that never saw its case{nor}. {weights_and_folds(found)} All {number} were trained alike{unlike}. Pooled "
        "scores are of all images at once, with intervals by case; an AUC then compares scores of different models. Beside "
        "them: mean and standard deviation over the folds."
    ]
    tables = [
        pooled_table(facts, found),
        mask_class_table(facts, pooled["model"]),
        image_class_table(facts, pooled["model"]),
    ]
    return "\n\n".join(part for part in (*text, *tables) if part)


def weights_and_folds(found: Mapping[str, Any]) -> str:
    """Whose weights the repository holds, in a sentence."""
    fold = found["weights_of_fold"]
    if fold is None:
        return (
            "The weights in this repository are of none of these models, but of the fixed split whose results stand above: "
            "this table tells what such a training comes to, not what these weights do."
        )
    return f"The weights in this repository are those of fold {fold} alone, whose own results stand above."


def pooled_table(facts: Facts, found: Mapping[str, Any]) -> str:
    """Scores over all classes: pooled, and mean and standard deviation over the folds."""
    rows, scores = [], found["pooled"]["model"]
    for entry in SCORES:
        score, spread = facts.score(entry.name, scores), found["model"].get(entry.name)
        if score is not None and not is_repeated(facts, entry.name, scores):
            known = spread is not None and spread["std"] is not None
            beside = f"{figure(spread['mean'])} ± {figure(spread['std'])}" if known else "-"
            rows.append([entry.card_title, str(score.n), f"**{score}**", beside])
    return markdown_table(["score", "n", "pooled", "over the folds"], rows)


def training_table(facts: Facts) -> str:
    """How the weights came about; what the run did not record says so."""
    recorded = facts.recorded
    rows = [
        ("Task", recorded("task")),
        ("Loss", losses(facts)),
        ("Initial weights", initial_weights(facts)),
        ("Augmentation", augmentation(facts)),
        ("Code", code(facts)),
        ("Seed", seed(facts)),
        ("Epochs, steps, batch size", join(recorded("training", key) for key in ("epochs", "steps", "batch_size"))),
        ("Selected weights", selected(facts)),
        ("Hardware", hardware(facts)),
        ("Duration", duration(recorded("duration_seconds"))),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in (recorded("libraries") or {}).items())),
        ("Parameters", number(recorded("model", "parameters"))),
    ]
    return markdown_table(
        ["training", "of this model"], [[f"**{name}**", str(value or NOT_RECORDED)] for name, value in rows]
    )


def data_table(facts: Facts) -> str:
    """What the model was trained, selected and tested on."""
    splits: Mapping[str, Any] = facts.recorded("dataset", "splits") or {}
    rows = []
    for name, split in splits.items():
        counts = ", ".join(f"{plain_name(label)} {count}" for label, count in split.get("class_counts", {}).items())
        facts_of_split = [split.get(key) for key in ("rows", "cases", "rows_with_mask", "rows_with_labels")]
        rows.append(
            [plain_name(name), *("-" if value is None else str(value) for value in facts_of_split), counts or "-"]
        )
    return markdown_table(["split", "images", "cases", "with mask", "with labels", "images with the class"], rows)


def paper_table(facts: Facts) -> str:
    """The paper's own figures for this dataset; empty where it has none."""
    header = ["paper's model", "JI", "DSC", "Acc", "Sen", "Spe"]
    return markdown_table(header, [list(row) for row in facts.source.paper])


def verdicts(facts: Facts) -> Iterator[str]:
    """What the numbers allow to be said, in sentences."""
    cases, warnings = facts.results.get("cases"), facts.results.get("warnings") or []
    yield from (f"**{plain_name(warning)}**" for warning in warnings)
    if not warnings and cases is not None and cases < FEW_CASES:
        yield f"Only {cases} cases were tested: every figure here is rough, as its interval shows."
    if facts.segments:
        if sentence := left_out(facts.results):
            yield sentence
        yield from mask_verdict(facts)
    if facts.classifies:
        yield from auc_verdicts(facts)
        yield from missed_verdicts(facts)


def mask_verdict(facts: Facts) -> Iterator[str]:
    """The masks against the best of the trivial baselines."""
    model = facts.score("dice")
    found = {name: facts.score("dice", scores) for name, scores in facts.results.get("baselines", {}).items()}
    baselines = {name: score for name, score in found.items() if score is not None}
    if model is None:
        yield "Nothing was measured about the masks: do not rely on them."
    elif not baselines:
        yield "The masks were compared with no baseline."
    else:
        name, best = max(baselines.items(), key=lambda pair: pair[1].value)
        beside = f"Dice {model} against {best} of the best trivial baseline ({baseline_title(facts, name)})"
        if None not in (model.low, best.high) and model.low > best.high:
            yield f"The masks are better than every trivial baseline: {beside}."
        elif model.value > best.value:
            yield f"The masks score above every trivial baseline, but the intervals meet or are unknown: {beside}."
        else:
            yield f"**The masks are no better than a trivial baseline; do not use them**: {beside}."


def auc_verdicts(facts: Facts) -> Iterator[str]:
    """Each class score against chance."""
    scores = {name: facts.score(f"auc_{name}") for name in facts.config.image_class_names}
    unknown = [name for name, score in scores.items() if score is None]
    rough = [name for name, score in scores.items() if score is not None and score.low is None]
    known = [name for name in scores if name not in (*unknown, *rough)]
    chance = [name for name in known if scores[name].low <= CHANCE]
    better = [name for name in known if name not in chance]
    if better:
        yield f"Better than chance (the interval of the AUC lies above 0.5): {listed(scores, better)}."
    if chance:
        yield f"**Not shown to be better than chance, so do not use the scores**: {listed(scores, chance)}."
    if rough:
        yield f"**No interval of the AUC is known, so do not rely on the scores**: {listed(scores, rough)}."
    if unknown:
        yield f"**Nothing is known about how well it tells {', '.join(map(plain_name, unknown))}; do not use the scores.**"


def missed_verdicts(facts: Facts) -> Iterator[str]:
    """Classes of which the decision misses half or more, or that it sees in half or more of the images without them."""
    thresholds = facts.results.get("thresholds") or {}
    for name in facts.config.image_class_names:
        threshold = thresholds.get(name)
        at = "" if threshold is None else f" at its threshold of {threshold:.3g}"
        found, spared = facts.score(f"sensitivity_{name}"), facts.score(f"specificity_{name}")
        if found is not None and found.value <= 0.5:
            yield f"It misses {1 - found.value:.0%} of the images with {plain_name(name)}{at}."
        if spared is not None and spared.value <= 0.5:
            yield f"It reports {plain_name(name)} in {1 - spared.value:.0%} of the images without it{at}."


def losses(facts: Facts) -> str:
    """What was minimised, by the config."""
    config, parts = facts.config, []
    if facts.segments:
        terms = ["soft Dice"]
        for weight, name in ((config.cross_entropy_weight, "cross-entropy"), (config.focal_weight, "focal loss")):
            terms += [f"{weight:g} x {name}"] if weight else []
        parts.append((config.segmentation_loss_weight, f"({' + '.join(terms)}) for the mask"))
    if facts.classifies:
        kind = "cross-entropy" if config.classes_exclude else "binary cross-entropy"
        details = [f"label smoothing {config.label_smoothing:g}"] if config.label_smoothing else []
        details = [*(["weighted by class"] if config.class_weights else []), *details]
        kind = ", ".join([kind, *details]) + ("," if details else "")
        classes = "the image-level classes, one an image" if config.classes_exclude else "the image-level classes"
        parts.append((config.classification_loss_weight, f"{kind} for {classes}"))
    if teacher := facts.recorded("model", "teacher"):
        weight = facts.recorded("settings", "distillation_weight") or 1
        parts.append((weight, f"divergence from the answers of `{teacher}`"))
    if len(parts) == 1:
        return parts[0][1]
    return " + ".join(f"{weight:g} x {text}" for weight, text in parts)


def listed(scores: Mapping[str, Interval | None], names: Sequence[str]) -> str:
    return "; ".join(f"{plain_name(name)} {scores[name]}" for name in names)


def augmentation(facts: Facts) -> str | None:
    """What happened to training images."""
    if facts.augmentation is None:
        return None
    mixup = facts.recorded("settings", "mixup")
    return f"{facts.augmentation}" + (f", blended in pairs (mixup {mixup:g})" if mixup else "")


def initial_weights(facts: Facts) -> str | None:
    weights = facts.recorded("model", "initial_weights")
    if weights is None:
        return None
    if weights.get("checkpoint"):
        return f"the checkpoint `{weights['checkpoint']}`"
    if weights.get("backbone"):
        return f"the backbone from `{weights['backbone']}`{_provenance(weights['backbone'])}, the rest random"
    return f"residual layers from `{weights['resnet']}`" if weights.get("resnet") else "random"


def _provenance(backbone: str) -> str:
    """What is known of a backbone's weights, in brackets."""
    if not backbone.startswith("efficientnet-lite"):
        return ""
    return " (Google's EfficientNet-Lite, Apache-2.0, trained on ImageNet, which is there for research)"


def code(facts: Facts) -> str | None:
    version, commit = facts.recorded("code", "version"), facts.recorded("code", "commit")
    if version is None:
        return None
    at = f"commit `{commit}`" if commit else f"commit {NOT_RECORDED}"
    return f"modeling-resformer {version}, {at}{', with local changes' if facts.recorded('code', 'modified') else ''}"


def seed(facts: Facts) -> str | None:
    value = facts.recorded("seeds", "seed")
    return None if value is None else f"{value}; one run: how much another seed would change was not measured"


def selected(facts: Facts) -> str | None:
    if "training" not in facts.record:
        return None
    choice = facts.recorded("training", "selected")
    if choice is None:
        return "the last ones"
    return f"best {choice['metric']} on the validation split ({choice['value']:.4f}, step {choice.get('step')})"


def hardware(facts: Facts) -> str | None:
    machine = facts.recorded("hardware")
    if machine is None:
        return None
    return f"{machine['name']} ({machine['device']}), {machine['processes']} process(es) of {machine['threads']} thread(s)"


def duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} seconds"
    return f"{minutes / 60:.1f} hours" if minutes >= 90 else f"{minutes:.1f} minutes"


def number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def join(values: Iterator[Any]) -> str | None:
    known = ["?" if value is None else f"{value:g}" for value in values]
    return None if set(known) == {"?"} else ", ".join(known)
