"""Scores of a network against the truth: predicted, evaluated, compared."""
