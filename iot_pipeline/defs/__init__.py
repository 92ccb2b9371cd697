"""Dagster definitions: assets, resources, automation, and the execution of runs.

Nothing is imported here, so importing one module of the package loads only that module.
"""
