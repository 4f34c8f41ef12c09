"""What a prepared dataset holds: counts per split, class and vendor, sizes, ranges, spacing, and warnings."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from ..escaping import plain_name
from .class_weights import balanced, class_counts, describe_weights
from .columns import UNANNOTATED, class_names


Report = dict[str, Any]
REDUCED = 512  # JPEGs are decoded at about this size: enough for their range
FACTS = Features(
    {
        "stored_size": List(Value("int32")),
        "mode": Value("string"),
        "minimum": Value("int32"),
        "maximum": Value("int32"),
        "mask_pixels": List(Value("int64")),
        "unannotated_pixels": Value("int64"),
        "mask_size": List(Value("int32")),
    }
)
PLAIN_COLUMNS = ("class_labels", "case_id", "slice_index", "source", "spacing", "original_size", "vendor")


def make_report(
    dataset: DatasetDict,
    skipped: Sequence[dict[str, Any]] = (),
    num_proc: int | None = None,
    near_duplicates: Report | None = None,
) -> Report:
    """Reads every row of a prepared dataset once and returns a JSON-able report.

    Args:
        dataset: the splits, as prepared.
        skipped: the records of the cases that were left out.
        num_proc: processes that decode images.
        near_duplicates: the counts of `leakage.summarise`; None where nobody looked.
    """
    facts = {name: split_facts(split, num_proc) for name, split in dataset.items()}
    report: Report = {
        "splits": {name: split_report(split, facts[name]) for name, split in dataset.items()},
        "groups": group_report([row for rows in facts.values() for row in rows]),
        "volumes": volume_report([row for rows in facts.values() for row in rows]),
        "near_duplicates": near_duplicates,
        "skipped": list(skipped),
    }
    report["warnings"] = list(find_warnings(report))
    if "train" in dataset and all(report["splits"]["train"]["class_counts"].values()):
        counted = report["splits"]["train"]
        report["balanced_class_weights"] = balanced(counted["class_counts"], counted["rows"] - counted["unlabelled"])
    return report


def split_facts(split: Dataset, num_proc: int | None) -> list[dict[str, Any]]:
    """Returns one dict per row: the plain columns plus the facts of image and mask."""
    split = split.with_format(None)
    undecoded = split.select_columns(["image", "mask"])
    for column in ("image", "mask"):
        undecoded = undecoded.cast_column(column, ImageFeature(decode=False))
    measured = undecoded.map(
        image_facts,
        remove_columns=["image", "mask"],
        features=FACTS,
        num_proc=min(num_proc or 1, len(split)) if (num_proc or 1) > 1 else None,
        keep_in_memory=True,
        desc="Checking images",
    )
    plain = split.select_columns([column for column in PLAIN_COLUMNS if column in split.features])
    return [{**a, **b} for a, b in zip(plain, measured, strict=True)]


def image_facts(row: dict[str, Any]) -> dict[str, Any]:
    """Measures one undecoded row. JPEGs are read at reduced size, so their range is that of the reduced image."""
    image = Image.open(io.BytesIO(row["image"]["bytes"]))
    stored_size, mode = [image.height, image.width], image.mode
    image.draft(None, (REDUCED, REDUCED))
    values = np.asarray(image)
    mask = None if row["mask"] is None else np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
    return {
        "stored_size": stored_size,
        "mode": mode,
        "minimum": int(values.min()),
        "maximum": int(values.max()),
        "mask_pixels": None if mask is None else np.bincount(mask[mask != UNANNOTATED]).tolist(),
        "unannotated_pixels": None if mask is None else int((mask == UNANNOTATED).sum()),
        "mask_size": None if mask is None else list(mask.shape),
    }


def split_report(split: Dataset, facts: Sequence[dict[str, Any]]) -> Report:
    """Returns the counts of one split."""
    names = class_names(split.features, "mask_classes")
    pixels = np.zeros(len(names), dtype=np.int64)
    for row in facts:
        if row["mask_pixels"] is not None:
            pixels[: len(row["mask_pixels"])] += np.array(row["mask_pixels"], dtype=np.int64)
    return {
        "rows": len(facts),
        "cases": len({row["case_id"] for row in facts}),
        "class_counts": class_counts(split),
        "no_class": sum(row["class_labels"] == [] for row in facts),
        "unlabelled": sum(row["class_labels"] is None for row in facts),
        "without_mask": sum(row["mask_pixels"] is None for row in facts),
        "annotated": sum(row["mask_pixels"] is not None for row in facts),
        "annotated_in_part": sum(bool(row["unannotated_pixels"]) for row in facts),
        "rows_with_mask_class": {
            name: n for name, n in class_counts(split, "mask_classes").items() if name != names[0]
        },
        "share_of_pixels": {
            name: float(n) / max(int(pixels.sum()), 1) for name, n in zip(names, pixels.tolist(), strict=True)
        },
        "groups": count_groups(facts, class_names(split.features, "class_labels")),
    }


def count_groups(facts: Iterable[dict[str, Any]], labels: Sequence[str]) -> Report:
    """Returns rows, cases and class counts per vendor, or per source where no vendor is known."""
    groups = defaultdict(list)
    for row in facts:
        groups[group_of(row)].append(row)
    return {
        name: {
            "rows": len(rows),
            "cases": len({row["case_id"] for row in rows}),
            "class_counts": {
                label: sum(index in (row["class_labels"] or ()) for row in rows) for index, label in enumerate(labels)
            },
        }
        for name, rows in sorted(groups.items())
    }


def group_of(row: dict[str, Any]) -> str:
    """Returns the vendor of a row, or its source where no vendor is known."""
    return row.get("vendor") or row["source"]


def group_report(facts: Iterable[dict[str, Any]]) -> Report:
    """Returns sizes, sample types, ranges and spacing per vendor, or per source where no vendor is known."""
    groups = defaultdict(list)
    for row in facts:
        groups[group_of(row)].append(row)
    return {
        name: {
            "rows": len(rows),
            "cases": len({row["case_id"] for row in rows}),
            "original_sizes": count_sizes(row["original_size"] for row in rows),
            "stored_sizes": count_sizes(row["stored_size"] for row in rows),
            "modes": dict(Counter(row["mode"] for row in rows).most_common()),
            "range": [min(row["minimum"] for row in rows), max(row["maximum"] for row in rows)],
            "spacing": spacing_range(row["spacing"] for row in rows),
        }
        for name, rows in sorted(groups.items())
    }


def volume_report(facts: Iterable[dict[str, Any]]) -> Report:
    """Returns the number of slices and the intensity range of each case with more than one slice."""
    volumes = defaultdict(list)
    for row in facts:
        volumes[row["case_id"]].append(row)
    return {
        case_id: {
            "vendor": rows[0].get("vendor"),
            "slices": len(rows),
            "annotated_slices": sum(row["mask_pixels"] is not None for row in rows),
            "range": [min(row["minimum"] for row in rows), max(row["maximum"] for row in rows)],
            "missing_slices": sorted(set(range(len(rows))) - {row["slice_index"] for row in rows}),
        }
        for case_id, rows in sorted(volumes.items())
        if len(rows) > 1
    }


def find_warnings(report: Report) -> Iterable[str]:
    """Yields what a person should look at before training, one line each."""
    splits = report["splits"]
    for name in ("train", "validation", "test"):
        if name not in splits:
            cure = (
                ""
                if name == "train"
                else f"; --{name}-fraction draws one from the training cases, and --splits gives one"
            )
            yield f"there is no {name} split{cure}"
    for name, split in splits.items():
        for label, count in split["class_counts"].items():
            if count == 0 and name != "unlabelled":
                yield f"{name}: no row has the class {label}"
        for kind in ("unlabelled", "without_mask"):
            if split[kind] and name != "unlabelled":
                yield f"{name}: {split[kind]} of {split['rows']} rows are {kind.replace('_', ' ')}"
    yield from odd_volumes(report["volumes"])
    yield from volumes_annotated_in_part(report["volumes"])
    yield from shared_images(report["near_duplicates"])
    if report["skipped"]:
        yield f"{len(report['skipped'])} bad cases were left out, e.g. {report['skipped'][0]['problem']}"


def odd_volumes(volumes: Report) -> Iterable[str]:
    """Yields the volumes whose number of slices is not their vendor's usual one, and those with missing slices."""
    usual = defaultdict(Counter)
    for volume in volumes.values():
        usual[volume["vendor"]][volume["slices"]] += 1
    for case_id, volume in volumes.items():
        expected = usual[volume["vendor"]].most_common(1)[0][0]
        if volume["vendor"] is not None and volume["slices"] != expected:
            yield f"volume {case_id} ({volume['vendor']}) has {volume['slices']} slices; usual are {expected}"
        if volume["missing_slices"]:
            yield f"case {case_id} lacks the slices {volume['missing_slices'][:5]}"


