"""Files of arrays as MXNet stores them (``.params``), walked from end to end without loading any.

MXNet's reader takes a damaged file at its word: it asks for as much memory as a changed size wants.
Its writer does not notice when the last part finds no room on the disk. The layout is that of
``NDArray::Save`` and ``NDArray::Load`` in MXNet's src/ndarray/ndarray.cc.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Sequence, Tuple, Union

LIST_MAGIC = 0x112
# Of an array: with sizes of 64 bits; with a kind of storage; the same, written under NumPy. Still
# older arrays begin with their number of axes.
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
# How many further arrays a kind of storage has: dense, sparse by rows, and compressed rows.
FURTHER = {0: 0, 1: 1, 2: 2}
# By the numbers that MXNet gives to types; the last one is bfloat16.
BYTES = dict(enumerate((4, 8, 2, 1, 4, 1, 8, 1, 2, 2, 4, 8, 2)))


class DamagedFile(ValueError):
    """What is wrong with a file, as a sentence without its name."""


class _Walk:
    """Goes through a file and refuses to go beyond its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = os.fstat(file.fileno()).st_size

    def _advance(self, count: int) -> None:
        if not 0 <= count <= self._left:
            raise DamagedFile('it is cut short, or a size in it is wrong')
        self._left -= count

    def skip(self, count: int) -> None:
        self._advance(count)
        self._file.seek(count, os.SEEK_CUR)

    def bytes(self, count: int) -> bytes:
        self._advance(count)
        return self._file.read(count)

    def numbers(self, kind: str, count: int = 1) -> Tuple[int, ...]:
        # the count may be wrong too, and is refused before anything is made of it
        size = struct.calcsize('<' + kind)
        return tuple(one for (one,) in struct.iter_unpack('<' + kind, self.bytes(count * size)))

    def number(self, kind: str) -> int:
        return self.numbers(kind)[0]

    def shape(self) -> Tuple[int, ...]:
        return self.numbers('q', max(0, self.number('i')))


def _data_bytes(type_number: int, shape: Sequence[int]) -> int:
    if type_number not in BYTES or any(size < 0 for size in shape):
        raise DamagedFile('an array in it has no type or no shape')
    count = BYTES[type_number]
    for size in shape:
        count *= size
    return count


def _walk_array(walk: _Walk) -> None:
    magic = walk.number('I')
    further = 0
    stored: Tuple[int, ...] = ()
    if magic in (V2_MAGIC, V3_MAGIC):
        storage = walk.number('i')
        if storage not in FURTHER:
            raise DamagedFile('an array in it has an unknown kind of storage')
        further = FURTHER[storage]
        if further:
            stored = walk.shape()
    shape = walk.numbers('I', magic) if magic < V1_MAGIC else walk.shape()
    if not shape and magic != V3_MAGIC:
        return  # an array that was never made
    walk.skip(8)  # the device
    arrays = [(walk.number('i'), stored if further else shape)]
    arrays += [(walk.number('i'), walk.shape()) for _ in range(further)]
    for type_number, sizes in arrays:
        walk.skip(_data_bytes(type_number, sizes))


def check(path: Union[str, os.PathLike[str]]) -> None:
    """Refuse a file that is not a whole one of arrays.

    Raises
    ------
    DamagedFile
        With the reason.
    OSError
        If it cannot be read.
    """
    with open(path, 'rb') as file:
        walk = _Walk(file)
        if walk.numbers('Q', 2)[0] != LIST_MAGIC:
            raise DamagedFile('it does not begin like one')
        for _ in range(walk.number('Q')):
            _walk_array(walk)
        for _ in range(walk.number('Q')):
            try:
                walk.bytes(walk.number('Q')).decode()
            except UnicodeDecodeError:
                raise DamagedFile('a name in it is no text') from None
