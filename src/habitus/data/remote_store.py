"""A store on S3 or another file system: its manifest is read when it is opened, each file when it is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from habitus.core import remote
from habitus.core.errors import DiskError, StoreError
from habitus.data.schema import Schema
from habitus.data.store import MANIFEST, Store, files_of, read_manifest


@dataclass(frozen=True)
class RemoteStore(Store):
    """A store elsewhere; its files are kept below `path` on this machine. Names carry hashes, so none grows stale."""

    remote: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        return self.remote

    def file(self, name: str) -> Path:
        """Give the path of a file that the manifest names, fetched at the first call."""
        local = self.path / name
        return local if local.is_file() else remote.fetch(remote.joined(self.remote, name), local)


def open_remote(address: str) -> RemoteStore:
    """Open a store by its address. Errors: `StoreError` when there is none; `DiskError` when nobody answers."""
    path, source = remote.mirror(address), remote.joined(address, MANIFEST)
    if not remote.exists(source):
        fix = "make one with `habitus ingest`"
        raise StoreError("a store", "no manifest.json", where=remote.shown(address), fix=fix)
    remote.fetch(source, path / MANIFEST)
    manifest = read_manifest(path)
    return RemoteStore(path, manifest, Schema.parse(manifest["schema"], where=str(path)), address)


def publish(store: Store, address: str, *, replaces: str | None = None) -> RemoteStore:
    """Upload a store, the manifest last, then remove what the older one alone named.

    `replaces` is the fingerprint of the store that may be there; None: none may. Errors: `DiskError` when there is one;
    `StoreError` when it is another by now.
    """
    source = remote.joined(address, MANIFEST)
    old: dict[str, Any] | None = None
    if remote.exists(source):
        old = json.loads(remote.read(source))  # and the copy here stays as it is: it may be what is published
        if replaces is None:
            found, fix = "it exists already", "choose another address, or replace it"
            raise DiskError("a new address", found, where=remote.shown(address), fix=fix)
        if old is not None and old["fingerprint"] != replaces:
            found = f"another one ({old['fingerprint'][:12]})"
            raise StoreError(f"the store {replaces[:12]}", found, where=remote.shown(address), fix="begin again")
    there = {entry["file"] for entry in files_of(old)} if old else set()
    named = {entry["file"] for entry in files_of(store.manifest)}
    remote.push(store.path, address, [*(named - there), MANIFEST])
    remote.remove(address, there - named)
    return open_remote(address)
