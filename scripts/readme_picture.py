"""Make docs/images/overlay.jpg: one upload, explained by two models, both by the service itself.

Run as: .venv/bin/python scripts/readme_picture.py models/samples/lesion-benign-sticker.jpg
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
HEIGHT, GAP, CAPTION = 300, 12, 34


def main() -> None:
    """Explain the picture by each model, and put the results side by side."""
    upload = Path(sys.argv[1])
    panels = [("the upload", Image.open(upload).convert("RGB"))]
    with tempfile.TemporaryDirectory() as folder:
        models = ("lesion", "lesion-shortcut")
        panels += [explained(upload, model, Path(folder) / f"{model}.png") for model in models]
    beside(panels).save(ROOT / "docs/images/overlay.jpg", quality=88)


def explained(upload: Path, model: str, overlay: Path) -> tuple[str, Image.Image]:
    """The caption and the overlay that the command line makes."""
    options = ["--model", model, "-o", str(overlay)]
    command = [sys.executable, "-m", "app", "explain", str(upload), *options]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    score, label = said.splitlines()[1].split()[:2]
    return f"{model}: {label}, {score}", Image.open(overlay).convert("RGB")


def beside(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """Panels of one height in a row, each with its caption."""
    pictures = [image.resize((image.width * HEIGHT // image.height, HEIGHT)) for _, image in panels]
    width = sum(picture.width + GAP for picture in pictures) - GAP
    sheet = Image.new("RGB", (width, HEIGHT + CAPTION), "white")
    draw, font, x = ImageDraw.Draw(sheet), ImageFont.load_default(18), 0
    for (caption, _), picture in zip(panels, pictures, strict=True):
        sheet.paste(picture, (x, 0))
        draw.text((x, HEIGHT + 8), caption, "black", font)
        x += picture.width + GAP
    return sheet


if __name__ == "__main__":
    main()
