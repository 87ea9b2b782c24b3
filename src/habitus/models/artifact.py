"""The folder a trained model lives in: everything that using it needs, nothing that runs code when read.

manifest.json           format, version, shape, fingerprint of the spec, hashes of the files below it
config.json             what the user chose: the model's name and config, and whatever else was given
spec.json               what the data implied, as its owner wrote it
heads.json              what the outputs mean, per target
weights-N.safetensors   one per member (seed)
calibration.json        how forecasts are corrected, fitted on validation
metrics.json            what was measured
README.md               the model card
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import habitus
from habitus.core.atomic import new_file, new_folder, write_json
from habitus.core.errors import ArtifactError, ConfigError, FingerprintError
from habitus.core.registry import MODELS, resolve
from habitus.models.heads import Head

FORMAT = 1
_LATER = {"calibration": "calibration.json", "metrics": "metrics.json"}  # may be replaced after training


@dataclass(frozen=True)
class Card:
    """What a model card says. Text is Markdown; `data`, `targets` and `gates` are rows of a table, alike in keys."""

    title: str
    summary: str = ""
    data: Sequence[Mapping[str, Any]] = ()
    targets: Sequence[Mapping[str, Any]] = ()
    gates: Sequence[Mapping[str, Any]] = ()
    limits: Sequence[str] = ()
    use: str = ""

    def text(self) -> str:
        """Give the page.

        >>> print(Card("Shop", targets=[{"target": "buy", "rate": 0.3}], limits=["One shop."]).text())
        # Shop
        <BLANKLINE>
        ## Targets
        <BLANKLINE>
        | target | rate |
        |---|---|
        | buy | 0.3 |
        <BLANKLINE>
        ## Limits
        <BLANKLINE>
        - One shop.
        <BLANKLINE>
        """
        limits = "\n".join(f"- {line}" for line in self.limits)
        parts = [
            ("Data", _table(self.data)),
            ("Targets", _table(self.targets)),
            ("Beside its gate", _table(self.gates)),
        ]
        parts += [("Limits", limits), ("Use", self.use)]
        sections = [f"## {name}\n\n{text}\n" for name, text in parts if text]
        return "\n".join([f"# {self.title}\n", *([f"{self.summary}\n"] if self.summary else []), *sections])


@dataclass(frozen=True)
class Artifact:
    """An opened artifact. `members` are models in evaluation mode, one per seed."""

    path: Path
    name: str
    members: tuple[Any, ...]
    heads: tuple[Head, ...]
    day_heads: tuple[Head, ...]
    config: dict[str, Any]
    spec: dict[str, Any]
    fingerprint: str
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    manifest: dict[str, Any]


def save_artifact(
    path: str | Path,
    members: Sequence[nn.Module],
    *,
    name: str,
    spec: Mapping[str, Any],
    fingerprint: str,
    heads: Sequence[Head],
    day_heads: Sequence[Head] = (),
    config: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    card: Card | None = None,
) -> Path:
    """Write the folder beside, then rename it; an artifact already there is replaced.

    Parameters
    ----------
    members
        Models of one config and shape, one per seed.
    name
        The model's name in the registry.
    spec, fingerprint
        What the data implied, as a JSON object, and its fingerprint.
    config
        What else the user chose (a recipe, say), kept for the record.

    Errors: `ConfigError` for an unknown name or members that differ; `DiskError` when there is no room.
    """
    resolve(MODELS, name, kind="model")
    first: Any = members[0] if members else None
    if first is None or any(m.config != first.config or m.shape != first.shape for m in members):  # pyright: ignore
        raise ConfigError("at least one member, all of one config and shape", f"{len(members)} members that are not")
    with new_folder(path, replace=True) as folder:
        whole = {"name": name, "model": first.config.model_dump(mode="json"), "chosen": dict(config or {})}
        write_json(folder / "config.json", whole)
        write_json(folder / "spec.json", dict(spec))
        write_json(folder / "heads.json", {"window": [asdict(h) for h in heads], "day": [asdict(h) for h in day_heads]})
        for number, member in enumerate(members):
            tensors = {n: t.detach().cpu().contiguous() for n, t in member.state_dict().items()}
            save_file(tensors, folder / f"weights-{number}.safetensors")
        hashes = {file.name: _hash(file) for file in sorted(folder.iterdir())}
        write_json(folder / "calibration.json", dict(calibration or {}))
        write_json(folder / "metrics.json", dict(metrics or {}))
        (folder / "README.md").write_text((card or Card(name)).text(), "utf-8")
        manifest = {
            "format": FORMAT,
            "habitus": habitus.__version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "name": name,
            "shape": asdict(first.shape),
            "n_members": len(members),
            "n_parameters": sum(p.numel() for p in first.parameters()),
            "fingerprint": fingerprint,
            "files": hashes,
        }
        write_json(folder / "manifest.json", manifest)
    return Path(path)


def update_artifact(
    path: str | Path,
    *,
    calibration: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    card: Card | None = None,
) -> None:
    """Replace what is known only after training; each file atomically."""
    folder = Path(path)
    _manifest(folder)
    for name, value in (("calibration", calibration), ("metrics", metrics)):
        if value is not None:
            write_json(folder / _LATER[name], dict(value))
    if card is not None:
        with new_file(folder / "README.md") as beside:
            beside.write_text(card.text(), "utf-8")


def load_artifact(path: str | Path, *, fingerprint: str | None = None, device: str = "cpu") -> Artifact:
    """Open an artifact, check it whole, and build its members.

    Errors: `FingerprintError` when `fingerprint` is given and is not that of the artifact's spec; `ArtifactError` when
    the folder is no artifact, of another format, or lacks or has changed a file.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    if fingerprint is not None and fingerprint != manifest["fingerprint"]:
        fix = "use the artifact that was trained on this spec, or train again"
        raise FingerprintError(
            f"an artifact of fingerprint {fingerprint[:12]}", manifest["fingerprint"][:12], where=str(folder), fix=fix
        )
    for file, expected in manifest["files"].items():
        _check(folder / file, expected)
    config, spec, heads = (_read(folder / f"{name}.json") for name in ("config", "spec", "heads"))
    built = [_member(folder, number, manifest, config).to(device) for number in range(manifest["n_members"])]
    return Artifact(
        path=folder,
        name=manifest["name"],
        members=tuple(built),
        heads=tuple(_head(values) for values in heads["window"]),
        day_heads=tuple(_head(values) for values in heads["day"]),
        config=config,
        spec=spec,
        fingerprint=manifest["fingerprint"],
        calibration=_read(folder / "calibration.json"),
        metrics=_read(folder / "metrics.json"),
        manifest=manifest,
    )


