"""The embedded default data set: seeded, procedural frontal chest radiographs."""

from xray_lightning.data.phantom.source import Phantom

__all__ = ["Phantom"]
