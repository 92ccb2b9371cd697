"""Simulated Farm-Flow: packets of each class, and the features that a capture would have of them.

Nothing is imported here, so that importing one module of the package costs no more than that module.
"""
