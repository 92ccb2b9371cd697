"""Tables, figures and documents made from artefacts; no measuring.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
