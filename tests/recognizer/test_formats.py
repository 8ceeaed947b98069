"""Results of files as text; commands/test_predict.py has JSON and CSV."""

import json

from vl_ltr_jax.recognizer import formats
from vl_ltr_jax.recognizer.batch import FileResult
from vl_ltr_jax.recognizer.predictions import (
    AttendedSentence,
    Explanation,
    Prediction,
)

PREDICTION = Prediction(("red, fox", "dog"), (0.75, 0.125), (1, 0))
SENTENCES = (AttendedSentence("It is red.", 0.8, 0.3),)
RESULT = FileResult("b\n\x1b[2J.png", Explanation(PREDICTION, None, 0.5, SENTENCES))
UNREADABLE = FileResult("gone.png", error="no file")


def test_text_is_a_block_of_classes_and_sentences():
    """Breaks if a name could move the cursor."""
    assert formats.to_text(RESULT).splitlines() == [
        "b\\n\\x1b[2J.png",
        "   75.0 %  red, fox",
        "   12.5 %  dog",
        "    0.80  It is red.",
    ]


def test_an_unreadable_file_is_reported_by_json_alone():
    assert formats.to_text(UNREADABLE) == formats.to_csv(UNREADABLE) == ""
    expected = {"path": "gone.png", "error": "no file"}
    assert json.loads(formats.to_json(UNREADABLE)) == expected
