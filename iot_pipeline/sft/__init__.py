"""Supervised fine-tuning data.

Nothing is imported here: importing one module loads only that module.
"""
