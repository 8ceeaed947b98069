"""Keys that each method reads, and stages that methods share."""

import dataclasses

from vl_ltr_jax.config.settings import Classifier, Config, Method, Rebalance

# Those that make a classifier of the features of the Baseline.
DECOUPLED = ("ncm", "crt", "tau_normalized", "lws", "logit_adjustment_post_hoc")
# Those that train one, by the section `classifier`.
RETRAINED = ("crt", "lws")
# The others that train as no other does; all the rest trains as VL-LTR.
_OWN_TRAINING = ("baseline", "cb_focal", "ldam_drw", "balanced_softmax")
# Of the section `rebalance`, what each method reads.
_REBALANCED_BY = {
    "cb_focal": ("class_balanced_beta", "focal_gamma"),
    "ldam_drw": ("ldam_max_margin", "ldam_scale", "deferred_beta", "deferred_share"),
    "logit_adjustment": ("logit_adjustment_tau",),
    "logit_adjustment_post_hoc": ("logit_adjustment_tau",),
}


def finetuned_as(config: Config) -> Method:
    """The method whose fine-tuning this one shares, to the last bit."""
    method = config.method
    if method in DECOUPLED:
        return "baseline"
    if method == "logit_adjustment":
        # With tau 1 the logarithm of the prior is that of the counts, less a constant.
        same = config.rebalance.logit_adjustment_tau == 1
        return "balanced_softmax" if same else method
    return method if method in _OWN_TRAINING else "vl_ltr"


def as_read_by(config: Config, stage: str) -> Config:
    """The configuration as a stage reads it: what it does not read is the default.

    Methods that differ by nothing else share the stage.
    """
    method = finetuned_as(config) if stage == "finetune" else config.method
    reads = _REBALANCED_BY.get(method, ())
    return dataclasses.replace(
        config,
        method=method,
        rebalance=Rebalance(
            **{name: getattr(config.rebalance, name) for name in reads}
        ),
        # Those of LWS are in `epochs` and `learning_rate` by now.
        classifier=dataclasses.replace(
            config.classifier, scale_epochs=0, scale_learning_rate=0.0
        )
        if method in RETRAINED
        else Classifier(),
    )
