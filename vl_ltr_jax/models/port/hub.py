"""Models by hub id, through `huggingface_hub` and its cache.

A name is a local path where one exists, and else `owner/name` on the hub, with
`@revision` behind it if wanted. Only what a CLIP needs is fetched: safetensors, JSON
and merges, never pickles or code. With `HF_HUB_OFFLINE=1`, or with no network, what the
cache holds is used.
"""

import os
import re
from pathlib import Path

from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime.errors import UserError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*"
_ID = re.compile(rf"{_PART}/{_PART}(@{_PART}(/{_PART})*)?")
_WANTED = (
    *("*.json", "merges.txt"),
    *("model*.safetensors", "open_clip_model.safetensors"),
)


class HubError(UserError):
    """A model that is neither here nor to be had from the hub."""


def is_there_or_id(name: str) -> bool:
    """Whether a name is an existing path or could be a hub id."""
    return os.path.exists(os.path.expanduser(name)) or bool(_ID.fullmatch(name))


def local_path(name: str) -> Path:
    """The file or directory of a model, fetched from the hub if its name says so.

    Args:
        name: A path, or a hub id such as `openai/clip-vit-base-patch16` or
            `timm/resnet50_clip.openai`; a path wins.

    Raises:
        HubError: If the hub does not have it, or cannot be reached and the cache is
            without it.
    """
    path = Path(os.path.expanduser(name))  # as it is where nobody is called so
    if os.path.exists(path) or not _ID.fullmatch(name):
        return path
    directory = _fetch(name)
    if not any(directory.glob("*.safetensors")):
        repo_id = name.partition("@")[0]
        raise HubError(
            f"{name}: no safetensors there; pickles are not fetched by themselves. If "
            f"you trust it, `hf download {repo_id} --local-dir DIR`, then name DIR"
        )
    return directory


def _fetch(name: str) -> Path:
    # Imported late: only runs that name a hub id pay for it.
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if console.is_quiet():
        disable_progress_bars()
    repo_id, _, revision = name.partition("@")
    how = (
        f"where there is a network, `hf download {repo_id} --local-dir DIR`, then name "
        "DIR instead; or copy the cache (HF_HOME) of a machine that has it"
    )
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo_id, revision=revision or None, allow_patterns=list(_WANTED)
            )
        )
    except errors.GatedRepoError as error:
        raise HubError(
            f"{name}: the hub gives this model only to those who accepted its terms: "
            "accept them on its page and `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise HubError(
            f"{name}: no such path here, and no such model or revision on the hub. "
            "CLIP's are openai/clip-vit-base-patch16, openai/clip-vit-base-patch32, "
            "openai/clip-vit-large-patch14 and timm/resnet50_clip.openai"
        ) from error
    except (errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        raise HubError(
            f"{name}: no such path here, not in the hub's cache, and the hub cannot be "
            f"reached; {how}"
        ) from error
