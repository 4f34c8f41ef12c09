"""The flags of every script, a module each, by the standard library alone.

`import modeling_resformer` brings torch along, which takes seconds. So `scripts/*.py` load this folder by its path first
(`launch.py`), which answers `--help` and refuses mistakes at once; then they import it in the ordinary way.
"""
