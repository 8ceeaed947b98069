"""Pictures recognised from the command line.

    python -m vl_ltr_jax.predict --workdir=DIR a.jpg FOLDER 'pictures/**/*.png'
    find /pictures -name '*.jpg' -print0 | python -m vl_ltr_jax.predict --workdir=DIR -

The likeliest classes of each picture, and the sentences that spoke for the first. A
file that cannot be read is told on standard error and the rest is done; the exit code
is 0 if all were recognised, 1 if some were not, 2 if there was nothing to do it with.
"""

import argparse
import collections
import contextlib
import errno
import functools
import io
import itertools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from etils import epath
from PIL import Image

from vl_ltr_jax.commands import exits
from vl_ltr_jax.data.images import picture_folders
from vl_ltr_jax.data.images.picture_folders import Found
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.logs import console, messages
from vl_ltr_jax.recognizer import formats, load, picture_files
from vl_ltr_jax.recognizer.batch import recognize_files
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.runtime import compilation_cache, cpu_memory, errors
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic, paths

_EXAMPLES = """\
examples:
  # the five likeliest classes of each picture, and why the first
  python -m vl_ltr_jax.predict --workdir=runs/shapes_lt a.jpg FOLDER

  # a table of many, for other programs
  python -m vl_ltr_jax.predict --workdir=runs/shapes_lt --csv --out=answers.csv FOLDER

The exit code is 0 if every picture was recognised, 1 if some were not, 2 if there
is no run or no picture is named."""
_FORMATS: dict[str, formats.Format] = {
    "text": formats.to_text,
    "json": formats.to_json,
    "csv": formats.to_csv,
}


class UsageError(UserError):
    """A command without anything to do, or without a place for its answers."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command line.

    Returns:
      The exit code.
    """
    _open_closed_streams()
    given = _parse(arguments)
    console.be_quiet(given.quiet)
    # Pillow warns of what it decodes all the same, and refuses twice as much.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    left_out: collections.Counter[str] = collections.Counter()
    try:
        found = _not_empty(_files(given.pictures, left_out))
        with errors.system_faults(), _output(given.out) as write:
            compilation_cache.write_beside(
                given.workdir, token_cache.default_directory()
            )
            recognizer = load.load(given.workdir)
            counts = _answer(recognizer, found, write, given)
    except BrokenPipeError:  # `| head` has seen enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        console.error("interrupted")
        return 128 + signal.SIGINT
    except UserError as error:
        return exits.report(error)
    _tell(counts, left_out)
    return 1 if counts["bad"] else 0


