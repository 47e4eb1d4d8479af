"""Charts as SVG: they know numbers and no files."""
