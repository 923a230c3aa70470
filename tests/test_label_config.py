"""What a labeling configuration asks: found where Label Studio's editor finds it, and refused with what to change."""

from __future__ import annotations

import re

import pytest
import yaml

from backend.label_config import MAX_XML, LabelConfig, UnusableConfig, left_to_people, parse_label_config, plain_text
from backend.up import install
from tests.conftest import STATE

IMAGE = '<Image name="image" value="$image"/>'
CHOICES = '<Choices name="label" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices>'


def view(*tags: str) -> str:
    return "<View>" + "".join(tags) + "</View>"


def test_reads_the_control_the_image_and_the_classes() -> None:
    config = parse_label_config(view(IMAGE, CHOICES))
    assert config == LabelConfig("label", "image", "image", ("cat", "dog"), multiple=False)


def test_an_alias_takes_the_place_of_its_value() -> None:
    choices = '<Choices name="label" toName="image"><Choice value="Katze" alias="cat"/><Choice value="dog"/></Choices>'
    assert parse_label_config(view(IMAGE, choices)).classes == ("cat", "dog")


@pytest.mark.parametrize(("choice", "multiple"), [("single", False), ("single-radio", False), ("multiple", True)])
def test_knows_whether_several_choices_may_be_made(choice: str, multiple: bool) -> None:
    choices = CHOICES.replace("<Choices", f'<Choices choice="{choice}"')
    assert parse_label_config(view(IMAGE, choices)).multiple is multiple


@pytest.mark.parametrize(
    ("xml", "may_be_empty"),
    [
        (view(IMAGE, CHOICES.replace("<Choices", '<Choices choice="multiple"')), True),
        (view(IMAGE, CHOICES), False),
        (view(IMAGE, CHOICES.replace("<Choices", '<Choices choice="multiple" required="true"')), False),
        (view(IMAGE, CHOICES.replace("<Choices", '<Choices choice="multiple" visibleWhen="choice-selected"')), False),
        (
            view(IMAGE, '<View visibleWhen="region-selected"><View>', CHOICES, "</View></View>").replace(
                "<Choices", '<Choices choice="multiple"'
            ),
            False,
        ),
    ],
)
def test_no_choice_is_an_answer_only_where_several_can_none_must_and_any_time_be_chosen(
    xml: str, may_be_empty: bool
) -> None:
    assert parse_label_config(xml).may_be_empty is may_be_empty


def test_takes_the_first_choices_that_label_the_whole_image() -> None:
    text = '<Text name="text" value="$text"/>'
    of_text = '<Choices name="topic" toName="text"><Choice value="a"/></Choices>'
    of_region = '<Choices name="part" toName="image" perRegion="true"><Choice value="b"/></Choices>'
    second = '<Choices name="second" toName="image"><Choice value="c"/></Choices>'
    assert parse_label_config(view(text, of_text, IMAGE, of_region, CHOICES, second)).from_name == "label"


def test_finds_tags_wherever_they_stand_and_however_they_are_written() -> None:
    nested = view("<View style='display: flex'>", IMAGE.replace("Image", "image", 1), "</View>", "<!-- -->", CHOICES)
    assert parse_label_config(nested).classes == ("cat", "dog")


def test_classes_in_any_script_keep_their_characters() -> None:
    choices = '<Choices name="label" toName="image"><Choice value="Müde &amp; froh"/><Choice value="悲しい"/></Choices>'
    assert parse_label_config(view(IMAGE, choices)).classes == ("Müde & froh", "悲しい")


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        ("", "not plain XML"),
        ("<View>", "not plain XML"),
        ("<View>\ud800</View>", "not plain XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', "not plain XML"),
        (view(IMAGE, CHOICES) + " " * MAX_XML, "shorten it"),
        (view(CHOICES), "add <Image"),
        (view(IMAGE), "no <Choices>"),
        (view(IMAGE, CHOICES.replace('toName="image"', 'toName="other"')), "set toName of one to 'image'"),
        (view(IMAGE, CHOICES.replace("<Choices", '<Choices perRegion="true"')), "without perRegion"),
        (view(IMAGE, CHOICES.replace('name="label" ', "")), "has no name"),
        (view(IMAGE.replace("value=", "valueList="), CHOICES), "a list of images"),
        (view(IMAGE.replace("$image", "http://example.org/one.png"), CHOICES), 'set value="$image"'),
        (view(IMAGE.replace("$image", "$images[{{idx}}].url"), CHOICES), 'set value="$image"'),
        (view(IMAGE, '<Choices name="label" toName="image" value="$options"/>'), "from the task"),
        (view(IMAGE, '<Choices name="label" toName="image"/>'), "list the classes"),
        (view(IMAGE, CHOICES.replace('value="dog"', 'value=""')), "without a value"),
        (view(IMAGE, CHOICES.replace('value="dog"', "")), "without a value"),
        (view(IMAGE, CHOICES.replace("dog", "cat")), "lists 'cat' twice"),
        (view(IMAGE, CHOICES.replace('value="dog"', 'value="dog" alias="cat"')), "lists 'cat' twice"),
        (
            view(IMAGE, CHOICES.replace('<Choice value="dog"/>', '<Choice value="a"><Choice value="b"/></Choice>')),
            "choices inside choices",
        ),
    ],
)
def test_what_can_not_be_learned_is_refused_with_what_to_change(xml: str, told: str) -> None:
    with pytest.raises(UnusableConfig) as refused:
        parse_label_config(xml)
    assert told in str(refused.value)
    assert str(refused.value).endswith(".")


