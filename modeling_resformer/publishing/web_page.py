"""The page that runs a model in its reader's browser: a complete folder, a static Space or any web server's."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from jinja2 import Environment, StrictUndefined

from ..drawing import class_colour
from ..errors import BadInputError, one_line
from ..exporting.onnx_file import export
from ..exporting.onnx_network import known
from ..files import finished_folder, scratch_folder, write_whole
from ..pipeline_resformer import ResFormerPipeline
from ..shipped import shipped
from .facts import read_facts
from .repository_checks import RESULTS_NAME, RUN_NAME


TEMPLATE = shipped("hub_cards/web")
PAGE_FILES = (
    *("index.html", "style.css", "page.js", "parts.js", "whole_volume.js", "drawing.js"),
    *("worker.js", "measuring.js", "decoding.js", "png.js", "volumes.js", "metaimage.js", "nifti.js", "packing.js"),
)
MODEL_FILE = "model.onnx"
DESCRIPTION = "model.json"  # onnxruntime-web does not give out a file's metadata
RUNTIME = "runtime"
LICENCE = "LICENSE-onnxruntime-web.txt"
NPM_SECONDS = 600


def make_page(
    output: Path,
    pipe: ResFormerPipeline,
    name: str,
    folder: Path | None = None,
    runtime: Path | None = None,
    overwrite: bool = False,
    webgpu: bool = False,
) -> Path:
    """Writes the page with the model in it.

    Args:
        output: the folder to write.
        pipe: as `exporting.onnx_file.export` takes it.
        name: of the model, as people shall read it: its Hub id, or its folder's name.
        folder: of the checkpoint, whose example images are shown where everybody may see them.
        runtime: npm's package of `hub_cards/web/runtime.json`; by default npm fetches it.
        overwrite: replace an earlier page.
        webgpu: put the runtime's WebGPU build beside the plain one; the page loads it only where its address asks for it.

    Returns:
        `output`.

    Raises:
        BadInputError: the model cannot be exported, the runtime is not to be had or is another, or the folder exists.
    """
    with finished_folder(output, overwrite, "page of this project", is_page) as page:
        files = runtime_files(webgpu)
        add_runtime_files(page / RUNTIME, runtime, [name for names in files.values() for name in names])
        for file in PAGE_FILES:
            shutil.copyfile(template_file(file), page / file)
        export(pipe, page / MODEL_FILE)
        examples, licence = free_examples(folder)
        for path in examples:
            (page / "examples").mkdir(exist_ok=True)
            shutil.copyfile(path, page / "examples" / path.name)
        description = page_facts(page, name, [f"examples/{path.name}" for path in examples], licence, files)
        write_whole(page / DESCRIPTION, json.dumps(description, indent=2) + "\n")
        write_whole(page / "README.md", page_card(name))
        for path in page.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    return output


def is_page(folder: Path) -> bool:
    """Whether a folder was made by `make_page`."""
    return all((folder / name).is_file() for name in (*PAGE_FILES, DESCRIPTION, MODEL_FILE))


def template_file(name: str) -> Path:
    """Raises `BadInputError` where it is missing."""
    path = TEMPLATE / name
    if not path.is_file():
        raise BadInputError(
            f"{path}: the page's template is missing; install the package again, or run from a checkout"
        )
    return path


def page_facts(
    page: Path, name: str, examples: Sequence[str], licence: str, files: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    """What the page has to know of its model: the metadata of the ONNX file, and how many bytes each of the runtimes loads."""
    metadata = known(onnx.load(page / MODEL_FILE))
    classes = len(metadata.get("mask_classes", []))
    model = (page / MODEL_FILE).stat().st_size
    binaries = {path.name: path.stat().st_size for path in (page / RUNTIME).glob("*.wasm")}
    loaded = {device: model + sum(binaries.get(name, 0) for name in names) for device, names in files.items()}
    return {
        "name": name,
        "file": MODEL_FILE,
        "bytes": loaded["wasm"],
        "webgpu_bytes": loaded.get("webgpu"),
        "metadata": metadata,
        "colours": [(0, 0, 0), *(class_colour(index) for index in range(1, classes))],
        "examples": list(examples),
        "licence": licence,
    }


def free_examples(folder: Path | None) -> tuple[list[Path], str]:
    """Example images beside a checkpoint that anybody may pass on, and their licence in words."""
    if folder is None or not all((folder / name).is_file() for name in (RUN_NAME, RESULTS_NAME)):
        return [], ""
    facts = read_facts(folder)
    if not facts.known_source.images_are_free:
        return [], ""
    return sorted((folder / "examples").glob("*.jpg")), f"{facts.dataset_title}, {facts.data_licence}"


def page_card(name: str) -> str:
    """The Space's README with its YAML head."""
    # Not through RepoCard's renderer: StrictUndefined makes a missing value an error instead of an empty string.
    template = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, autoescape=False
    ).from_string(template_file("README.md").read_text(encoding="utf-8"))
    title = f"{name.rpartition('/')[2]} in your browser"
    return template.render(title=title, model_id=name, runtime_version=pinned_runtime()["version"])


