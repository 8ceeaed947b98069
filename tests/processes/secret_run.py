"""A run with secrets around it, looked at for what README promises under Security."""

import contextlib
import os
import threading
from pathlib import Path

import pytest

MARK = "Gk7wQz41"  # of secrets
SECRETS = {
    "HF_TOKEN": f"hf_{MARK}",
    "WANDB_API_KEY": MARK,
    "AWS_SECRET_ACCESS_KEY": MARK,
    "GOOGLE_APPLICATION_CREDENTIALS": f"/nowhere/{MARK}.json",
    "HTTPS_PROXY": f"http://user:{MARK}@127.0.0.1:9",
    "https_proxy": f"http://user:{MARK}@127.0.0.1:9",
}
_MASK = 0o027
_PAUSE = 0.1  # seconds


@contextlib.contextmanager
def watched(listened):
    """Adds the TCP sockets on which this process waits for others to a set."""
    ended, before = threading.Event(), _listening()

    def watch():
        while not ended.wait(_PAUSE):
            listened.update(_listening() - before)

    watcher = threading.Thread(target=watch)
    mask = os.umask(_MASK)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in SECRETS.items():
                patch.setenv(name, value)
            watcher.start()
            yield
    finally:
        os.umask(mask)
        ended.set()
        watcher.join()


def check_files(workdir):
    """No secret is in a file, and the user's mask holds for each."""
    files = [path for path in Path(workdir).rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert MARK.encode() not in path.read_bytes(), path
        assert path.stat().st_mode & _MASK == 0, path


def _listening():
    """Inodes of this process's TCP sockets that others could connect to."""
    mine = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            mine.add(os.readlink(link))
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        if (path := Path(f"/proc/self/net/{table}")).exists()
        for line in path.read_text().splitlines()[1:]
    ]
    return {row[9] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine}
