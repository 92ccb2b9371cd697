"""Metrics, confidence intervals, calibration and checks of explanations.

Nothing is imported here, so importing one module of the package loads only that module.
"""
