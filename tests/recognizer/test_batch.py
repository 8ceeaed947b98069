"""Files to answers, whatever the size of the batches they are recognised in."""

import numpy as np

from vl_ltr_jax.data.images.picture_folders import PictureFile
from vl_ltr_jax.recognizer.batch import recognize_files
from worlds.small_recognizer import make
from worlds.sound_images import picture


def test_answers_do_not_depend_on_the_size_of_batches(tmp_path):
    """Breaks when rows of a filled batch are mixed up."""
    recognizer = make()
    files = [
        PictureFile(str(picture(tmp_path / f"{number}.png", number)))
        for number in range(11)
    ]
    answers = {}
    for size in (1, 7, 64):
        found = recognize_files(recognizer, files, batch_size=size)
        answers[size] = [answer.explanation.prediction for answer in found]
    for size in (7, 64):
        for one, other in zip(answers[1], answers[size], strict=True):
            assert one.classes == other.classes
            np.testing.assert_allclose(
                one.probabilities, other.probabilities, rtol=0, atol=1e-5
            )
