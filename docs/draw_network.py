"""Draws docs/network.png, the network of the README and the model cards: python docs/draw_network.py"""

from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch


ENCODER, SKIP, DECODER, HEAD = "#cfe3f5", "#fbe3c0", "#d5ecd4", "#f3d1d1"
LEVELS = [(64, "1/2"), (128, "1/4"), (256, "1/8"), (512, "1/16")]
DECODED = ["256 · 1/8", "128 · 1/4", "64 · 1/2"]


def box(axes: plt.Axes, x: float, y: float, text: str, colour: str, width: float = 2.5, height: float = 0.86) -> None:
    patch = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0.04", fc=colour, ec="#555"
    )
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", fontsize=8.5)


def arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": "#444", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    )
    if text:
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        axes.text(middle[0] + 0.1, middle[1], text, fontsize=7.5, va="center", color="#333")


def draw_encoder(axes: plt.Axes) -> None:
    box(axes, 1.5, 9.2, "image\n3 × H × W", "white")
    box(axes, 1.5, 7.9, "stem: 7×7 conv, BN,\nReLU, max-pool", ENCODER)
    arrow(axes, (1.5, 8.75), (1.5, 8.36))
    for level, (channels, scale) in enumerate(LEVELS):
        y = 6.5 - 1.7 * level
        box(axes, 1.5, y, f"level {level + 1}: ResFormer\nResNet → Swin, {channels} · {scale}", ENCODER)
        arrow(axes, (1.5, y + 0.97 if level else 7.45), (1.5, y + 0.47), "3×3 conv, stride 2" if level else "")
        box(axes, 5.1, y, "dilated feature\nenhancement (6, 12, 18)", SKIP)
        arrow(axes, (2.8, y), (3.8, y))
        if level < 3:
            axes.plot([1.5, 1.5], [y - 0.47, y - 0.73], color="#444", lw=1.1)


def draw_decoder(axes: plt.Axes) -> None:
    for level in range(3):
        y = 6.5 - 1.7 * level
        box(axes, 8.6, y, f"concat, 3×3 conv, BN,\nReLU: {DECODED[2 - level]}", DECODER)
        arrow(axes, (6.4, y), (7.3, y))
        if level < 2:
            arrow(axes, (8.6, y - 1.23), (8.6, y - 0.47), "up ×2")
    axes.plot([6.4, 8.6], [1.4, 1.4], color="#444", lw=1.1)
    arrow(axes, (8.6, 1.4), (8.6, 2.63), "up ×2")
    arrow(axes, (8.6, 6.97), (8.6, 7.45))
    box(axes, 8.6, 7.9, "1×1 conv, up ×2", HEAD)
    arrow(axes, (8.6, 8.36), (8.6, 8.75))
    box(axes, 8.6, 9.2, "mask logits\nS × H × W", "white")


def draw_classifier(axes: plt.Axes) -> None:
    axes.plot([0.2, -0.5, -0.5], [3.1, 3.1, 0.05], color="#444", lw=1.1)
    arrow(axes, (-0.5, 0.05), (0.2, 0.05))
    arrow(axes, (1.5, 0.93), (1.5, 0.51))
    box(axes, 1.5, 0.05, "global averages of\nlevels 3 and 4: 768", HEAD)
    box(axes, 5.1, 0.05, "Linear 32, Linear K", HEAD)
    box(axes, 8.6, 0.05, "class logits\nK", "white")
    arrow(axes, (2.8, 0.05), (3.8, 0.05))
    arrow(axes, (6.4, 0.05), (7.3, 0.05))


def main() -> None:
    figure, axes = plt.subplots(figsize=(9.2, 7.6))
    draw_encoder(axes)
    draw_decoder(axes)
    draw_classifier(axes)
    axes.set(xlim=(-0.9, 10.2), ylim=(-0.6, 9.9))
    axes.axis("off")
    figure.savefig(Path(__file__).with_name("network.png"), dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
