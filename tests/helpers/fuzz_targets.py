"""Every reader of the project as a target of `fuzzing.py`, with small whole files to start from."""

import base64
import io
import json
import logging
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from dicom_data import CT, PHOTOGRAPH, dataset_of, save, write_oct
from fuzzing import Target
from nifti_data import write_nifti
from PIL import Image
from raw_data import random_volume, write_csv, write_metaimage, write_photograph
from small_model import tiny_config
from transformers.utils import logging as transformers_logging

from modeling_resformer import ResFormerForMultiTask, ResFormerImageProcessor
from modeling_resformer.data.annotated import read_annotated_slices
from modeling_resformer.data.archives import unpack
from modeling_resformer.data.encoding import StoredImage, read_mask, store_image
from modeling_resformer.data.multitask_folder import MultiTaskFolder
from modeling_resformer.data.splits import read_manifest
from modeling_resformer.errors import BadInputError, Problems
from modeling_resformer.handler import EndpointHandler, RequestError
from modeling_resformer.prediction.cases import find_cases
from modeling_resformer.prediction.journal import Journal
from modeling_resformer.prediction.predictor import load_pipeline
from modeling_resformer.publishing.card_text import read_card_text
from modeling_resformer.serving.request_body import request_data
from modeling_resformer.training.arguments import parse_arguments
from modeling_resformer.volumes.finding import find_volumes
from modeling_resformer.volumes.scan import read_scan


SHAPE = (3, 12, 10)
SMALL = {"hidden_sizes": [4, 8], "cnn_depths": [1, 1], "transformer_depths": [2, 2], "num_attention_heads": [1, 2]}


def saved(write: Callable[..., object], folder: Path, *names: str) -> list[bytes]:
    """Bytes of the files that `write` makes under these names."""
    for name in names:
        write(folder / name)
    return [(folder / name).read_bytes() for name in names]


# Volumes and images ------------------------------------------------------------------------------------------------------


def metaimage_seeds(folder: Path) -> list[bytes]:
    found = []
    for number, (dtype, compressed) in enumerate((("uint8", False), ("uint16", True), ("float32", False))):
        voxels = random_volume(SHAPE, "uint8").astype(dtype)
        write_metaimage(folder / f"{number}.mhd", voxels, compressed=compressed, ElementDataFile="LOCAL")
        data = folder / f"{number}.{'zraw' if compressed else 'raw'}"
        found.append((folder / f"{number}.mhd").read_bytes() + data.read_bytes())
    return found


def nifti_seeds(folder: Path) -> list[bytes]:
    write_nifti(folder / "a.nii", random_volume(SHAPE))
    write_nifti(folder / "b.nii", random_volume(SHAPE, "uint16"), srow=(0.5, 0, 0, 1, 0, 0.25, 0, 2, 0, 0, 2, 3))
    write_nifti(folder / "c.nii", random_volume(SHAPE, "int16"))
    return [(folder / name).read_bytes() for name in ("a.nii", "b.nii", "c.nii")]


def packed_nifti_seeds(folder: Path) -> list[bytes]:
    write_nifti(folder / "a.nii.gz", random_volume(SHAPE))
    return [(folder / "a.nii.gz").read_bytes()]


def dicom_seeds(folder: Path) -> list[bytes]:
    write_oct(folder / "a.dcm", random_volume(SHAPE))
    save(dataset_of(random_volume((12, 10), "uint16"), CT, InstanceNumber=1), folder / "b.dcm")
    save(dataset_of(random_volume((12, 10, 3)), PHOTOGRAPH), folder / "c.dcm")
    return [path.read_bytes() for path in sorted(folder.glob("*.dcm"))]


def tiff_seeds(folder: Path) -> list[bytes]:
    pages = [Image.fromarray(page) for page in random_volume(SHAPE)]
    deep = [Image.fromarray(page) for page in random_volume(SHAPE, "uint16")]
    for name, images, options in (("a", pages, {}), ("b", deep, {}), ("c", pages, {"compression": "tiff_lzw"})):
        images[0].save(folder / f"{name}.tif", save_all=True, append_images=images[1:], **options)
    return [path.read_bytes() for path in sorted(folder.glob("*.tif"))]


def image_seeds(folder: Path) -> list[bytes]:
    write_photograph(folder / "a.png", size=(24, 20))
    write_photograph(folder / "b.jpg", size=(24, 20))
    write_photograph(folder / "c.jpg", size=(24, 20), progressive=True)
    Image.fromarray(random_volume((20, 24), "uint16")).save(folder / "d.png")
    write_photograph(folder / "e.tif", size=(24, 20))
    write_photograph(folder / "f.gif", size=(24, 20))
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def read_volume_file(path: Path) -> None:
    sources = find_volumes(path)
    if not sources:
        raise BadInputError(f"{path}: no volume")
    for source in sources:
        read_scan(source).intensity_range()


