"""The README's Python runs as it stands, and its commands name scripts and flags that exist."""

import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest

from modeling_resformer.training.arguments import evaluation_arguments, parse_arguments


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.split("\n")[0] for block in BLOCKS])
def test_python_blocks_run(block, tmp_path, monkeypatch):
    assert len(block.strip().splitlines()) <= 12
    (tmp_path / "block.py").write_text(block)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(tmp_path / "block.py"))


def test_every_file_named_exists():
    named = re.findall(r"(?:scripts|docs|examples|modeling_resformer)/[\w./-]+", README)
    missing = [name for name in named if not (ROOT / name.rstrip(".")).exists()]
    assert not missing


BASH = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
COMMANDS = [
    shlex.split(line)
    for line in re.findall(r"(?:scripts/\w+\.py|(?<=resformer )[a-z]).*", BASH.replace("scripts/launch", "launch"))
]


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command[:3]) for command in COMMANDS])
def test_every_command_shown_is_understood(command, monkeypatch):
    """By the parser itself: unknown flags and values of no use end in SystemExit or an error."""
    monkeypatch.chdir(ROOT)
    script, arguments = Path(command[0]).stem.replace("-", "_"), command[1:]
    assert arguments
    parse = importlib.import_module(f"modeling_resformer.commands.{script}").parse
    if script == "train":
        parse = parse_arguments
    given = parse(arguments)
    assert evaluation_arguments(given) if script == "evaluate" else given


def test_there_are_commands_of_every_kind():
    assert {Path(command[0]).stem for command in COMMANDS} >= {
        "predict",
        "train",
        "prepare_folder",
        "push_to_hub",
        "serve",
    }
