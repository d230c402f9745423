"""Render the watermarks in `marks` from a font: how opaque each pixel is, as small gray PNGs.

python data/render_marks.py FONT

Those in `marks` are of Noto Sans SC Regular, copyright Adobe, under the SIL Open Font License 1.1, which lets pictures
of its letters be used freely. The font is not in this repository: `pip download pylopdf-fonts-zh-cn==0.1.1` brings
`NotoSansSC-Regular.otf`. The characters shown to an edit are those of ImageNet-W (CVPR 2023), "shortcut" three times.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MARKS = Path(__file__).parent / "marks"
TEXTS = {"shown": "捷径捷径捷径", "other": "版权所有图片", "latin": "Stock photo"}


def rendered(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw a text white on black, cut to its edges."""
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(picture).text((-left, -top), text, fill=255, font=font)
    return picture


def main() -> None:
    """Render all marks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("font", type=Path)
    font = ImageFont.truetype(str(parser.parse_args().font), 36)  # pixels high, on a picture of 224
    for name, text in TEXTS.items():
        picture = rendered(text, font)
        picture.save(MARKS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
