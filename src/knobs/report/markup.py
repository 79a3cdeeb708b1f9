"""Elements of a page, by ElementTree, which escapes every text and attribute."""

from xml.etree import ElementTree

from knobs.words import printable

LONGEST = 4000  # letters of a text
Child = ElementTree.Element | str | None


def tag(name: str, /, *children: Child, **attributes: str) -> ElementTree.Element:
    """An element; `class_` and `http_equiv` are written without what Python needs them to have."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    shown = {names[key]: printable(value, LONGEST) for key, value in attributes.items()}
    element = ElementTree.Element(name, shown)
    raw = name in ("script", "style")  # not escaped, and not from records
    last = None
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            text = child if raw else printable(child, LONGEST)
            if last is None:
                element.text = (element.text or "") + text
            else:
                last.tail = (last.tail or "") + text
        else:
            element.append(child)
            last = child
    return element
