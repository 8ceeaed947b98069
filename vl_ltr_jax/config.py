"""A ConfigDict file, turned once into the dataclasses of settings.py.

A configuration file starts from :func:`default_config` and changes values;
:func:`from_config_dict` then checks everything at once, before any device is touched.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import ml_collections
from ml_collections import config_flags

from vl_ltr_jax.models import hub
from vl_ltr_jax.models.clip import PRESETS
from vl_ltr_jax.settings import Config, Finetune, flatten


class ConfigError(ValueError):
    """A configuration that cannot be run; the message lists every fault found."""


_LARGEST = 2**31 - 1  # steps, seeds and indices are 32-bit on devices
# A field outside these bounds is an error; None leaves a side open.
_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "data.context_length": (3, None),
    "data.erase_probability": (0, 1),
    "data.num_threads": (1, None),
    "model.image_size": (1, None),
    "anchors.num_anchors": (1, None),
    "anchors.max_images_per_class": (1, None),
    "evaluate.batch_size": (1, None),
    "evaluate.knn_neighbours": (1, None),
    "evaluate.visual_weight": (0, 1),
    "pretrain.distillation_weight": (0, 1),
    "pretrain.distillation_temperature": (1e-6, None),
    "finetune.text_learning_rate": (0, None),
    "finetune.mixup_alpha": (0, None),
    "finetune.cutmix_alpha": (0, None),
    "finetune.feature_views": (0, 100),  # each is an open file
    "log.every_steps": (1, None),
    "log.checkpoint_every_steps": (1, None),
    "log.keep_checkpoints": (1, None),
    "log.profile_steps": (0, None),
    "mesh.model": (1, None),
    "mesh.accumulation_steps": (1, None),
    "seed": (0, _LARGEST),
    **{
        f"{stage}.{field}": bounds
        for stage in ("pretrain", "finetune")
        for field, bounds in {
            "epochs": (0, None),
            "warmup_epochs": (0, None),
            "global_batch_size": (1, None),
            "learning_rate": (0, None),
            "min_learning_rate": (0, None),
            "warmup_learning_rate": (0, None),
            "weight_decay": (0, None),
            "label_smoothing": (0, 0.999),
        }.items()
    },
}


def default_config() -> ml_collections.ConfigDict:
    """The default configuration as a ConfigDict, for configuration files to change."""
    # Types are checked below, with all other faults, rather than one by one here.
    return ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)


def arguments(text: str, **choices: Sequence[str]) -> dict[str, str]:
    """Reads the part of `--config=FILE:key=value,key=value` after the colon.

    Args:
      text: that part.
      **choices: the values allowed for each key, the default first.

    Raises:
      ConfigError: if a key or its value is not one of `choices`.
    """
    given = {key: allowed[0] for key, allowed in choices.items()}
    for item in filter(None, (text or "").split(",")):
        key, _, value = item.partition("=")
        if key not in choices or value not in choices[key]:
            named, allowed = (
                (value, choices[key]) if key in choices else (key, list(choices))
            )
            raise ConfigError(
                f"--config=FILE:{text}: {item!r} is not of the form key=value with "
                f"{'a value' if key in choices else 'a key'} among "
                f"{', '.join(allowed)}{_nearest(named, allowed)}"
            )
        given[key] = value
    return given


def define_flag() -> Any:
    """Defines `--config=FILE` and its `--config.SECTION.KEY=VALUE` overrides."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file; --config.SECTION.KEY=VALUE changes a value.",
    )


def check_flag_names(argv: Sequence[str]) -> None:
    """Checks the flags before they are parsed, where a mistake is a traceback.

    Raises:
      ConfigError: naming a missing file, or a wrong key and the nearest one.
    """
    known = flatten(Config())
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if argument.lstrip("-").partition("=")[0] == "config":
            file = (argument.partition("=")[2] or following).partition(":")[0]
            if not Path(file).is_file():
                raise ConfigError(f"--config={file}: there is no such file")
        name = argument.lstrip("-").partition("=")[0]
        key = name.removeprefix("config.")
        if argument.startswith("-") and key != name and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = (
                f"did you mean --config.{near[0]}?"
                if near
                else "keys are " + (", ".join(known))
            )
            raise ConfigError(f"--{name}: there is no such key; {hint}")


