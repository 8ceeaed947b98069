"""What people, disks and attackers do to a data set: a world to damage, and how.

More, and other ones: as `file_damage` says.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import traceback

from hypothesis import strategies as st

from worlds import checked_world, file_damage

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


def damaged_bytes(data):
    """Bytes of any file, see `file_damage`."""
    return file_damage.damaged_bytes(data, _BYTES)


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


def damaged_json(text):
    """Of a JSON file, as bytes: its values or its bytes."""
    trees = file_damage.damaged_tree(json.loads(text), VALUES)
    encoded = trees.map(lambda tree: json.dumps(tree).encode())
    return st.one_of(encoded, encoded, damaged_bytes(text.encode()))
