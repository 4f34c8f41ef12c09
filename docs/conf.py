"""Settings of the site that `make docs` builds, by Sphinx from the same Markdown files and docstrings that people read here."""

import modeling_resformer


project = "ResFormer"
author = "The ResFormer maintainers"
copyright = "2026, the ResFormer maintainers. Apache 2.0"
version = release = modeling_resformer.__version__

# The source is the whole checkout, so that links between README, docs and benchmarks are links here too.
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "benchmarks/*/README.md",
    "benchmarks/isic2017_tables/*.md",
    "hub_cards/resformer-lite-isic2017/README.md",
]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

myst_heading_anchors = 3
myst_linkify_fuzzy_links = False
suppress_warnings = ["myst.xref_ambiguous"]

default_role = "code"  # single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "both"
napoleon_custom_sections = [("Args of the constructor and of a call", "params_style")]
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"ResFormer {version}"
