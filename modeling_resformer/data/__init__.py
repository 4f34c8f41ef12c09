"""From raw medical images to Arrow datasets: builders, splits, reports, leakage checks.

The builders are imported on first use, so that `import modeling_resformer.data` needs no `datasets` and no SimpleITK.
"""

from importlib import import_module
from typing import Any


_EXPORTS = {
    "Isic2017": "isic2017",
    "MultiTaskFolder": "multitask_folder",
    "PreparedDataset": "prepared",
    "Retouch": "retouch",
    "balanced_class_weights": "class_weights",
    "load_prepared": "prepared",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
