"""Where a network sees a finding: maps of every method, for any label."""

from xray_lightning.explain.maps import (
    GATES,
    METHODS,
    cell_grids,
    class_map,
    class_maps,
    require_method,
)

__all__ = ["GATES", "METHODS", "cell_grids", "class_map", "class_maps", "require_method"]
