"""The artifact folder: what is saved is loaded, and what does not fit is refused in words."""

import json
from pathlib import Path

import pytest
import torch

from habitus.core.errors import ArtifactError, ConfigError, FingerprintError
from habitus.models.artifact import Card, load_artifact, save_artifact, update_artifact
from habitus.models.heads import fit_head
from habitus.models.lumos import Lumos, LumosConfig, LumosShape
from habitus.testing.contracts import day_batch

SHAPE = LumosShape(3, 4, 2, 40, 5, (1, 3), (1,))
HEADS = (fit_head("binary", "buy", 5, [0, 1, 1]), fit_head("ziln", "spend", 5, [0, 2.0, 31.7]))
DAY_HEADS = (fit_head("binary", "active", 1, [0, 1]),)
SPEC = {"columns": ["a", "b"], "mean": [0.1, 1 / 3]}


def members(n: int = 2) -> list[Lumos]:
    return [Lumos(LumosConfig(size="tiny", n_heads=2), SHAPE, seed=seed) for seed in range(n)]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_artifact(
        tmp_path / "artifact",
        members(),
        name="lumos",
        spec=SPEC,
        fingerprint="f" * 64,
        heads=HEADS,
        day_heads=DAY_HEADS,
        config={"recipe": "shop"},
        calibration={"buy": {"slope": 1.1}},
        card=Card("Shop", summary="Who buys.", targets=[{"target": "buy", "rate": 0.3}], limits=["One shop."]),
    )


def test_what_is_saved_is_loaded(saved: Path) -> None:
    found = load_artifact(saved, fingerprint="f" * 64)
    assert (found.heads, found.day_heads) == (HEADS, DAY_HEADS)
    assert (found.spec, found.calibration, found.metrics) == (SPEC, {"buy": {"slope": 1.1}}, {})
    assert found.config["chosen"] == {"recipe": "shop"}
    batch = day_batch(4, SHAPE)
    for model, loaded in zip(members(), found.members, strict=True):
        assert not loaded.training
        assert loaded.config == model.config
        assert torch.equal(model.eval()(batch).window, loaded(batch).window)


def test_the_folder_is_what_the_guide_says(saved: Path) -> None:
    files = {f.name for f in saved.iterdir()}
    assert files == {
        "manifest.json",
        "config.json",
        "spec.json",
        "heads.json",
        "weights-0.safetensors",
        "weights-1.safetensors",
        "calibration.json",
        "metrics.json",
        "README.md",
    }
    assert "| buy | 0.3 |" in (saved / "README.md").read_text()
    assert "- One shop." in (saved / "README.md").read_text()
    assert [p.name for p in saved.parent.iterdir()] == ["artifact"]  # nothing half-written beside it


def test_later_knowledge_replaces_earlier(saved: Path) -> None:
    update_artifact(saved, calibration={"buy": {"slope": 0.9}}, metrics={"auc": 0.75}, card=Card("New"))
    found = load_artifact(saved)
    assert (found.calibration, found.metrics) == ({"buy": {"slope": 0.9}}, {"auc": 0.75})
    assert (saved / "README.md").read_text() == "# New\n"


def test_saving_again_replaces_the_whole_folder(saved: Path) -> None:
    save_artifact(saved, members(1), name="lumos", spec=SPEC, fingerprint="g", heads=HEADS)
    assert len(load_artifact(saved).members) == 1
    assert not (saved / "weights-1.safetensors").exists()


def test_a_failed_save_leaves_the_old_artifact(saved: Path) -> None:
    with pytest.raises(TypeError):
        save_artifact(saved, members(1), name="lumos", spec={"bad": {1, 2}}, fingerprint="g", heads=HEADS)
    assert len(load_artifact(saved).members) == 2
    assert [p.name for p in saved.parent.iterdir()] == ["artifact"]


def test_another_fingerprint_is_refused(saved: Path) -> None:
    with pytest.raises(FingerprintError, match="e" * 12) as caught:
        load_artifact(saved, fingerprint="e" * 64)
    assert "f" * 12 in str(caught.value)


@pytest.mark.parametrize("name", ["spec.json", "heads.json", "config.json", "weights-1.safetensors", "metrics.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load_artifact(saved)


def test_truncated_weights_are_refused(saved: Path) -> None:
    file = saved / "weights-0.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"weights-0\.safetensors as it was written"):
        load_artifact(saved)


def test_a_changed_spec_is_refused(saved: Path) -> None:
    (saved / "spec.json").write_text(json.dumps({**SPEC, "mean": [9.0, 9.0]}))
    with pytest.raises(ArtifactError, match=r"spec\.json as it was written"):
        load_artifact(saved)


def change_manifest(folder: Path, **values: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_another_format_is_refused_with_the_version_that_wrote_it(saved: Path) -> None:
    change_manifest(saved, format=2, habitus="9.9")
    with pytest.raises(ArtifactError, match=r"use habitus 9\.9"):
        load_artifact(saved)


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    change_manifest(saved, shape={**json.loads((saved / "manifest.json").read_text())["shape"], "n_known": 6})
    with pytest.raises(ArtifactError, match="weights that fit the config"):
        load_artifact(saved)


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_broken_manifest_is_refused(saved: Path, content: str) -> None:
    (saved / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError):
        load_artifact(saved)


def test_folders_that_are_no_artifact_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        load_artifact(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="a folder without one"):
        load_artifact(tmp_path)


def test_members_must_be_alike_and_known(tmp_path: Path) -> None:
    unlike = [*members(1), Lumos(LumosConfig(size="tiny"), SHAPE)]
    for wrong in (unlike, []):
        with pytest.raises(ConfigError, match="members"):
            save_artifact(tmp_path / "a", wrong, name="lumos", spec={}, fingerprint="f", heads=HEADS)
    with pytest.raises(ConfigError, match="did you mean 'lumos'"):
        save_artifact(tmp_path / "a", members(1), name="lumo", spec={}, fingerprint="f", heads=HEADS)
    assert list(tmp_path.iterdir()) == []
