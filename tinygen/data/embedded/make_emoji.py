"""Make `emoji/emoji.npz`: 1,891 pictures, 64×64 RGB on white, of the Noto Color Emoji font.

    apt-get install fonts-noto-color-emoji unicode-data
    python tinygen/data/embedded/make_emoji.py

The font (SIL OFL 1.1, so the pictures are under it too) holds one 136×128 bitmap per emoji, whose
outer columns are empty: cut to 128×128, every 2×2 block is averaged, which keeps edges crisp,
leaves the ground exactly white, and packs smaller than a sharper filter's ringing would.

Unicode's `emoji-test.txt` lists 3,655 emoji, most of them one picture in six skin tones. Kept is
every emoji in yellow, and once more in one of the five tones (each takes the next tone in turn);
flags of countries are left out, and so is a picture that nearly equals an earlier one. The label
is Unicode's group. The same font, list and zlib give the same bytes.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
EMOJI_TEST = "/usr/share/unicode/emoji/emoji-test.txt"
FONT_SIZE = 109  # the one size at which the font's bitmaps exist
SKIN_TONES = [chr(code) for code in range(0x1F3FB, 0x1F400)]
# Root mean square difference of 16×16 thumbnails, in grey levels, below which two pictures are
# nearly equal: one superhero in two skin tones, two volumes of a loudspeaker. Faces differ more.
NEAR_DUPLICATE = 8.0


def emoji_list(path: str) -> Iterator[tuple[str, str]]:
    """Yield (characters, group) of the emoji to draw, in Unicode's order."""
    group = subgroup = ""
    toned = 0
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("# group:"):
            group = line.split(":")[1].strip()
        elif line.startswith("# subgroup:"):
            subgroup = line.split(":")[1].strip()
        elif "; fully-qualified" in line and not subgroup.endswith("-flag"):
            text = "".join(chr(int(code, 16)) for code in line.split(";")[0].split())
            tones = re.findall(f"[{''.join(SKIN_TONES)}]", text)
            if len(tones) == 1:
                # The five tones of an emoji come in a run: run 0 keeps the first, run 1 the next.
                run, tone = divmod(toned, len(SKIN_TONES))
                toned += 1
                if tone == run % len(SKIN_TONES):
                    yield text, group
            elif not tones:
                yield text, group


def draw(text: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """Return one emoji on white, uint8 (64, 64, 3)."""
    canvas = Image.new("RGBA", (136, 128), (255, 255, 255, 0))
    ImageDraw.Draw(canvas).text((0, 0), text, font=font, embedded_color=True)
    pixels = np.asarray(canvas, dtype=np.float32)[:, 4:132]
    alpha = pixels[..., 3:] / 255
    on_white = alpha * pixels[..., :3] + (1 - alpha) * 255
    return np.rint(on_white.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))).astype(np.uint8)


def without_near_duplicates(images: np.ndarray) -> list[int]:
    """Return the positions of the images (N, 64, 64, 3) that differ from all kept before."""
    thumbnails = images.reshape(-1, 16, 4, 16, 4, 3).mean(axis=(2, 4)).reshape(len(images), -1)
    kept: list[int] = []
    for index, thumbnail in enumerate(thumbnails):
        distances = np.sqrt(((thumbnails[kept] - thumbnail) ** 2).mean(axis=1))
        if not (distances < NEAR_DUPLICATE).any():
            kept.append(index)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", default=FONT)
    parser.add_argument("--emoji-test", default=EMOJI_TEST)
    parser.add_argument("--out", default=Path(__file__).parent / "emoji" / "emoji.npz", type=Path)
    args = parser.parse_args()

    # Raqm joins a sequence of characters into its one picture.
    font = ImageFont.truetype(args.font, FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    emoji = list(emoji_list(args.emoji_test))
    images = np.stack([draw(text, font) for text, _ in emoji])
    kept = without_near_duplicates(images)
    classes = list(dict.fromkeys(group for _, group in emoji))
    labels = np.array([classes.index(emoji[index][1]) for index in kept], dtype=np.uint8)
    part = args.out.with_suffix(".part.npz")
    np.savez_compressed(part, images=images[kept], labels=labels, classes=np.array(classes))
    part.replace(args.out)
    print(f"{len(kept)} of {len(images)} pictures, {args.out.stat().st_size:,} bytes: {args.out}")


if __name__ == "__main__":
    main()
