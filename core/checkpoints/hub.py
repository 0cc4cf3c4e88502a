"""Files from the Hugging Face hub: listed with their digests, fetched in pieces that survive an interruption.

``huggingface_hub`` knows the addresses, the token (``HF_TOKEN``), mirrors (``HF_ENDPOINT``), redirects and retries. Its
own downloads start over after an interruption (since version 1.31), and these files have gigabytes: so the bytes go to
a file of ours, which the next try continues.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from core.checkpoints.ledger import FileRecord, file_record
from core.config.releases import Source
from core.errors import DownloadError, disk_full_error, is_disk_full

OnBytes = Callable[[int], None]  # of one file, so far
PARTIAL = ".part"


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub describes it."""

    name: str  # one of the source's files
    bytes: int
    sha256: str | None  # of large files
    git_sha1: str | None  # of small ones, as git counts it


@dataclass(frozen=True)
class Listing:
    """The files of a source at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


def list_files(source: Source, revision: str, endpoint: str | None = None) -> Listing:
    """Ask the hub for the source's files.

    Args:
        revision: a commit, or a name such as ``main``.
        endpoint: of the hub; None is that of ``HF_ENDPOINT``, else huggingface.co.

    Raises:
        DownloadError: if the hub cannot be reached, refuses, or lacks a file.
    """
    with _told(source):
        info = HfApi(endpoint=endpoint).model_info(source.repo, revision=revision, files_metadata=True)
    there = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    found = []
    for name in source.files:
        sibling = there.get(source.path(name))
        if sibling is None or sibling.size is None or not info.sha:
            raise DownloadError(
                f"{source.page} has no {source.path(name)} at {revision}. It may have moved: update S2 Mesh."
            )
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        found.append(RemoteFile(name, sibling.size, sha256, None if sha256 else sibling.blob_id))
    return Listing(info.sha, tuple(found))


def fetch(
    source: Source, file: RemoteFile, commit: str, path: Path, on_bytes: OnBytes, endpoint: str | None = None
) -> FileRecord:
    """Fetch one file to ``path``, which appears when it is whole and its digest is right.

    What came before an interruption stays in ``path`` with ``.part`` and is continued. ``on_bytes`` may raise to stop.

    Raises:
        DownloadError: if the hub fails, or the file is not what the hub said it is.
        DiskFullError: where no space is left; what came is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    url = hf_hub_url(source.repo, source.path(file.name), revision=commit, endpoint=endpoint)
    headers = build_hf_headers(library_name="s2mesh")
    headers["Accept-Encoding"] = "identity"  # a part of a packed file could not be continued
    start = partial.stat().st_size if partial.exists() else 0
    if start > file.bytes:
        partial.unlink()  # of another file
        start = 0
    try:
        with _told(source), partial.open("ab") as raw:
            on_bytes(start)
            http_get(
                url, _Counting(raw, on_bytes), resume_size=start, headers=headers, expected_size=file.bytes,
                displayed_filename=file.name, tqdm_class=_NoBar,
            )  # fmt: skip
            raw.flush()
            os.fsync(raw.fileno())
    except OSError as error:
        if is_disk_full(error):
            raise disk_full_error(path, error) from error
        raise
    record = _checked(source, file, partial)
    os.replace(partial, path)
    return record


def _checked(source: Source, file: RemoteFile, path: Path) -> FileRecord:
    """What came, if it is what the hub said.

    Raises:
        DownloadError: if not; the file is removed then.
    """
    record = file_record(path)
    if file.sha256 is not None:
        right = record.sha256 == file.sha256
    else:  # small
        content = path.read_bytes()
        right = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.git_sha1
    if not right:
        path.unlink()
        raise DownloadError(
            f"{file.name} of {source.repo} arrived damaged (its digest is not the one that the hub gives) and was "
            "thrown away. Run the command again; if it comes again, use another network or fetch the file by hand."
        )
    return record


@contextlib.contextmanager
def _told(source: Source) -> Iterator[None]:
    """Errors of the hub and of the network in our words."""
    by_hand = f"or fetch the files by hand from {source.page} and name their folder with --from"
    try:
        yield
    except OfflineModeIsEnabled:
        raise DownloadError(f"HF_HUB_OFFLINE is set, so nothing is fetched. Unset it, {by_hand}.") from None
    except GatedRepoError:
        raise DownloadError(
            f"{source.page} wants its terms accepted first. Do so there, and set HF_TOKEN to your token, {by_hand}."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            told = "is not let in" if os.environ.get("HF_TOKEN") else "wants a token"
            raise DownloadError(
                f"{source.repo}: the hub refuses ({status}); whoever asks {told}. Set HF_TOKEN to a valid token "
                f"(https://huggingface.co/settings/tokens), unset it if it is out of date, {by_hand}."
            ) from None
        if status == 404 or isinstance(error, RepositoryNotFoundError):
            raise DownloadError(
                f"{source.repo} or a file of it is not on the hub any more (404). Update S2 Mesh, {by_hand}."
            ) from None
        raise DownloadError(
            f"the hub answers with status {status} for {source.repo}. Try again later, {by_hand}."
        ) from None
    except httpx2.HTTPError as error:
        cause = str(error) or type(error).__name__
        raise DownloadError(
            f"the connection to the hub broke ({cause}). Run the command again: it goes on where it stopped; {by_hand}."
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise DownloadError(f"{source.repo}: {error}. Run the command again, {by_hand}.") from None


class _Counting:
    """A file that tells how long it is after each piece."""

    def __init__(self, file: BinaryIO, on_bytes: OnBytes) -> None:
        self._file, self._on_bytes = file, on_bytes
        self.tell, self.seek, self.truncate = file.tell, file.seek, file.truncate

    def write(self, piece: bytes) -> int:
        written = self._file.write(piece)
        self._on_bytes(self._file.tell())
        return written


class _NoBar:
    """Stands where the library would draw a bar."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, *_: object) -> None: ...
