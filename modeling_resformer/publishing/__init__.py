"""From a trained folder to a Hub repository: cards, checks, push. Needs Jinja2 and huggingface-hub (extra `hub`)."""
