"""Packaging of ResFormer. Tool settings live in pyproject.toml, which holds no packaging metadata."""

import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "modeling_resformer" / "__init__.py").read_text()).group(1)

EXTRAS = {
    "vision": ["torchvision>=0.26"],
    "data": ["datasets>=4.0", "SimpleITK>=2.3", "ImageHash>=4.3", "tqdm>=4.66"],
    "train": [
        "accelerate>=1.10",
        "datasets>=4.0",
        "evaluate>=0.4.6",
        "matplotlib>=3.8",
        "scikit-learn>=1.4",
        "tensorboard>=2.16",
        "tqdm>=4.66",
    ],
    "hub": ["Jinja2>=3.1"],
    "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.3"],
    "benchmark": ["matplotlib>=3.8"],
}
EXTRAS["dev"] = sorted(
    {
        *EXTRAS["vision"],
        *EXTRAS["data"],
        *EXTRAS["train"],
        *EXTRAS["hub"],
        "monai>=1.4",
        "pytest>=8.0",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.8",
    }
)

setup(
    name="modeling-resformer",
    version=VERSION,
    description="ResFormer: one model that segments and diagnoses a medical image, native to Hugging Face",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["modeling_resformer", "modeling_resformer.*"]),
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17,<6",
        "safetensors>=0.4.3",
        "huggingface-hub>=1.5",
        "pillow>=11.0",
        "numpy>=1.26",
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
