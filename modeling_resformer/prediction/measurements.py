"""Masks to figures: area, lesions, diameters, volume. Needs NumPy and SciPy only.

Lengths are those of the pixel grid: a pixel is a square (a rectangle where spacing is known) and not a point, so that w x h
pixels measure hypot(w, h) from corner to corner. Figures in mm exist only where the spacing is known, else they are None.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist


EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)  # pixels that touch by a corner belong to one lesion
Box = tuple[slice, ...]


@dataclass(frozen=True)
class ClassMeasurement:
    """One class in one image or slice.

    Args:
        area_pixels: pixels of the class.
        area_share: their share of the image, 0..1.
        mean_probability: mean predicted probability of the class over its pixels; None without pixels or probabilities.
        lesion_count: 8-connected components.
        longest_diameter_pixels: largest Feret diameter of a single lesion, between outer pixel corners; 0 without any.
        area_mm2, longest_diameter_mm: the same in mm, None where the spacing is unknown. Where pixels are no squares
            the longest diameter in mm need not be that of the lesion which is longest in pixels.
    """

    area_pixels: int
    area_share: float
    mean_probability: float | None
    lesion_count: int
    longest_diameter_pixels: float
    area_mm2: float | None
    longest_diameter_mm: float | None


@dataclass(frozen=True)
class VolumeMeasurement:
    """One class in one volume.

    Args:
        voxels: voxels of the class.
        volume_mm3: their volume, each slice counted as thick as the distance to the next; None where unknown.
        slices_affected: slices with at least one voxel of the class.
        largest_slice: index from 0 of the slice of maximum area (the first of equals), None where the class is absent.
        largest_area_pixels, largest_area_mm2: its area.
        lesion_count: 26-connected components.
    """

    voxels: int
    volume_mm3: float | None
    slices_affected: int
    largest_slice: int | None
    largest_area_pixels: int
    largest_area_mm2: float | None
    lesion_count: int


def measure_mask(
    mask: np.ndarray,
    class_names: Sequence[str],
    probabilities: np.ndarray | None = None,
    spacing: Sequence[float | None] | None = None,
) -> dict[str, ClassMeasurement]:
    """Measures every foreground class of one mask.

    Args:
        mask: (H, W) class indices, 0 the background.
        class_names: names of all classes, the background's first.
        probabilities: (S, H, W) of every class, or (H, W) of each pixel's predicted class.
        spacing: (row, column) in mm per pixel of this mask, or None where it is unknown.

    Raises:
        ValueError: the shapes do not fit, or the mask holds an index without a name.
    """
    check_mask(mask, class_names)
    if probabilities is not None and probabilities.shape not in (mask.shape, (len(class_names), *mask.shape)):
        raise ValueError(
            f"Probabilities {probabilities.shape} do not fit a mask {mask.shape} of {len(class_names)} classes."
        )
    known = known_spacing(spacing, 2)
    return {
        name: _measure_class(mask == index, _probability_of(index, probabilities), known)
        for index, name in enumerate(class_names)
        if index > 0
    }


def measure_volume(
    masks: Iterable[np.ndarray], class_names: Sequence[str], spacing: Sequence[float | None] | None = None
) -> dict[str, VolumeMeasurement]:
    """Measures every foreground class of a mask volume, holding two slices at a time.

    Args:
        masks: (Z, H, W) class indices, or its slices one after the other.
        class_names: names of all classes, the background's first.
        spacing: (slice, row, column) in mm; a slice spacing of None leaves areas in mm2 and no volume in mm3.

    Raises:
        ValueError: slices of several sizes, or an index without a name.
    """
    areas, shape = [], None
    lesions = [_LesionCounter() for _ in class_names[1:]]
    for mask in masks:
        check_mask(mask, class_names)
        if shape not in (None, mask.shape):
            raise ValueError(f"Slices of {shape} and {mask.shape} are no volume; expected one size.")
        shape = mask.shape
        areas.append(np.bincount(mask.ravel(), minlength=len(class_names))[1:])
        for index, counter in enumerate(lesions, start=1):
            counter.add(mask == index if areas[-1][index - 1] else None)
    pixels = np.array(areas, dtype=np.int64).reshape(-1, len(lesions))
    return {
        name: _summary(pixels[:, column], lesions[column].count, spacing)
        for column, name in enumerate(class_names[1:])
    }


def known_spacing(spacing: Sequence[float | None] | None, axes: int) -> tuple[float, ...] | None:
    """Returns the last `axes` numbers of a spacing in mm, or None unless all of them are finite and positive."""
    if spacing is None:
        return None
    values = tuple(spacing)[-axes:]
    if len(values) != axes or not all(mm is not None and 0 < mm < math.inf for mm in values):
        return None
    return tuple(float(mm) for mm in values)


def check_mask(mask: np.ndarray, class_names: Sequence[str]) -> None:
    if mask.ndim != 2 or mask.dtype.kind not in "ui":
        raise ValueError(f"A mask of shape {mask.shape} and {mask.dtype}; expected class indices (H, W).")
    if mask.size and not (int(mask.min()) >= 0 and int(mask.max()) < len(class_names)):
        raise ValueError(f"A mask holds {mask.min()}..{mask.max()}; expected 0..{len(class_names) - 1}.")


def longest_diameter(labels: np.ndarray, boxes: Sequence[Box], spacing: Sequence[float] = (1.0, 1.0)) -> float:
    """Returns the largest Feret diameter over the labelled lesions.

    Args:
        labels: (H, W), lesion i + 1 inside `boxes[i]`.
        boxes: as scipy.ndimage.find_objects gives them.
        spacing: (row, column) size of a pixel; the result has its unit.
    """
    bounds = [math.hypot(*((side.stop - side.start) * mm for side, mm in zip(b, spacing, strict=True))) for b in boxes]
    longest = 0.0
    # No lesion is longer than its box's diagonal, so most of many small lesions never need a hull.
    for index in np.argsort(bounds)[::-1]:
        if bounds[index] <= longest:
            break
        corners = outer_corners(labels[boxes[index]] == index + 1)
        longest = max(longest, float(pdist(corners * spacing).max()))
    return longest


def outer_corners(inside: np.ndarray) -> np.ndarray:
    """Returns the corners (N, 2), row and column, of the convex hull around the pixels of a boolean (H, W) array."""
    rows = np.flatnonzero(inside.any(axis=1))
    first = inside.argmax(axis=1)[rows]
    last = inside.shape[1] - inside[:, ::-1].argmax(axis=1)[rows]
    corners = np.concatenate([np.stack([row, column], 1) for row in (rows, rows + 1) for column in (first, last)])
    return corners[ConvexHull(corners).vertices]


def without_repeats(values: np.ndarray) -> np.ndarray:
    """Keeps the first of each run of equal values (N,): far cheaper than sorting where runs are long."""
    return values[np.flatnonzero(np.diff(values, prepend=values[:1] - 1))]


def _probability_of(index: int, probabilities: np.ndarray | None) -> np.ndarray | None:
    return probabilities[index] if probabilities is not None and probabilities.ndim == 3 else probabilities


def _measure_class(
    inside: np.ndarray, probability: np.ndarray | None, spacing: tuple[float, ...] | None
) -> ClassMeasurement:
    labels, count = ndimage.label(inside, EIGHT_NEIGHBOURS)
    boxes = ndimage.find_objects(labels)
    area = int(np.count_nonzero(inside))
    return ClassMeasurement(
        area_pixels=area,
        area_share=area / inside.size,
        mean_probability=None
        if probability is None or not area
        else float(probability[inside].mean(dtype=np.float64)),
        lesion_count=count,
        longest_diameter_pixels=longest_diameter(labels, boxes),
        area_mm2=None if spacing is None else area * math.prod(spacing),
        longest_diameter_mm=None if spacing is None else longest_diameter(labels, boxes, spacing),
    )


def _summary(pixels: np.ndarray, lesion_count: int, spacing: Sequence[float | None] | None) -> VolumeMeasurement:
    voxel, pixel = known_spacing(spacing, 3), known_spacing(spacing, 2)
    largest = int(pixels.argmax()) if pixels.any() else None
    largest_area = 0 if largest is None else int(pixels[largest])
    return VolumeMeasurement(
        voxels=int(pixels.sum()),
        volume_mm3=None if voxel is None else int(pixels.sum()) * math.prod(voxel),
        slices_affected=int(np.count_nonzero(pixels)),
        largest_slice=largest,
        largest_area_pixels=largest_area,
        largest_area_mm2=None if pixel is None else largest_area * math.prod(pixel),
        lesion_count=lesion_count,
    )


class _LesionCounter:
    """Counts 26-connected components from slices: 8-connected ones of each, linked to those of the slice before."""

    def __init__(self) -> None:
        self.total = 0
        self.links: list[np.ndarray] = []
        self.before: np.ndarray | None = None  # (H + 2, W + 2) labels of the last slice, 0 outside lesions

    def add(self, inside: np.ndarray | None) -> None:
        """Takes the next slice, (H, W) boolean, None where it is empty."""
        if inside is None:
            self.before = None
            return
        labels, count = ndimage.label(inside, EIGHT_NEIGHBOURS)
        labels[inside] += self.total
        self.total += count
        if self.before is not None:
            self.links.append(self._links_to(labels))
        self.before = np.pad(labels, 1)

    def _links_to(self, labels: np.ndarray) -> np.ndarray:
        """Returns the pairs (N, 2) of a lesion here and one before that touch by face, edge or corner."""
        rows, columns = np.nonzero(labels)
        here = labels[rows, columns].astype(np.int64)
        codes = [
            without_repeats(here * (self.total + 1) + self.before[rows + down, columns + right])
            for down in range(3)
            for right in range(3)
        ]
        pairs = np.stack(np.divmod(np.unique(np.concatenate(codes)), self.total + 1), axis=1)
        return pairs[pairs[:, 1] > 0]

    @property
    def count(self) -> int:
        links = np.concatenate(self.links) - 1 if self.links else np.empty((0, 2), dtype=np.int64)
        graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(self.total, self.total))
        return int(connected_components(graph, directed=False)[0]) if self.total else 0
