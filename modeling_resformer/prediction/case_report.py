"""One page for people on each case: the image with contours, scores, doubt, evidence, measurements, and which model said so.

A page is one HTML file that needs no other and asks for none; it prints on A4, an image's on one sheet. It names the case by its
id alone. Whatever it shows is escaped.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from PIL import Image

from ..configuration_resformer import __version__
from ..drawing import class_colour, displayable, draw_contours, draw_strength, figure_below
from ..errors import BadInputError
from ..shipped import shipped
from .en_face import draw_en_face, worst_slices
from .evidence import share_inside
from .result_tables import ClassNames, Row, printable


TEMPLATES = shipped("hub_cards/pages")
LARGE, SMALL, THUMBNAIL = 840, 420, 128  # longest sides in pixels
CONTOUR_SHARE = 1 / 240  # of the longest side
QUALITY, THUMBNAIL_QUALITY = 85, 75  # of JPEG
MOST_MAPS = 2  # classes whose evidence is drawn
MOST_SLICES = 6
REPORTS, THUMBNAILS = "reports", "thumbnails"
HINT = (
    "Evidence: Grad-CAM of what the classification head averages, on a scale of its own for each map; "
    "a hint where to look, no proof of a reason."
)

# From the number of a class and a size (height, width) to its evidence there, signed; None where it cannot be told.
EvidenceAt = Callable[[int, tuple[int, int]], np.ndarray | None]
Figure = dict[str, Any]


@dataclass(frozen=True)
class ModelFacts:
    """Which model answers, as pages say it.

    Attributes:
        name: Hub id, or the folder's own name.
        revision: of a Hub id, where it is known.
        weights: SHA-256 of the weights.
        members: how many answers were averaged.
        is_calibrated: whether scores are probabilities by a fit on validation images.
        label_set_level: the chance that a class that is present is in the set of labels; None without such sets.
    """

    name: str
    revision: str | None
    weights: str
    members: int = 1
    is_calibrated: bool = False
    label_set_level: float | None = None
    version: str = __version__


@dataclass(frozen=True)
class Strongest:
    """The slice of a volume in which a class has its highest score, and the evidence for it there."""

    score: float
    slice_index: int
    evidence: EvidenceAt


@dataclass(frozen=True)
class CasePages:
    """Makes the pages of one run's cases.

    Attributes:
        mask_class_names: all, background first; empty for a model without masks.
        classes: what the model answers.
        model: which it is.
        reports: whether there are reports beside thumbnails.
    """

    mask_class_names: Sequence[str]
    classes: ClassNames
    model: ModelFacts
    reports: bool = True

    def of_image(
        self, name: str, row: Row, image: Image.Image, mask: np.ndarray | None, evidence: EvidenceAt
    ) -> dict[str, bytes]:
        """The files of one image, by their names below the output.

        Args:
            name: stem of the files.
            row: of `predictions.csv`.
            image: at any depth.
            mask: (height, width) class indices of that image, None without masks.
            evidence: for each class.
        """
        drawn, small_mask = fitted_with_mask(image, mask, LARGE)
        contours = self.contoured(drawn, small_mask)
        files = {f"{THUMBNAILS}/{name}.jpg": as_jpeg(shrunk(contours, THUMBNAIL), THUMBNAIL_QUALITY)}
        if not self.reports:
            return files
        maps = self.evidence_maps(small_mask, drawn, evidence)
        figures = []
        if mask is not None:
            figures.append(self.figure(contours, "predicted contours:", "large", colours=self.colours()))
        figures.append(
            self.figure(
                shrunk(drawn, SMALL) if mask is not None else drawn, "the image", "" if mask is not None else "large"
            )
        )
        for label in self.looked_at([row])[:MOST_MAPS]:
            if label in maps:
                heat = self.contoured(draw_strength(drawn, maps[label]), small_mask)
                figures.append(self.figure(shrunk(heat, SMALL), f"evidence for {label}", ""))
        shares = {label: share_inside(found, small_mask) for label, found in maps.items()} if mask is not None else {}
        page = render_page(
            "report.html",
            case_id=name,
            about=f"{row['width']} x {row['height']} pixels",
            date=now(),
            trust=trust_told([row]),
            slices=False,
            figures=figures,
            scores=self.score_table(row, shares),
            measures=self.image_measures(row),
            model=self.model,
            evidence=HINT if maps else "",
        )
        return {f"{REPORTS}/{name}.html": page, **files}

    def of_volume(
        self,
        name: str,
        whole: Row,
        rows: Sequence[Row],
        voxels: np.ndarray,
        masks: np.ndarray,
        spacing: Sequence[float | None] | None,
        strongest: Mapping[str, Strongest],
    ) -> dict[str, bytes]:
        """The files of one volume.

        Args:
            name: stem of the files.
            whole: its row of `volumes.csv`.
            rows: of its slices.
            voxels, masks: (slices, height, width); masks are empty where the model has none.
            spacing: (slice, row, column) in mm, any of them None where unknown.
            strongest: by image-level class.
        """
        largest = worst_slices(masks, MOST_SLICES)
        chosen = largest or [len(voxels) // 2]
        shown = (
            "shown are the largest findings, the largest first"
            if largest
            else "nothing found; the middle slice is shown"
        )
        figures = [self.slice_figure(index, rows[index], voxels, masks, len(voxels)) for index in chosen]
        first = as_image(voxels[chosen[0]])
        thumbnail = self.contoured(*fitted_with_mask(first, masks[chosen[0]], THUMBNAIL))
        files = {f"{THUMBNAILS}/{name}.jpg": as_jpeg(thumbnail, THUMBNAIL_QUALITY)}
        if not self.reports:
            return files
        shares = {}
        for label in self.looked_at(rows)[:MOST_MAPS]:
            found = self.evidence_figure(label, strongest.get(label), voxels, masks)
            if found is not None:
                figures.append(found[0])
                shares[label] = found[1]
        if self.classes.mask:
            front = draw_en_face(masks, self.mask_class_names, spacing)
            figures.append(self.figure(front, "from the front: thickness of each class", "wide"))
        highest = {f"score_{label}": whole[f"highest_score_{label}"] for label in self.classes.image}
        decided = {f"label_{label}": whole[f"slices_labelled_{label}"] > 0 for label in self.classes.image}
        thresholds = {f"threshold_{label}": rows[0][f"threshold_{label}"] for label in self.classes.image}
        page = render_page(
            "report.html",
            case_id=name,
            about=f"volume of {whole['slices']} slices, {whole['width']} x {whole['height']} pixels; {shown}",
            date=now(),
            trust=trust_told(rows),
            slices=True,
            figures=figures,
            scores=self.score_table(highest | decided | thresholds, shares, whole),
            measures=self.volume_measures(whole),
            model=self.model,
            evidence=HINT if shares else "",
        )
        return {f"{REPORTS}/{name}.html": page, **files}

    def looked_at(self, rows: Sequence[Row]) -> list[str]:
        """The classes that these rows decide for, or that with the highest score; the highest first."""
        scores = {label: max(row[f"score_{label}"] for row in rows) for label in self.classes.image}
        ordered = sorted(scores, key=lambda label: -scores[label])
        return [label for label in ordered if any(row[f"label_{label}"] for row in rows)] or ordered[:1]

    def evidence_maps(
        self, mask: np.ndarray | None, drawn: Image.Image, evidence: EvidenceAt
    ) -> dict[str, np.ndarray]:
        """(height, width) by class at the size drawn; empty where evidence cannot be told."""
        size = drawn.height, drawn.width
        found = {label: evidence(k, size) for k, label in enumerate(self.classes.image)}
        return {label: one for label, one in found.items() if one is not None}

    def evidence_figure(
        self, label: str, strongest: Strongest | None, voxels: np.ndarray, masks: np.ndarray
    ) -> tuple[Figure, float | None] | None:
        """The evidence for a class in the slice with its highest score, and the share of it inside the mask."""
        if strongest is None:
            return None
        index = strongest.slice_index
        drawn, mask = fitted_with_mask(as_image(voxels[index]), masks[index] if self.classes.mask else None, SMALL)
        found = strongest.evidence(self.classes.image.index(label), (drawn.height, drawn.width))
        if found is None:
            return None
        heat = self.contoured(draw_strength(drawn, found), mask)
        caption = f"evidence for {label} in slice {index + 1}, score {strongest.score:.2f}"
        return self.figure(heat, caption, ""), None if mask is None else share_inside(found, mask)

    def slice_figure(self, index: int, row: Row, voxels: np.ndarray, masks: np.ndarray, total: int) -> Figure:
        drawn, mask = fitted_with_mask(as_image(voxels[index]), masks[index] if self.classes.mask else None, SMALL)
        labels = [label for label in self.classes.image if row[f"label_{label}"]]
        caption = f"slice {index + 1} of {total}{': ' if labels else ''}{', '.join(labels)}"
        return self.figure(self.contoured(drawn, mask), caption, "", colours=self.colours())

    def contoured(self, image: Image.Image, mask: np.ndarray | None) -> Image.Image:
        return image if mask is None else draw_contours(image, mask, max(1, round(max(image.size) * CONTOUR_SHARE)))

    def colours(self) -> list[tuple[str, str]]:
        """Each foreground class with its colour as CSS has it."""
        return [
            (printable(label), "#{:02x}{:02x}{:02x}".format(*class_colour(index)))
            for index, label in enumerate(self.classes.mask, start=1)
        ]

    def figure(self, image: Image.Image, caption: str, kind: str, colours: Sequence[tuple[str, str]] = ()) -> Figure:
        data = base64.b64encode(as_jpeg(image, QUALITY)).decode()
        return {"data": data, "caption": printable(caption), "kind": kind, "colours": list(colours)}

    def score_table(
        self, row: Row, shares: Mapping[str, float | None], whole: Row | None = None
    ) -> dict[str, Any] | None:
        """The table of image-level classes; None without any. `whole` is a volume's row, of which `row` has the highest."""
        if not self.classes.image:
            return None
        labels = self.classes.image
        kind = "probability" if self.model.is_calibrated else "score"
        in_sets = whole is None and f"in_label_set_{labels[0]}" in row
        by_threshold = row[f"threshold_{labels[0]}"] is not None
        heads = ["class", f"highest {kind}" if whole else kind, *(["threshold"] if by_threshold else []), "answer"]
        heads += ["slices"] * bool(whole) + ["not ruled out"] * in_sets + ["evidence in mask"] * bool(shares)
        rows = []
        for label in labels:
            score, threshold, decided = (row[f"{fact}_{label}"] for fact in ("score", "threshold", "label"))
            shown = f"{score:.2f}" if decided or threshold is None else figure_below(score, threshold)
            cells = [printable(label), shown, *([f"{threshold:.2f}"] if by_threshold else [])]
            cells.append(("present" if by_threshold else "highest") if decided else "-")
            cells += [f"{whole[f'slices_labelled_{label}']} of {whole['slices']}"] if whole else []
            cells += ["yes" if row[f"in_label_set_{label}"] else "no"] if in_sets else []
            cells += [as_percent(shares.get(label))] if shares else []
            mark = None if threshold is None else f"{100 * threshold:.1f}"
            rows.append({"cells": cells, "decided": decided, "percent": f"{100 * score:.1f}", "mark": mark})
        return {
            "title": f"{kind.capitalize()} by class",
            "heads": heads,
            "rows": rows,
            "note": self.score_note(in_sets),
        }

    def score_note(self, in_sets: bool) -> str:
        said = (
            "Probabilities are calibrated on validation images."
            if self.model.is_calibrated
            else "Scores of 0 to 1 are not calibrated: they are no probabilities."
        )
        if in_sets and self.model.label_set_level is not None:
            said += f" A class that is present is not ruled out with a chance of {self.model.label_set_level:.0%}."
        return said

    def image_measures(self, row: Row) -> dict[str, Any] | None:
        known = row["spacing_row_mm"] is not None
        heads = ["class", "area, pixels", "share of image", *(["area, mm²"] if known else []), "lesions"]
        heads += [f"longest diameter, {'mm' if known else 'pixels'}", "mean probability"]

        def cells(label: str) -> list[str]:
            fact = {name: row[f"{name}_{label}"] for name in ("area_pixels", "area_share", "area_mm2", "lesion_count")}
            longest = row[f"longest_diameter_{'mm' if known else 'pixels'}_{label}"]
            area = [shown_number(fact["area_mm2"])] if known else []
            return [
                *(printable(label), f"{fact['area_pixels']:,}", as_percent(fact["area_share"]), *area),
                *(str(fact["lesion_count"]), shown_number(longest), shown_number(row[f"mean_probability_{label}"])),
            ]

        note = (
            "Millimetres by the spacing that the file states."
            if known
            else "The file states no spacing: no millimetres."
        )
        return self.table(heads, cells, note)

    def volume_measures(self, whole: Row) -> dict[str, Any] | None:
        heads = ["class", "volume, mm³", "voxels", "slices affected", "largest slice", "its area, mm²", "lesions"]

        def cells(label: str) -> list[str]:
            fact = {
                name: whole[f"{name}_{label}"] for name in ("volume_mm3", "voxels", "slices_affected", "largest_slice")
            }
            place = fact["largest_slice"]
            return [
                *(
                    printable(label),
                    shown_number(fact["volume_mm3"]),
                    f"{fact['voxels']:,}",
                    str(fact["slices_affected"]),
                ),
                "-" if place is None else str(place + 1),
                *(shown_number(whole[f"largest_area_mm2_{label}"]), str(whole[f"lesion_count_{label}"])),
            ]

        return self.table(
            heads, cells, "Millimetres by the spacing that the file states; - where it does not, or nothing was found."
        )

    def table(self, heads: Sequence[str], cells: Callable[[str], list[str]], note: str) -> dict[str, Any] | None:
        """Measurements with a row for each foreground class; None without any."""
        if not self.classes.mask:
            return None
        return {"heads": heads, "rows": [cells(label) for label in self.classes.mask], "note": note}


