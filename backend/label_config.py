"""What a labeling configuration asks of an annotator: one choice among classes, or several, for one image.

Knows Label Studio's XML and the shape of its results; knows nothing of HTTP, SQL or the learner.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_XML = 1 << 20
"""Longest configuration that is parsed, in characters; thousands of choices fit."""

REGION_PREFIX = "tandem-"
"""Start of the id of each region Tandem predicts; a copy of a prediction is known by it when the prediction is gone."""

REMARK = "tandem"
"""Name of the TextArea that shows the annotator why; see label_config.xml."""

_DATA_KEY = re.compile(r"\$([^$\[\]{}/]+)")


class UnusableConfig(ValueError):  # noqa: N818 - reads as the sentence it carries
    """A labeling configuration that Tandem can't learn; the message is a sentence that says what to change."""


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """The control that classifies an image.

    Attributes
    ----------
    from_name
        Name of the Choices tag.
    to_name
        Name of the Image tag.
    data_key
        Key of a task's data that holds the image's address.
    classes
        What can be chosen, as results name it (an ``alias`` replaces its ``value``), in the order of the configuration.
    multiple
        Whether several choices may be made for one image.
    may_be_empty
        Whether an annotation without any of the classes says that none of them fits: several may be chosen, none has
        to be (``required``), and the control is always there to be seen (no ``visibleWhen``). Label Studio sends the
        same, an empty result, for "none" and for "not asked".
    """

    from_name: str
    to_name: str
    data_key: str
    classes: tuple[str, ...]
    multiple: bool
    may_be_empty: bool = False

    def labels(self, result: object) -> tuple[str, ...]:
        """Return the choices that a result makes with this control.

        Parameters
        ----------
        result
            An annotation's or a prediction's ``result``, as it came: nothing of it is trusted.

        Returns
        -------
        tuple of str
            Each choice once, in the order made; ``()`` when there is none. Choices that the configuration does not
            name (any more) are kept.

        Examples
        --------
        >>> config = LabelConfig("label", "image", "image", ("cat", "dog"), multiple=False)
        >>> config.labels([{"from_name": "label", "type": "choices", "value": {"choices": ["dog"]}}])
        ('dog',)
        >>> config.labels(None)
        ()
        """
        found: dict[str, None] = {}
        for region in result if isinstance(result, list) else ():
            if not isinstance(region, dict) or region.get("from_name") != self.from_name:
                continue
            value = region.get("value")
            choices = value.get("choices") if isinstance(value, dict) else None
            for choice in choices if isinstance(choices, list) else ():
                label = plain_text(choice)
                if label:
                    found[label] = None
        return tuple(found)

    def result(
        self, label: str | Collection[str], score: float | None = None, text: str | None = None
    ) -> list[dict[str, object]]:
        """Return the result that chooses one label or several, as Label Studio stores it.

        Parameters
        ----------
        label
            The class to choose, or all of them, in the order in which they are listed.
        score
            Probability of what is chosen, shown with the region.
        text
            A remark for the annotator, shown by a TextArea named "tandem" where the configuration has one.

        Returns
        -------
        list of dict
            One region for the choice, also of several labels, and one for the remark; of what there is. The ids depend
            only on the control and the labels.

        Examples
        --------
        >>> config = LabelConfig("label", "image", "image", ("cat", "dog"), multiple=False)
        >>> config.labels(config.result("cat", score=0.9, text="novel"))
        ('cat',)
        >>> config.result([])
        []
        """
        chosen = [label] if isinstance(label, str) else list(label)
        # A choice of our TextArea's name leaves it no place.
        remarks = [] if text is None or self.from_name == REMARK else [self._remark(text)]
        if not chosen:
            return remarks
        digest = blake2b("\0".join([self.from_name, *chosen]).encode(), digest_size=6).hexdigest()
        region: dict[str, object] = {
            "id": REGION_PREFIX + digest,
            "from_name": self.from_name,
            "to_name": self.to_name,
            "type": "choices",
            "value": {"choices": chosen},
        }
        if score is not None:
            region["score"] = score
        return [region, *remarks]

    def _remark(self, text: str) -> dict[str, object]:
        """Return what a TextArea named as ours shows; of no control, it is kept with the prediction and not shown.

        Not as `meta` of the choice: that would stay in the annotation, also when the annotator chose another class.
        """
        return {
            "id": REGION_PREFIX + blake2b(REMARK.encode(), digest_size=6).hexdigest(),
            "from_name": REMARK,
            "to_name": self.to_name,
            "type": "textarea",
            "value": {"text": [text]},
        }


def plain_text(value: object) -> str | None:
    r"""Return `value` if it is text that any database can store, else None.

    Examples
    --------
    >>> plain_text("Müde"), plain_text("half a pair: \ud83d"), plain_text(7)
    ('Müde', None, None)
    """
    if not isinstance(value, str) or "\0" in value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


