"""Do two splits of a dataset share cases or images? Same case, identical pixels, near-duplicates."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from datasets import Dataset, DatasetDict, Features, Value
from PIL import Image, ImageDraw
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from ..drawing import arrange, displayable
from ..escaping import safe_cell
from .contact_sheet import CAPTION, COLUMNS, TILE


HASH_SIDE = 16  # 256 bits; the usual 64 bits confuse lesions of one shape
MAX_DISTANCE = (
    38  # of 256: on the ISIC 2017 training images all 9 pairs up to here are one lesion, at 40 look-alikes begin
)
BLOCK = 1024  # rows compared at once
DESCRIBED = 20  # pairs that are written out
FINGERPRINTS = Features({"pixels": Value("string"), "bits": Value("string")})


@dataclass(frozen=True)
class Location:
    """A row: the split of the data (`dataset:split`), its index there, and what it shows."""

    split: str
    row: int
    case_id: str
    slice_index: int


@dataclass(frozen=True)
class Match:
    """Two rows of different cases that look the same, or one case in two splits.

    `kind` is `same_case`, `identical` or `near_duplicate`; `distance` counts differing bits of the perceptual hash.
    """

    kind: str
    first: Location
    second: Location
    distance: int = 0

    @property
    def is_leak(self) -> bool:
        """Whether the rows lie in different splits; within one split they are only duplicates."""
        return self.first.split != self.second.split


@dataclass(frozen=True)
class Fingerprints:
    """Locations, pixel digests and hash bits (n, 256) of all rows; the bits of an image of one colour are NaN."""

    locations: list[Location]
    pixels: list[str]
    bits: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """All pairs of rows of different cases that look the same: positions in `prints`, and differing bits, each (m,)."""

    prints: Fingerprints
    first: np.ndarray
    second: np.ndarray
    distances: np.ndarray

    def matches(self, chosen: np.ndarray) -> Iterator[Match]:
        """Yields the chosen pairs (their positions) as matches."""
        for pair in chosen:
            i, j = self.first[pair], self.second[pair]
            kind = "identical" if self.prints.pixels[i] == self.prints.pixels[j] else "near_duplicate"
            yield Match(kind, self.prints.locations[i], self.prints.locations[j], int(self.distances[pair]))

    def relocated(self, splits: Mapping[str, Dataset]) -> "Comparison":
        """The same pairs where the rows are now, after cases moved from split to split."""
        places = {(place.case_id, place.slice_index): place for place in locate(splits)}
        locations = [places[place.case_id, place.slice_index] for place in self.prints.locations]
        return replace(self, prints=replace(self.prints, locations=locations))


def find_matches(
    splits: Mapping[str, Dataset], max_distance: int = MAX_DISTANCE, num_proc: int | None = None
) -> list[Match]:
    """Compares every row with every row of another case, within and across splits.

    Args:
        splits: name (`dataset:split`) -> rows with `image`, `case_id` and `slice_index`.
        max_distance: differing bits, of 256, up to which two images count as near-duplicates.
        num_proc: processes that decode images.

    Returns:
        Leaks (across splits) first, then duplicates within a split, nearest first.
    """
    compared = compare(splits, max_distance, num_proc)
    pairs = np.arange(len(compared.first))
    matches = [*same_cases(compared.prints.locations), *compared.matches(pairs)]
    kinds = ("same_case", "identical", "near_duplicate")
    return sorted(matches, key=lambda match: (not match.is_leak, kinds.index(match.kind), match.distance))


def fingerprint_splits(splits: Mapping[str, Dataset], num_proc: int | None) -> Fingerprints:
    """Hashes every image."""
    pixels, bits = [], []
    for split, dataset in splits.items():
        dataset = dataset.with_format(None)
        hashed = dataset.select_columns(["image"]).map(
            fingerprint,
            remove_columns=["image"],
            features=FINGERPRINTS,
            num_proc=min(num_proc or 1, len(dataset)) if (num_proc or 1) > 1 else None,
            keep_in_memory=True,
            desc=f"Hashing {split}",
        )
        pixels += list(hashed["pixels"])
        bits += [
            imagehash.hex_to_hash(text).hash.ravel() if text else np.full(HASH_SIDE**2, np.nan)
            for text in hashed["bits"]
        ]
    return Fingerprints(locate(splits), pixels, np.array(bits, dtype=np.float32).reshape(-1, HASH_SIDE**2))


def locate(splits: Mapping[str, Dataset]) -> list[Location]:
    """Returns the place of every row of every split, in order."""
    return [
        Location(split, i, case_id, slice_index)
        for split, dataset in splits.items()
        for i, (case_id, slice_index) in enumerate(zip(dataset["case_id"], dataset["slice_index"], strict=True))
    ]


def fingerprint(row: dict[str, Any]) -> dict[str, str]:
    """Returns the digest of the decoded samples, whatever the file format, and the perceptual hash.

    The hash is empty where all pixels are alike, as in the blank slices of a volume: these show nothing to recognise.
    """
    image = row["image"]
    samples = np.ascontiguousarray(np.asarray(image.convert("RGBA") if image.mode in ("P", "1") else image))
    digest = hashlib.sha256(f"{samples.shape}{samples.dtype}".encode() + samples.tobytes()).hexdigest()
    if (samples == samples[0, 0]).all():
        return {"pixels": digest, "bits": ""}
    return {"pixels": digest, "bits": str(imagehash.phash(displayable(image), hash_size=HASH_SIDE))}


def same_cases(locations: Sequence[Location]) -> Iterator[Match]:
    """Yields one match per case and pair of splits that hold it."""
    found: dict[str, dict[str, Location]] = {}
    for location in locations:
        found.setdefault(location.case_id, {}).setdefault(location.split, location)
    for splits in found.values():
        first, *others = splits.values()
        yield from (Match("same_case", first, other) for other in others)


def compare(
    splits: Mapping[str, Dataset], max_distance: int = MAX_DISTANCE, num_proc: int | None = None
) -> Comparison:
    """Compares every row with every row of another case, see `find_matches`; an image of one colour equals no other."""
    prints = fingerprint_splits(splits, num_proc)
    _, cases = np.unique([place.case_id for place in prints.locations], return_inverse=True)
    signs = 2 * prints.bits - 1
    found = [np.empty((3, 0), dtype=np.int64)]
    for start in tqdm(range(0, len(signs), BLOCK), desc="Comparing images", unit="block"):
        distances = (signs.shape[1] - signs[start : start + BLOCK] @ signs[start:].T) / 2
        i, j = np.nonzero(distances <= max_distance)  # never true of NaN
        kept = (i < j) & (cases[start + i] != cases[start + j])
        found.append(np.stack([start + i, start + j, distances[i, j]])[:, kept].astype(np.int64))
    return Comparison(prints, *np.concatenate(found, axis=1))


def summarise(compared: Comparison, limit: int = 1000) -> tuple[dict[str, Any], list[Match]]:
    """Counts the pairs of rows that look the same, and lists those that lie in different splits.

    Returns:
        `max_distance` (bits), pairs `across_splits` and `within_splits` by kind, and `images`: how many rows of each
        split look like a row of another split; and up to `limit` of the pairs across splits, nearest first.
    """
    prints = compared.prints
    splits = list(dict.fromkeys(place.split for place in prints.locations))
    split = np.array([splits.index(place.split) for place in prints.locations])
    _, pixels = np.unique(prints.pixels, return_inverse=True)
    identical = pixels[compared.first] == pixels[compared.second]
    across = split[compared.first] != split[compared.second]
    rows = np.unique(np.concatenate([compared.first[across], compared.second[across]]))
    counts = {
        "max_distance": MAX_DISTANCE,
        "across_splits": _count_kinds(identical[across]),
        "within_splits": _count_kinds(identical[~across]),
        "pictures": {name: int((split[rows] == number).sum()) for number, name in enumerate(splits)},
    }
    leaks = np.flatnonzero(across)
    nearest = leaks[np.argsort(compared.distances[leaks], kind="stable")[:limit]]
    return counts, list(compared.matches(nearest))


def linked_cases(compared: Comparison) -> list[list[str]]:
    """Returns the groups of two or more cases that are linked, directly or by way of others, by rows that look the same."""
    names, cases = np.unique([place.case_id for place in compared.prints.locations], return_inverse=True)
    links = coo_array(
        (np.ones(len(compared.first), dtype=bool), (cases[compared.first], cases[compared.second])),
        shape=(len(names), len(names)),
    )
    _, group = connected_components(links, directed=False)
    sizes = np.bincount(group)
    return [names[group == number].tolist() for number in np.flatnonzero(sizes > 1)]


def _count_kinds(identical: np.ndarray) -> dict[str, int]:
    return {"identical": int(identical.sum()), "near_duplicate": int((~identical).sum())}


def prepared_splits(datasets: Mapping[str, DatasetDict]) -> dict[str, Dataset]:
    """Names the splits of several datasets; with one dataset it is just its split."""
    if len(datasets) == 1:
        return dict(next(iter(datasets.values())))
    return {f"{name}:{split}": rows for name, dataset in datasets.items() for split, rows in dataset.items()}


def write_matches(matches: Sequence[Match], path: Path) -> None:
    """Writes one CSV line per match."""
    fields = {"split": "part", "row": "row", "case_id": "case_id", "slice_index": "slice_index"}  # to columns
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "kind",
                "is_leak",
                "distance",
                *(f"{side}_{name}" for side in ("first", "second") for name in fields.values()),
            ]
        )
        for match in matches:
            places = [asdict(place)[name] for place in (match.first, match.second) for name in fields]
            writer.writerow([match.kind, match.is_leak, match.distance, *map(safe_cell, places)])


def match_sheet(matches: Sequence[Match], splits: Mapping[str, Dataset], limit: int = 40) -> Image.Image:
    """Draws up to `limit` matches, the two images of each one above the other."""
    tiles = [_pair_tile(match, splits) for match in matches[:limit]]
    header = Image.new("RGB", (TILE, 4), "white")
    return arrange(tiles, header, COLUMNS)


def _pair_tile(match: Match, splits: Mapping[str, Dataset]) -> Image.Image:
    tile = Image.new("RGB", (TILE, 2 * TILE + 2 * CAPTION), "white")
    draw = ImageDraw.Draw(tile)
    for i, place in enumerate((match.first, match.second)):
        image = displayable(splits[place.split][place.row]["image"])
        image.thumbnail((TILE, TILE))
        top = i * (TILE + CAPTION // 2)
        tile.paste(image, ((TILE - image.width) // 2, top))
        draw.text((2, top + TILE), f"{place.split}: {place.case_id} [{place.slice_index}]", fill="black")
    draw.text((2, 2 * TILE + CAPTION), f"{match.kind}, {match.distance} bits", fill="black")
    return tile


def describe_matches(matches: Sequence[Match]) -> str:
    """The counts and the first pairs, as lines for a reader."""
    counts = Counter(("leak" if match.is_leak else "within one split", match.kind) for match in matches)
    lines = [f"{where}: {count} x {kind}" for (where, kind), count in counts.items()] or ["nothing is shared"]
    for match in matches[:DESCRIBED]:
        pair = (f"{place.split} {place.case_id} [{place.slice_index}]" for place in (match.first, match.second))
        lines.append(f"  {match.kind} ({match.distance} bits): {' = '.join(pair)}")
    if len(matches) > DESCRIBED:
        lines.append(f"  ... and {len(matches) - DESCRIBED} more in leakage.csv")
    return "\n".join(lines) + "\n"
