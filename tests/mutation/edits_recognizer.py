"""Edits of what uses a model for `mutations.py`: what, where, before, after, tests."""

HEADS = "vl_ltr_jax/recognizer/head.py"
UNSEEN = "vl_ltr_jax/recognizer/added_classes.py"
TESTS = "tests/recognizer/test_recognizer.py"

RECOGNIZER_EDITS = (
    (
        "attention that is not divided by the root of the width",
        "vl_ltr_jax/models/lgr.py",
        "scores = scores / image_features.shape[-1] ** 0.5",
        "scores = scores * 1.0",
        f"{TESTS}::test_the_attention_it_tells_of_gives_the_language_logits",
    ),
    (
        "a margin against the best of all classes, its own among them",
        "vl_ltr_jax/evaluate/accuracy.py",
        "jnp.where(true, -jnp.inf, logs)",
        "jnp.where(true & False, -jnp.inf, logs)",
        f"{TESTS}::test_margins_and_ranks_are_those_of_numpy",
    ),
    (
        "an added class that does not lower the others",
        UNSEEN,
        "shares[:, :1] * probabilities",
        "probabilities",
        f"{TESTS}::test_an_added_class_is_the_last_and_the_others_keep_their_order",
    ),
    (
        "an offset by which one image more turns to a new class",
        UNSEEN,
        "int(max_taken * len(best))",
        "int(max_taken * len(best)) + 1",
        f"{TESTS}::test_the_offset_of_a_new_class_is_the_largest_allowed",
    ),
    (
        "the sentences that all images fit alike as anchors",
        UNSEEN,
        "np.argsort(-spread",
        "np.argsort(spread",
        f"{TESTS}::test_the_anchors_of_a_new_class_tell_images_apart",
    ),
    (
        "a mixture of equal parts whatever the run's weight",
        HEADS,
        "accuracy.mixture(visual, language, card.visual_weight)",
        "accuracy.mixture(visual, language, 0.5)",
        f"{TESTS}::test_it_predicts_what_the_evaluation_has_seen",
    ),
)
