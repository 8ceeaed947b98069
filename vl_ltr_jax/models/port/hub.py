"""Models by hub id, through `huggingface_hub` and its cache.

A name is a local path where one exists, and else `owner/name` on the hub, with an
optional `@revision`. Only the files of a CLIP are fetched: safetensors, JSON and
merges, never pickles or code. With `HF_HUB_OFFLINE=1`, or without a network, the cache
serves.
"""

import os
import re
from pathlib import Path

from vl_ltr_jax.logs import console
from vl_ltr_jax.runtime.errors import UserError

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.))*"
_ID = re.compile(rf"{_PART}/{_PART}(@{_PART}(/{_PART})*)?")
_FETCHED = (
    *("*.json", "merges.txt"),
    *("model*.safetensors", "open_clip_model.safetensors"),
)


class HubError(UserError):
    """A model that is neither local nor available from the hub."""


def is_there_or_id(name: str) -> bool:
    """Returns True if a name is an existing path or could be a hub id."""
    return os.path.exists(os.path.expanduser(name)) or bool(_ID.fullmatch(name))


def local_path(name: str) -> Path:
    """Returns the file or directory of a model, fetched if the name is a hub id.

    Args:
      name: path, or hub id such as `openai/clip-vit-base-patch16`; a path wins.

    Raises:
      HubError: neither the hub nor its cache has the model.
    """
    path = Path(os.path.expanduser(name))  # keeps `~user` where there is no such user
    if os.path.exists(path) or not _ID.fullmatch(name):
        return path
    directory = _fetch(name)
    if not any(directory.glob("*.safetensors")):
        raise HubError(
            f"{name}: no safetensors on the hub, and pickles are not fetched. If you "
            f"trust it, `hf download {name.partition('@')[0]} --local-dir DIR`, then "
            "name DIR"
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
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo_id, revision=revision or None, allow_patterns=list(_FETCHED)
            )
        )
    except errors.GatedRepoError as error:
        raise HubError(
            f"{name}: the owner asks for acceptance of terms. Accept them on the "
            "model's page, then `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise HubError(
            f"{name}: no such path, and no such model or revision on the hub. Name "
            "openai/clip-vit-base-patch16 or -patch32, openai/clip-vit-large-patch14 "
            "or timm/resnet50_clip.openai"
        ) from error
    except (errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        raise HubError(
            f"{name}: no such path, not in the hub's cache, and no connection to the "
            f"hub. With a network, `hf download {repo_id} --local-dir DIR`, then name "
            "DIR; or copy the cache (HF_HOME) of a machine that has it"
        ) from error
