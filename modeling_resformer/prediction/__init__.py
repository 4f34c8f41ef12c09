"""From images on disk to masks, overlays and a table of scores on disk."""