def from_config_dict(config_dict: ml_collections.ConfigDict) -> Config:
    """Checks a ConfigDict and returns it as frozen dataclasses.

    Raises:
      ConfigError: one message that names every unknown or missing key, wrong type,
        unknown choice, value out of bounds and contradiction.
    """
    if not isinstance(config_dict, ml_collections.ConfigDict):
        raise ConfigError(
            f"get_config() returned a {type(config_dict).__name__}, not a ConfigDict; "
            "start from vl_ltr_jax.config.default_config()"
        )
    faults: list[str] = []
    config: Config = _build(Config, config_dict.to_dict(), "", faults)
    if faults:
        raise ConfigError(_message(faults))
    if config.init.vl_ltr:  # what it holds is trained already
        config = dataclasses.replace(
            config,
            pretrain=dataclasses.replace(config.pretrain, epochs=0),
            finetune=dataclasses.replace(config.finetune, epochs=0),
        )
    check(config)
    return config


def check(config: Config) -> None:
    """Checks bounds and contradictions.

    Raises:
      ConfigError: one message that names them all.
    """
    if faults := _out_of_bounds(config) + _contradictions(config):
        raise ConfigError(_message(faults))


def _message(faults: list[str]) -> str:
    return "the configuration has faults:\n  " + "\n  ".join(faults)