def _member(folder: Path, number: int, manifest: Mapping[str, Any], config: Mapping[str, Any]) -> nn.Module:
    model = resolve(MODELS, manifest["name"], kind="model")
    file = folder / f"weights-{number}.safetensors"
    shape = {name: tuple(v) if isinstance(v, list) else v for name, v in manifest["shape"].items()}
    try:
        member = model(model.Config.parse(config["model"], where=str(folder / "config.json")), model.Shape(**shape))
        member.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError, OSError, TypeError) as cause:
        found = str(cause).splitlines()[0][:200]
        raise ArtifactError("weights that fit the config", found, where=str(file), fix=_FIX) from None
    return member.eval()


_FIX = "copy the folder again, or train again"


def _manifest(folder: Path) -> dict[str, Any]:
    if not (folder / "manifest.json").is_file():
        found = "no such folder" if not folder.is_dir() else "a folder without one"
        raise ArtifactError("an artifact folder with manifest.json", found, where=str(folder), fix="check the path")
    manifest = _read(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        by = manifest.get("habitus", "an unknown version")
        fix = f"use habitus {by}, which wrote it, or train again"
        raise ArtifactError(f"format {FORMAT}", f"format {manifest.get('format')}", where=str(folder), fix=fix)
    wanted = {"name", "shape", "n_members", "fingerprint", "files"}
    if wanted - manifest.keys():
        raise ArtifactError(
            "a whole manifest", f"one without {sorted(wanted - manifest.keys())}", where=str(folder), fix=_FIX
        )
    return manifest


def _check(file: Path, expected: str) -> None:
    if not file.is_file():
        raise ArtifactError(f"a file {file.name}", "none", where=str(file.parent), fix=_FIX)
    if _hash(file) != expected:
        found = f"{file.stat().st_size:,} bytes that differ from what the manifest lists"
        raise ArtifactError(f"{file.name} as it was written", found, where=str(file), fix=_FIX)


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"a file {file.name}", "none", where=str(file.parent), fix=_FIX) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as cause:
        raise ArtifactError("valid JSON", str(cause), where=str(file), fix=_FIX) from None


def _head(values: Mapping[str, Any]) -> Head:
    return Head(**{**values, "base": tuple(values["base"])})


def _hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(rows[0])
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    lines = [f"| {' | '.join(line)} |" for line in (columns, *cells)]
    return "\n".join([lines[0], f"|{'---|' * len(columns)}", *lines[1:]])
