"""Measurements of data quality: duplicates, conflicts, leakage, profiles, patterns.

Nothing is imported here, so importing one module of the package costs only that module.
"""
