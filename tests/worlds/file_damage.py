"""Damages of files as disks, networks and people make them: strategies for hypothesis.

DAMAGE_TIMES=10 in the environment asks for ten times the examples, others each time.
"""

import contextlib
import copy
import json
import os
import resource
import struct

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_TIMES = int(os.environ.get("DAMAGE_TIMES", "1"))
_BYTES = (
    *(b"", b"\0", b"\0" * 64, b"\xff", b"\xef\xbb\xbf", b"\r\n", b"{}", b"[]", b"null"),
    *(b"NaN", b"1e999", b"-1", b"0", b"true", b'"', b",", b"{", b"}", b"9" * 5000),
)
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 11, 12, 2**31, 2**63, 10**30, 0.5, 1e308),
    *(float("nan"), float("inf"), "", "x", "1", "a\nb", "../x", "/x", "a" * 999),
    *([], [[]], [None], {}, {"a": {}}, [0], ["x"], [-1, 2**62], [1.5], {"id": 0}),
)
_WORDS = (
    *("", " ", "\t", "nan", "1e999", "-1", "0", "1", "11", "12", "9" * 30, "1_0"),
    *("\u0663", "\u00b2", "True", "\ufeff", "\r", "\n", "\x0b", "\x85", "\u2028"),
    *("..", "../x", "/x", "/", ".", "~", "a/../../x.jpg", "{}", "%s", "x" * 300),
    *("https://example.org/x.jpg", "C:\\x.jpg", "images", "images/tench/train_0.jpg"),
)


def examples(count):
    """Settings of a test with so many examples, the same ones on every machine."""
    return settings(
        max_examples=count * _TIMES,
        derandomize=_TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged_bytes(draw, data):
    """Bytes, a few flipped, cut, repeated, blank or put in."""
    data = bytearray(data)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 5)))):
        place = st.integers(0, max(len(data) - 1, 0))
        first, second = sorted((draw(place), draw(place)))
        damage = draw(st.integers(0, 6))
        if damage == 0 and data:
            data[first] ^= 1 << draw(st.integers(0, 7))
        elif damage == 1 and data:
            data[first] = draw(st.integers(0, 255))
        elif damage == 2:
            del data[first:]
        elif damage == 3:
            del data[first : min(second, first + 64)]
        elif damage == 4:
            data[first:first] = draw(st.sampled_from(_BYTES))
        elif damage == 5:
            data[first:first] = data[first : min(second, first + 256)]
        else:
            size = min(second - first, 64)
            data[first : first + size] = bytes(size)
    return bytes(data)


@st.composite
def _damaged_rows(draw, data):
    """Rows of a text moved, doubled or lost, or a word that is another."""
    rows = data.decode().splitlines()
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
        place = st.integers(0, max(len(rows) - 1, 0))
        first, second, damage = draw(place), draw(place), draw(st.integers(0, 7))
        word = draw(st.sampled_from(_WORDS))
        if damage == 0:
            rows[first:first] = [word]
        elif damage == 1 and rows:
            rows[first], rows[second] = rows[second], rows[first]
        elif damage == 2 and rows:
            rows[first:first] = [rows[second]]
        elif damage == 3:
            del rows[first : first + draw(st.sampled_from((1, 1, 1000)))]
        elif rows:
            words = rows[first].split(" ")
            words[draw(st.integers(0, len(words) - 1))] = word
            rows[first] = " ".join(words)
    end = draw(st.sampled_from(("\n", "\n", "\n", "\r", "\r\n", "")))
    text = draw(st.sampled_from(("", "", "", "\ufeff"))) + end.join(rows) + end
    encodings = ("utf-8", "utf-8", "utf-8", "utf-16", "gbk", "latin-1")
    return text.encode(draw(st.sampled_from(encodings)), "replace")


def _paths(tree, path=()):
    yield path
    items = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree[:20])
    for key, value in items:
        yield from _paths(value, (*path, key))


@st.composite
def damaged_tree(draw, content):
    """JSON with a part that is another, lost, misnamed, or longer."""
    root = {0: json.loads(json.dumps(content))}
    for _ in range(draw(st.sampled_from((1, 1, 2)))):
        *path, last = draw(st.sampled_from(list(_paths(root))[1:]))
        owner = root
        for key in path:
            owner = owner[key]
        damage, value = draw(st.integers(0, 4)), owner[last]
        if damage == 0 and path:
            del owner[last]
        elif damage == 1 and isinstance(last, str):
            owner[draw(st.sampled_from(("", "x", last + " ")))] = value
            del owner[last]
        elif damage == 2 and isinstance(value, int | float | list | str):
            owner[last] = copy.deepcopy(value * draw(st.sampled_from((2, 0, 50))))
        elif damage == 3 and isinstance(value, list) and value:
            value[draw(st.integers(0, len(value) - 1))] = copy.deepcopy(value[0])
        else:
            # A copy, since the next damage may be in it.
            owner[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    return root[0]


def _damaged_json(data):
    trees = damaged_tree(json.loads(data)).map(lambda tree: json.dumps(tree).encode())
    return trees | damaged_bytes(data)


@st.composite
def _damaged_safetensors(draw, data):
    """A safetensors file with another header, another length of it, or other bytes."""
    size = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + size], data[8 + size :]
    damage = draw(st.integers(0, 4))
    if damage == 0:
        return draw(damaged_bytes(data))
    if damage == 1:
        sizes = (0, 7, 2**31, 2**53, 2**64 - 1, size - 1, size + 1, len(data))
        return struct.pack("<Q", draw(st.sampled_from(sizes))) + data[8:]
    if damage == 2:
        names = sorted(json.loads(header))
        old, new = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        header = header.replace(json.dumps(old).encode(), json.dumps(new).encode(), 1)
    else:
        header = json.dumps(draw(damaged_tree(json.loads(header)))).encode()
    return struct.pack("<Q", len(header)) + header + tensors


DAMAGES = {
    "bytes": damaged_bytes,
    "text": lambda data: _damaged_rows(data) | damaged_bytes(data),
    "json": _damaged_json,
    "safetensors": _damaged_safetensors,
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
