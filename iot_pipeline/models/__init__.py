"""Base models: finding, checking and loading a base, its tokeniser and its adapters.

Nothing is imported here: importing one module loads only that module.
"""
