"""Systems as far as their configuration goes; each is a change of VL-LTR's.

Two systems share a stage if it reads the same keys with the same values.
"""

from collections.abc import Collection, Mapping
from typing import Any

from vl_ltr_jax.config.settings import Config, changed, flatten

_DEFAULTS = flatten(Config())


class Method:
    """Configuration of one system; this class is VL-LTR's.

    Attributes:
      name: value of `config.method`.
      needs: keys that the system sets, and that must keep their values.
      reads: keys of the section `rebalance` that the system reads.
      finetuning: system whose fine-tuning it shares; empty: its own.
      retrains: True if it trains a classifier by the section `classifier`.
    """

    name = "vl_ltr"
    needs: Mapping[str, Any] = {}
    reads: tuple[str, ...] = ()
    finetuning = ""
    retrains = False

    def defaults(self, config: Config) -> Mapping[str, Any]:
        """Returns the keys that the system sets and a user may set otherwise.

        Args:
          config: VL-LTR's, on the same data set.
        """
        del config
        return {}

    def configure(self, config: Config, explicit: Collection[str] = ()) -> Config:
        """Returns the system's configuration.

        Args:
          config: VL-LTR's, on the same data set.
          explicit: keys of the command line, which keep their values.
        """
        values = flatten(config)
        user = {key: values[key] for key in explicit if key in values}
        own = {**self.defaults(config), **self.needs}
        return changed(config, {**own, **user, "method": self.name})

    def faults(self, config: Config) -> list[str]:
        """Returns one message for each key that contradicts the system."""
        values, words = flatten(config), f"method={self.name!r} needs"
        return [
            f"{key}={values[key]!r}: {words} {value!r}. Leave the key out."
            for key, value in self.needs.items()
            if values[key] != value
        ]

    def finetuned_as(self, config: Config) -> str:
        """Returns the name of the system whose fine-tuning this one shares."""
        del config
        return self.finetuning or self.name


# `systems` adds all others.
REGISTRY: dict[str, Method] = {Method.name: Method()}


def as_read_by(config: Config, stage: str) -> Config:
    """Returns the configuration with defaults for keys that a stage does not read."""
    method = REGISTRY[config.method]
    if stage == "finetune":
        method = REGISTRY[method.finetuned_as(config)]
    unread = {
        key: value
        for key, value in _DEFAULTS.items()
        if (key.startswith("rebalance.") and key[10:] not in method.reads)
        or (key.startswith("classifier.") and not method.retrains)
    }
    # LWS has them in `epochs` and `learning_rate`.
    scale = {"classifier.scale_epochs": 0, "classifier.scale_learning_rate": 0.0}
    unread |= scale if method.retrains else {}
    return changed(config, {**unread, "method": method.name})
