"""Baselines that the student is compared with.

Nothing is imported here, so importing one module of the package costs only that module.
"""