def volumes_annotated_in_part(volumes: Report) -> Iterable[str]:
    """Yields how many volumes have slices with a mask and slices without; a mask of nothing is an annotation too."""
    some = {name: v for name, v in volumes.items() if 0 < v["annotated_slices"] < v["slices"]}
    if some:
        first, volume = next(iter(some.items()))
        yield (
            f"volumes of which only some slices are annotated: {len(some)}, e.g. {first} with "
            f"{volume['annotated_slices']} of {volume['slices']}; the others take part in neither loss nor scores"
        )


def shared_images(near_duplicates: Report | None) -> Iterable[str]:
    """Yields how many images of each split look like one of another split."""
    images = {name: n for name, n in (near_duplicates or {}).get("pictures", {}).items() if n}
    if images:
        counts = ", ".join(f"{n} in {name}" for name, n in images.items())
        yield (
            f"images that look like one of another split: {counts}; results flatter. leakage.csv lists the pairs; "
            "--group-near-duplicates keeps such cases together where the split is drawn"
        )


def describe_annotated(splits: Report) -> Iterable[str]:
    """Yields how many rows of each split are annotated and how many are not."""
    for name, split in splits.items():
        part = f" ({split['annotated_in_part']} in part)" if split.get("annotated_in_part") else ""
        yield f"{name} {split['rows'] - split['without_mask']} rows annotated{part}, {split['without_mask']} not"


