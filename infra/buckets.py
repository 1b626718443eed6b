"""Buckets of an S3 store: made, counted, and written to and read from one tar file each.

    python buckets.py create NAME ...
    python buckets.py count NAME                 objects in it
    python buckets.py download NAME > NAME.tar
    python buckets.py upload NAME < NAME.tar     --replace: also into a bucket that holds something
    python buckets.py prune NAME < NAME.tar      delete what is not in the file

A tar file on standard output and no folder: a key may be anything, a path may not. Store and account come from boto3's
usual variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

_HEADERS = "INKWELL.headers"  # content type and metadata of an object, as a header of its entry


class BucketError(RuntimeError):
    """Something to mend, in one sentence."""


class _Forward:
    """An entry of a tar stream, which can be read on and not be asked whether it can go back."""

    def __init__(self, entry: IO[bytes]) -> None:
        self.read = entry.read


def create(client: Any, names: Sequence[str]) -> None:
    """Make the buckets that do not exist."""
    existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in names:
        if name not in existing:
            client.create_bucket(Bucket=name)
            print(f"{name}: made", file=sys.stderr)


def keys(client: Any, name: str) -> Iterator[str]:
    """The keys of a bucket, in the store's order."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for entry in page.get("Contents", ()):
            yield entry["Key"]


def download(client: Any, name: str, target: IO[bytes]) -> int:
    """Write all objects of a bucket to `target` as a tar stream and return their number."""
    count = 0
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for key in keys(client, name):
            try:
                found = client.get_object(Bucket=name, Key=key)
            except client.exceptions.NoSuchKey:  # deleted since it was listed
                continue
            entry = tarfile.TarInfo(key)
            entry.size = found["ContentLength"]
            entry.mtime = int(found["LastModified"].timestamp())
            headers = {"ContentType": found.get("ContentType", ""), "Metadata": found.get("Metadata", {})}
            # The key stands in a header as well: tar takes slashes at its ends away.
            entry.pax_headers = {"path": key, _HEADERS: json.dumps(headers, sort_keys=True)}
            with found["Body"] as body:
                archive.addfile(entry, body)
            count += 1
    return count


def upload(client: Any, name: str, source: IO[bytes], replace: bool = False) -> int:
    """Put all entries of a tar stream into a bucket, which has to be empty unless `replace`, and return their number.

    What else the bucket holds stays: see `prune`.
    """
    create(client, [name])
    before = sum(1 for _ in keys(client, name))
    if before and not replace:
        raise BucketError(f"{name} holds {before} objects: name --replace to write over them.")
    count = 0
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            headers = json.loads(entry.pax_headers.get(_HEADERS, "{}"))
            extra = {header: value for header, value in headers.items() if value}
            body = archive.extractfile(entry) if entry.isreg() else None
            if body is None:
                raise BucketError(f"{_key(entry)!r} is no file: this archive was not written by this program.")
            client.upload_fileobj(_Forward(body), name, _key(entry), ExtraArgs=extra)
            count += 1
    return count


def prune(client: Any, name: str, source: IO[bytes]) -> int:
    """Delete the objects of a bucket that are no entries of a tar stream, and return their number."""
    with tarfile.open(fileobj=source, mode="r|") as archive:
        kept = {_key(entry) for entry in archive}
    # Only now, so that a broken archive deletes nothing.
    surplus = [key for key in keys(client, name) if key not in kept]
    for key in surplus:
        client.delete_object(Bucket=name, Key=key)
    return len(surplus)


def _key(entry: tarfile.TarInfo) -> str:
    return entry.pax_headers.get("path", entry.name)


def connect() -> Any:
    """A client of the store that the environment names."""
    # Checksums that newer clients send unasked are not understood by every store.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    import boto3

    return boto3.client("s3")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="buckets.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("action", choices=("create", "count", "download", "upload", "prune"))
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--replace", action="store_true", help="upload: also into a bucket that holds something")
    arguments = parser.parse_args(argv)
    if arguments.action != "create" and len(arguments.names) > 1:
        parser.error(f"{arguments.action} takes one bucket.")
    name = arguments.names[0]
    try:
        client = connect()
        if arguments.action == "create":
            create(client, arguments.names)
        elif arguments.action == "count":
            print(sum(1 for _ in keys(client, name)))
        elif arguments.action == "download":
            print(f"{name}: {download(client, name, sys.stdout.buffer)} objects", file=sys.stderr)
        elif arguments.action == "prune":
            print(f"{name}: {prune(client, name, sys.stdin.buffer)} objects deleted", file=sys.stderr)
        else:
            count = upload(client, name, sys.stdin.buffer, arguments.replace)
            print(f"{name}: {count} objects", file=sys.stderr)
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("botocore", "boto3", "tarfile", "__main__", "buckets"):
            raise
        print(f"buckets: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
