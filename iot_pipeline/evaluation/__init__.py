"""Metrics, confidence intervals, calibration and checks of explanations."""
