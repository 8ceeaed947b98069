"""Applies the edits that parity tests say would break them, one by one.

    python tests/mutation/mutations.py [--check] [WORD ...]

Each edit is made in a copy of the repository, and the tests named with it run there. An
edit that no test catches is reported and makes the exit code 1. WORDs choose edits by
their description. `--check` only verifies that each edit still applies.

The edits are in `edits_*.txt`, line by line:

    @ file
    > test that must fail, or several
    description
    - text of the file
    + text in its place
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Edit(NamedTuple):
    """One wrong line, and the tests that must notice it."""

    description: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> str:
        """Returns the edited text of the file, in which `before` must stand once."""
        source = (root / self.file).read_text()
        if source.count(self.before) != 1:
            place = f"{self.description}: {self.before!r}"
            raise ValueError(f"{place} is not once in {self.file}")
        return source.replace(self.before, self.after)


def read_edits(path: Path) -> list[Edit]:
    """Returns the edits of a text file."""
    edits: list[Edit] = []
    file, tests, previous = "", (), ""
    texts: dict[str, list[str]] = {}
    description = ""

    def finish() -> None:
        if texts:
            before, after = ("\n".join(texts.get(sign, [])) for sign in "-+")
            edits.append(Edit(description, file, before, after, tests))
            texts.clear()

    for line in filter(None, path.read_text().splitlines()):
        sign, content = line[0], line[2:]
        if sign in "-+":
            texts.setdefault(sign, []).append(content)
        else:
            finish()
        if sign == "@":
            file = content
        elif sign == ">":
            tests = (*tests, content) if previous == ">" else (content,)
        elif sign not in "-+":
            description = line
        previous = sign
    finish()
    return edits


EDITS = [
    edit
    for path in sorted(Path(__file__).parent.glob("edits_*.txt"))
    for edit in read_edits(path)
]


def survives(edit: Edit) -> bool:
    """Returns True if the tests pass although the edit was made."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignore = shutil.ignore_patterns(".*", "runs", "*.egg-info")
        shutil.copytree(ROOT, copy, ignore=ignore)
        (copy / edit.file).write_text(edit.apply(copy))
        run = subprocess.run(
            # The copy in front, so that an installed package is not taken instead.
            [sys.executable, "-m", "pytest", "-q", "-x", "-n0", *edit.tests],
            cwd=copy,
            env={"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        if run.returncode not in (0, 1):
            raise RuntimeError(f"{edit.description}: the tests stopped\n{run.stdout}")
        return run.returncode == 0


def main() -> int:
    """Tries the edits whose description has a word, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    survivors = 0
    for edit in EDITS:
        if options.words and not any(w in edit.description for w in options.words):
            continue
        if options.check:
            edit.apply(ROOT)
            continue
        survived = survives(edit)
        survivors += survived
        result = "NOT CAUGHT" if survived else "caught"
        print(f"{result:10} {edit.description}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
