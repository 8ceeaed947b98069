"""Results of files as text for people, JSON Lines or CSV.

Names of files and classes may hold any character. Text shows characters that could move
a cursor as escapes. JSON and CSV return bytes that are not UTF-8 unchanged.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from vl_ltr_jax.logs.messages import printable
from vl_ltr_jax.recognizer.batch import FileResult
from vl_ltr_jax.recognizer.predictions import Prediction

# Half of a surrogate pair, which UTF-8 cannot encode, and characters that some readers
# take for the end of a line.
_UNSAFE = re.compile("[\ud800-\udfff\x85\u2028\u2029]")
Format: TypeAlias = Callable[[FileResult], str]
TEXT_HEADER = (
    "# Of each picture the likeliest classes, then the sentences that spoke for the\n"
    "# first, with their weights: shares of the attention, 1 in all.\n\n"
)
CSV_HEADER = "path,rank,class,name,probability\n"


def _rows(prediction: Prediction) -> Iterator[tuple[int, str, float]]:
    """Yields label, name and probability of each class."""
    return zip(
        prediction.classes, prediction.names, prediction.probabilities, strict=True
    )


def to_text(result: FileResult) -> str:
    """Returns classes, and sentences of the first, as a block for a person.

    Empty for an unreadable file, which standard error reports.
    """
    if result.explanation is None:
        return ""
    lines = [printable(result.path)]
    for _, name, probability in _rows(result.explanation.prediction):
        lines.append(f"  {100 * probability:5.1f} %  {printable(name)}")
    for sentence in result.explanation.sentences:
        lines.append(f"    {sentence.weight:.2f}  {printable(sentence.text)}")
    return "\n".join(lines) + "\n"


def to_json(result: FileResult) -> str:
    """Returns one line of strict JSON."""
    content: dict[str, Any] = {"path": result.path}
    if result.explanation is None:
        content["error"] = result.error
    else:
        content["predictions"] = [
            {"class": label, "name": name, "probability": probability}
            for label, name, probability in _rows(result.explanation.prediction)
        ]
        content["sentences"] = [
            {
                "text": sentence.text,
                "weight": sentence.weight,
                "cosine": sentence.cosine,
            }
            for sentence in result.explanation.sentences
        ]
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


def to_csv(result: FileResult) -> str:
    """Returns a row for each rank; empty for an unreadable file."""
    if result.explanation is None:
        return ""
    rows = io.StringIO()
    csv.writer(rows, lineterminator="\n").writerows(
        (result.path, rank, *row)
        for rank, row in enumerate(_rows(result.explanation.prediction), start=1)
    )
    return rows.getvalue()
