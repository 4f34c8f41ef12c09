"""`GET /openapi.json`: the routes, for people's tools and for programs that try them out."""

from typing import Any

from ..configuration_resformer import DOUBTS, __version__
from ..handler import FUNCTIONS, SUBTASKS, TASKS, Limits


PROBLEM = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "estimated_time": {"type": "number"}},
    "required": ["error"],
}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
SCORED = {"label": {"type": "string"}, "score": {"type": "number"}}
SEGMENTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {**SCORED, "mask": {"type": "string", "description": "PNG in base64, mode L, 0 or 255"}},
        "required": ["label", "score", "mask"],
    },
}
CLASSES = {"type": "array", "items": {"type": "object", "properties": SCORED, "required": ["label", "score"]}}
BOTH = {
    "type": "object",
    "properties": {
        "segmentation": SEGMENTS,
        "classification": CLASSES,
        "predicted_labels": {"type": "array", "items": {"type": "string"}},
        "distance": {"type": "number", "description": "from the training images, 1 in their mean"},
        "confidence": {**SHARE, "description": "chance that mask and labels are right"},
        "flags": {"type": "array", "items": {"enum": list(DOUBTS)}},
        "doubt": {"type": "string", "description": "one sentence on the flags, empty without"},
        "label_set": {
            "type": "array",
            "items": {"type": "string"},
            "description": "classes that are not ruled out, where the checkpoint has thresholds for that",
        },
    },
    "required": ["segmentation", "classification", "predicted_labels"],
}
PARAMETERS = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "task": {"enum": list(TASKS)},
        "threshold": SHARE,
        "mask_threshold": SHARE,
        "overlap_mask_area_threshold": SHARE,
        "top_k": {"type": "integer", "minimum": 1},
        "function_to_apply": {"enum": list(FUNCTIONS)},
        "subtask": {"enum": list(SUBTASKS)},
    },
}
STATUSES = {
    400: "no image, or broken JSON",
    401: "the token is missing",
    403: "a web page of an origin that is not allowed",
    404: "no such route",
    408: "the body did not arrive in time",
    413: "too large, or too long to decode",
    415: "a content type that no image is sent as",
    422: "a parameter out of its range, or a task this model was not trained for",
    503: "loading, or every place is taken; Retry-After says when to come again",
    504: "no answer in time",
}


def description(routes: dict[str, str], limits: Limits, has_token: bool) -> dict[str, Any]:
    """The document, of OpenAPI 3.1.

    Args:
        routes: Path to the task it answers, as Starlette writes it.
        limits: The largest image.
        has_token: Whether a bearer token is asked for.
    """
    # A parameter may choose another task than the route's.
    anything = {"anyOf": [SEGMENTS, CLASSES, BOTH]}
    posts = {
        path.replace(":path", ""): {
            "post": {
                "summary": f"{task} of one image"
                if task != "both"
                else "segmentation and classification of one image",
                "parameters": _path_parameters(path),
                "requestBody": {"required": True, "content": _contents(limits)},
                "responses": {
                    "200": _answer("the answer", anything),
                    **{str(status): _answer(text, PROBLEM) for status, text in STATUSES.items()},
                },
            }
        }
        for path, task in routes.items()
    }
    paths: dict[str, Any] = posts
    for path, summary in (
        ("/", "what is served"),
        ("/live", "whether the process answers"),
        ("/ready", "whether the model is loaded"),
        ("/health", "the same as /ready"),
        ("/openapi.json", "this document"),
    ):
        refused = {"503": _answer(STATUSES[503], PROBLEM)} if path in ("/ready", "/health") else {}
        shown = {"summary": summary, "responses": {"200": _answer(summary, {"type": "object"}), **refused}}
        paths.setdefault(path, {})["get"] = shown
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ResFormer",
            "version": __version__,
            "description": "Masks and classes of medical images. Not a medical device; not for the care of patients.",
        },
        "paths": paths,
        **(
            {
                "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
                "security": [{"token": []}],
            }
            if has_token
            else {}
        ),
    }


def _answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _contents(limits: Limits) -> dict[str, Any]:
    encoded = {"type": "string", "description": f"an image of at most {limits.max_bytes} bytes, in base64"}
    request = {
        "type": "object",
        "properties": {"inputs": encoded, "parameters": PARAMETERS},
        "required": ["inputs"],
    }
    image = {"schema": {"type": "string", "format": "binary"}}
    return {"application/json": {"schema": request}, "image/*": image, "application/octet-stream": image}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    if "{model_id" not in path:
        return []
    return [{"name": "model_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]