def _open_closed_streams() -> None:
    """Of a process that was started without some: what is said there goes nowhere."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vl_ltr_jax.predict",
        allow_abbrev=False,
        description=__doc__.split("\n")[0],
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "pictures",
        metavar="PICTURE",
        nargs="+",
        help="files; folders, searched to any depth; patterns in quotes, with ** for "
        "any depth; - for paths on standard input, one a line or each ended by a NUL",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        type=epath.Path,
        required=True,
        help="of a finished run, or where a recognizer was saved",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        default="text",
        help="JSON Lines, one object for each file: path, predictions (class, name, "
        "probability) and sentences (text, weight, cosine), or path and error; by "
        "default text for people",
    )
    form.add_argument(
        "--csv",
        dest="format",
        action="store_const",
        const="csv",
        help="a row for each picture and rank: " + formats.CSV_HEADER.strip(),
    )
    positive = _at_least(1)
    for name, kind, default, text in (
        ("top_k", positive, 5, "classes of each picture"),
        ("sentences", _at_least(0), 3, "that spoke for the first class"),
        ("batch_size", positive, 64, "pictures recognised together"),
    ):
        parser.add_argument(
            f"--{name}",
            metavar="N",
            type=kind,
            default=default,
            help=f"{text}; default {default}",
        )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="where the answers go; it appears whole; default standard output",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="show no progress; default: shown"
    )
    return parser.parse_args(paths.expand_arguments(arguments))


def _at_least(smallest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (value := int(text)) < smallest:
            raise argparse.ArgumentTypeError(f"{value} is less than {smallest}")
        return value

    number.__name__ = "whole number"  # as argparse calls it in its messages
    return number


def _files(names: Sequence[str], left_out: collections.Counter[str]) -> Iterator[Found]:
    for name in names:
        if name != "-":
            yield from picture_files.find(name, left_out)
            continue
        stdin = sys.stdin.buffer
        # What a pipe has, and not as much as was asked for.
        for line in picture_files.read_list(getattr(stdin, "read1", stdin.read)):
            path = paths.expand(line)
            yield from picture_files.find(path, left_out, patterns=False)


def _not_empty(found: Iterator[Found]) -> Iterator[Found]:
    first = next(found, None)
    if first is None:
        raise UsageError(
            "no picture is named: the list on standard input is empty; it has a path "
            "on each line"
        )
    return itertools.chain([first], found)


def _opened(path: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    """A file that appears whole; a device or a pipe, which must stay what it is."""
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if os.path.exists(path) and not os.path.isfile(path):
        return open(path, "wb", buffering=0)
    return atomic.write(path, own_partial=True)


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[Callable[[str], object]]:
    """Writes UTF-8 that gives back the bytes of paths, into a file or to be seen."""
    if path is not None:
        with contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context(_opened(os.path.realpath(path)))
            except OSError as error:
                raise UsageError(
                    f"--out={path} cannot be written: {error.strerror or error}; name "
                    "a file in a directory that you may write to"
                ) from error
            yield lambda text: file.write(text.encode("utf-8", "surrogateescape"))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    yield show


def _answer(
    recognizer: Recognizer,
    found: Iterator[Found],
    write: Callable[[str], object],
    given: argparse.Namespace,
) -> collections.Counter[str]:
    """Writes answers as they come; counts those that are `good` and `bad`."""
    counts: collections.Counter[str] = collections.Counter()
    form = _FORMATS[given.format]
    head = between = ""
    if given.format == "csv":
        write(formats.CSV_HEADER)
    elif given.format == "text":
        between = "\n"
        if given.sentences and recognizer.card.head == "lgr":
            head = formats.TEXT_HEADER
    answered = recognize_files(
        recognizer,
        found,
        top_k=given.top_k,
        num_sentences=given.sentences,
        batch_size=given.batch_size,
    )
    # Answers that scroll by on the same screen are progress enough.
    seen = given.out is None and sys.stdout.isatty()
    with (
        contextlib.closing(answered),
        console.Progress("predict", None, "pictures", hidden=seen) as line,
    ):
        if not line.disable and "-" not in given.pictures:
            count = functools.partial(_count, given.pictures, line)
            threading.Thread(target=count, daemon=True).start()
        for answer in answered:
            text = form(answer)
            write((between if counts["good"] else head) + text if text else text)
            if answer.error:
                path, reason = map(messages.printable, (answer.path, answer.error))
                console.warn(f"cannot read {path}: {reason}")
            counts["bad" if answer.error else "good"] += 1
            line.update()
    return counts


def _count(names: Sequence[str], line: console.Progress) -> None:
    """Looks how long the way is, while others are on it."""
    line.total = sum(1 for _ in _files(names, collections.Counter()))


def _tell(counts: collections.Counter[str], left_out: collections.Counter[str]) -> None:
    """Ends with how many were bad, and what was left out of folders."""
    if counts["bad"]:
        console.warn(
            f"{messages.counted(counts['good'], 'picture')} recognised, "
            f"{counts['bad']:,} could not be"
        )
    if left_out:
        console.say(picture_folders.describe(left_out))


def run() -> None:
    """Runs the command in this process."""
    if cpu_memory.runs_on_cpu():
        cpu_memory.keep()
    sys.exit(main(sys.argv[1:]))
