"""Data sets, splits, cache, augmentation, loaders."""
