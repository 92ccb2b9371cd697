"""Implementation of the commands beyond calling Dagster: show, examine, serve.

Nothing is imported here, so that `--help` stays fast.
"""