def pinned_runtime() -> dict[str, object]:
    """`runtime.json`: package, version, integrity as npm has it, the files that the page loads, and those for WebGPU."""
    return json.loads(template_file("runtime.json").read_text(encoding="utf-8"))


def runtime_files(webgpu: bool) -> dict[str, list[str]]:
    """Files of ONNX Runtime Web by the device that they compute on."""
    pinned = pinned_runtime()
    return {"wasm": pinned["files"], **({"webgpu": pinned["webgpu_files"]} if webgpu else {})}


def add_runtime_files(folder: Path, package: Path | None, names: Sequence[str]) -> None:
    """Writes these files of ONNX Runtime Web, from npm's package or from npm, at the pinned version.

    Raises:
        BadInputError: there is no npm or it fails, or the package is not the pinned one.
    """
    pinned = pinned_runtime()
    with scratch_folder("runtime") as scratch:
        package = package or packed_by_npm(scratch, f"{pinned['package']}@{pinned['version']}")
        check_integrity(package, str(pinned["integrity"]))
        folder.mkdir()
        with tarfile.open(package) as archive:
            for name in names:
                with archive.extractfile(f"package/dist/{name}") as source, open(folder / name, "wb") as target:
                    shutil.copyfileobj(source, target)
    shutil.copyfile(template_file(LICENCE), folder / "LICENSE.txt")


def packed_by_npm(folder: Path, name: str) -> Path:
    """The file of a package, fetched by npm into a folder; npm runs none of the package's scripts."""
    npm = shutil.which("npm")
    cure = f"install npm, or give by --runtime the file that 'npm pack {name}' writes"
    if npm is None:
        raise BadInputError(f"{name}: is fetched by npm, which is not installed; {cure}")
    command = [npm, "pack", name, "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=NPM_SECONDS, cwd=folder)
    except (subprocess.SubprocessError, OSError) as error:
        told = one_line(getattr(error, "stderr", None) or error, 200)
        raise BadInputError(f"{name}: npm cannot fetch it ({told}); {cure}") from error
    return next(folder.glob("*.tgz"))


def check_integrity(package: Path, integrity: str) -> None:
    """Raises `BadInputError` where a file is not the one with that digest, written as npm does."""
    algorithm, _, expected = integrity.partition("-")
    try:
        found = base64.b64encode(hashlib.new(algorithm, package.read_bytes()).digest()).decode()
    except OSError as error:
        raise BadInputError(f"{package}: cannot be read ({one_line(error)}); expected npm's package") from error
    if found != expected:
        raise BadInputError(
            f"{package}: has the digest {algorithm}-{found}, and {TEMPLATE / 'runtime.json'} expects {integrity}; "
            "fetch it again"
        )


__all__ = ["is_page", "make_page", "page_card"]
