"""Recognition of pictures from the command line.

    python -m vl_ltr_jax.predict --workdir=DIR a.jpg FOLDER 'pictures/**/*.png'
    find /pictures -name '*.jpg' | python -m vl_ltr_jax.predict --workdir=DIR -

Prints the likeliest classes of each picture, and the sentences with the largest weight
for the first class. Unreadable files are reported on standard error, and the others are
still recognised. The exit code is 0 if every file was recognised, else 1. A mistake in
the command line gives 2.
"""

import argparse
import collections
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from vl_ltr_jax.commands import exits, process
from vl_ltr_jax.commands.command import Command, parse
from vl_ltr_jax.data.images import picture_folders
from vl_ltr_jax.data.images.picture_folders import PictureFile
from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.logs import console, messages
from vl_ltr_jax.recognizer import formats, load, picture_files
from vl_ltr_jax.recognizer.batch import recognize_files
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.runtime import compilation_cache
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic

COMMAND = Command(
    "vl_ltr_jax.predict",
    "Recognises pictures by the model of a finished run. The exit code is 0 if every "
    "picture was recognised, 1 if some were not, 2 without a run or a picture.",
    (
        (
            "the five likeliest classes of each picture, with sentences for the first",
            "--workdir=runs/shapes_lt a.jpg FOLDER",
        ),
        (
            "a table of many pictures, for other programs",
            "--workdir=runs/shapes_lt --csv --out=answers.csv FOLDER",
        ),
    ),
)
_FORMATS: dict[str, formats.Format] = {
    "text": formats.to_text,
    "json": formats.to_json,
    "csv": formats.to_csv,
}


class UsageError(UserError):
    """A command line without pictures, or without a writable output file."""


@exits.with_codes
def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    parsed = parse(_parser(), arguments)
    skipped: collections.Counter[str] = collections.Counter()
    files = list(_files(parsed.pictures, skipped))
    if not files:
        raise UsageError(
            "PICTURE=-: the list on standard input is empty. Write a path on each line."
        )
    with _output(parsed.out) as write:
        compilation_cache.use(
            parsed.workdir / compilation_cache.NAME,
            fallback=token_cache.default_directory() / compilation_cache.NAME,
            min_seconds=0.0,  # small programs too
        )
        recognizer = load.load(parsed.workdir)
        counts = _recognize(recognizer, files, write, parsed)
    if counts["unreadable"]:
        console.warn(
            f"{messages.counted(counts['recognised'], 'picture')} recognised, "
            f"{counts['unreadable']:,} could not be"
        )
    if skipped:
        console.say(picture_folders.describe(skipped))
    return 1 if counts["unreadable"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = COMMAND.parser(quiet=True)
    parser.add_argument(
        "pictures",
        metavar="PICTURE",
        nargs="+",
        help="files; folders, searched to any depth; patterns in quotes, with ** for "
        "any depth; - for paths on standard input, one a line",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        type=epath.Path,
        required=True,
        help="directory of a finished run, or of a saved recognizer",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        default="text",
        help="JSON Lines, one object for each file: path, predictions (class, name, "
        "probability) and sentences (text, weight, cosine), or path and error",
    )
    form.add_argument(
        "--csv",
        dest="format",
        action="store_const",
        const="csv",
        help="a row for each picture and rank: " + formats.CSV_HEADER.strip(),
    )
    for name, least, default, text in (
        ("top_k", 1, 5, "classes of each picture"),
        ("sentences", 0, 3, "sentences for the first class"),
        ("batch_size", 1, 64, "pictures recognised together"),
    ):
        parser.add_argument(
            f"--{name}",
            metavar="N",
            type=_at_least(least),
            default=default,
            help=f"{text} (%(default)s)",
        )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="file of the answers, which appears whole; default standard output",
    )
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    number.__name__ = "whole number"  # argparse names the type in its messages
    return number


def _files(
    names: Sequence[str], skipped: collections.Counter[str]
) -> Iterator[PictureFile]:
    """Yields the files of each argument; `-` reads names from standard input."""
    for name in names:
        if name != "-":
            yield from picture_files.find(name, skipped)
            continue
        for line in sys.stdin.buffer:
            if path := os.path.expanduser(os.fsdecode(line.rstrip(b"\r\n"))):
                yield from picture_files.find(path, skipped, patterns=False)


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[Callable[[str], object]]:
    """Yields a function that writes to a file or to standard output.

    Paths that are not UTF-8 come out as the bytes they are.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        yield lambda text: print(text, end="", flush=True)
        return
    with contextlib.ExitStack() as stack:
        try:
            # A link stays one.
            file = stack.enter_context(atomic.write(os.path.realpath(path)))
        except OSError as error:
            raise UsageError(
                f"--out={path}: {error.strerror or error}. Name a file in a directory "
                "that you may write to."
            ) from error
        yield lambda text: file.write(text.encode("utf-8", "surrogateescape"))


def _recognize(
    recognizer: Recognizer,
    files: Sequence[PictureFile],
    write: Callable[[str], object],
    parsed: argparse.Namespace,
) -> collections.Counter[str]:
    """Writes the answer for each file, and counts `recognised` and `unreadable`."""
    counts: collections.Counter[str] = collections.Counter()
    to_text = _FORMATS[parsed.format]
    separator = "\n" if parsed.format == "text" else ""
    if parsed.format == "csv":
        write(formats.CSV_HEADER)
    elif parsed.format == "text" and parsed.sentences and recognizer.card.head == "lgr":
        write(formats.TEXT_HEADER)
    answers = recognize_files(
        recognizer,
        files,
        top_k=parsed.top_k,
        num_sentences=parsed.sentences,
        batch_size=parsed.batch_size,
    )
    # Answers that scroll by on the same screen are progress enough.
    hidden = parsed.out is None and sys.stdout.isatty()
    with (
        contextlib.closing(answers),
        console.progress_bar("predict", len(files), "pictures", hidden=hidden) as bar,
    ):
        for answer in answers:
            text = to_text(answer)
            write(separator + text if text and counts["recognised"] else text)
            if answer.error:
                path, reason = map(messages.printable, (answer.path, answer.error))
                console.warn(f"cannot read {path}: {reason}")
            counts["unreadable" if answer.error else "recognised"] += 1
            bar.update()
    return counts


def run() -> None:
    """Runs the command in this process."""
    process.run(main)
