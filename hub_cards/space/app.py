# Copyright 2026 The ResFormer maintainers. Licensed under the Apache License, Version 2.0.
"""A page to try a ResFormer on an image: contours per class, areas and class scores. Runs on a CPU.

MODEL_ID=org/model python app.py        (or a folder; without it, the model of settings.json beside this file)
"""

import json
import os
from pathlib import Path
from typing import Any

import gradio as gr
from analysis import Analysis, analyse, area_rows, draw, legend, verdict
from handler import EndpointHandler


HERE = Path(__file__).parent
DISCLAIMER = (
    "### Not a medical device\nA research model: nothing here is fit for the care of patients, and a high score is no "
    "diagnosis. Do not upload images of people who have not agreed."
)
CACHE = (600, 3600)  # seconds: every ten minutes, uploads older than an hour are deleted
AREA_HEADERS = ["class", "pixels", "share", "mm²", "probability"]


def settings() -> dict[str, str]:
    """`model_id` and `revision`: from the environment, else from settings.json."""
    path = HERE / "settings.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    model_id = os.environ.get("MODEL_ID")
    if model_id:
        return {"model_id": model_id, "revision": os.environ.get("MODEL_REVISION") or None}
    if "model_id" not in stored:
        raise SystemExit("No model: set the variable MODEL_ID to the Hub id or the folder of a ResFormer.")
    return {"model_id": stored["model_id"], "revision": stored.get("revision")}


class Page:
    """What happens when somebody uses the page; one model serves everybody."""

    def __init__(self, handler: EndpointHandler) -> None:
        self.handler = handler
        self.names = handler.model.config.mask_class_names

    def open(self, path: str | None, shown: list[str], opacity: float, millimetres: float | None) -> tuple[Any, ...]:
        """A new image: everything is computed and drawn."""
        if path is None:
            return None, None, {}, "", []
        try:
            analysis = analyse(self.handler, self.names, path)
        except ValueError as error:
            raise gr.Error(str(error), title="This image cannot be used", print_exception=False) from error
        scores = analysis.scores or None
        return analysis, draw(analysis, shown, opacity), scores, verdict(analysis), area_rows(analysis, millimetres)

    def redraw(self, analysis: Analysis | None, shown: list[str], opacity: float) -> Any:
        """Other classes or another opacity: the model is not asked again."""
        return None if analysis is None else draw(analysis, shown, opacity)

    def measure(self, analysis: Analysis | None, millimetres: float | None) -> list[list[str]]:
        """Another size of a pixel."""
        return [] if analysis is None else area_rows(analysis, millimetres)


def build(handler: EndpointHandler, model_id: str) -> gr.Blocks:
    page = Page(handler)
    classes = list(page.names[1:])
    name = f"[{model_id}](https://huggingface.co/{model_id})" if model_id.count("/") == 1 else f"`{model_id}`"
    with gr.Blocks(title="ResFormer", analytics_enabled=False, delete_cache=CACHE) as blocks:
        gr.Markdown(f"# ResFormer: segment and classify a medical image\nModel: {name}")
        gr.Markdown(DISCLAIMER)
        analysis = gr.State()
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=380
                )
                examples = sorted(str(path) for path in (HERE / "examples").glob("*.*"))
                if examples:
                    gr.Examples(examples, image, cache_examples=False, label="Or choose an example")
                # Without the heading, which would set the highest score in capitals as if it were a diagnosis.
                scores = gr.Label(label="Class scores of the whole image", show_heading=False)
                decided = gr.Markdown()
            with gr.Column():
                drawn = gr.Image(
                    label="What the model found",
                    format="png",
                    interactive=False,
                    height=380,
                    buttons=["download", "fullscreen"],
                )
                gr.HTML(legend(page.names))
                shown = gr.CheckboxGroup(classes, value=classes, label="Classes shown")
                opacity = gr.Slider(0, 1, value=0.25, step=0.05, label="Opacity of the filling")
                areas = gr.Dataframe(headers=AREA_HEADERS, label="Areas", interactive=False, wrap=True)
                millimetres = gr.Number(
                    label="Side of a pixel in mm, if you know it (0: unknown)", value=0, minimum=0, step=0.001
                )
        controls = [shown, opacity]
        image.change(
            page.open, [image, *controls, millimetres], [analysis, drawn, scores, decided, areas], api_name="analyse"
        )
        for control in controls:
            control.change(page.redraw, [analysis, *controls], drawn, show_progress="hidden", api_name=False)
        millimetres.change(page.measure, [analysis, millimetres], areas, show_progress="hidden", api_name=False)
    return blocks


def main() -> None:
    chosen = settings()
    handler = EndpointHandler(chosen["model_id"], revision=chosen["revision"], device="cpu")
    # Fonts of the visitor's own system: nothing is fetched from a third party.
    theme = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    blocks = build(handler, chosen["model_id"])
    size = handler.limits.max_bytes
    blocks.queue(default_concurrency_limit=1, max_size=20).launch(theme=theme, max_file_size=size, footer_links=[])


if __name__ == "__main__":
    main()
