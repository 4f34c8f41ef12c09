"""Draws docs/report.png and docs/worklist.png: the pages of predict.py --report on photographs of ISIC 2017 (CC0), in Chromium.

python docs/draw_report.py
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from modeling_resformer.commands.predict import main


ROOT = Path(__file__).parents[1]
MODEL = ROOT / "hub_cards" / "resformer-lite-isic2017"
PHOTOGRAPHS = ROOT / "examples" / "isic2017_sample" / "ISIC-2017_Training_Data"
SHOWN = "ISIC_0000157"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"


def draw(page: Path, height: int, target: Path) -> None:
    """A picture of the page, 960 pixels wide, with 256 colours so that it stays small."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size=960,{height}"]
    command = [CHROMIUM, *flags, f"--screenshot={target}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(target) as image:
        image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, kmeans=3).save(target, optimize=True)


with tempfile.TemporaryDirectory() as folder:
    main(
        [
            "--model",
            str(MODEL),
            str(PHOTOGRAPHS),
            "--output",
            folder,
            "--report",
            "--no-overlays",
            "--cpu-threads",
            "1",
        ]
    )
    draw(Path(folder) / "reports" / f"{SHOWN}.html", 1190, ROOT / "docs" / "report.png")
    draw(Path(folder) / "worklist.html", 800, ROOT / "docs" / "worklist.png")
