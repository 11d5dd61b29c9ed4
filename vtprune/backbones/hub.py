"""Hub ids: from a name to a folder on this machine, without the hub client's long retries."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vtprune.backbones.base import LoadError

TIMEOUT = 6.0
"""Seconds after which the hub counts as out of reach."""

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
TEXTS = (".json", ".txt", ".model", ".jinja")
"""Endings of the small files that are fetched; code never is."""

Tell = Callable[[str, Callable[[], float] | None], None]
"""tell(what is being done, a function that gives the share that is done, or None)."""

T = TypeVar("T")


class Broken(LoadError):
    """What went wrong on the way from the hub, as the beginning of a sentence."""


@dataclass(frozen=True)
class Remote:
    """A model on the hub. sizes: file -> bytes. parameters: their number, where the hub knows it."""

    name: str
    revision: str | None
    sizes: dict[str, int]
    parameters: int | None


def ask(name: str, revision: str | None) -> Remote:
    """What the hub has under a name, within TIMEOUT. Raises Broken."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def call() -> Any:
        return HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT)

    try:
        info = _within(TIMEOUT, call)
    except GatedRepoError as error:
        raise Broken(
            f"{name} asks for its terms to be accepted: do so on https://huggingface.co/{name}, log in with "
            "`hf auth login`, and try again"
        ) from error
    except RepositoryNotFoundError as error:
        raise Broken(f"there is no model {name} on the Hugging Face hub that may be read") from error
    except RevisionNotFoundError as error:
        raise Broken(f"{name} has no revision {revision!r} on the Hugging Face hub") from error
    except HFValidationError as error:
        raise Broken(f"{name!r} is neither a folder nor an id of the Hugging Face hub") from error
    except Exception as error:  # the client raises many unrelated kinds, and other ones in each release
        raise Broken(f"{name} cannot be fetched, for the Hugging Face hub cannot be reached") from error
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return Remote(name, revision, sizes, info.safetensors.total if info.safetensors else None)


def cached(name: str, revision: str | None) -> Path | None:
    """The folder of a model that was fetched before, if all of its weights are there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with contextlib.suppress(HFValidationError):
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(config, str):
            folder = Path(config).parent
            if weight_files(folder):
                return folder
    return None


def texts(remote: Remote) -> list[str]:
    """The small files that a model is made of."""
    return [name for name in remote.sizes if "/" not in name and name.endswith(TEXTS)]


def weights(remote: Remote, folder: Path) -> list[str]:
    """The files of weights of a model whose small files are in `folder`, and its CLIP companion's files."""
    found = _named(remote.sizes, folder)
    return found + [name for name in remote.sizes if name.startswith("clip/")] if found else []


def fetch(remote: Remote, names: Collection[str], tell: Tell | None = None) -> Path:
    """The folder with these files; what is in the cache already is not fetched again."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    total = sum(remote.sizes[name] for name in names)
    blobs = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=remote.name, repo_type="model") / "blobs"

    def share() -> float:
        with contextlib.suppress(OSError):  # a file that was renamed meanwhile
            return min(1.0, sum(file.stat().st_size for file in blobs.iterdir()) / max(1, total))
        return 0.0

    if tell is not None:
        tell(f"Fetching {remote.name}, {total / 2**30:.1f} GiB", share)
    try:
        folder = snapshot_download(remote.name, revision=remote.revision, allow_patterns=list(names))
    except Exception as error:
        raise Broken(f"{remote.name} could not be fetched to its end") from error
    return Path(folder)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder; none when one that its index names is missing."""
    files = [folder / name for name in _named([path.name for path in folder.iterdir()], folder)]
    return files if all(file.is_file() for file in files) else []


def _named(names: Collection[str], folder: Path) -> list[str]:
    """Those of a model's files that hold its weights, by the index in `folder` if there is one."""
    if INDEX in names and (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text("utf-8"))
        return sorted(set(index["weight_map"].values()))
    return [WHOLE] if WHOLE in names else []


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns, or TimeoutError: looking up an address knows no timeout of its own."""
    answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds} seconds") from None
    if error is not None:
        raise error
    return value
