"""Edits of the baselines for `mutations.py`: what, where, before, after, and tests."""

COUNTS = "vl_ltr_jax/systems/class_counts.py"
FOCAL = "vl_ltr_jax/systems/cb_focal.py"
LDAM = "vl_ltr_jax/systems/ldam_drw.py"
NCM = "vl_ltr_jax/systems/ncm.py"
TAU = "vl_ltr_jax/systems/tau_normalized.py"
LINEAR = "vl_ltr_jax/models/linear.py"
SAMPLER = "vl_ltr_jax/data/batches/sampler.py"
LOSS_TESTS = "tests/systems/test_rebalancing_losses.py"
TURN_TESTS = "tests/data/batches/test_class_aware.py"
POSTHOC_TESTS = "tests/systems/test_posthoc.py"
RECIPE_TESTS = "tests/systems/test_recipes.py"
EPOCH_TESTS = "tests/systems/test_classifier_epochs.py"

BASELINE_EDITS = (
    (
        "class-balanced weights that do not sum to C",
        COUNTS,
        "return weights * (len(counts) / weights.sum())",
        "return weights",
        f"{LOSS_TESTS}::test_effective_numbers_by_hand",
    ),
    (
        "effective numbers that lose their digits",
        COUNTS,
        "-np.expm1(counts * np.log(beta)) if beta",
        "1 - beta**counts if beta",
        f"{LOSS_TESTS}::test_effective_numbers_keep_their_digits",
    ),
    (
        "LDAM's margins as the cube root of rarity",
        LDAM,
        "** -0.25",
        "** (-1 / 3)",
        f"{LOSS_TESTS}::test_margins_by_hand",
    ),
    (
        "LDAM's weights a step early",
        LDAM,
        "step >= first",
        "step >= first - 1",
        f"{LOSS_TESTS}::test_weights_are_deferred_to_step_80_of_100_under_jit",
    ),
    (
        "LDAM's cosines without their scale",
        LDAM,
        "shifted = scale * (",
        "shifted = (",
        f"{LOSS_TESTS}::test_ldam_by_hand",
    ),
    (
        "LDAM's weighted terms divided by B",
        LDAM,
        "targets * weights / jnp.mean(weights)",
        "targets * weights",
        f"{LOSS_TESTS}::test_ldam_by_hand",
    ),
    (
        "focal loss that dwells on what is right already",
        FOCAL,
        "log_sigmoid(-signed)",
        "log_sigmoid(signed)",
        f"{LOSS_TESTS}::test_cb_focal_by_hand",
    ),
    (
        "focal loss by a power of a sigmoid",
        FOCAL,
        "jnp.exp(gamma * jax.nn.log_sigmoid(-signed))",
        "jax.nn.sigmoid(-signed) ** gamma",
        f"{LOSS_TESTS}::test_finite_far_beyond_logits_in_use",
    ),
    (
        "logits less the priors while training",
        "vl_ltr_jax/systems/logit_adjustment.py",
        "logits + shift",
        "logits - shift",
        f"{LOSS_TESTS}::test_balanced_softmax_by_hand",
    ),
    (
        "cosines that see the length of a feature",
        LINEAR,
        "jnp.matmul(unit(image_features),",
        "jnp.matmul(image_features,",
        f"{LOSS_TESTS}::test_cosines_do_not_see_lengths",
    ),
    (
        "class means of features of any length",
        NCM,
        "(centred / np.maximum(lengths, 1e-12))",
        "(centred + 0 * lengths)",
        f"{POSTHOC_TESTS}::test_ncm_by_hand",
    ),
    (
        "a class without images at the origin",
        NCM,
        "-np.inf",
        "0.0",
        f"{POSTHOC_TESTS}::test_ncm_never_predicts_a_class_without_images",
    ),
    (
        "tau chosen by images instead of classes",
        TAU,
        "1 / counts[labels] / (counts > 0).sum()",
        "np.full(len(labels), 1 / len(labels))",
        f"{POSTHOC_TESTS}::test_tau_is_chosen_by_classes_not_by_images",
    ),
    (
        "tau chosen by the rounding of equal sums",
        TAU,
        "np.argmax(np.round(accuracies, 9))",
        "np.argmax(accuracies)",
        f"{POSTHOC_TESTS}::test_the_smallest_of_equally_good_taus",
    ),
    (
        "classes in the same order in every cycle",
        SAMPLER,
        "self._permutation(0, int(cycle), self._classes)",
        "self._permutation(0, 0, self._classes)",
        f"{TURN_TESTS}::test_orders_differ_between_cycles_and_seeds",
    ),
    (
        "images of a class that start anew with each cycle",
        SAMPLER,
        "uses = cycles * IMAGES_PER_VISIT + places",
        "uses = places + 0 * cycles",
        f"{TURN_TESTS}::test_a_class_is_used_up_evenly",
    ),
    (
        "a class-aware epoch of the largest count times the classes",
        "vl_ltr_jax/run/head_training.py",
        "len(run.inputs.data.train)",
        "int(run.inputs.data.train_counts.max()) * run.inputs.num_classes",
        f"{RECIPE_TESTS}::test_an_epoch_is_the_size_of_the_training_set",
    ),
    (
        "an epoch with a step for its remainder",
        "vl_ltr_jax/train/stage.py",
        "max(num_images // options.global_batch_size, 1)",
        "-(-num_images // options.global_batch_size)",
        f"{EPOCH_TESTS}::test_images_that_crt_and_lws_see_on_the_benchmarks",
    ),
    (
        "LWS trained as long as cRT",
        "vl_ltr_jax/systems/lws.py",
        "options.scale_epochs or options.epochs",
        "options.epochs",
        f"{EPOCH_TESTS}::test_images_that_crt_and_lws_see_on_the_benchmarks",
    ),
    (
        "a fresh classifier drawn as Flax draws it",
        LINEAR,
        "width**-0.5",
        "(3 / width) ** 0.5",
        f"{POSTHOC_TESTS}::test_a_fresh_classifier_is_drawn_as_by_torch",
    ),
)
