"""Tabs name the tasks they list by filters, and leave what a user changed."""

from __future__ import annotations

from typing import Any

import pytest

from backend.data_manager import LISTS, LONGEST, TABS


def values(data: dict[str, Any]) -> list[object]:
    return [item["value"] for item in data["filters"]["items"]]


def listing(title: str, ids: list[int]) -> dict[str, Any]:
    data = LISTS[title].listing(LISTS[title].data(), ids)
    assert data is not None
    return data


def test_what_is_asked_next_stands_first() -> None:
    assert [tab.title for tab in TABS] == ["Ask next", "Look again", "Ambiguous", "Novel", "Disagreements"]
    assert "Ask next" not in LISTS


def test_tasks_are_named_by_a_filter_each_and_any_of_them_fits() -> None:
    data = listing("Novel", [7, 9])
    assert data["filters"]["conjunction"] == "or"
    assert values(data) == [7, 9]
    assert {(item["filter"], item["operator"]) for item in data["filters"]["items"]} == {("filter:tasks:id", "equal")}


def test_labelled_tasks_are_named_by_their_annotations_in_one_filter() -> None:
    (item,) = listing("Look again", [12, 3])["filters"]["items"]
    assert (item["filter"], item["operator"], item["value"]) == ("filter:tasks:annotations_ids", "contains", "12, 3")


def test_no_operator_that_breaks_the_data_manager_is_used() -> None:
    used = [tab.data()["filters"]["items"] for tab in TABS] + [
        listing(title, [1, 2])["filters"]["items"] for title in LISTS
    ]
    assert not {item["operator"] for items in used for item in items} & {"in_list", "not_in_list", "regex"}


@pytest.mark.parametrize("title", sorted(LISTS))
def test_a_tab_that_lists_nothing_matches_nothing(title: str) -> None:
    data = listing(title, [4])
    again = LISTS[title].listing(data, [])
    assert again is not None
    assert values(again) in ([0], ["0"])
    assert again == LISTS[title].data()


@pytest.mark.parametrize("title", sorted(LISTS))
def test_what_is_listed_already_is_not_written_again(title: str) -> None:
    assert LISTS[title].listing(listing(title, [4, 5]), [4, 5]) is None


def test_numbers_that_label_studio_wrote_as_text_are_the_same() -> None:
    data = listing("Novel", [4, 5])
    for item in data["filters"]["items"]:
        item["value"] = str(item["value"])
    assert LISTS["Novel"].listing(data, [4, 5]) is None


def test_a_tab_lists_only_so_many() -> None:
    assert values(listing("Novel", list(range(1, LONGEST + 9)))) == list(range(1, LONGEST + 1))


def test_columns_and_order_that_a_user_chose_stay() -> None:
    data = LISTS["Novel"].data() | {"ordering": ["-tasks:id"], "columnsWidth": {"tasks:id": 30}, "gridWidth": 6}
    changed = LISTS["Novel"].listing(data, [4])
    assert changed is not None
    assert {key: value for key, value in changed.items() if key != "filters"} == {
        key: value for key, value in data.items() if key != "filters"
    }


MINE = {"filter": "filter:tasks:annotators", "operator": "contains", "type": "List", "value": 1}


def test_a_filter_that_a_user_added_stays_beside_ours() -> None:
    data = listing("Look again", [4])
    data["filters"]["items"].insert(0, MINE)
    changed = LISTS["Look again"].listing(data, [5, 6])
    assert changed is not None
    assert values(changed) == [1, "5, 6"]


@pytest.mark.parametrize(
    ("title", "filters"),
    [
        ("Look again", None),
        ("Look again", {"conjunction": "and", "items": []}),
        ("Look again", {"conjunction": "and", "items": [MINE]}),
        ("Novel", {"conjunction": "or", "items": [MINE]}),
        ("Novel", {"conjunction": "or", "items": [MINE, *LISTS["Novel"].data()["filters"]["items"]]}),
        ("Novel", {"conjunction": "and", "items": 2 * LISTS["Novel"].data()["filters"]["items"]}),
        ("Look again", {"conjunction": "or", "items": [MINE, *LISTS["Look again"].data()["filters"]["items"]]}),
        ("Look again", {"items": "none"}),
        ("Look again", {"items": [None]}),
    ],
)
def test_where_a_user_made_it_a_tab_of_their_own_it_is_left_alone(title: str, filters: object) -> None:
    data = LISTS[title].data() | {"filters": filters}
    assert LISTS[title].listing(data, [4]) is None
