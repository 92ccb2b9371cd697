"""Flows of no known class: scores of strangeness, their thresholds, and leave-one-class-out measurement."""
