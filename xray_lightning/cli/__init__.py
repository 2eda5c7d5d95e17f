"""Commands; the only place that knows Hydra."""
