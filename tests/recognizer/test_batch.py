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
    alone, together = (
        recognize_files(recognizer, files, batch_size=size) for size in (1, 7)
    )
    for first, second in zip(alone, together, strict=True):
        first, second = (each.explanation.prediction for each in (first, second))
        assert first.classes == second.classes
        np.testing.assert_allclose(
            first.probabilities, second.probabilities, rtol=0, atol=1e-5
        )
