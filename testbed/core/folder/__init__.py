"""Run folders and the files in them: whole or not at all, checked, with their provenance."""
