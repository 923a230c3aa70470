"""The tabs of Label Studio's Data Manager: which Tandem makes, and how one names the tasks that it lists.

Knows the shape of a tab's data, no HTTP. A tab can't hold a list of tasks, only filters, and of those few work: on
tasks, ``id equal`` joined by *or*, some fifty of them; on labelled ones, one filter whose text names their annotations.
``in_list`` and ``regex`` on ids are stored, and from then on the Data Manager fails to open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

LONGEST = 50
"""Tasks that a tab lists: with more filters of one task each, it takes ever longer to open."""
_NOTHING = 0
"""An id that no task and no annotation has."""


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab that Tandem makes.

    Attributes
    ----------
    title
        How it is called, and known again.
    lists
        What it lists: all tasks without a label, or the tasks, or annotations, whose ids it is given.
    ordering
        Columns by which it is sorted, as Label Studio names them.
    hidden
        Columns that it does not show, without their prefix.
    """

    title: str
    lists: Literal["unlabelled", "tasks", "annotations"]
    ordering: tuple[str, ...]
    hidden: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """Return what it shows and how, as long as it lists nothing in particular."""
        hidden = [f"tasks:{column}" for column in self.hidden]
        items = {
            "unlabelled": [_item("total_annotations", "equal", "Number", 0)],
            "tasks": _tasks([]),
            "annotations": [_annotations([])],
        }[self.lists]
        return {
            "type": "list",
            "target": "tasks",
            "ordering": list(self.ordering),
            "filters": {"conjunction": "or" if self.lists == "tasks" else "and", "items": items},
            "hiddenColumns": {"explore": hidden, "labeling": hidden},
            "columnsDisplayType": {"tasks:predictions_score": "Number"},
            "columnsWidth": {"tasks:annotations_results": 400},
        }

    def listing(self, data: Mapping[str, Any], ids: Sequence[int]) -> dict[str, Any] | None:
        """Return a tab's data with these ids listed, None where it lists them already or its filters are not ours.

        Whatever else a user changed stays: columns, order, filters beside ours. Where ours are gone, nothing is done.

        Examples
        --------
        >>> novel = LISTS["Novel"]
        >>> novel.listing(novel.data(), [4])["filters"]["items"]
        [{'filter': 'filter:tasks:id', 'operator': 'equal', 'type': 'Number', 'value': 4}]
        >>> novel.listing({**novel.data(), "filters": {"conjunction": "and", "items": []}}, [4]) is None
        True
        """
        filters = data.get("filters")
        items = filters.get("items") if isinstance(filters, Mapping) else None
        if not isinstance(filters, Mapping) or not isinstance(items, list) or not items:
            return None
        listed = list(ids[:LONGEST])
        if self.lists == "tasks":
            ours = all(_is(item, "id", "equal") for item in items) and (len(items) == 1 or _joined(filters) == "or")
            changed: list[Any] = _tasks(listed)
            filters = {**filters, "conjunction": "or"}
        elif self.lists == "annotations":
            first = next((item for item in items if _is(item, "annotations_ids", "contains")), None)
            ours = first is not None and (len(items) == 1 or _joined(filters) == "and")
            changed = [_annotations(listed) if item is first else item for item in items]
        else:
            return None
        if not ours or [_told(item) for item in changed] == [_told(item) for item in items]:
            return None
        return {**data, "filters": {**filters, "items": changed}}


_COUNTS = ("total_annotations", "cancelled_annotations", "total_predictions", "avg_lead_time", "draft_exists")
_ORIGIN = ("inner_id", "file_upload", "storage_filename", "created_at", "completed_at", "updated_by")
_UNLABELLED = (
    *("annotators", "annotations_results", "annotations_ids", "predictions_model_versions", "predictions_results"),
    *("updated_at", *_COUNTS, *_ORIGIN),
)
_LABELLED = ("annotations_ids", "predictions_score", "predictions_results", *_COUNTS, *_ORIGIN)

TABS = (
    Tab("Ask next", "unlabelled", ("tasks:predictions_score",), _UNLABELLED),
    Tab("Look again", "annotations", ("tasks:id",), _LABELLED),
    Tab("Ambiguous", "tasks", ("tasks:predictions_score",), _UNLABELLED),
    Tab("Novel", "tasks", ("tasks:predictions_score",), _UNLABELLED),
    Tab("Disagreements", "annotations", ("-tasks:updated_at",), ("predictions_model_versions", *_LABELLED)),
)
"""In the order in which they stand. *Ask next* is the first: a labelling screen that is reloaded follows the order of
the first tab, and not the project's sampling."""
LISTS = {tab.title: tab for tab in TABS if tab.lists != "unlabelled"}
"""Those whose filters follow what is learned."""


def _item(field: str, operator: str, kind: str, value: object) -> dict[str, object]:
    return {"filter": f"filter:tasks:{field}", "operator": operator, "type": kind, "value": value}


def _tasks(ids: Sequence[int]) -> list[dict[str, object]]:
    return [_item("id", "equal", "Number", each) for each in ids or [_NOTHING]]


def _annotations(ids: Sequence[int]) -> dict[str, object]:
    return _item("annotations_ids", "contains", "String", ", ".join(map(str, ids or [_NOTHING])))


def _is(item: object, field: str, operator: str) -> bool:
    return isinstance(item, Mapping) and (item.get("filter"), item.get("operator")) == (
        f"filter:tasks:{field}",
        operator,
    )


def _joined(filters: Mapping[str, Any]) -> str:
    return str(filters.get("conjunction", "and"))


def _told(item: object) -> tuple[str, str]:
    """Return what of an item counts: Label Studio's own page writes numbers as text."""
    return (str(item.get("filter")), str(item.get("value"))) if isinstance(item, Mapping) else ("", str(item))
