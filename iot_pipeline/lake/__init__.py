"""The lake: storage, atomic writing, verification and lineage of artefacts."""
