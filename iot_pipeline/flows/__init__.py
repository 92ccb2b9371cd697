"""Flows: from a source file to numbered, labelled, grouped rows and their text.

Nothing is imported here, so importing one module of the package costs only that module.
"""
