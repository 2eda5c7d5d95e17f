"""What a classifier takes besides files, as (H, W) uint8: arrays, tensors, PIL, pydicom."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pil
from PIL import ImageOps
from pydicom import Dataset, dcmwrite
from torch import Tensor, bfloat16

from xray_lightning.data.dicom import to_uint8
from xray_lightning.data.files import is_dicom, read_file
from xray_lightning.data.images import decode_image, to_grey8
from xray_lightning.errors import InvalidImageError
from xray_lightning.wording import fault

Pixels = npt.NDArray[np.uint8]
Image = str | Path | npt.NDArray[Any] | Tensor | Pil.Image | Dataset
Range = tuple[float, float]  # the values that mean black and white

COLOURS = ("1", "LA", "P", "PA", "RGB", "RGBA", "RGBX")  # of PIL, besides grey


def list_images(images: Image | Sequence[Image]) -> Sequence[Image]:
    """One image or many as a sequence; a stack is taken apart."""
    if isinstance(images, Tensor | np.ndarray):
        stack = to_array(images)
        stack = stack[:, 0] if stack.ndim == 4 and stack.shape[1] == 1 else stack
        return list(stack) if stack.ndim == 3 and stack.shape[2] > 4 else [stack]
    if isinstance(images, str | Path | Pil.Image | Dataset):
        return [images]
    if isinstance(images, Sequence):
        return images
    raise InvalidImageError(fault("no_input", "images", type(images).__name__))


def read_input(image: object, value_range: Range | None = None) -> tuple[Pixels, bytes | None]:
    """Any image, (H, W) uint8, and the DICOM file it is or would be, None of any other."""
    if isinstance(image, str | Path | Dataset):
        if isinstance(image, Dataset):
            data, name = to_bytes(image), "pydicom dataset"
        else:
            data, name = read_file(Path(image)), str(Path(image))
        return decode_image(data, name), data if is_dicom(data, name) else None
    if isinstance(image, Pil.Image):
        return from_pil(image), None
    if not isinstance(image, Tensor | np.ndarray):
        raise InvalidImageError(fault("no_input", "an image", type(image).__name__))
    array = to_array(image)
    single = array.ndim > 2 and set(array.shape[:-2]) == {1}
    return from_array(array.reshape(array.shape[-2:]) if single else array, value_range), None


def to_array(values: Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of either; bfloat16, which NumPy lacks, and float16 become float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == bfloat16 else values).numpy()
    return values.astype(np.float32) if values.dtype == np.float16 else values


def from_array(image: npt.NDArray[Any], value_range: Range | None = None) -> Pixels:
    """``round(255 x)`` of (H, W) integers or floats, x from black to white; see ``Classifier``."""
    if image.ndim != 2 or not image.size:
        given = f"an array of shape {image.shape}"
        raise InvalidImageError(fault("no_input", "a grey image (H, W)", given))
    if image.dtype.kind not in "iuf":
        raise InvalidImageError(fault("no_input", "integers or floats", image.dtype))
    if value_range is None and image.dtype == np.uint8:
        return image
    if value_range is None and image.dtype.kind != "f":
        raise InvalidImageError(fault("which_is_white", image.dtype))
    (black, white), low, high = value_range or (0.0, 1.0), image.min(), image.max()
    if not (black <= low and high <= white):  # also NaN
        raise InvalidImageError(fault("beyond_range", black, white, low, high))
    return to_uint8((image - float(black)) / (float(white) - float(black)))


def from_pil(image: Pil.Image) -> Pixels:
    """As the file reader reads the same picture: upright, 16 bits in full, colour as luma."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "L":
        return np.asarray(image)
    if image.mode.startswith("I;16"):
        return to_grey8(np.asarray(image).astype(np.uint16), 65535)
    if image.mode not in COLOURS:
        raise InvalidImageError(fault("mode_of_image", image.mode))
    return to_grey8(np.asarray(image.convert("RGB"))[:, :, ::-1], 255)  # OpenCV's order


def to_bytes(dataset: Dataset) -> bytes:
    """The file a dataset would be; messages hold no value of it."""
    file = BytesIO()
    try:
        dcmwrite(file, dataset, enforce_file_format=True)
    except Exception as error:  # noqa: BLE001 - of any type, and its text may hold a name
        raise InvalidImageError(fault("no_whole_file", type(error).__name__)) from None
    return file.getvalue()