@lru_cache
def parse_label_config(xml: str) -> LabelConfig:
    """Read the first Choices of a labeling configuration that labels a whole image.

    Parameters
    ----------
    xml
        Label Studio's labeling configuration.

    Raises
    ------
    UnusableConfig
        When it does not classify images; the message says what to change.

    Examples
    --------
    >>> parse_label_config('''
    ...   <View>
    ...     <Image name="face" value="$photo"/>
    ...     <Choices name="mood" toName="face"><Choice value="joy"/><Choice value="fear" alias="f"/></Choices>
    ...   </View>''')
    LabelConfig(from_name='mood', to_name='face', data_key='photo', classes=('joy', 'f'), multiple=False,
                may_be_empty=False)
    """
    root = _root(xml)
    tags = list(root.iter())
    images = {tag.get("name", ""): tag for tag in tags if _is(tag, "Image")}
    if not images:
        raise UnusableConfig('The labeling configuration shows no image: add <Image name="image" value="$image"/>.')
    controls = [tag for tag in tags if _is(tag, "Choices")]
    if not controls:
        raise UnusableConfig(
            "The labeling configuration has no <Choices>: add one whose toName is the image and that lists the classes."
        )
    for control in controls:
        to_name = control.get("toName", "")
        if to_name in images and control.get("perRegion") != "true":
            multiple = control.get("choice", "single").lower() == "multiple"
            return LabelConfig(
                from_name=_from_name(control),
                to_name=to_name,
                data_key=_data_key(images[to_name]),
                classes=_classes(control),
                multiple=multiple,
                may_be_empty=multiple and control.get("required") != "true" and _is_always_visible(control, root),
            )
    raise UnusableConfig(
        f"No <Choices> labels a whole image: set toName of one to {' or '.join(map(repr, images))}, without perRegion."
    )


def left_to_people(xml: str) -> tuple[str, ...]:
    """Return sentences about what a labeling configuration asks and shows that `parse_label_config` passes over.

    Examples
    --------
    >>> left_to_people('''
    ...   <View>
    ...     <Image name="face" value="$photo"/>
    ...     <Choices name="mood" toName="face"><Choice value="joy"/></Choices>
    ...     <Choices name="light" toName="face"><Choice value="dim"/></Choices>
    ...   </View>''')
    ("Tandem learns what is chosen in 'mood'; 'light' is left to people.",)
    """
    config = parse_label_config(xml)
    tags = list(_root(xml).iter())
    others = [tag.get("name", "") for tag in tags if _is(tag, "Choices") and tag.get("name") != config.from_name]
    unseen = [tag.get("name", "") for tag in tags if _is(tag, "Image") and tag.get("name") != config.to_name]
    told = []
    if others:
        names = " and ".join(map(repr, others))
        told.append(f"Tandem learns what is chosen in {config.from_name!r}; {names} is left to people.")
    if unseen:
        names = " and ".join(map(repr, unseen))
        told.append(f"Tandem looks at {config.to_name!r} alone: what people choose by {names} it can't learn.")
    return tuple(told)


def _root(xml: str) -> Element:
    if len(xml) > MAX_XML:
        raise UnusableConfig(f"The labeling configuration is longer than {MAX_XML} characters: shorten it.")
    try:
        root: Element = fromstring(xml, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise UnusableConfig(f"The labeling configuration is not plain XML, correct it: {error}.") from error
    return root


def _is(tag: Element, name: str) -> bool:
    # Label Studio's editor reads tags without regard to case.
    return isinstance(tag.tag, str) and tag.tag.lower() == name.lower()


def _is_always_visible(control: Element, root: Element) -> bool:
    conditional = [tag for tag in root.iter() if tag.get("visibleWhen") is not None]
    return not any(inner is control for tag in conditional for inner in tag.iter())


def _from_name(control: Element) -> str:
    name = control.get("name")
    if not name:
        raise UnusableConfig('The <Choices> that labels the image has no name: add name="label" to it.')
    return name


def _data_key(image: Element) -> str:
    name = image.get("name")
    if image.get("valueList"):
        raise UnusableConfig(f"<Image name={name!r}> shows a list of images: use value with one image for each task.")
    match = _DATA_KEY.fullmatch(image.get("value", ""))
    if match is None:
        raise UnusableConfig(f'<Image name={name!r}> names no key of the task\'s data: set value="$image".')
    return match[1]


def _classes(control: Element) -> tuple[str, ...]:
    name = control.get("name")
    if control.get("value", "").startswith("$") or control.get("apiUrl"):
        raise UnusableConfig(f"<Choices name={name!r}> takes its choices from the task: list them as <Choice> tags.")
    choices = [tag for tag in control.iter() if _is(tag, "Choice")]
    if any(_is(inner, "Choice") for choice in choices for inner in choice):
        raise UnusableConfig(f"<Choices name={name!r}> has choices inside choices: list them on one level.")
    classes = [choice.get("alias") or choice.get("value") or "" for choice in choices]
    if not classes:
        raise UnusableConfig(f"<Choices name={name!r}> has no <Choice>: list the classes.")
    if "" in classes:
        raise UnusableConfig(f"<Choices name={name!r}> has a <Choice> without a value: give each one a value.")
    repeated = [label for label, times in Counter(classes).items() if times > 1]
    if repeated:
        raise UnusableConfig(f"<Choices name={name!r}> lists {repeated[0]!r} twice: give each class one <Choice>.")
    return tuple(classes)
