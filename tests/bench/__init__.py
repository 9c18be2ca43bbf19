"""Measurements. One rule: alternately in one run, against what a user would take instead, as ratios.

Absolute times mean nothing on shared machines; they are printed to show what the ratios come from.
"""
