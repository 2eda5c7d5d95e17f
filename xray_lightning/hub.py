"""The Hugging Face hub: ``hf://OWNER/NAME[@REVISION]`` as a file, and files into a repository.

Weights are safetensors, never a pickle. A revision is resolved to its commit before anything is
fetched, so that what is recorded is what was read.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from xray_lightning.errors import CheckpointError, ConfigError, OutputError, XrayError
from xray_lightning.wording import fault

LIBRARY = "xray_lightning"  # as the card of a repository of ours names it
WEIGHTS = "model.safetensors"
PLACE = re.compile(r"hf:/+([\w.-]+/[\w.-]+)(?:@(.+))?")  # one slash: what pathlib leaves of two
CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})/")


def locate(place: str | Path) -> Path:
    """The file at a place; one on the hub is fetched into its cache first, or a CheckpointError."""
    if not str(place).startswith("hf:/"):
        return Path(place)
    if (parts := PLACE.fullmatch(str(place))) is None:
        raise CheckpointError(f"{place}: write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    repo, revision = parts.groups()
    with _open_hub(repo, CheckpointError) as hub:
        if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            revision = hub.model_info(repo, revision=revision).sha
        return Path(hub.hf_hub_download(repo, WEIGHTS, revision=revision))


def find_checkpoint(place: str | Path) -> Path:
    """The best checkpoint of a run folder; a file as it is; of the hub the one that is fetched."""
    path = locate(place)
    path = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: name its file, a run or hf://OWNER/NAME")
    if not (is_zipfile(path) or path.suffix == ".safetensors"):  # asked without torch
        raise CheckpointError(f"{path} is damaged or no checkpoint: take a file of train.py's")
    return path


def find_run(checkpoint: Path) -> Path | None:
    """The folder of the run whose ``checkpoints`` hold the file; None of one that lies alone."""
    place = checkpoint.resolve().parent  # what the hub keeps is a link
    return place.parent if place.name == "checkpoints" else None


def name_place(path: str | Path) -> str:
    """A file as hf://REPO@COMMIT, if it was fetched from there, else by its path."""
    parts = CACHED.search(str(path))
    return f"hf://{parts[1]}/{parts[2]}@{parts[3]}" if parts else str(path)


def require_pushable(repo: str) -> None:
    """Refuse a name that is none, and a push without a token, before long work."""
    from huggingface_hub import get_token

    if "@" in repo or not PLACE.fullmatch(f"hf://{repo}"):
        raise ConfigError(f"{repo!r} is no repository of the hub: write OWNER/NAME")
    if get_token() is None:
        raise ConfigError(f"no token to push to {repo}: set HF_TOKEN, or run `hf auth login`")


def push_files(repo: str, files: Mapping[str, bytes | Path], public: bool) -> str:
    """Commit files to a repository, made if it is not there; hf://REPO@COMMIT of them.

    ConfigError: it holds another program's files, or is public and should not be, or reversely;
    OutputError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd

    with _open_hub(repo, OutputError) as hub:
        hub.create_repo(repo, private=not public, exist_ok=True)
        there = hub.model_info(repo)
        names = {file.rfilename for file in there.siblings} - {".gitattributes"}
        if names and there.library_name != LIBRARY:
            raise ConfigError(f"{repo} holds files of another program, such as {min(names)}")
        if bool(there.private) == public:
            seen, other = ("private", "false") if public else ("public", "true")
            raise ConfigError(f"{repo} is {seen}: change that, or public={other}")
        adds = [CommitOperationAdd(name, file) for name, file in files.items()]
        done = hub.create_commit(repo, adds, commit_message=f"{LIBRARY}: {', '.join(files)}")
        return f"hf://{repo}@{done.oid}"


@contextmanager
def _open_hub(repo: str, kind: type[XrayError]) -> Iterator[Any]:
    """The hub's client; its errors, of many unrelated types, become one of ours."""
    from huggingface_hub import HfApi

    try:
        yield HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name=LIBRARY)
    except XrayError:
        raise
    except Exception as error:
        names = {base.__name__ for base in type(error).__mro__}
        raise kind(fault("of_the_hub", repo, names, error.__cause__ or error, WEIGHTS)) from error