def read_dicom(path: Path) -> None:
    """As volume or, where it holds none, as image."""
    for source in find_volumes(path):
        read_scan(source).intensity_range()
        return
    (case,) = find_cases([str(path)])
    case.open()


def read_image(path: Path) -> None:
    (case,) = find_cases([str(path)])
    pixels(case.open())
    stored = store_image(path, (16, 16))
    with suppress(BadInputError):  # in colour, as most of them are
        read_mask(path, StoredImage(b"", stored.original_size, stored.raw_size, 1))


def pixels(image: object) -> None:
    try:
        processor()(image, return_tensors="pt")
    except ValueError as error:
        raise BadInputError(f"its reader says: {error}") from error


@cache
def processor() -> ResFormerImageProcessor:
    return ResFormerImageProcessor(size={"height": 32, "width": 32})


# Tables and text ---------------------------------------------------------------------------------------------------------

ROWS = [
    ["file_name", "case_id", "split", "slice_index", "class_labels", "row_spacing", "column_spacing", "age"],
    ["a.png", "p1", "train", "0", "benign;other", "0.5", "0.5", "40"],
    ["b.png", "p2", "test", "1", "none", "0.5", "0.25", "²"],
    ["c.png", "p3", "validation", "2", "", "", "", ""],
]


def csv_seeds(folder: Path) -> list[bytes]:
    write_csv(folder / "a.csv", ROWS)
    return [(folder / "a.csv").read_bytes()]


def jsonl_seeds(_: Path) -> list[bytes]:
    rows = [dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]]
    rows[0] |= {"class_labels": ["benign"], "slice_index": 3, "row_spacing": 0.5}
    return ["\n".join(map(json.dumps, rows)).encode()]


def read_labels(path: Path) -> None:
    """As far as `resformer prepare-folder` goes with a table before it encodes images."""
    root = path.parent
    for name in "abc":
        write_photograph(root / "images" / f"{name}.png", size=(8, 8))
    builder = MultiTaskFolder(data_dir=str(root), cache_dir=str(root / "cache"))
    builder.assign_splits()
    for case in builder.cases:
        for row in builder.rows(case):
            builder.info.features.encode_example(row)


def manifest_seeds(folder: Path) -> list[bytes]:
    write_csv(folder / "a.csv", [["case_id", "split"], ["a", "train"], ["b", "test"], ["c", "validation"]])
    return [(folder / "a.csv").read_bytes()]


def json_manifest_seeds(_: Path) -> list[bytes]:
    return [b'{"case_id": "a", "split": "train"}\n{"case_id": 3, "split": "test"}\n']


def slices_seeds(_: Path) -> list[bytes]:
    return [b"case_id,slice_index\na,0\na,1\nb,2\n"]


def read_slices(path: Path) -> None:
    read_annotated_slices(path, [("a", range(3)), ("b", range(3))], Problems())


def recipe_seeds(_: Path) -> list[bytes]:
    folder = Path(__file__).parents[2] / "scripts" / "recipes"
    return [path.read_bytes() for path in sorted(folder.glob("*.json"))]


def read_recipe(path: Path) -> None:
    parse_arguments([str(path), "--dataset", "data", "--output_dir", str(path.parent / "run"), "--use_cpu"])


def card_seeds(_: Path) -> list[bytes]:
    return [(Path(__file__).parents[2] / "hub_cards" / "card.yaml").read_bytes(), b"description: a\ntags: [a, b]\n"]


def journal_seeds(_: Path) -> list[bytes]:
    record = {
        "source": "a.png",
        "stamp": [1, 2, 3],
        "name": "a",
        "files": ["masks/a.png"],
        "rows": [{"source": "a.png"}],
    }
    return ["".join(json.dumps(record | {"source": name, "name": name}) + "\n" for name in "abc").encode()]


def read_journal(path: Path) -> None:
    journal = Journal(path.parents[1], 0)
    for record in journal.finished().values():
        journal.is_finished(record, [1, 2, 3])


# Archives ----------------------------------------------------------------------------------------------------------------


def zip_seeds(folder: Path) -> list[bytes]:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", b"hello" * 50)
    found = [inner.getvalue()]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        outer = io.BytesIO()
        with zipfile.ZipFile(outer, "w", method) as archive:
            archive.writestr("images/a.png", b"image" * 20)
            archive.writestr("labels.csv", b"file_name\na.png\n")
            archive.writestr("more.zip", inner.getvalue())
        found.append(outer.getvalue())
    return found


def read_zip(path: Path) -> None:
    target = path.parent / "target"
    target.mkdir()
    unpack(path, target)


# Models ------------------------------------------------------------------------------------------------------------------


