"""Augmentation of training images; the only module that imports albumentations."""

import os
import random
from collections.abc import Sequence

# albumentations asks a registry for its newest version on import unless this is set before.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import numpy.typing as npt

from xray_lightning.data.on_device import Changes
from xray_lightning.errors import ConfigError, require_choice, require_number
from xray_lightning.wording import fault

Image = npt.NDArray[np.uint8]


class Augmentation:
    """Random transforms of albumentations, in order; the result depends on image and seed only.

    ``on`` is where training augments: "cpu"; "gpu", by ``changes``, whole batches at a time; "auto"
    is the GPU where the network trains on one and there are ``changes``. The draws of one seed
    differ between the two, their distribution does not.
    """

    def __init__(
        self,
        transforms: Sequence[A.BasicTransform | A.BaseCompose] = (),
        changes: Changes | None = None,
        on: str = "auto",
    ) -> None:
        require_choice("augment.on", on, ("auto", "cpu", "gpu"))
        self.transforms, self.changes, self.on = tuple(transforms), changes, on
        self.by_cpu = on == "cpu" or (bool(transforms) and changes is None)
        if on == "gpu" and self.by_cpu:
            raise ConfigError(fault("no_changes"))
        self._compose = A.Compose(list(transforms)) if transforms else None

    def __call__(self, image: Image, seed: int) -> Image:
        """Transform one image, (H, W) uint8 to (H, W) uint8."""
        # one Compose shared by workers makes batches depend on their number: a seed for every image
        if self._compose is None:
            return image
        # and one generator for all transforms: with one each, of equal seeds (set_random_seed),
        # mirror images were those that move to the left
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return np.asarray(self._compose(image=image)["image"])


def augment_none() -> Augmentation:
    """No augmentation."""
    return Augmentation()


def augment_light(
    flip: float = 0.5, rotate: float = 5.0, shift: float = 0.05, zoom: float = 0.1, on: str = "auto"
) -> Augmentation:
    """Mirror image and a small affine change; black where the image moved away.

    Args:
        flip: probability of the mirror image.
        rotate: largest angle in degrees.
        shift: largest shift as a share of the side.
        zoom: largest change of scale, the same on both axes; 0.1 is 0.9 to 1.1.
        on: auto, cpu or gpu, see :class:`Augmentation`.
    """
    return _flip_and_move(Changes(flip, rotate, 0, shift, (1 - zoom, 1 + zoom)), on)


def augment_xray14(
    flip: float = 0.5,
    rotate: float = 10.0,
    shift: float = 0.1,
    zoom_min: float = 0.8,
    zoom_max: float = 1.2,
    on: str = "auto",
) -> Augmentation:
    """The augmentation of xray14-keras: zoom independent on both axes, constant fill 0.

    Its shear was given in degrees (0.1), which does nothing, and is left out. ``zoom_min`` and
    ``zoom_max`` are the smallest and the largest scale; the others as of :func:`augment_light`.
    """
    return _flip_and_move(Changes(flip, rotate, 0, shift, (zoom_min, zoom_max), False), on)


def augment_rsna(
    rotate: float = 10.0, shear: float = 16.0, shift: float = 20 / 512, on: str = "auto"
) -> Augmentation:
    """The augmentation of chexnet_auroc: one of mirror, rotation, blur, shear, shift, or nothing.

    ``shear`` is the largest one in degrees; the others as of :func:`augment_light`, ``shift`` was
    20 of 512 pixels in the original.
    """
    moved = {"x": (-shift, shift), "y": (-shift, shift)}
    choices = [
        A.HorizontalFlip(p=1.0),
        A.Affine(rotate=(-rotate, rotate), fill=0, p=1.0),
        A.GaussianBlur(blur_limit=(3, 5), p=1.0),
        A.Affine(shear={"x": (-shear, shear), "y": (0, 0)}, fill=0, p=1.0),
        A.Affine(translate_percent=moved, fill=0, p=1.0),
        A.NoOp(p=1.0),
    ]
    changes = Changes(rotate=rotate, shear=shear, shift=shift, single=True)
    return Augmentation([A.OneOf(choices, p=1.0)], changes, on)


def equalise(image: Image, clip_limit: float = 2.0, tiles: int = 8) -> Image:
    """Contrast-limited adaptive histogram equalisation (CLAHE), (H, W) uint8; never random."""
    return np.asarray(cv2.createCLAHE(clip_limit, (tiles, tiles)).apply(image), np.uint8)


def _flip_and_move(most: Changes, on: str) -> Augmentation:
    require_number("augment.flip", most.flip, 0, 1, "[]")
    least, largest = most.zoom
    if not 0 < least <= largest:
        raise ConfigError(f"zoom must satisfy 0 < smallest <= largest, got {least} and {largest}")
    move = A.Affine(
        scale={"x": most.zoom, "y": most.zoom},
        translate_percent={"x": (-most.shift, most.shift), "y": (-most.shift, most.shift)},
        rotate=(-most.rotate, most.rotate),
        keep_ratio=most.keep_ratio,
        fill=0,
        p=1.0,
    )
    return Augmentation([A.HorizontalFlip(p=most.flip), move], most, on)
