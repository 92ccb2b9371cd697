"""Tables, figures and documents rendered from artefacts; nothing is measured here.

Nothing is imported here, so importing one module of the package loads only that module.
"""
