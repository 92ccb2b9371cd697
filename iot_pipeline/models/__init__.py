"""Base models: finding, checking and loading one, its tokenizer and its adapters.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
