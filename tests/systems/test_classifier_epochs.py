"""The lengths of cRT's and LWS's second stage, against their authors' recipes."""

import json
from pathlib import Path

import pytest

from vl_ltr_jax import systems
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.train import stage
from worlds.paper_world import get_config_of, resolved

GOLDEN = Path(__file__).parents[1] / "golden"
# Epochs by method, from the configuration files of Kang et al.: config/*/cls_crt.yaml
# and cls_lws.yaml.
CLASSIFIER_EPOCHS = {
    "imagenet_lt": {"crt": 10, "lws": 5},
    "places_lt": {"crt": 10, "lws": 5},
    "inat18": {"crt": 30, "lws": 5},
}
IMAGES = {"imagenet_lt": 115_846, "places_lt": 62_500, "inat18": 437_513}


@pytest.mark.parametrize("method", ["crt", "lws"])
@pytest.mark.parametrize("file", CLASSIFIER_EPOCHS)
def test_images_that_crt_and_lws_see_on_the_benchmarks(file, method):
    """Breaks when an epoch is not floor(N / batch) steps, or with other epochs."""
    path = GOLDEN / "class_counts" / f"{file}.json"
    assert sum(json.loads(path.read_text())) == IMAGES[file]
    options = resolved(file, method=method).classifier
    plan = stage.Plan.from_section(options, IMAGES[file])
    epochs, batch_size = CLASSIFIER_EPOCHS[file][method], options.global_batch_size
    assert options.sampling == "class_aware"
    assert plan.num_steps == epochs * (IMAGES[file] // batch_size)


def test_the_epochs_of_lws_can_be_changed():
    """On its own by `classifier.epochs`, among all methods by `scale_epochs`."""
    config_dict = get_config_of("inat18")("method=lws")
    config_dict.classifier.epochs = 3
    config_dict.classifier.learning_rate = 0.5
    explicit = ["classifier.epochs", "classifier.learning_rate"]
    config = configs.resolve(config_dict, explicit)
    assert config.classifier.epochs == 3
    assert config.classifier.learning_rate == 0.5
    config_dict.classifier.scale_epochs = 4
    assert (
        configs.resolve(config_dict, ["classifier.scale_epochs"]).classifier.epochs == 4
    )
    config_dict = get_config_of("inat18")("")
    config_dict.classifier.scale_epochs = 4
    config = configs.resolve(config_dict)
    epochs = {
        name: systems.METHODS[name].configure(config).classifier.epochs
        for name in ("crt", "lws")
    }
    assert epochs == {"crt": 30, "lws": 4}


def test_an_epoch_has_a_step_at_least():
    options = settings.Classifier(epochs=3, global_batch_size=512)
    assert stage.Plan.from_section(options, 1023).num_steps == 3
    assert stage.Plan.from_section(options, 60).num_steps == 3
