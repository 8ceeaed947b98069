"""Edits of the data side for `mutations.py`: what, where, before, after, and tests."""

AUGMENT = "vl_ltr_jax/data/images/augment.py"
EXAMPLES = "vl_ltr_jax/data/batches/examples.py"
LOADER = "vl_ltr_jax/data/batches/loader.py"
JPEG = "vl_ltr_jax/data/images/jpeg.py"
AUGMENT_TESTS = "tests/data/images/test_augment.py"
SHOT_TESTS = "tests/method/test_shots.py"
FAULT_TESTS = "tests/data/batches/test_bad_images.py"
CORPUS = "vl_ltr_jax/data/text/corpus.py"
HEADING_TESTS = "tests/data/text/test_corpus.py::test_headings_of_hostile_texts"
IMAGES = "vl_ltr_jax/data/images/decode.py"
NAME_TESTS = "tests/data/test_names.py"
ORIENTATION_TESTS = "tests/data/images/test_orientation.py"

DATA_EDITS = (
    (
        "groups of the standard rule pooled over images",
        "vl_ltr_jax/method/shots.py",
        'image_mean if rule == "vl_ltr" else class_mean',
        "image_mean",
        f"{SHOT_TESTS}::test_the_standard_rule_is_a_mean_over_classes_and_vl_ltrs_"
        "over_images",
    ),
    (
        "classes without test images counted as 0",
        "vl_ltr_jax/method/shots.py",
        "np.mean(correct_per_class[tested] / total_per_class[tested])",
        "np.sum(correct_per_class[tested] / total_per_class[tested]) / len(tested)",
        f"{SHOT_TESTS}::test_the_standard_rule_is_oltrs",
    ),
    (
        "headings that must be closed",
        CORPUS,
        'if line.startswith("=="):',
        'if line.startswith("==") and line.endswith("=="):',
        HEADING_TESTS,
    ),
    (
        "headings stripped of signs, then of blanks",
        CORPUS,
        'line.strip("= ")',
        'line.strip("=").strip()',
        HEADING_TESTS,
    ),
    (
        "pictures enlarged bilinearly",
        "vl_ltr_jax/data/images/transforms.py",
        "return image.resize(size, Image.Resampling.BICUBIC)",
        "return image.resize(size, Image.Resampling.BILINEAR)",
        "tests/data/images/test_transforms.py",
    ),
    (
        "operations drawn without replacement",
        AUGMENT,
        "rng.integers(len(_NAMES), size=num_operations)",
        "rng.permutation(len(_NAMES))[:num_operations]",
        AUGMENT_TESTS,
    ),
    (
        "one draw decides on both operations",
        AUGMENT,
        "    drawn = []\n",
        "    drawn = []\n    probability = float(rng.random() < probability)\n",
        AUGMENT_TESTS,
    ),
    (
        "magnitudes with a standard deviation of 0.45",
        AUGMENT,
        "rng.normal(magnitude, magnitude_std)",
        "rng.normal(magnitude, 0.9 * magnitude_std)",
        AUGMENT_TESTS,
    ),
    (
        "operations that only ever strengthen",
        AUGMENT,
        "change = -strength if rng.random() < 0.5 else strength",
        "change = strength if rng.random() < 0.5 else strength",
        AUGMENT_TESTS,
    ),
    (
        "rows of a JPEG without a margin",
        JPEG,
        "        number += _MARGIN\n",
        "        number += 0\n",
        "tests/data/images/test_jpeg.py",
    ),
    (
        "a JPEG cut short believed",
        JPEG,
        "_height_at(content) if whole else 0",
        "_height_at(content)",
        "tests/data/images/test_jpeg.py",
    ),
    (
        "a crop of the turned picture cut from its own sides",
        IMAGES,
        "stored_box(box, (self.jpeg.width, self.jpeg.height), self.turn)",
        "stored_box(box, self.size, self.turn)",
        ORIENTATION_TESTS,
    ),
    (
        "stored pixels of a TIFF as Pillow turns them",
        IMAGES,
        'turn = read_turn(image) if image.format == "TIFF" else None',
        "turn = None",
        ORIENTATION_TESTS,
    ),
    (
        "a recognizer that forgets the orientation",
        "vl_ltr_jax/recognizer/recognizer.py",
        "orientation=card.orientation",
        'orientation="exif"',
        f"{ORIENTATION_TESTS}::test_a_recognizer_turns_as_its_card_says",
    ),
    (
        "the last word of a row taken for a class's name",
        "vl_ltr_jax/data/text/class_names.py",
        "wnid, _, name = fields",
        "wnid, name = fields[0], fields[-1].split()[-1]",
        NAME_TESTS,
    ),
    (
        "names compared byte by byte",
        "vl_ltr_jax/logs/messages.py",
        'return unicodedata.normalize("NFC", name)',
        "return name",
        NAME_TESTS,
    ),
    (
        "a hint by likeness before one by case",
        "vl_ltr_jax/data/sources/dataset.py",
        "for other in listings.differing_by_case(path):",
        "for other in list[str]():",
        NAME_TESTS,
    ),
    (
        "a hidden folder taken for a class",
        "vl_ltr_jax/data/images/picture_folders.py",
        'if name.startswith("."):',
        'if name.startswith("._"):',
        "tests/data/images/test_picture_folders.py",
    ),
    (
        "a bad image replaced by one of any class",
        EXAMPLES,
        "np.flatnonzero(self.split.labels == self.split.labels[index])",
        "np.arange(len(self.split))",
        FAULT_TESTS,
    ),
    (
        "replacements that are the same in every epoch",
        EXAMPLES,
        "(self.seed, _REPLACEMENT_STREAM, *where)",
        "(self.seed, _REPLACEMENT_STREAM)",
        FAULT_TESTS,
    ),
    (
        "augmentation that forgets the epoch",
        EXAMPLES,
        "rng = np.random.default_rng((self.seed, _PIXEL_STREAM, *where))",
        "rng = np.random.default_rng((self.seed, _PIXEL_STREAM, where[1]))",
        "tests/data/batches/test_loader.py",
    ),
    (
        "batches of workers dealt by rows",
        LOADER,
        "examples.batch(batch_size).to_iter_dataset(options)",
        "examples.to_iter_dataset(options)",
        "tests/data/batches/test_workers.py",
    ),
    (
        "waits counted while a step runs",
        "vl_ltr_jax/train/idle_time.py",
        "end - max(start, ended.result())",
        "end - start",
        "tests/train/test_idle_time.py",
    ),
)
