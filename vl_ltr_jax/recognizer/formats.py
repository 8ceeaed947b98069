"""What was recognised, as text for people, JSON Lines or CSV.

Names of files and classes may hold anything: text shows what could move a cursor as
escapes, and bytes that are no UTF-8 come out of JSON and CSV as they went in.
"""

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from vl_ltr_jax.logs.messages import printable
from vl_ltr_jax.recognizer.batch import FileResult

# Half of a character, which UTF-8 has no bytes for, and what some readers of lines
# take for the end of one.
_UNSAFE = re.compile("[\ud800-\udfff\x85\u2028\u2029]")
Format: TypeAlias = Callable[[FileResult], str]
TEXT_HEADER = (
    "# Of each picture the likeliest classes, then the sentences that spoke for the\n"
    "# first, with their weights: shares of the attention, 1 in all.\n\n"
)


def to_text(answer: FileResult) -> str:
    """A block for a person: classes, and the sentences that spoke for the first.

    Empty for a file that could not be read: standard error has it.
    """
    if answer.explanation is None:
        return ""
    prediction = answer.explanation.prediction
    lines = [printable(answer.path)]
    lines += [
        f"  {100 * probability:5.1f} %  {printable(name)}"
        for name, probability in zip(
            prediction.names, prediction.probabilities, strict=True
        )
    ]
    lines += [
        f"    {spoken.weight:.2f}  {printable(spoken.text)}"
        for spoken in answer.explanation.sentences
    ]
    return "\n".join(lines) + "\n"


def to_json(answer: FileResult) -> str:
    """One line of strict JSON."""
    content: dict[str, Any] = {"path": answer.path}
    if answer.explanation is None:
        content["error"] = answer.error
    else:
        prediction = answer.explanation.prediction
        content["predictions"] = [
            {"class": label, "name": name, "probability": probability}
            for label, name, probability in zip(
                prediction.classes,
                prediction.names,
                prediction.probabilities,
                strict=True,
            )
        ]
        content["sentences"] = [
            {"text": spoken.text, "weight": spoken.weight, "cosine": spoken.cosine}
            for spoken in answer.explanation.sentences
        ]
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


CSV_HEADER = "path,rank,class,name,probability\n"


def to_csv(answer: FileResult) -> str:
    """A row for each rank; none for a file that could not be read."""
    if answer.explanation is None:
        return ""
    prediction = answer.explanation.prediction
    rows = io.StringIO()
    csv.writer(rows, lineterminator="\n").writerows(
        (answer.path, rank, label, name, probability)
        for rank, (label, name, probability) in enumerate(
            zip(
                prediction.classes,
                prediction.names,
                prediction.probabilities,
                strict=True,
            ),
            start=1,
        )
    )
    return rows.getvalue()
