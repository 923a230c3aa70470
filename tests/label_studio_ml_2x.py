"""A stand-in for label-studio-ml 2.x, which is not on PyPI: its class and its endpoints, as far as they meet a model.

Written after ``label_studio_ml/model.py`` and ``api.py`` of HumanSignal/label-studio-ml-backend: an object of the class
per request, made with the project's id and configuration; `setup` called by the constructor; the version read with
``get("model_version")``; `fit` called inside the webhook, for the four events that the server lets through.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any
from xml.etree import ElementTree

Json = dict[str, Any]

PASSED_ON = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING")

cache: dict[tuple[str, str], Any] = {}


class LabelStudioMLBase:
    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("parsed_label_config", parse_config(label_config))
        if not self.get("model_version"):
            self.set("model_version", "0.0.1")
        self.setup()

    def setup(self) -> None:
        pass

    def get(self, key: str) -> Any:
        return cache.get((self.project_id, key))

    def set(self, key: str, value: Any) -> None:
        cache[self.project_id, key] = value

    @property
    def parsed_label_config(self) -> Json:
        return dict(self.get("parsed_label_config"))

    def predict(self, tasks: list[Json], context: Json | None = None, **kwargs: Any) -> Any:
        raise NotImplementedError

    def fit(self, event: str, data: Json, **kwargs: Any) -> Any:
        raise NotImplementedError


def parse_config(xml: str) -> Json:
    root = ElementTree.fromstring(xml)
    images = {tag.attrib["name"]: tag.attrib["value"].lstrip("$") for tag in root.iter("Image")}
    return {
        tag.attrib["name"]: {
            "type": "Choices",
            "to_name": [tag.attrib["toName"]],
            "inputs": [{"type": "Image", "valueType": None, "value": images[tag.attrib["toName"]]}],
            "labels": [choice.attrib.get("alias") or choice.attrib["value"] for choice in tag.iter("Choice")],
        }
        for tag in root.iter("Choices")
    }


def modules() -> dict[str, ModuleType]:
    """Return what ``import label_studio_ml.model`` would find."""
    package, model = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
    model.LabelStudioMLBase = LabelStudioMLBase  # type: ignore[attr-defined]
    return {"label_studio_ml": package, "label_studio_ml.model": model}


def setup(model_class: type[LabelStudioMLBase], body: Json) -> Json:
    """POST /setup."""
    model = model_class(project_id=body["project"].split(".", 1)[0], label_config=body["schema"])
    return {"model_version": model.get("model_version")}


def predict(model_class: type[LabelStudioMLBase], body: Json) -> Json:
    """POST /predict."""
    params = dict(body.get("params", {}))
    context = params.pop("context", {})
    model = model_class(project_id=str(body["project"]).split(".", 1)[0], label_config=body["label_config"])
    return {"results": model.predict(body["tasks"], context=context, **params)}


def webhook(model_class: type[LabelStudioMLBase], body: Json) -> Json:
    """POST /webhook."""
    data = dict(body)
    event = data.pop("action")
    if event not in PASSED_ON:
        return {"status": "Unknown event"}
    project = data["project"]
    model = model_class(str(project["id"]), label_config=project["label_config"])
    return {"result": model.fit(event, data), "status": "ok"}
