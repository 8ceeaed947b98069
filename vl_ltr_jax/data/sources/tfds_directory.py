"""The directory of tensorflow-datasets: prepared data sets, found and opened.

A prepared data set is a directory DATA_DIR/NAME[/CONFIG]/VERSION. Only ArrayRecord
files can be read at random, and they need no TensorFlow. Not in the paper.
"""

from pathlib import Path
from typing import Any

from vl_ltr_jax.data.sources.faults import ListError
from vl_ltr_jax.logs.messages import near_name

# What `python -m vl_ltr_jax.data.tfds_builders` prepares.
PREPARABLE = ("places_lt", "inaturalist2018_lt", "imagenet_lt", "cifar100")
_KNOWN = (*PREPARABLE, "cifar100_lt")
_VERSION = "[0-9]*.[0-9]*.[0-9]*"


def find_prepared(data_dir: Path, name: str, version: str | None = None) -> Path:
    """Returns the directory of a data set, of its latest version by default.

    Raises:
      ListError: it is missing; names a similar one, or the command to prepare it.
    """
    base = data_dir / name
    versions = {path.name: path for path in _prepared(base, ".")}
    configs = {path.parent.name: path for path in _prepared(base, "*")}
    if not versions and len(configs) > 1:
        raise ListError(
            f"data.name={name!r} is prepared in several configurations. Write "
            f"{' or '.join(f'{name}/{config}' for config in sorted(configs))}."
        )
    if not versions:
        versions = {path.name: path for path in _prepared(base, "*")}
    if version and versions and version not in versions:
        raise ListError(
            f"{base} has no version {version}. Choose from "
            f"{', '.join(sorted(versions))}."
        )
    if versions:
        latest = max(versions, key=lambda text: [int(n) for n in text.split(".")])
        return versions[version or latest]
    names = {
        str(path.parent.relative_to(data_dir))
        for depth in ("*", "*/*")
        for path in _prepared(data_dir, depth)
    }
    near = "" if name in PREPARABLE else near_name(name, [*sorted(names), *_KNOWN])
    raise ListError(
        f"data.name={name!r} is not prepared under {data_dir}{near}; prepared: "
        f"{', '.join(sorted(names)) or 'nothing'}. {_how_to_prepare(name, data_dir)}"
    )


def open_builder(directory: Path) -> Any:
    """Opens a prepared data set with tensorflow-datasets.

    Raises:
      ListError: it cannot be opened, is not ArrayRecord, or lacks images or labels.
    """
    import tensorflow_datasets as tfds  # 0.4 s that other sources need not wait for

    try:
        builder = tfds.builder_from_directory(directory)
        formats = sorted(kind.value for kind in builder.info.available_file_formats())
        features = sorted(builder.info.features)
    except Exception as error:  # a damaged description raises all kinds
        raise ListError(
            f"{directory} cannot be opened by tensorflow-datasets ({error}). Prepare "
            "the data set again, under another directory."
        ) from None
    if "array_record" not in formats:
        raise ListError(
            f"{directory} is prepared as {', '.join(formats)}, which has no random "
            "access. Prepare it under another directory as array_record. "
            f"{_how_to_prepare(builder.name, Path('DIR'))}"
        )
    if absent := {"image", "label"}.difference(features):
        raise ListError(
            f"{directory} has no feature {' or '.join(sorted(absent))}, but "
            f"{', '.join(features)}. Choose a data set of labelled images."
        )
    return builder


def open_split(builder: Any, split: str) -> Any:
    """Opens a split: from an index to a record, with encoded images; thread-safe.

    Raises:
      ListError: its files are missing, or not those of the description.
    """
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    try:
        return builder.as_data_source(split, decoders=decoders)
    except Exception as error:  # a damaged description raises all kinds
        raise ListError(
            f"{builder.data_path}: split {split!r} cannot be opened ({error}). Prepare "
            "the data set again, under another directory."
        ) from None


def _prepared(base: Path, depth: str) -> list[Path]:
    """Returns the directories of versions below `base`."""
    return [
        file.parent
        for file in base.glob(f"{depth}/{_VERSION}/dataset_info.json")
        if all(part.isdecimal() for part in file.parent.name.split("."))
    ]


def _how_to_prepare(name: str, data_dir: Path) -> str:
    command = "python -m vl_ltr_jax.data.tfds_builders"
    if (base := name.split("/")[0]) in PREPARABLE:
        root = "" if base == "cifar100" else " --root=ROOT"
        return f"Prepare it: {command} {base}{root} --data_dir={data_dir}"
    return (
        f"Prepare one: {command} NAME --root=ROOT --data_dir={data_dir}, where NAME is "
        f"{', '.join(PREPARABLE)} or another of the catalogue"
    )
