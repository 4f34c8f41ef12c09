"""The inference contract of Hugging Face over HTTP: `scripts/serve.py`. Needs the `serve` extra."""
