"""Train, judge and explain chest radiograph classifiers."""
