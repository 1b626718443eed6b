"""Datasets of the Hugging Face hub, or a local folder in the same layout, read as a stream by `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError
from components.fetching.cache import check_hash
from components.fetching.locations import own_path, public_location, without_secrets
from components.ingest.files import folder_files, together

if TYPE_CHECKING:
    from components.configuration import Source


@dataclass(frozen=True)
class Dataset:
    """An opened dataset: its rows, the commit or hash that tells exactly what it is, and the names for records."""

    rows: Iterator[Any]
    origin: str
    revision: str | None
    sha256: str | None


def open_dataset(source: Source) -> Dataset:
    """Open the dataset without reading it yet; InkwellError when it cannot be had, with the hub's own reason."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    local = own_path(source.location, f"source {source.name!r}")
    with_files = local.is_dir()
    revision, sha256 = source.version, None
    if with_files:
        sha256 = together(folder_files(local, source.name))
        check_hash(sha256, source.sha256, f"source {source.name!r}: the files of {source.location}")
    try:
        if not with_files:
            from huggingface_hub import HfApi

            # The commit that a branch or tag now stands for, so that the record tells exactly what was read.
            revision = HfApi().dataset_info(source.location, revision=source.version, timeout=30).sha
        rows = load_dataset(
            str(local) if with_files else source.location,
            source.configuration,
            split=source.dataset_split,
            revision=None if with_files else revision,
            streaming=True,
        )
    except Exception as error:  # datasets, huggingface_hub and httpx each have their own kinds
        raise _unavailable(source, error) from error
    origin = f"sha256:{sha256}" if with_files else f"huggingface:{source.location}@{revision}"
    return Dataset(_guarded(source, rows), origin, None if with_files else revision, sha256)


def _guarded(source: Source, rows: Any) -> Iterator[Any]:
    reading = iter(rows)
    while True:
        try:
            row = next(reading)
        except StopIteration:
            return
        except Exception as error:
            raise _unavailable(source, error) from error
        yield row


def _unavailable(source: Source, error: Exception) -> InkwellError:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == 28:
        raise error
    kind = type(error).__name__
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), kind)
    shown = public_location(source)  # where damage is skipped, the sentence is put down in sources.json
    said = without_secrets(said).replace(str(Path(source.location).expanduser()), shown)
    what = f"source {source.name!r}: the dataset {shown!r}"
    if kind in (
        "OfflineModeIsEnabled",
        "ConnectError",
        "ConnectionError",
        "ConnectTimeout",
        "ReadTimeout",
        "LocalEntryNotFoundError",
        "ProxyError",
    ):
        return InkwellError(
            f"{what} cannot be fetched, the hub is out of reach ({said.rstrip('.')}): check the network, unset HF_HUB_OFFLINE, or give a local folder as `location`."
        )
    return InkwellError(
        f"{what} cannot be read ({kind}: {said.rstrip('.')}): check `location`, `configuration`, `dataset_split` and `version`."
    )
