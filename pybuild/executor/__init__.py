"""Carries out a plan: stages in parallel, steps in order, layers on their way as they finish."""
