"""A prepared dataset as Parquet files with a dataset card, and its way to the Hub."""

import io
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image
from huggingface_hub import HfApi
from PIL import Image as PILImage

from ..drawing import displayable
from ..errors import BadInputError
from ..escaping import plain_name
from .dataset_report import format_report
from .encoding import SIXTEEN_BIT_MODES, encode_png


SHARD_BYTES = 200 << 20
ROW_GROUP_BYTES = 16 << 20  # what the viewer fetches, and the writer holds several times, at once


def write_parquet(dataset: DatasetDict, folder: Path) -> None:
    """Writes `folder/data/SPLIT-nnnnn-of-nnnnn.parquet`, with a `preview` column where images have 16 bits."""
    (folder / "data").mkdir(parents=True)
    with_preview = any(is_sixteen_bit(split) for split in dataset.values())
    for name, split in dataset.items():
        shards = min(-(-split.data.nbytes // SHARD_BYTES), len(split))
        row_group = max(ROW_GROUP_BYTES * len(split) // split.data.nbytes, 1)
        for index in range(shards):
            shard = split.shard(shards, index, contiguous=True)
            path = folder / "data" / f"{name}-{index:05d}-of-{shards:05d}.parquet"
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                shard = add_preview(shard, Path(scratch)) if with_preview else shard
                shard.to_parquet(str(path), batch_size=row_group)


def is_sixteen_bit(split: Dataset) -> bool:
    """Whether any image has more than 8 bits; reads image headers only."""
    undecoded = split.with_format(None).select_columns(["image"]).cast_column("image", Image(decode=False))
    return any(PILImage.open(io.BytesIO(row["image"]["bytes"])).mode in SIXTEEN_BIT_MODES for row in undecoded)


def add_preview(split: Dataset, scratch: Path) -> Dataset:
    """Adds an 8-bit copy stretched to its own range: for the eye only, never for training."""
    features = split.features.copy()
    features["preview"] = Image()
    cache = str(scratch / "preview.arrow")
    return split.map(preview, features=features, cache_file_name=cache, writer_batch_size=16, desc="Drawing previews")


def preview(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the preview of one row, null where the image can be shown as it is."""
    image = row["image"]
    if image.mode not in SIXTEEN_BIT_MODES:
        return {"preview": None}
    return {"preview": {"bytes": encode_png(displayable(image).convert("L")), "path": None}}


def write_card(folder: Path, template: Path, metadata: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Fills a template of `hub_cards/` in and writes it as `folder/README.md`.

    Raises:
        BadInputError: the template is missing or asks for something unknown.
    """
    if not template.is_file():
        raise BadInputError(
            f"{template}: no such dataset card template; install the package again, or run from a checkout"
        )
    values = {
        "configs": configs_yaml(metadata["num_rows"]),
        "size_category": size_category(sum(metadata["num_rows"].values())),
        "mask_classes": ", ".join(
            f"{index} {plain_name(name)}" for index, name in enumerate(metadata["mask_classes"])
        ),
        "class_labels": ", ".join(map(plain_name, metadata["class_labels"])) or "none",
        "split_rule": plain_name(metadata["split_rule"]),
        "mask_resolution": describe_resolution(metadata["mask_resolution"]),
        "fingerprint": metadata["source_fingerprint"],
        "report": format_report(dict(report), "Contents").split("\n", 2)[2].strip(),
    }
    try:
        card = string.Template(template.read_text(encoding="utf-8")).substitute(values)
    except (KeyError, ValueError) as error:
        raise BadInputError(f"{template}: placeholder {error} is unknown; use {', '.join(values)}") from error
    (folder / "README.md").write_text(card, encoding="utf-8")


def configs_yaml(splits: Mapping[str, int]) -> str:
    """Returns the `configs` entry of the card's header, which tells the viewer the files of each split."""
    lines = ["configs:", "- config_name: default", "  data_files:"]
    for name in splits:
        lines += [f"  - split: {name}", f"    path: data/{name}-*"]
    return "\n".join(lines)


def size_category(rows: int) -> str:
    """Returns the Hub's name for a number of rows."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if rows < bound), "n>1M")


def describe_resolution(resolution: Any) -> str:
    """Returns the stored size of images and masks in words."""
    return "as in the source" if resolution == "native" else f"{resolution[0]} x {resolution[1]} (height x width)"


def push(folder: Path, repo_id: str, private: bool = True, gated: bool = False) -> str:
    """Uploads a folder of Parquet files and card as one commit; returns the address of the dataset.

    Privacy and gate are set **before** anything is uploaded, also on a repository that exists already.

    Raises:
        BadInputError: the Hub refuses or cannot be reached; the message says how to go on.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private or gated, exist_ok=True)
        if private or gated:
            api.update_repo_settings(repo_id, repo_type="dataset", private=True, gated="manual" if gated else None)
        api.upload_folder(folder_path=folder, repo_id=repo_id, repo_type="dataset", commit_message="Add the dataset")
    except Exception as error:  # the client's network errors are of other classes from version to version
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInputError(
            f"{folder}: is complete but was not pushed to {repo_id} ({reason}); log in with `hf auth login` and push again"
        ) from error
    return str(url)
