"""What people, disks and attackers do to a data set: a world to damage, and how.

DAMAGE_TIMES=10 in the environment asks for ten times the examples, others each time.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import traceback

import checked_world
import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

TIMES = int(os.environ.get("DAMAGE_TIMES", "1"))
_SECONDS = 60  # after which a test is taken for hung
# Paths of a world that lead to what must not be read.
TRAPS = (
    *("images/pipe.jpg", "images/zero.jpg", "images/socket.jpg", "images/loop.jpg"),
    *("images/out.jpg", "images/outside/secret.jpg", "outside/secret.jpg"),
    *("images/up.jpg", "images", "images/round/round/round/pipe.jpg"),
)
TOKENS = (
    *("", " ", "\t", "nan", "1e999", "-0", "-1", "0", "1", "11", "12", "999999999"),
    *("9" * 30, "9" * 5000, "0x1", "1_0", "\u0663", "\uff11", "\u00b2", "True", "null"),
    *("\0", "\ufeff", "\r", "\n", "\r\n", "\x0b", "\x1c", "\x85", "\u2028", "\x1b[2J"),
    *("..", "../x", "../../etc/passwd", "/etc/passwd", "/", "//", ".", "~", "~root/x"),
    *("a/../../x.jpg", "https://example.org/x.jpg", "file:///etc/passwd", "C:\\x.jpg"),
    *("{}", "%s", "\u202e", "x" * 300, "a/" * 3000, "y" * 70_000, *TRAPS),
    "images/tench/train_0.jpg",
)
_BYTES = (
    *(
        b"\xff",
        b"\xed\xa0\x80",
        b"\xff\xfe",
        b"\xfe\xff",
        b"\0\0",
        b"\x81",
        b"\x1f\x8b",
    ),
    *(b"PK\x05\x06", b"\xef\xbb\xbf", b"\x00\xd8", b"[" * 30_000, b'{"a":' * 9000),
)
# In place of a value of JSON or of a configuration.
VALUES = (
    *(None, True, False, 0, 1, -1, 11, 12, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), float("-inf"), "", "x", "1", "\ud800", "\udcff"),
    *("a\nb", "a\rb", "\0", "../../etc/passwd", "/etc/passwd", "~nobody/x", "x" * 5000),
    *([], [[]], {}, {"a": {}}, [0], ["x"], [1.5], {"id": 0}, *TRAPS),
)


def examples(count):
    """Settings of a test with so many examples, the same ones on every machine."""
    return hypothesis.settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def no_hang():
    """Fails what waits for a pipe, or goes round for ever, in place of waiting too."""

    def end(number, frame):
        raise TimeoutError("".join(traceback.format_stack(frame)))

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(load, *names):
    """What a loader gives, or None where it refuses in words of ours.

    Fails for every other error, and for a message that is endless or names none of the
    files.
    """
    with no_hang():
        try:
            return load()
        except ValueError as error:
            if not type(error).__module__.startswith("vl_ltr_jax"):
                raise
            message = str(error)
    assert not names or any(str(name) in message for name in names), message
    assert len(message) < 5000, message[:300]
    return None


def write_world(root):
    """Lists, JSON files, folders and archives of twelve classes, and traps around."""
    outside = root.parent / f"{root.name}_secret"
    checked_world.write_inat(root)
    shutil.copytree(root / "images", root / "train")
    shutil.copytree(root / "images", root / "val")
    outside.mkdir()
    secret = outside / "secret.jpg"
    secret.write_bytes((root / "images/acorn/train_0.jpg").read_bytes())
    traps = root / "images"
    os.mkfifo(traps / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        place = os.open(traps, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{place}/socket.jpg")
        os.close(place)
    for link, target in {
        **{"zero.jpg": "/dev/zero", "loop.jpg": "loop.jpg", "out.jpg": secret},
        **{"outside": outside, "up.jpg": "../../etc/passwd", "round": "."},
    }.items():
        (traps / link).symlink_to(target)
    (root / "outside").symlink_to(outside)
    return root


@contextlib.contextmanager
def changed(path, content):
    """A file with another content for a while; None: without it."""
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(before)


@st.composite
def damaged_bytes(draw, data):
    """A few bytes flipped, cut, doubled or blank, or hostile ones put in."""
    data = bytearray(data)
    for _ in range(draw(st.sampled_from((1, 1, 2, 5)))):
        place = st.integers(0, max(len(data) - 1, 0))
        first, second = sorted((draw(place), draw(place)))
        how = draw(st.integers(0, 6))
        if how == 0 and data:
            data[first] ^= 1 << draw(st.integers(0, 7))
        elif how == 1:
            del data[first:]
        elif how == 2:
            del data[first : min(second, first + 64)]
        elif how == 3:
            data[first:first] = draw(st.sampled_from(_BYTES))
        elif how == 4:
            data[first:first] = data[first : min(second, first + 256)]
        elif how == 5:
            data[first : first + 16] = bytes(min(16, len(data) - first))
        elif data:
            data[first] = draw(st.integers(0, 255))
    return bytes(data)


@st.composite
def damaged_rows(draw, text):
    """Rows of a text moved, doubled or gone, or a word of one that is another."""
    rows = text.splitlines()
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
        place = st.integers(0, max(len(rows) - 1, 0))
        first, second, how = draw(place), draw(place), draw(st.integers(0, 9))
        token = draw(st.sampled_from(TOKENS))
        if how == 0:
            rows[first:first] = [token]
        elif how == 1 and rows:
            rows[first], rows[second] = rows[second], rows[first]
        elif how == 2 and rows:
            rows[first:first] = [rows[second]]
        elif how == 3:
            del rows[first : first + draw(st.sampled_from((1, 1, 1000)))]
        elif rows:
            words = rows[first].split(" ")
            words[draw(st.integers(0, len(words) - 1))] = token
            rows[first] = " ".join(words)
    end = draw(st.sampled_from(("\n", "\n", "\n", "\r", "\r\n", "")))
    text = draw(st.sampled_from(("", "", "", "\ufeff"))) + end.join(rows) + end
    codecs = ("utf-8", "utf-8", "utf-8", "utf-16", "gbk", "utf-16-be", "latin-1")
    return text.encode(draw(st.sampled_from(codecs)), "replace")


def damaged_text(text):
    """Of a text file: its rows or its bytes."""
    return st.one_of(
        damaged_rows(text), damaged_rows(text), damaged_bytes(text.encode())
    )


def _paths(tree, here=()):
    yield here
    items = tree.items() if isinstance(tree, dict) else ()
    if isinstance(tree, list):
        items = enumerate(tree[:20])
    for key, value in items:
        yield from _paths(value, (*here, key))


@st.composite
def damaged_json(draw, text):
    """JSON with a part that is another, gone, misnamed or doubled, or damaged bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(damaged_bytes(text.encode()))
    root = {0: json.loads(text)}
    for _ in range(draw(st.sampled_from((1, 1, 1, 2)))):
        *path, last = draw(st.sampled_from(list(_paths(root))[1:]))
        owner = root
        for key in path:
            owner = owner[key]
        how, value = draw(st.integers(0, 6)), owner[last]
        if how == 0 and path:
            del owner[last]
        elif how == 1 and isinstance(owner, dict) and path:
            owner[draw(st.sampled_from(("", "x", "\ud800", f"{last} ")))] = value
            del owner[last]
        elif how == 2 and isinstance(value, list) and value:
            value.append(value[0])
        else:
            owner[last] = draw(st.sampled_from(VALUES))
    return json.dumps(root[0]).encode()
