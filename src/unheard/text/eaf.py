"""Timed text as EAF, the form that ELAN reads.

Source: Max Planck Institute for Psycholinguistics, "EAF: ELAN Annotation Format 3.0, schema and
documentation" (2017).
"""

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from urllib.parse import quote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from unheard.errors import ConfigError
from unheard.text.subtitles import TimedWord

_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
_NO_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MIME_TYPES = {".wav": "audio/x-wav", ".mp3": "audio/mpeg", ".mp4": "video/mp4"}


def to_eaf(
    tiers: Mapping[str, Sequence[TimedWord]],
    *,
    recording: PurePath,
    date: datetime.datetime,
) -> str:
    """Write tiers of timed text as an EAF document.

    The first tier stands alone; the spans of each further tier lie within those of the tier
    before it ("included in"), with gaps between them. Times are rounded to milliseconds; each span
    lasts at least one, and does not begin before the one before it ends.

    Args:
        tiers: name of a tier -> its spans in order of time; sentences, then words, for example.
        recording: the recording's absolute path.
        date: of the document, with its time zone.

    Returns:
        The file's text; store it as UTF-8.

    Raises:
        ConfigError: if there is no tier.
    """
    if not tiers:
        raise ConfigError("an EAF document needs at least one tier: found none.")
    document = Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "",
            "DATE": date.isoformat(timespec="seconds"),
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": _INSTANCE,
            "xsi:noNamespaceSchemaLocation": _SCHEMA,
        },
    )
    header = SubElement(document, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    SubElement(
        header,
        "MEDIA_DESCRIPTOR",
        {
            "MEDIA_URL": recording.as_uri(),
            "MIME_TYPE": _MIME_TYPES.get(recording.suffix.lower(), "unknown"),
            "RELATIVE_MEDIA_URL": "./" + quote(os.fsencode(recording.name)),
        },
    )
    last_annotation = SubElement(header, "PROPERTY", {"NAME": "lastUsedAnnotationId"})
    order = SubElement(document, "TIME_ORDER")
    slots = annotations = 0
    parent: str | None = None
    for name, spans in tiers.items():
        attributes = {"LINGUISTIC_TYPE_REF": _type_name(parent), "TIER_ID": name}
        if parent is not None:
            attributes["PARENT_REF"] = parent
        tier = SubElement(document, "TIER", attributes)
        parent = name
        before = 0
        for span in spans:
            start = max(round(span.start_seconds * 1000), before)
            before = max(round(span.end_seconds * 1000), start + 1)
            annotation = SubElement(
                SubElement(tier, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                {
                    "ANNOTATION_ID": f"a{annotations + 1}",
                    "TIME_SLOT_REF1": f"ts{slots + 1}",
                    "TIME_SLOT_REF2": f"ts{slots + 2}",
                },
            )
            SubElement(annotation, "ANNOTATION_VALUE").text = _visible(span.text)
            for value in (start, before):
                slots += 1
                slot = {"TIME_SLOT_ID": f"ts{slots}", "TIME_VALUE": str(value)}
                SubElement(order, "TIME_SLOT", slot)
            annotations += 1
    last_annotation.text = str(annotations)
    _add_types(document, has_children=len(tiers) > 1)
    ElementTree.indent(document)
    body = ElementTree.tostring(document, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _type_name(parent: str | None) -> str:
    """Name of the linguistic type of a tier."""
    return "aligned" if parent is None else "aligned-within"


def _add_types(document: Element, *, has_children: bool) -> None:
    """Declare the linguistic types in use, and the constraint of the second."""
    alignable = {"GRAPHIC_REFERENCES": "false", "TIME_ALIGNABLE": "true"}
    SubElement(document, "LINGUISTIC_TYPE", {**alignable, "LINGUISTIC_TYPE_ID": _type_name(None)})
    if not has_children:
        return
    within = {"CONSTRAINTS": "Included_In", "LINGUISTIC_TYPE_ID": _type_name("")}
    SubElement(document, "LINGUISTIC_TYPE", {**alignable, **within})
    described = "Time alignable annotations within the parent annotation's time, gaps are allowed"
    SubElement(document, "CONSTRAINT", {"DESCRIPTION": described, "STEREOTYPE": "Included_In"})


def _visible(text: str) -> str:
    """Leave out what XML has no form for."""
    return _NO_XML.sub("", text)
