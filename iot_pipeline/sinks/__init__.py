"""Optional sinks: what is told of every artefact to OpenLineage, and of every student to MLflow."""
