"""timm's models, where timm is installed."""

from typing import Any

from torch import nn

from app.backbones.manifest import Manifest
from app.errors import ManifestError, ModelCheckFailed

# They would load other weights, unchecked.
_WEIGHTS_ARGUMENTS = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
}  # fmt: skip


def build(manifest: Manifest) -> nn.Module:
    """The architecture; with timm's own weights where ``weights`` is ``"pretrained"``.

    The architecture may carry timm's tag: ``vit_tiny_patch16_224.augreg_in21k``.

    Raises:
        ManifestError: timm is not installed, or has no such model.
        ModelCheckFailed: the published weights cannot be had.
    """
    timm = _timm(manifest)
    if not timm.is_model(manifest.architecture):
        raise ManifestError(
            f"{manifest.file}: architecture: timm has no model {manifest.architecture!r}"
        )
    if manifest.is_published and manifest.weights != "pretrained":
        raise ManifestError(
            f"{manifest.file}: weights: 'pretrained', 'random', a .safetensors or .pth file, or a"
            " URL; timm's variants are tags of the architecture"
        )
    if own := sorted(_WEIGHTS_ARGUMENTS & manifest.arguments.keys()):
        raise ManifestError(
            f"{manifest.file}: arguments: {own[0]}: which weights to load is said by 'weights'"
        )
    try:
        model: nn.Module = timm.create_model(
            manifest.architecture,
            pretrained=manifest.is_published,
            **manifest.constructor,
            **_input_size(manifest, timm),
        )
    except TypeError as exc:
        raise ManifestError(f"{manifest.file}: arguments: {exc}") from exc
    except (OSError, RuntimeError) as exc:
        raise ModelCheckFailed(
            f"{manifest.name}: cannot get or use its weights ({exc}). Allow the download from"
            " huggingface.co once, or name a weights file."
        ) from exc
    return model


def preset(manifest: Manifest) -> dict[str, Any]:
    """The preprocessing of timm's configuration."""
    timm = _timm(manifest)
    config = timm.data.resolve_data_config({}, pretrained_cfg=_config(manifest, timm))
    _, height, width = config["input_size"]
    resize = int(min(height, width) / config["crop_pct"])
    squashed = config.get("crop_mode") == "squash"
    return {
        "resize": (height, width) if squashed else resize,
        "crop": (height, width),
        "interpolation": config["interpolation"],
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
    }


def categories(manifest: Manifest) -> tuple[str, ...]:
    """The labels of timm's configuration, as far as it knows them: ImageNet's subsets."""
    timm = _timm(manifest)
    config = {"num_classes": 1000, **_config(manifest, timm)}
    subset = timm.data.infer_imagenet_subset(config)
    if not subset:
        return ()
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.label_descriptions())


def _config(manifest: Manifest, timm: Any) -> dict[str, Any]:  # noqa: ANN401 - an optional import
    config = timm.get_pretrained_cfg(manifest.architecture)
    return config.to_dict() if config else {}


def _input_size(manifest: Manifest, timm: Any) -> dict[str, Any]:  # noqa: ANN401
    """Transformers are built for one input size."""
    crop = manifest.preprocess.crop
    config = _config(manifest, timm)
    if crop is None or not config.get("fixed_input_size"):
        return {}
    return {"img_size": (crop, crop) if isinstance(crop, int) else crop}


def _timm(manifest: Manifest) -> Any:  # noqa: ANN401 - an optional import, without types
    try:
        import timm
    except ImportError as exc:
        raise ManifestError(
            f"{manifest.file}: family: timm is not installed: .venv/bin/pip install timm"
        ) from exc
    return timm
