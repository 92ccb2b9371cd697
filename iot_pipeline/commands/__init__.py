"""What the commands of the command line do beyond calling Dagster: show, examine, serve.

Nothing is imported here, so that `--help` stays fast.
"""
