"""Where a network sees a finding: maps of every method, for any label."""

from xray_lightning.explain.maps import METHODS, class_map, class_maps

__all__ = ["METHODS", "class_map", "class_maps"]