def test_labels_are_those_of_the_control_alone_each_once() -> None:
    config = parse_label_config(view(IMAGE, CHOICES))
    other = {"from_name": "other", "type": "choices", "value": {"choices": ["bird"]}}
    ours = {"from_name": "label", "type": "choices", "value": {"choices": ["dog", "cat", "dog"]}}
    assert config.labels([other, ours, ours]) == ("dog", "cat")


def test_a_label_that_the_configuration_no_longer_names_is_kept() -> None:
    config = parse_label_config(view(IMAGE, CHOICES))
    assert config.labels([{"from_name": "label", "value": {"choices": ["fish"]}}]) == ("fish",)


@pytest.mark.parametrize(
    "result",
    [
        None,
        "cat",
        {},
        [],
        [None, 1, "cat", []],
        [{"from_name": "label"}],
        [{"from_name": "label", "value": None}],
        [{"from_name": "label", "value": {"choices": "cat"}}],
        [{"from_name": "label", "value": {"choices": [None, 1, ["cat"], "", "a\0b", "\ud800"]}}],
        [{"from_name": ["label"], "value": {"choices": ["cat"]}}],
    ],
)
def test_a_result_that_is_none_has_no_labels(result: object) -> None:
    assert parse_label_config(view(IMAGE, CHOICES)).labels(result) == ()


def test_a_predicted_result_reads_back_as_its_label() -> None:
    config = parse_label_config(view(IMAGE, CHOICES))
    region, remark = config.result("dog", score=0.75, text="novel")
    assert config.labels([region, remark]) == ("dog",)
    assert (region["to_name"], region["type"], region["score"]) == ("image", "choices", 0.75)
    assert "meta" not in region
    assert (remark["from_name"], remark["type"], remark["value"]) == ("tandem", "textarea", {"text": ["novel"]})


def test_a_predicted_region_keeps_its_id_and_differs_by_label() -> None:
    config = parse_label_config(view(IMAGE, CHOICES))
    assert config.result("dog", 0.1)[0]["id"] == config.result("dog", 0.9)[0]["id"] != config.result("cat")[0]["id"]
    assert not {"score", "meta"} & set(config.result("cat")[0])


def test_several_labels_are_predicted_in_one_region_in_their_order() -> None:
    config = parse_label_config(view(IMAGE, CHOICES.replace("<Choices", '<Choices choice="multiple"')))
    (region,) = config.result(("dog", "cat"), score=0.6)
    assert region["value"] == {"choices": ["dog", "cat"]}
    assert region["score"] == 0.6
    assert config.labels([region]) == ("dog", "cat")
    assert region["id"] not in {config.result("dog")[0]["id"], config.result("cat")[0]["id"]}
    assert config.result(["dog"]) == config.result("dog")
    assert config.result([]) == []


TEMPLATES = "lib/python*/site-packages/label_studio/annotation_templates/**/config.yml"
CLASSIFY = {
    "image-classification": ("choice", ()),
    "medical-image-classification-with-bboxes": ("classification", ()),
    "content-based-image-search": ("similar", ("'image1' and 'image2' and 'image3' it can't learn",)),
}
REFUSED = {
    "breast-cancer-mammogram-classification": "No <Choices> labels a whole image",
    "image-captioning": "has no <Choices>",
    "multipage-documents": "has no <Choices>",
    "object-detection-with-bounding-boxes": "has no <Choices>",
    "semantic-segmentation-with-masks": "has no <Choices>",
    "visual-question-answering": "has no <Choices>",
    "text-classification": "shows no image",
    "video-classification": "shows no image",
}


@pytest.mark.servers
@pytest.mark.parametrize("name", sorted(CLASSIFY | REFUSED))
def test_label_studios_own_templates_can_be_learned_or_are_refused_in_a_sentence(name: str) -> None:
    install.install_label_studio(STATE, STATE / "logs" / "install-label-studio.log")
    venv = install.label_studio_program(STATE).parents[1]
    (path,) = (path for path in venv.glob(TEMPLATES) if path.parent.name == name)
    xml = yaml.safe_load(path.read_text())["config"]
    if name in CLASSIFY:
        control, told = CLASSIFY[name]
        assert parse_label_config(xml).from_name == control
        assert [words for words, note in zip(told, left_to_people(xml), strict=True) if words not in note] == []
    else:
        with pytest.raises(UnusableConfig, match=re.escape(REFUSED[name])):
            parse_label_config(xml)


def test_a_reason_can_stand_without_a_choice() -> None:
    (remark,) = parse_label_config(view(IMAGE, CHOICES)).result([], score=0.4, text="novel")
    assert remark["value"] == {"text": ["novel"]}


def test_a_choice_that_is_named_as_our_remark_gets_none() -> None:
    config = parse_label_config(view(IMAGE, CHOICES.replace('name="label"', 'name="tandem"')))
    (region,) = config.result("dog", text="novel")
    assert config.labels([region]) == ("dog",)
    assert config.result([], text="novel") == []


def test_text_that_no_database_stores_is_no_text() -> None:
    assert [plain_text(value) for value in ("", "悲", "a\0", "\udfff", b"a", None)] == [
        "",
        "悲",
        None,
        None,
        None,
        None,
    ]
