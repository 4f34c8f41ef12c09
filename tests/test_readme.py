"""The README's Python runs as it stands, and its commands name scripts and flags that exist."""

import re
import runpy
import sys
from pathlib import Path

import pytest


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


COMMANDS = re.findall(
    r"(scripts/\w+\.py[^\n]*(?:\\\n[^\n]*)*)", "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
)


@pytest.mark.parametrize("command", COMMANDS, ids=[command.split()[0] for command in COMMANDS])
def test_every_script_flag_shown_is_known(command, monkeypatch, capsys):
    script, flags = command.split()[0], re.findall(r"--[\w-]+", command)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    text = capsys.readouterr().out
    assert flags and not [flag for flag in flags if flag not in text]
