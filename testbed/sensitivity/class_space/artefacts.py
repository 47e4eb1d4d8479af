"""The files of a study in class space: tables, pictures, and one JSON of all but the single memories."""

from __future__ import annotations

from pathlib import Path

from testbed.core.folder.figures import save_figure
from testbed.core.folder.files import csv_text, write_json, write_text
from testbed.sensitivity.class_space.figures import figures_of
from testbed.sensitivity.class_space.study import ClassSpaceStudy
from testbed.sensitivity.class_space.tables import memory_tables_of, record_of, tables_of

RECORD = "class_space.json"


def write_class_space(folder: Path, study: ClassSpaceStudy) -> list[Path]:
    """Write a CSV per table, a PNG per analysis and RECORD; returns the files. Each is there whole or not at all."""
    files = []
    for name, rows in (tables_of(study) | memory_tables_of(study)).items():
        files.append(folder / f"{name}.csv")
        write_text(files[-1], csv_text(rows))
    for name, figure in figures_of(study).items():
        files.append(folder / f"{name}.png")
        save_figure(files[-1], figure)
    files.append(folder / RECORD)
    write_json(files[-1], record_of(study))
    return files
