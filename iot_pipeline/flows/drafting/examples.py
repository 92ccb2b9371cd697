"""Example flows of a drafted data set, written as the student would read them."""

from __future__ import annotations

from pathlib import Path

import duckdb

from iot_pipeline.errors import UserError
from iot_pipeline.flows.build import build_flows
from iot_pipeline.flows.drafting.table import ROW
from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.flows.sql import connect, identifier, scan, write_query
from iot_pipeline.flows.texts import FlowTextWriter, fit_ranks

ROWS, EXAMPLES = 20_000, 3


def example_texts(
    connection: duckdb.DuckDBPyConnection, spec: DatasetSpec, folder: Path, serialisation: str
) -> list[str]:
    """Return the texts of three flows, of different classes where there are; [] if no row can be used.

    Percentiles and shares are those among the first rows, not those of a train pool, which there is none of yet.

    Args:
        connection: DuckDB connection with the table `given`.
        spec: The drafted spec.
        folder: Folder for temporary files.
        serialisation: Form of the texts.
    """
    raw, flows, records = (folder / f"examples_{what}.parquet" for what in ("raw", "flows", "records"))
    every = f"(SELECT count(*) FROM given) // {ROWS} + 1"
    write_query(connection, f"SELECT * EXCLUDE ({ROW}) FROM given WHERE {ROW} % ({every}) = 0 ORDER BY {ROW}", raw)
    try:
        build_flows(spec, raw, flows, max_rejected_share=1.0)
    except UserError:
        return []  # `datasets check` tells why
    with connect(flows, folder) as built:
        every_group = f"SELECT DISTINCT flow_group, 'train' AS side FROM {scan(flows)} ORDER BY flow_group"
        write_query(built, every_group, records)
        names = ", ".join(map(identifier, spec.feature_names))
        of_class = "row_number() OVER (PARTITION BY label ORDER BY row_id)"
        chosen = built.execute(
            f"SELECT {names} FROM {scan(flows)} ORDER BY {of_class}, row_id LIMIT {EXAMPLES}"
        ).fetchall()
    writer = FlowTextWriter(spec, serialisation, fit_ranks(spec, flows, records))
    return [writer.text(row) for row in chosen]
