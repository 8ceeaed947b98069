"""Recognition of files in batches of any size."""

import numpy as np

from vl_ltr_jax.data.images.picture_folders import PictureFile
from vl_ltr_jax.recognizer.batch import recognize_files
from worlds.small_recognizer import make
from worlds.sound_images import picture


def test_results_do_not_depend_on_the_size_of_batches(tmp_path):
    """Breaks if rows of a padded batch are mixed up."""
    recognizer = make()
    files = [
        PictureFile(str(picture(tmp_path / f"{number}.png", number)))
        for number in range(11)
    ]
    predictions = {}
    for size in (1, 7, 64):
        results = recognize_files(recognizer, files, batch_size=size)
        predictions[size] = [result.explanation.prediction for result in results]
    for size in (7, 64):
        for first, other in zip(predictions[1], predictions[size], strict=True):
            assert first.classes == other.classes
            np.testing.assert_allclose(
                first.probabilities, other.probabilities, rtol=0, atol=1e-5
            )
