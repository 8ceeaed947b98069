"""The lengths of cRT's and LWS's second stage, against their authors' recipes."""

import pytest

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.train import stage
from worlds import golden
from worlds.paper_world import get_config_of, resolved

IMAGES = {"imagenet_lt": 115_846, "places_lt": 62_500, "inat18": 437_513}


@pytest.mark.parametrize(
    ("file", "method", "epochs"),
    [
        *(("imagenet_lt", "crt", 10), ("imagenet_lt", "lws", 5)),
        *(("places_lt", "crt", 10), ("places_lt", "lws", 5)),
        *(("inat18", "crt", 30), ("inat18", "lws", 5)),
    ],
)
def test_images_that_crt_and_lws_see_on_the_benchmarks(file, method, epochs):
    """Breaks when an epoch is not floor(N / batch) steps, or with other epochs.

    The epochs are those of config/*/cls_crt.yaml and cls_lws.yaml of Kang et al.
    """
    assert sum(golden.load(f"class_counts/{file}.json")) == IMAGES[file]
    options = resolved(file, method=method).classifier
    plan = stage.Plan.from_section(options, IMAGES[file])
    assert options.sampling == "class_aware"
    assert plan.num_steps == epochs * (IMAGES[file] // options.global_batch_size)


@pytest.mark.parametrize(
    ("method", "keys", "epochs"),
    [
        ("lws", ["epochs"], 3),
        ("lws", ["scale_epochs"], 4),
        ("lws", [], 4),
        ("crt", [], 3),
    ],
)
def test_epochs_of_the_command_line(method, keys, epochs):
    """`classifier.epochs` of any method, or `scale_epochs` of LWS."""
    config = get_config_of("inat18")(f"method={method}")
    config.classifier.epochs, config.classifier.scale_epochs = 3, 4
    explicit = [f"classifier.{key}" for key in keys]
    assert configs.resolve(config, explicit).classifier.epochs == epochs


def test_an_epoch_has_a_step_at_least():
    options = settings.Classifier(epochs=3, global_batch_size=512)
    assert stage.Plan.from_section(options, 60).num_steps == 3
