"""Reference page of the columns of a campaign's tables, from the row schema."""

from __future__ import annotations

from documentation.markdown import anchored, prose, table
from testbed.core.schema import PLAN_COLUMNS, READABLE_VERSIONS, RESULT_COLUMNS, SCHEMA_VERSION, Column

TABLES: dict[str, tuple[Column, ...]] = {"results.parquet": RESULT_COLUMNS, "faults.parquet": PLAN_COLUMNS}
_OPENINGS = {
    "results.parquet": "One row per fault and image, made when the campaign is finished. A row has all that later questions"
    " need, so nothing is run again for them. The rates of the summary are means weighted by `weight`.",
    "faults.parquet": "The plan: one row per fault, before anything runs. An adaptive campaign has one such file per round,"
    " `plan/round-NNN.parquet`.",
}
_TYPES = {"dictionary": "text (dictionary)", "bool": "boolean", "list<float32>": "list of float32"}
_TYPES["list<float64>"] = "list of float64"


def column_page() -> str:
    """The page."""
    parts = [
        "# Result columns\n",
        "The tables are Parquet files: pandas, Polars, DuckDB and R read them. `Run.results` is the first as a pandas frame.\n",
        f"Version of the schema: {SCHEMA_VERSION} (column `schema_version`, and in the file's metadata). This version reads"
        f" {' and '.join(map(str, READABLE_VERSIONS))}; a table of another version is refused by name.\n",
    ]
    for name, columns in TABLES.items():
        stem = name.partition(".")[0]
        rows = [
            [
                anchored(column.name, f"{stem}.{column.name}"),
                _TYPES.get(column.type, column.type),
                prose(column.meaning),
            ]
            for column in columns
        ]
        parts += [f"## {name} {{#{stem}}}\n", _OPENINGS[name] + "\n", table(["column", "type", "meaning"], rows)]
    return "\n".join(parts)