@cache
def model_folder(folder: Path) -> Path:
    config = tiny_config(
        **SMALL,
        id2label={0: "background", 1: "lesion"},
        classification_labels=["a", "b"],
        classification_thresholds=[0.5, 0.4],
        dilation_rates=[1],
        image_size=32,
    )
    torch.manual_seed(0)
    ResFormerForMultiTask(config).save_pretrained(folder)
    processor().save_pretrained(folder)
    for path in folder.glob("*.py"):
        path.unlink()
    return folder


def model_seeds(name: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [(model_folder(folder.parent / "model") / name).read_bytes()]


def read_model(path: Path) -> None:
    """As `resformer predict` does, with one image."""
    whole = path.parents[2] / "model"
    for file in whole.iterdir():
        if file.name != path.name:
            shutil.copy(file, path.parent / file.name)
    pipe = load_pipeline(str(path.parent), None, torch.device("cpu"))
    image = Image.fromarray(np.full((16, 20, 3), 99, np.uint8))
    try:
        answer = pipe(image)
    except ValueError as error:
        raise BadInputError(f"{path.parent}: {error}") from error
    json.dumps(answer["class_scores"])


# The server --------------------------------------------------------------------------------------------------------------


def body_seeds(folder: Path) -> list[bytes]:
    images = image_seeds(folder)
    text = base64.b64encode(images[0]).decode()
    parameters = {"task": "both", "top_k": 1, "threshold": 0.5, "function_to_apply": "sigmoid", "subtask": "semantic"}
    return [
        json.dumps({"inputs": text, "parameters": parameters}).encode(),
        json.dumps({"inputs": f"data:image/png;base64,{text}", "parameters": {"mask_threshold": 0.3}}).encode(),
    ]


@cache
def handler(folder: Path) -> EndpointHandler:
    return EndpointHandler(str(model_folder(folder)), trust_remote_code=False, device="cpu")


def read_body(path: Path) -> None:
    """Under the type of content that clients send both JSON and images as."""
    data = request_data(path.read_bytes(), "application/json", "segmentation")
    json.dumps(handler(path.parents[1] / "model")(data), allow_nan=False)


def prepared_handler(seeds: Callable[[Path], list[bytes]]) -> Callable[[Path], list[bytes]]:
    def made(folder: Path) -> list[bytes]:
        handler(folder.parent / "model")
        return seeds(folder)

    return made


def file_name(path: Path) -> str:
    return path.name


def folder_name(path: Path) -> str:
    return str(path.parent)


def nothing(_: Path) -> str:
    return ""


OURS = (BadInputError,)
TARGETS = {
    "metaimage": Target(metaimage_seeds, read_volume_file, "a.mha", OURS),
    "nifti": Target(nifti_seeds, read_volume_file, "a.nii", OURS),
    "nifti_gz": Target(packed_nifti_seeds, read_volume_file, "a.nii.gz", OURS),
    "dicom": Target(dicom_seeds, read_dicom, "a.dcm", OURS),
    "tiff": Target(tiff_seeds, read_volume_file, "a.tif", OURS),
    "image": Target(image_seeds, read_image, "a.png", (BadInputError, ValueError), names=nothing),
    "csv": Target(csv_seeds, read_labels, "labels.csv", OURS, is_text=True, names=folder_name),
    "jsonl": Target(jsonl_seeds, read_labels, "labels.jsonl", OURS, is_text=True, names=folder_name),
    "manifest": Target(manifest_seeds, read_manifest, "splits.csv", OURS, is_text=True),
    "manifest_jsonl": Target(json_manifest_seeds, read_manifest, "splits.jsonl", OURS, is_text=True),
    "slices": Target(slices_seeds, read_slices, "slices.csv", OURS, is_text=True),
    "zip": Target(zip_seeds, read_zip, "raw.zip", OURS),
    "safetensors": Target(
        model_seeds("model.safetensors"), read_model, "m/model.safetensors", OURS, names=folder_name
    ),
    "config": Target(model_seeds("config.json"), read_model, "m/config.json", OURS, is_text=True, names=folder_name),
    "preprocessor": Target(
        model_seeds("preprocessor_config.json"),
        read_model,
        "m/preprocessor_config.json",
        OURS,
        is_text=True,
        names=folder_name,
    ),
    "recipe": Target(recipe_seeds, read_recipe, "recipe.json", OURS, is_text=True),
    "card": Target(card_seeds, read_card_text, "card.yaml", OURS, is_text=True),
    "journal": Target(journal_seeds, read_journal, "journal/process-000.jsonl", OURS, is_text=True),
    "body": Target(prepared_handler(body_seeds), read_body, "body", (RequestError,), is_text=True, names=nothing),
    "body_image": Target(prepared_handler(image_seeds), read_body, "body", (RequestError,), names=nothing),
}
transformers_logging.set_verbosity_error()
logging.disable(logging.WARNING)
