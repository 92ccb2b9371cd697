"""Simulated Farm-Flow: packets of each class, and the features that a capture of them would have.

Nothing is imported here, so importing one module of the package costs only that module.
"""
