"""One file that answers like the pipeline, and networks that are run from it."""
