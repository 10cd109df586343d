import json
import struct
import zlib

import numpy as np
import pytest
from gptfluence.page.blocks import pack, to_text


def test_a_block_holds_its_header_and_arrays_by_byte_planes() -> None:
    arrays = {
        "a": np.array([[1, -2], [300, 70_000]], np.int32),
        "none": np.zeros((0, 3), np.float32),
        "b": np.array([0.1, -1e300]),
    }
    block = zlib.decompress(pack({"name": "é </script>"}, arrays))
    (length,) = struct.unpack("<I", block[:4])
    header, body = json.loads(block[4 : 4 + length]), block[4 + length :]
    assert header["name"] == "é </script>"
    for name, array in arrays.items():
        place = header["arrays"][name]
        raw = body[place["offset"] : place["offset"] + array.nbytes]
        width = array.dtype.itemsize
        whole = bytes(raw[plane * array.size + x] for x in range(array.size) for plane in range(width))
        np.testing.assert_array_equal(np.frombuffer(whole, array.dtype).reshape(place["shape"]), array)
    assert pack({"x": 1}, arrays) == pack({"x": 1}, arrays)


@pytest.mark.parametrize("size", [0, 1, 13, 1000])
def test_text_gives_its_bytes_back_and_ends_no_element(size: int) -> None:
    block = np.random.default_rng(size).bytes(size)
    count, _, text = to_text(block).partition(" ")
    assert int(count) == size and not set("&<> \n") & set(text) and text.isascii()
    letters = [chr(code) for code in range(33, 127) if chr(code) not in "&<>"]
    bits = "".join(f"{letters.index(text[i]) * 91 + letters.index(text[i + 1]):013b}" for i in range(0, len(text), 2))
    assert bytes(int(bits[8 * i : 8 * i + 8], 2) for i in range(size)) == block