def trust_told(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Flags, confidence and doubt of an image's row, or of the slices of a volume: of all flags, of the least confident slice.

    None where the model tells none of it.
    """
    if not any("flags" in row or "confidence" in row for row in rows):
        return None
    flags = list(dict.fromkeys(flag for row in rows for flag in flags_of(row)))
    confidences = [row["confidence"] for row in rows if row.get("confidence") is not None]
    doubtful = [number for number, row in enumerate(rows) if row.get("doubt")]
    doubt = ""
    if doubtful:
        worst = min(doubtful, key=lambda number: (not flags_of(rows[number]), rows[number].get("confidence") or 0))
        doubt = (f"Slice {worst + 1}: " if len(rows) > 1 else "") + rows[worst]["doubt"]
    return {
        "flags": [printable(flag) for flag in flags],
        "confidence": f"{min(confidences):.2f}" if confidences else None,
        "doubt": printable(doubt),
    }


def flags_of(row: Row) -> list[str]:
    """Codes of a row, which has them with spaces between or as a list."""
    flags = row.get("flags") or []
    return flags.split() if isinstance(flags, str) else list(flags)


def as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels))


def fitted_with_mask(image: Image.Image, mask: np.ndarray | None, side: int) -> tuple[Image.Image, np.ndarray | None]:
    """An 8-bit RGB copy, without anything that the file said beside its pixels, whose longest side is `side` at most, and the
    mask at its size."""
    drawn = shrunk(Image.fromarray(np.asarray(displayable(image))), side)
    if mask is None or mask.shape == (drawn.height, drawn.width):
        return drawn, mask
    resized = Image.fromarray(mask.astype(np.uint8)).resize(drawn.size, Image.Resampling.NEAREST)
    return drawn, np.asarray(resized)


def shrunk(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    if scale >= 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)


def as_jpeg(image: Image.Image, quality: int) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def as_percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def shown_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


@cache
def page_template(name: str) -> Template:
    path = TEMPLATES / name
    if not path.is_file():
        raise BadInputError(
            f"{path}: the page's template is missing; install the package again, or run from a checkout"
        )
    environment = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(path.read_text(encoding="utf-8"))


def render_page(name: str, **values: Any) -> bytes:
    """A page of `hub_cards/pages`; every value is escaped but the style, which is ours.

    Raises:
        BadInputError: the template is missing.
    """
    from markupsafe import Markup

    style = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return page_template(name).render(style=style, **values).encode("utf-8", "backslashreplace")
