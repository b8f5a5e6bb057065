"""A manifest is complete with four keys, and a wrong one says where and what."""

from pathlib import Path

import pytest

from app.backbones.manifest import read_manifest, read_manifests
from app.errors import ManifestError

FOUR_LINES = """
name = "m"
family = "torchvision"
architecture = "resnet18"
weights = "random"
"""


def write(folder: Path, text: str, name: str = "m.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_four_keys_suffice(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, FOUR_LINES))
    assert (manifest.name, manifest.is_local, manifest.read_labels()) == ("m", True, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name m", ["line 1"]),
        (FOUR_LINES.replace('"m"', '"a.b"'), ["name"]),
        (FOUR_LINES.replace("torchvision", "nobody"), ["family", "torchvision"]),
        (FOUR_LINES + "colour = 1", ["colour"]),
        (FOUR_LINES + "num_classes = 0", ["num_classes"]),
        (FOUR_LINES + "[preprocess]\ncrop = 0", ["preprocess.crop"]),
        (FOUR_LINES.replace("random", "w.safetensors"), ["sha256", "required"]),
        (FOUR_LINES + 'sha256 = "12"', ["sha256"]),
        (FOUR_LINES + 'labels = "../secret"', ["../secret", "outside"]),
        (FOUR_LINES + 'labels = "/etc/passwd"', ["/etc/passwd", "outside"]),
        (FOUR_LINES.replace("random", "../w.safetensors"), ["../w.safetensors", "outside"]),
    ],
)
def test_a_wrong_manifest_names_its_file_and_its_key(
    text: str, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ManifestError) as wrong:
        read_manifest(write(tmp_path, text))
    for word in ["m.toml", *words]:
        assert word in wrong.value.detail


def test_a_manifest_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match=r"m\.toml"):
        read_manifest(tmp_path / "m.toml")


def test_two_manifests_of_one_name_are_an_error_that_names_both(tmp_path: Path) -> None:
    write(tmp_path, FOUR_LINES, "a.toml")
    write(tmp_path, FOUR_LINES, "b.toml")
    with pytest.raises(ManifestError, match=r"b\.toml.*a\.toml"):
        read_manifests(tmp_path)


def test_a_folder_without_manifests_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="APP_MODELS_DIR"):
        read_manifests(tmp_path)


def test_labels_are_the_lines_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n dog \n\n")
    manifest = read_manifest(write(tmp_path, FOUR_LINES + 'labels = "labels.txt"'))
    assert manifest.read_labels() == ("cat", "dog")


def test_labels_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, FOUR_LINES + 'labels = "gone.txt"'))
    with pytest.raises(ManifestError, match=r"gone\.txt"):
        manifest.read_labels()


def test_the_version_changes_with_the_manifest_and_with_its_labels(tmp_path: Path) -> None:
    text = FOUR_LINES + 'labels = "labels.txt"'
    (tmp_path / "labels.txt").write_text("cat")
    versions = {read_manifest(write(tmp_path, text)).version()}
    assert read_manifest(write(tmp_path, text)).version() in versions
    versions.add(read_manifest(write(tmp_path, text + "\nseed = 1")).version())
    (tmp_path / "labels.txt").write_text("dog")
    versions.add(read_manifest(write(tmp_path, text)).version())
    assert len(versions) == 3


def test_every_manifest_that_is_shipped_can_be_read() -> None:
    manifests = read_manifests(Path(__file__).parents[3] / "models")
    assert {"shapes", "lesion", "lesion-shortcut", "resnet50"} <= manifests.keys()
    for name in ("shapes", "lesion", "lesion-shortcut"):
        assert "ynthetic" in manifests[name].description