def describe_near_duplicates(near_duplicates: Report | None) -> list[str]:
    """Returns the counts of near-duplicates as lines."""
    if near_duplicates is None:
        return ["near-duplicates across splits: not checked"]
    across, within = near_duplicates["across_splits"], near_duplicates["within_splits"]
    lines = [
        f"near-duplicates across splits: {across['near_duplicate']} pairs",
        f"identical images across splits: {across['identical']} pairs",
        f"within one split: {within['near_duplicate']} near-duplicate and {within['identical']} identical pairs",
    ]
    if "groups" in near_duplicates:
        groups = near_duplicates["groups"]
        lines.append(f"kept together: {groups['number']} groups of cases, the largest of {groups['largest']}")
    return lines


def count_sizes(sizes: Iterable[Sequence[int]]) -> dict[str, int]:
    """Returns "height x width" -> number of images, the five most frequent and the rest."""
    counted = Counter(f"{height} x {width}" for height, width in sizes)
    shown = dict(counted.most_common(5))
    rest = sum(counted.values()) - sum(shown.values())
    return {**shown, f"{len(counted) - 5} other sizes": rest} if rest else shown


def spacing_range(spacings: Iterable[Sequence[float] | None]) -> list[list[float]] | None:
    """Returns [[row minimum, maximum], [column minimum, maximum]] in mm, or None where it is unknown."""
    known = [spacing for spacing in spacings if spacing is not None]
    return [[min(axis), max(axis)] for axis in zip(*known, strict=True)] if known else None


def format_report(report: Report, title: str) -> str:
    """Returns the report as Markdown, for the screen and for `report.md`."""
    lines = [f"# {title}", ""]
    lines += _split_table(report["splits"])
    lines += ["", f"Masks: {'; '.join(describe_annotated(report['splits']))}"]
    lines += _group_table(report["splits"]) if len(report["groups"]) > 1 else []
    for name, group in report["groups"].items():
        spacing = group["spacing"]
        lines += [
            "",
            f"**{plain_name(name)}**: {group['rows']} rows, {group['cases']} cases; samples {group['modes']}, "
            f"range {group['range'][0]}..{group['range'][1]}; spacing "
            + (
                "unknown" if spacing is None else " x ".join(f"{low:.4g}..{high:.4g}" for low, high in spacing) + " mm"
            ),
            f"Sizes (height x width): source {group['original_sizes']}, stored {group['stored_sizes']}",
        ]
    if "balanced_class_weights" in report:
        lines += ["", f"Balanced class weights (training): {describe_weights(report['balanced_class_weights'])}"]
    if report.get("labels_exclusive"):
        lines += ["", "Every labelled row has exactly one class: training takes the classes to exclude each other."]
    volumes = {case_id: volume for case_id, volume in report["volumes"].items() if volume["vendor"] is not None}
    if volumes:
        lines += ["", "Volumes (slices, range):"]
        lines += [
            f"- {plain_name(case_id)}: {v['slices']}, {v['range'][0]}..{v['range'][1]}"
            for case_id, v in volumes.items()
        ]
    lines += ["", *(f"- {line}" for line in describe_near_duplicates(report.get("near_duplicates")))]
    lines += ["", f"Skipped cases: {len(report['skipped'])}"]
    lines += [f"- {plain_name(record['problem'])}" for record in report["skipped"]]
    warnings = (f"- {plain_name(warning)}" for warning in report["warnings"])
    lines += ["", f"Warnings: {len(report['warnings'])}", *warnings, ""]
    return "\n".join(lines)


def _group_table(splits: Report) -> list[str]:
    labels = list(next(iter(splits.values()))["class_counts"])
    header = ["split", "vendor", "rows", "cases", *map(plain_name, labels)]
    lines = ["", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for name, split in splits.items():
        for vendor, group in split["groups"].items():
            cells = [name, plain_name(vendor), group["rows"], group["cases"], *group["class_counts"].values()]
            lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return lines


def _split_table(splits: Report) -> list[str]:
    first = next(iter(splits.values()))
    labels, classes = list(first["class_counts"]), list(first["rows_with_mask_class"])
    header = [
        "split",
        "rows",
        "cases",
        *map(plain_name, labels),
        "no class",
        "unlabelled",
        "no mask",
        *(f"{plain_name(c)} (mask)" for c in classes),
    ]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for name, split in splits.items():
        rows = max(split["rows"], 1)
        cells = [name, split["rows"], split["cases"]]
        cells += [f"{split['class_counts'][label]} ({split['class_counts'][label] / rows:.1%})" for label in labels]
        cells += [split["no_class"], split["unlabelled"], split["without_mask"]]
        cells += [
            f"{split['rows_with_mask_class'][name]} rows, {split['share_of_pixels'][name]:.2%} of pixels"
            for name in classes
        ]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return lines
