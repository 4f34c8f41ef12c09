"""Do two parts of a dataset share cases or pictures? Same case, identical pixels, near-duplicates."""

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from datasets import Dataset, DatasetDict, Features, Value
from PIL import Image, ImageDraw

from ..drawing import arrange, displayable
from .contact_sheet import CAPTION, COLUMNS, TILE


HASH_SIDE = 16  # 256 bits; the usual 64 bits confuse lesions of one shape
MAX_DISTANCE = (
    38  # of 256: on the ISIC 2017 training images all 9 pairs up to here are one lesion, at 40 look-alikes begin
)
BLOCK = 1024  # rows compared at once
FINGERPRINTS = Features({"pixels": Value("string"), "bits": Value("string")})


@dataclass(frozen=True)
class Location:
    """A row: the part of the data (`dataset:split`), its index there, and what it shows."""

    part: str
    row: int
    case_id: str
    slice_index: int


@dataclass(frozen=True)
class Match:
    """Two rows of different cases that look the same, or one case in two parts.

    `kind` is `same_case`, `identical` or `near_duplicate`; `distance` counts differing bits of the perceptual hash.
    """

    kind: str
    first: Location
    second: Location
    distance: int = 0

    @property
    def is_leak(self) -> bool:
        """Whether the rows lie in different parts; within one part they are only duplicates."""
        return self.first.part != self.second.part


@dataclass(frozen=True)
class Fingerprints:
    """Locations, pixel digests and hash bits (n, 256) of all rows that are compared."""

    locations: list[Location]
    pixels: list[str]
    bits: np.ndarray


def find_matches(
    parts: Mapping[str, Dataset], max_distance: int = MAX_DISTANCE, num_proc: int | None = None
) -> list[Match]:
    """Compares every row with every row of another case, within and across parts.

    Args:
        parts: name (`dataset:split`) -> rows with `image`, `case_id` and `slice_index`.
        max_distance: differing bits, of 256, up to which two pictures count as near-duplicates.
        num_proc: processes that decode pictures.

    Returns:
        Leaks (across parts) first, then duplicates within a part, nearest first.
    """
    prints = fingerprint_parts(parts, num_proc)
    matches = [*same_cases(prints.locations), *same_pictures(prints, max_distance)]
    kinds = ("same_case", "identical", "near_duplicate")
    return sorted(matches, key=lambda match: (not match.is_leak, kinds.index(match.kind), match.distance))


def fingerprint_parts(parts: Mapping[str, Dataset], num_proc: int | None) -> Fingerprints:
    """Hashes every picture."""
    locations, pixels, bits = [], [], []
    for part, dataset in parts.items():
        dataset = dataset.with_format(None)
        hashed = dataset.select_columns(["image"]).map(
            fingerprint,
            remove_columns=["image"],
            features=FINGERPRINTS,
            num_proc=min(num_proc or 1, len(dataset)) if (num_proc or 1) > 1 else None,
            keep_in_memory=True,
            desc=f"Hashing {part}",
        )
        rows = zip(dataset["case_id"], dataset["slice_index"], strict=True)
        locations += [Location(part, i, case_id, slice_index) for i, (case_id, slice_index) in enumerate(rows)]
        pixels += list(hashed["pixels"])
        bits += [imagehash.hex_to_hash(text).hash.ravel() for text in hashed["bits"]]
    return Fingerprints(locations, pixels, np.array(bits, dtype=np.float32).reshape(-1, HASH_SIDE**2))


def fingerprint(row: dict[str, Any]) -> dict[str, str]:
    """Returns the digest of the decoded samples, whatever the file format, and the perceptual hash."""
    picture = row["image"]
    samples = np.ascontiguousarray(np.asarray(picture.convert("RGBA") if picture.mode in ("P", "1") else picture))
    digest = hashlib.sha256(f"{samples.shape}{samples.dtype}".encode() + samples.tobytes()).hexdigest()
    return {"pixels": digest, "bits": str(imagehash.phash(displayable(picture), hash_size=HASH_SIDE))}


def same_cases(locations: Sequence[Location]) -> Iterator[Match]:
    """Yields one match per case and pair of parts that hold it."""
    found: dict[str, dict[str, Location]] = {}
    for location in locations:
        found.setdefault(location.case_id, {}).setdefault(location.part, location)
    for parts in found.values():
        first, *others = parts.values()
        yield from (Match("same_case", first, other) for other in others)


def same_pictures(prints: Fingerprints, max_distance: int) -> Iterator[Match]:
    """Yields the pairs of rows of different cases with equal samples or hashes within `max_distance` bits."""
    signs = 2 * prints.bits - 1
    for start in range(0, len(signs), BLOCK):
        block = signs[start : start + BLOCK]
        distances = (signs.shape[1] - block @ signs[start:].T) / 2
        for i, j in np.argwhere(distances <= max_distance):
            first, second = prints.locations[start + i], prints.locations[start + j]
            if i < j and first.case_id != second.case_id:
                identical = prints.pixels[start + i] == prints.pixels[start + j]
                yield Match("identical" if identical else "near_duplicate", first, second, int(distances[i, j]))


def prepared_parts(datasets: Mapping[str, DatasetDict]) -> dict[str, Dataset]:
    """Names the splits of several datasets; with one dataset a part is just its split."""
    if len(datasets) == 1:
        return dict(next(iter(datasets.values())))
    return {f"{name}:{split}": rows for name, dataset in datasets.items() for split, rows in dataset.items()}


def write_matches(matches: Sequence[Match], path: Path) -> None:
    """Writes one CSV line per match."""
    fields = ("part", "row", "case_id", "slice_index")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["kind", "is_leak", "distance", *(f"{side}_{name}" for side in ("first", "second") for name in fields)]
        )
        for match in matches:
            places = [asdict(place)[name] for place in (match.first, match.second) for name in fields]
            writer.writerow([match.kind, match.is_leak, match.distance, *places])


def match_sheet(matches: Sequence[Match], parts: Mapping[str, Dataset], limit: int = 40) -> Image.Image:
    """Draws up to `limit` matches, the two pictures of each one above the other."""
    tiles = [_pair_tile(match, parts) for match in matches[:limit]]
    header = Image.new("RGB", (TILE, 4), "white")
    return arrange(tiles, header, COLUMNS)


def _pair_tile(match: Match, parts: Mapping[str, Dataset]) -> Image.Image:
    tile = Image.new("RGB", (TILE, 2 * TILE + 2 * CAPTION), "white")
    draw = ImageDraw.Draw(tile)
    for i, place in enumerate((match.first, match.second)):
        picture = displayable(parts[place.part][place.row]["image"])
        picture.thumbnail((TILE, TILE))
        top = i * (TILE + CAPTION // 2)
        tile.paste(picture, ((TILE - picture.width) // 2, top))
        draw.text((2, top + TILE), f"{place.part}: {place.case_id} [{place.slice_index}]", fill="black")
    draw.text((2, 2 * TILE + CAPTION), f"{match.kind}, {match.distance} bits", fill="black")
    return tile
