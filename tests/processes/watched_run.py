"""One start of the main job, watched from outside: its workdir and its lines."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 0.002


class Job(NamedTuple):
    """Arguments that all starts have in common.

    Attributes:
      config: configuration file.
      flags: further ones.
      programs: directory of compiled programs.
      xla_flags: of each start.
    """

    config: Path
    flags: tuple[str, ...]
    programs: Path
    xla_flags: str = ""


class WatchedRun:
    """A process of the main job, with its lines on standard error."""

    def __init__(self, job: Job, workdir: Path):
        self.workdir, self.lines = workdir, list[str]()
        paths = (p for p in workdir.rglob("*") if "compiled" not in p.parts)
        self._before = {path: _identity(path) for path in paths}
        tests = Path(__file__).parents[1]
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{job.xla_flags} --xla_force_host_platform_device_count=1",
            "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_COMPILATION_CACHE_DIR": str(job.programs),
        }
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vl_ltr_jax.main"),
                *(f"--config={job.config}", f"--workdir={workdir}", *job.flags),
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listener.join()
        self.process.stderr.close()

    def end(self, seconds: float) -> int | None:
        """Returns the exit code, or None if it does not come in time."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._listener.join(10)
        return code

    def until(self, condition: Callable[[], bool]) -> bool:
        """Returns True when a condition holds, or False at the end of the run."""
        while self.process.poll() is None:
            if condition():
                return True
            time.sleep(POLL_SECONDS)
        return False

    def progress(self, stage: str) -> list[int]:
        """Returns the steps in lines of progress."""
        steps = [re.match(rf"{stage} (\d+)/", line) for line in list(self.lines)]
        return [int(match[1]) for match in steps if match]

    def starts(self, stage: str) -> bool:
        return any(f"{stage}: starts" in line for line in list(self.lines))

    def finished(self, stage: str) -> bool:
        """Returns True if the stage has its artifact."""
        return (self.workdir / stage / "artifact.json").exists()

    def writes(self, text: str, directory: str = "") -> bool:
        """Returns True if this start has written a file with such a name."""
        names = [name for name in self.names(directory) if text in name]
        paths = [self.workdir / directory / name for name in names]
        return any(
            _identity(path) not in (None, self._before.get(path)) for path in paths
        )

    def names(self, directory: str) -> list[str]:
        """Returns names in a directory, which may be absent."""
        try:
            return os.listdir(self.workdir / directory)
        except OSError:
            return []


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
