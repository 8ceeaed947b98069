"""Damages of files as disks, networks and people make them, for hypothesis."""

import contextlib
import json
import resource
import struct

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

VALUES = (
    *(None, True, False, 0, 1, -1, 2, 11, 12, 2**31, 2**63, 10**30, 0.5, 1e308),
    *(float("nan"), float("inf"), "", "x", "1", "a\nb", "../x", "/x", "a" * 999),
    *([], [[]], [None], {}, {"a": {}}, [0], ["x"], [-1, 2**62], [1.5], {"id": 0}),
)
_WORDS = (
    *("", " ", "\t", "nan", "1e999", "-1", "0", "1", "11", "12", "9" * 30, "1_0"),
    *("\u0663", "True", "\ufeff", "\r", "\n", "\x85", "\u2028", "\0", "..", "../x"),
    *("/x", "{}", "[]", "null", "x" * 300, "images", "images/tench/train_0.jpg"),
)


def examples(count):
    """Settings of a test with so many examples, the same ones on every machine."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def _damaged_bytes(draw, data):
    """Bytes, a few flipped, cut, blank or put in."""
    data = bytearray(data)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 5)))):
        place = st.integers(0, max(len(data) - 1, 0))
        first, second = sorted((draw(place), draw(place)))
        size = min(second - first, 64)
        damage = draw(st.sampled_from(("flip", "cut", "lose", "blank", "insert")))
        if damage == "flip" and data:
            data[first] ^= 1 << draw(st.integers(0, 7))
        elif damage == "cut":
            del data[first:]
        elif damage == "blank":
            data[first : first + size] = bytes(size)
        else:
            new = draw(st.sampled_from(_WORDS)).encode() if damage == "insert" else b""
            data[first : first if new else first + size] = new
    return bytes(data)


@st.composite
def _damaged_rows(draw, data):
    """Rows of a text with one lost or doubled, or a word that is another."""
    rows = data.decode().splitlines()
    place = st.integers(0, len(rows) - 1)
    words = rows[draw(place)].split(" ")
    words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(_WORDS))
    new = draw(st.sampled_from(([], [" ".join(words)], [rows[draw(place)]] * 2)))
    first = draw(place)
    rows[first : first + 1] = new
    end = draw(st.sampled_from(("\n", "\n", "\r", "\r\n")))
    encoding = draw(st.sampled_from(("utf-8", "utf-8", "utf-16", "gbk")))
    return end.join(rows).encode(encoding, "replace")


def _places(tree):
    """Yields each container with its keys."""
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(min(len(tree), 20)):
            yield tree, key
            yield from _places(tree[key])


@st.composite
def _damaged_tree(draw, text):
    """JSON with a part that is another, lost or misnamed."""
    root = [json.loads(text)]
    owner, key = draw(st.sampled_from(list(_places(root))))
    damage = draw(st.sampled_from(("value", "value", "lose", "rename")))
    if damage == "lose":
        del owner[key]
    elif damage == "rename" and isinstance(owner, dict):
        owner[f"{key} "] = owner.pop(key)
    else:
        owner[key] = draw(st.sampled_from(VALUES))
    return json.dumps(root[0] if root else None).encode()


@st.composite
def _damaged_header(draw, data):
    """A safetensors file with another header, or another length of it."""
    size = int.from_bytes(data[:8], "little")
    header = draw(_damaged_tree(data[8 : 8 + size]))
    sizes = (len(header), len(header), 0, 2**31, 2**64 - 1, size - 1, len(data))
    return struct.pack("<Q", draw(st.sampled_from(sizes))) + header + data[8 + size :]


DAMAGES = {
    "bytes": _damaged_bytes,
    "text": lambda data: _damaged_rows(data) | _damaged_bytes(data),
    "json": lambda data: _damaged_tree(data) | _damaged_bytes(data),
    "safetensors": lambda data: _damaged_header(data) | _damaged_bytes(data),
}


@contextlib.contextmanager
def full_disk(size=16):
    """Lets the operating system refuse files of more than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def flip(path):
    """Flips one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def largest_file(directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)
