"""Inference with a trained student.

Nothing is imported here: importing one module loads only that module.
"""
