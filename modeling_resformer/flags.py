"""An `argparse` parser that takes a flag in every spelling, and fields of a dataclass as flags."""

import argparse
import difflib
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from importlib.util import find_spec
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from .limits import DEFAULT_LIMITS, MOST_PIXELS, InputLimits


MODEL = "FOLDER_OR_HUB_ID"
# What runs a network beside torch: the extra that brings it, and its packages.
RUNTIME_PACKAGES = {"onnx": ("export", ("onnx", "onnxruntime")), "openvino": ("openvino", ("onnx", "openvino"))}


class Spellings(argparse.ArgumentParser):
    """Dashes and underscores in flags are interchangeable; further names of a flag need not stand in the help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.flags: dict[str, argparse.Action] = {}
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        self.flags |= {plain(name): action for name in action.option_strings if name.startswith("--")}
        return action

    def also(self, flag: str, *names: str) -> None:
        """Takes other names for a flag, which the help does not show."""
        self.flags |= {plain(name): self.flags[plain(flag)] for name in names}

    def nearest(self, message: str) -> str:
        """What argparse says of flags that it does not know, with the most similar one of those that it does."""
        found = re.match(r"unrecognized arguments: (?:.*? )?(--[^\s=]+)", message)
        close = difflib.get_close_matches(plain(found[1]), self.flags, n=1) if found else []
        return f"{message}; did you mean {self._spelled(close[0])}?" if close else f"{message};"

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        return super().parse_known_args(None if args is None else self.spelled(args), namespace)

    def spelled(self, arguments: Sequence[str]) -> list[str]:
        """The arguments with every known flag in the spelling that it was added by."""
        end = list(arguments).index("--") if "--" in arguments else len(arguments)
        return [*map(self._spelled, arguments[:end]), *arguments[end:]]

    def _spelled(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or plain(name) not in self.flags:
            return argument
        names = self.flags[plain(name)].option_strings
        # Flags that mean the opposite (--no_x) are names of their own.
        same = [one for one in names if plain(one) == plain(name)]
        return (same or [one for one in names if one.startswith("--")])[0] + equals + value


class Parser(Spellings):
    """With the description as it stands."""

    def __init__(self, description: str | None, **kwargs: Any) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)


class OneLineParser(Parser):
    """Raises `ValueError` in place of printing its usage and ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{self.nearest(message)} see --help.")


def plain(flag: str) -> str:
    return flag.replace("_", "-")


def add_output(parser: Spellings, **settings: Any) -> None:
    """Adds `--output`, which `--output_dir` means too."""
    parser.add_argument("--output", **settings)
    parser.also("--output", "--output_dir")


def add_limits(parser: Spellings) -> None:
    """Adds the flags of `limits.InputLimits`. `take_limits` reads them."""
    parser.add_argument(
        "--max-pixels",
        type=at_least_one,
        default=DEFAULT_LIMITS.pixels,
        metavar="N",
        help=f"pixels of an image, or of a slice of a volume (%(default)s); at most {MOST_PIXELS}",
    )
    parser.add_argument(
        "--max-voxels",
        type=at_least_one,
        default=DEFAULT_LIMITS.voxels,
        metavar="N",
        help="voxels of a volume (%(default)s)",
    )


def take_limits(given: argparse.Namespace) -> InputLimits:
    """What the flags of `add_limits` say."""
    return InputLimits(min(given.max_pixels, MOST_PIXELS), given.max_voxels)


def at_least_one(text: str) -> int:
    """Raises `argparse.ArgumentTypeError` for anything but 1, 2, 3, ..."""
    if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no whole number of 1 or more")
    return int(text)


def add_model(parser: Spellings, **settings: Any) -> None:
    """Adds `--model`, which may also stand without its flag. `take_model` finds out which."""
    parser.add_argument("--model", metavar=MODEL, **settings)
    parser.also("--model", "--model_name_or_path")
    parser.add_argument(
        "positional_model", nargs="?", metavar="MODEL", help="the same as --model", type=settings.get("type")
    )


def take_model(parser: Spellings, given: argparse.Namespace) -> argparse.Namespace:
    """The arguments with `model` set; ends the process where it is missing or given twice."""
    if (given.model is None) == (given.positional_model is None):
        problem = (
            "is missing" if given.model is None else f"is given twice, the other time as {given.positional_model}"
        )
        parser.error(f"--model {problem}; expected one {MODEL}")
    given.model = given.positional_model if given.model is None else given.model
    del given.positional_model
    return given


def add_runtime(parser: Spellings) -> None:
    """Adds `--runtime`."""
    help_text = "what runs the network: torch, or on a CPU ONNX Runtime (onnx) or OpenVINO with the model's model.onnx (%(default)s)"
    parser.add_argument("--runtime", choices=("torch", *RUNTIME_PACKAGES), default="torch", help=help_text)


def check_runtime(parser: Spellings, given: argparse.Namespace) -> None:
    """Ends the process where a runtime is to run on a device that it does not, or is not installed."""
    if given.runtime == "torch":
        return
    if given.device not in (None, "cpu"):
        parser.error(f"--device is {given.device}; expected cpu, on which --runtime {given.runtime} runs")
    given.device = "cpu"
    extra, packages = RUNTIME_PACKAGES[given.runtime]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        parser.error(f"--runtime {given.runtime} needs {missing[0]}; run: pip install 'modeling-resformer[{extra}]'")


def add_fields(parser: Spellings, options: type) -> None:
    """Adds a flag for every field of a dataclass, as transformers' `HfArgumentParser` does."""
    hints = get_type_hints(options)
    for field in fields(options):
        kind = value_type(hints[field.name])
        settings: dict[str, Any] = {"dest": field.name, "help": field.metadata["help"].replace("%", "%%")}
        settings["default"] = field.default if field.default_factory is MISSING else field.default_factory()
        if kind is bool:
            settings |= {"nargs": "?", "const": True, "type": parse_bool, "metavar": "true|false"}
        else:
            is_list = get_origin(kind) is list
            settings |= {"nargs": "+"} if is_list else {}
            settings |= {"type": get_args(kind)[0] if is_list else kind}
            settings["metavar"] = field.metadata.get("metavar", field.name.split("_")[-1].upper())
        flag = f"--{field.name}"
        names = field.metadata.get("aliases", [flag])
        parser.add_argument(*names, **settings)
        parser.also(names[0], flag)


def value_type(hint: Any) -> Any:
    """What a flag is read as: the type itself or, of a union, the first that is neither None nor a dictionary."""
    kinds = [hint] if get_origin(hint) is list else get_args(hint) or [hint]
    return next(kind for kind in kinds if kind not in (NoneType, dict))


def parse_bool(text: str) -> bool:
    """Raises `argparse.ArgumentTypeError` for anything but the usual words."""
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
