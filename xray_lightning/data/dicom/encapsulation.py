"""Encapsulated pixel data (PS3.5 A.4): an offset table, fragments, a delimiter -> one frame."""

import struct

from xray_lightning.data.dicom.elements import AGAIN, refusal

_ITEM, _DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


def encapsulated_frame(data: memoryview, frame: int, frames: int) -> bytes:
    """The compressed bytes of one frame.

    ``data`` is the value of the pixel data element, always little endian; frames count from 0.

    Raises:
        InvalidImageError: the items are damaged or truncated, or cannot be told apart by frame.
    """
    (_, table), *fragments = _items(data)
    if not fragments:
        raise refusal("its compressed pixel data is empty", AGAIN)
    if frames == 1:
        return b"".join(content for _, content in fragments)
    if len(fragments) == frames:
        return bytes(fragments[frame][1])
    offsets = struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])
    if len(offsets) != frames:
        reason = f"its {len(fragments)} fragments do not tell {frames} frames apart"
        raise refusal(reason, "Rewrite it with DCMTK's dcmconv")
    begin, end = (*offsets, len(data))[frame : frame + 2]
    first = fragments[0][0]
    return b"".join(content for at, content in fragments if begin <= at - first < end)


def _items(data: memoryview) -> list[tuple[int, memoryview]]:
    """(offset, content) of each item up to the delimiter; the first is the offset table."""
    items: list[tuple[int, memoryview]] = []
    start = 0
    while start + 8 <= len(data):
        group, element, length = struct.unpack_from("<HHI", data, start)
        if items and (group, element) == _DELIMITER:
            return items
        if (group, element) != _ITEM:
            raise refusal(f"its pixel data is damaged at item {len(items)}", AGAIN)
        items.append((start, data[start + 8 : start + 8 + length]))
        start += 8 + length
    if start > len(data) or not items:
        raise refusal("it is truncated: its compressed pixel data breaks off", AGAIN)
    return items  # only the delimiter is missing: nothing of the picture
