"""A matting network of four weights as an ONNX file, written by hand: the format is protobuf, and this is all of it.

The network is one convolution of 1 x 1: it takes red for the object.
"""

import struct
from pathlib import Path

FLOAT = 1


def write_red_matting(path: Path, side: int | str = 32, channels: int = 3, outputs: int = 1) -> Path:
    """A file that a loader of matting networks takes, unless it is told otherwise.

    Args:
        side: of the network; a word leaves it open.
    """
    weights = [3.0, -3.0, -3.0][:channels] * outputs
    node = _text(1, "input_image") + _text(1, "w") + _text(1, "b") + _text(2, "output_image") + _text(4, "Conv")
    graph = (
        _part(1, node)
        + _text(2, "red")
        + _part(5, _tensor("w", [outputs, channels, 1, 1], weights))
        + _part(5, _tensor("b", [outputs], [-1.0] * outputs))
        + _part(11, _value("input_image", [1, channels, side, side]))
        + _part(12, _value("output_image", [1, outputs, side, side]))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_number(1, 8) + _part(7, graph) + _part(8, _text(1, "") + _number(2, 13)))
    return path


def _tensor(name: str, shape: list[int], values: list[float]) -> bytes:
    raw = struct.pack(f"<{len(values)}f", *values)
    return b"".join(_number(1, size) for size in shape) + _number(2, FLOAT) + _text(8, name) + _part(9, raw)


def _value(name: str, shape: list[int | str]) -> bytes:
    sizes = [_number(1, size) if isinstance(size, int) else _text(2, size) for size in shape]
    kind = _number(1, FLOAT) + _part(2, b"".join(_part(1, size) for size in sizes))
    return _text(1, name) + _part(2, _part(1, kind))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _part(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _part(field, text.encode())