def check_devices(config: Config, num_devices: int) -> None:
    """Checks that meshes and batches fit the devices.

    Raises:
      ConfigError: if the mesh does not use `num_devices`, or a batch or its chunks do
        not divide over them.
    """
    model, data = config.mesh.model, config.mesh.data
    if data == -1 and model >= 1 and num_devices % model == 0:
        data = num_devices // model
    if model < 1 or data < 1 or data * model != num_devices:
        raise ConfigError(
            f"mesh.data={config.mesh.data} x mesh.model={model} does not use exactly "
            f"the {num_devices} devices present; mesh.data=-1 takes what is left"
        )
    chunks = config.mesh.accumulation_steps
    faults = []
    for key, size in _batch_sizes(config).items():
        by, what = num_devices, f"the {num_devices} devices"
        if chunks > 1 and not key.startswith("evaluate"):
            by, what = by * chunks, f"{what} times mesh.accumulation_steps={chunks}"
        if size % by:
            nearest = sorted({max(size // by, 1) * by, (size // by + 1) * by})
            faults.append(
                f"{key}={size} is not divisible by {what}; nearest sizes: "
                + " and ".join(map(str, nearest))
            )
    if faults:
        raise ConfigError("\n".join(faults))


def _build(cls: Any, values: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(values, Mapping):
        faults.append(f"{path.rstrip('.')}: a section is expected, given {values!r}")
        return None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    found_before = len(faults)
    for key in sorted(values.keys() - fields.keys(), key=str):
        faults.append(f"{path}{key}: unknown key{_nearest(key, fields)}")
    for key in sorted(fields.keys() - values.keys()):
        faults.append(f"{path}{key}: missing; start from config.default_config()")
    built = {}
    for key in sorted(fields.keys() & values.keys()):
        kind, value = fields[key].type, values[key]
        if dataclasses.is_dataclass(kind):
            built[key] = _build(kind, value, f"{path}{key}.", faults)
        else:
            built[key] = _check_type(kind, value, path + key, faults)
    return cls(**built) if len(faults) == found_before else None


def _check_type(kind: Any, value: Any, path: str, faults: list[str]) -> Any:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            faults.append(
                f"{path}: {value!r} is not one of {', '.join(map(repr, choices))}"
                f"{_nearest(value, choices)}"
            )
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        faults.append(
            f"{path}: {kind.__name__} expected, given {value!r} "
            f"({type(value).__name__})"
        )
    return value


def _nearest(given: object, allowed: Any) -> str:
    near = difflib.get_close_matches(str(given), [str(a) for a in allowed], n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; allowed: {sorted(allowed)}"


def _out_of_bounds(config: Config) -> list[str]:
    flat = flatten(config)
    faults = [
        f"{key}: {value} given, too large a number"
        for key, value in flat.items()
        if value in (math.inf, -math.inf) or (type(value) is int and value > _LARGEST)
    ]
    for key, (low, high) in _BOUNDS.items():
        value = flat[key]
        # `not >=` also catches NaN
        if (low is not None and not value >= low) or (
            high is not None and not value <= high
        ):
            least = f"at least {low}" if low is not None else ""
            most = f"at most {high}" if high is not None else ""
            bounds = " and ".join(filter(None, (least, most)))
            faults.append(f"{key}: {value} given, {bounds} expected")
    return faults


def _batch_sizes(config: Config) -> dict[str, int]:
    sizes = {"evaluate.batch_size": config.evaluate.batch_size}
    if config.pretrain.epochs:
        sizes["pretrain.global_batch_size"] = config.pretrain.global_batch_size
    if config.finetune.epochs:
        sizes["finetune.global_batch_size"] = config.finetune.global_batch_size
    return sizes


def _contradictions(config: Config) -> list[str]:
    faults = []
    data, init, pretrain = config.data, config.init, config.pretrain
    if config.model.backbone not in PRESETS:
        faults.append(
            f"model.backbone: {config.model.backbone!r} is unknown"
            f"{_nearest(config.model.backbone, PRESETS)}"
        )
    else:
        # A ModifiedResNet halves its input five times.
        stride = PRESETS[config.model.backbone].vision.patch_size or 32
        if config.model.image_size % stride:
            faults.append(
                f"model.image_size={config.model.image_size} is not divisible by "
                f"{stride}, the patch size of {config.model.backbone}"
            )
    if data.source != "shapes":
        if not data.root:
            faults.append(f"data.root: needed for data.source={data.source!r}")
        elif not Path(data.root).is_dir():
            faults.append(f"data.root: no directory {data.root!r}")
    if (data.source == "inat18") != (data.layout == "inat18"):
        faults.append(
            f"data.source={data.source!r} with data.layout={data.layout!r}: "
            "'inat18' goes with 'inat18' only"
        )
    if not (init.clip or init.tokenizer or init.vl_ltr):
        faults.append(
            "init.tokenizer: without init.clip there is no vocabulary; name a "
            "directory with tokenizer files, or 'tiny_clip'"
        )
    for key, name in (("clip", init.clip), ("tokenizer", init.tokenizer)):
        if name not in ("", "tiny_clip") and not hub.is_there_or_id(name):
            faults.append(
                f"init.{key}: no path {name!r}, and it is not a hub id (owner/name); "
                "download a Hugging Face CLIP model there (hf download "
                "openai/clip-vit-base-patch16 --local-dir DIR), or use 'tiny_clip'"
            )
    if init.vl_ltr and not Path(init.vl_ltr).is_file():
        faults.append(
            f"init.vl_ltr: no file {init.vl_ltr!r}; name a checkpoint.pth of VL-LTR, "
            "or its state dict as safetensors"
        )
    if pretrain.epochs and pretrain.distillation != "none" and not init.clip:
        faults.append(
            f"pretrain.distillation={pretrain.distillation!r} needs the frozen CLIP of "
            "init.clip, which is empty; use pretrain.distillation='none'"
        )
    if pretrain.distillation_temperature != 1 and pretrain.distillation != "kl":
        faults.append(
            f"pretrain.distillation_temperature={pretrain.distillation_temperature} "
            f"has no meaning with pretrain.distillation={pretrain.distillation!r}: "
            "'kl' alone has a temperature"
        )
    if config.mesh.data < 1 and config.mesh.data != -1:
        faults.append(
            f"mesh.data={config.mesh.data}: a number of devices from 1, or -1 for all "
            "that mesh.model leaves"
        )
    if config.mesh.fsdp == "model" and config.mesh.model == 1:
        faults.append(
            "mesh.fsdp='model' with mesh.model=1 splits nothing; set mesh.model, or "
            "mesh.fsdp='data'"
        )
    if not data.name:
        faults.append(
            "data.name: needed; lists are read from ROOT/NAME_{train,val,test}.txt, "
            "and the report carries it"
        )
    evaluate = config.evaluate
    if evaluate.zero_shot and (data.prompts, evaluate.zero_shot_text) == (
        "none",
        "prompts",
    ):
        faults.append(
            "evaluate.zero_shot_text='prompts' with data.prompts='none': there is no "
            "prompt; use 'sentences', or evaluate.zero_shot=False"
        )
    measured = config.finetune.epochs or evaluate.knn or evaluate.zero_shot
    if not (measured or init.vl_ltr):
        faults.append(
            "nothing would be measured: set finetune.epochs, evaluate.knn or "
            "evaluate.zero_shot"
        )
    for stage, section in (("pretrain", pretrain), ("finetune", config.finetune)):
        if section.epochs and section.warmup_epochs >= section.epochs:
            faults.append(
                f"{stage}.warmup_epochs={section.warmup_epochs} leaves nothing of "
                f"{stage}.epochs={section.epochs}"
            )
    return faults + _against_feature_views(config.finetune)


def _against_feature_views(options: Finetune) -> list[str]:
    if not (options.epochs and options.feature_views):
        return []
    given, faults = f"finetune.feature_views={options.feature_views}", []
    if options.train_image_tower:
        faults.append(
            f"{given} with finetune.train_image_tower=True: features are kept of a "
            "frozen tower only; set finetune.train_image_tower=False, or "
            "finetune.feature_views=0"
        )
    if options.mixup_alpha > 0 or options.cutmix_alpha > 0:
        faults.append(
            f"{given} with finetune.mixup_alpha={options.mixup_alpha} and "
            f"finetune.cutmix_alpha={options.cutmix_alpha}: these mix pictures, of "
            "which features are not linear; set both to 0, or finetune.feature_views=0"
        )
    return faults
