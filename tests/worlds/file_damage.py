"""What disks, networks and people do to files: strategies for hypothesis.

DAMAGE_TIMES=10 in the environment asks for ten times the examples, others each time.
"""

import contextlib
import copy
import json
import os
import resource
import struct
import traceback
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import vl_ltr_jax

_TIMES = int(os.environ.get("DAMAGE_TIMES", "1"))
_PACKAGE = str(Path(vl_ltr_jax.__file__).parent)
DEEP = b"[" * 30_000
TOKENS = (
    *(b"", b"\0", b"\0" * 64, b"\xff", b"\xef\xbb\xbf", b"\r\n", b"{}", b"[]", b"null"),
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"true", b'"', b",", b"{", b"}"),
    *(b"9" * 5000, b'"\\ud800"', b"../../x", DEEP, b'{"a":' * 30_000),
)
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 2**31, 2**40, 2**63, 10**30, 0.5, 1e308),
    *(float("nan"), float("inf"), "", "x", "1", "\ud800", "../x", "\x1b[2J", "a" * 999),
    *([], [[]], [None], {}, {"a": {}}, [0], ["x"], [-1, 2**62], [1.5]),
)
# Of lengths, counts and sizes.
NUMBERS = (0, 1, 2, 7, 8, 255, 2**16, 2**31 - 1, 2**31, 10**10, 2**53, 2**63, 2**64 - 1)


def examples(count):
    """Settings of a test with so many examples, the same ones on every machine."""
    return settings(
        max_examples=count * _TIMES,
        derandomize=_TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def outcome(load, path):
    """What a loader gives, or None where it refuses in words of ours.

    Fails for every other error, and for a message that does not name the file: the path
    or, for several files, their directory.
    """
    try:
        return load()
    except ValueError as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        kind = type(error)
        if not raised_in.startswith(_PACKAGE):
            raise
        if kind is not ValueError and not kind.__module__.startswith("vl_ltr_jax"):
            raise
        assert str(path) in str(error), f"does not name {path}: {error}"
        assert len(str(error)) < 20_000
        return None


@st.composite
def damaged_bytes(draw, data, tokens=TOKENS):
    """A few bytes flipped, cut, repeated, swapped or blank, or hostile ones put in."""
    data = bytearray(data)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 5)))):
        place = st.integers(0, max(len(data) - 1, 0))
        first, second = sorted((draw(place), draw(place)))
        how = draw(st.integers(0, 7))
        if how == 0 and data:
            data[first] ^= 1 << draw(st.integers(0, 7))
        elif how == 1 and data:
            data[first] = draw(st.integers(0, 255))
        elif how == 2:
            del data[first:]
        elif how == 3:
            del data[first : min(second, first + 64)]
        elif how == 4:
            data[first:first] = draw(st.sampled_from(tokens))
        elif how == 5:
            data[first:first] = data[first : min(second, first + 256)]
        elif how == 6:
            size = min(second - first, 64)
            data[first : first + size] = bytes(size)
        else:
            size = min((second - first) // 2, 32)
            left = data[first : first + size]
            data[first : first + size] = data[second : second + size]
            data[second : second + size] = left[: len(data[second : second + size])]
    return bytes(data)


def _paths(tree, here=()):
    yield here
    items = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree[:20])
    for key, value in items:
        yield from _paths(value, (*here, key))


@st.composite
def damaged_tree(draw, content, values=VALUES):
    """JSON with a part that is another, gone, misnamed, or longer."""
    root = {0: json.loads(json.dumps(content))}
    for _ in range(draw(st.sampled_from((1, 1, 2)))):
        *path, last = draw(st.sampled_from(list(_paths(root))[1:]))
        owner = root
        for key in path:
            owner = owner[key]
        how, value = draw(st.integers(0, 4)), owner[last]
        if how == 0 and path:
            del owner[last]
        elif how == 1 and isinstance(last, str):
            owner[draw(st.sampled_from(("", "x", "\ud800", last + " ")))] = value
            del owner[last]
        elif how == 2 and isinstance(value, int | float | list | str):
            owner[last] = copy.deepcopy(value * draw(st.sampled_from((2, 0, 50))))
        elif how == 3 and isinstance(value, list) and value:
            value[draw(st.integers(0, len(value) - 1))] = copy.deepcopy(value[0])
        else:
            # A copy, since the next damage may be in it.
            owner[last] = copy.deepcopy(draw(st.sampled_from(values)))
    return root[0]


def damaged_json(data):
    """Of the text of a JSON file, as bytes."""
    trees = damaged_tree(json.loads(data)).map(lambda tree: json.dumps(tree).encode())
    return st.one_of(trees, damaged_bytes(data))


@st.composite
def damaged_safetensors(draw, data):
    """Of a safetensors file: its header, the header's length, or any byte of it."""
    size = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + size], data[8 + size :]
    how = draw(st.integers(0, 5))
    if how == 0:
        return draw(damaged_bytes(data))
    if how == 1:
        length = draw(st.sampled_from((*NUMBERS, size - 1, size + 1, len(data))))
        return struct.pack("<Q", length) + data[8:]
    if how == 2:
        header = draw(damaged_bytes(header))
    elif how == 3:
        names = sorted(json.loads(header))
        old, new = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        header = header.replace(json.dumps(old).encode(), json.dumps(new).encode(), 1)
    else:
        tree = draw(damaged_tree(json.loads(header)))
        header = json.dumps(tree).encode()
    return struct.pack("<Q", len(header)) + header + tensors


@contextlib.contextmanager
def full_disk(size=16):
    """The operating system refuses files of more than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def flip(path):
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def largest_file(directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)
