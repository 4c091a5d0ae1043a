"""Hugging Face's Hub: `export --push owner/name`, by huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dhumandiff.errors import short_error

from . import TrainingError

__all__ = ["check_hub", "push"]


def check_hub(repository: str) -> Any:
    """The Hub's client, if it may write.

    Raises:
        TrainingError: the name is none, huggingface_hub or the token is missing, or the token may only read.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise TrainingError(f"push is {repository!r}, but a repository is named owner/name.", code="hub-name-not-valid")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise TrainingError(
            f"push needs huggingface_hub ({error}). Install it with: pip install huggingface_hub",
            code="hub-package-missing",
        ) from error
    from huggingface_hub.errors import LocalTokenNotFoundError

    api = HfApi()
    try:
        token = (api.whoami().get("auth") or {}).get("accessToken") or {}
    except LocalTokenNotFoundError as error:
        raise TrainingError(
            f"push to {repository}: there is no token for Hugging Face on this machine. Make one that may write "
            "(https://huggingface.co/settings/tokens), then run `hf auth login` or set HF_TOKEN.",
            code="hub-token-missing",
        ) from error
    except Exception as error:  # the network, or a token that is no longer valid
        raise TrainingError(
            f"push to {repository}: Hugging Face cannot be asked who you are ({short_error(error)}). Look at the network and the "
            "token (`hf auth whoami`).",
            code="hub-not-reached",
        ) from error
    if token.get("role") == "read":
        raise _read_only(repository)
    return api


def push(api: Any, repository: str, private: bool, folder: Path, made: Sequence[Path]) -> str:
    """Upload what was made; the repository's address.

    Args:
        api: of `check_hub`.
        repository: owner/name; made if it is not there.
        private: of a repository that is made.
        folder: that the files lie in.
        made: files and folders below it; nothing else is uploaded.

    Raises:
        TrainingError: the Hub refuses the card, or writing; the files on the disk stay.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HfHubHTTPError

    names = [path.relative_to(folder).as_posix() for path in made]
    patterns = [f"{name}/*" if path.is_dir() else name for name, path in zip(names, made, strict=True)]
    try:
        ModelCard((folder / "README.md").read_text(encoding="utf-8")).validate()
        address = str(api.create_repo(repository, private=private, exist_ok=True))
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=patterns,
            commit_message="Weights and card of `python -m training export`",
        )
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise _read_only(repository) from error
        raise _not_pushed(repository, folder, error) from error
    except Exception as error:  # the network and the files have a family of errors each
        raise _not_pushed(repository, folder, error) from error
    return address


def _read_only(repository: str) -> TrainingError:
    return TrainingError(
        f"push to {repository}: the token may read, but not write there. Make one that may write "
        "(https://huggingface.co/settings/tokens), for this owner, then run `hf auth login` or set HF_TOKEN.",
        code="hub-token-read-only",
    )


def _not_pushed(repository: str, folder: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"push to {repository} failed ({short_error(error)}). What was made lies in {folder}; the same command pushes it again.",
        code="hub-not-pushed",
    )
