"""Traps around a data set, and a limit on the time that a reader may take."""

import contextlib
import os
import shutil
import signal
import socket
import traceback

from worlds import checked_world

_SECONDS = 60


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
