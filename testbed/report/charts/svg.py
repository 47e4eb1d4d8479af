"""The few SVG elements the figures are made of. Colours are CSS classes, so that they follow the page's scheme."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

Attribute = str | float | None
_NARROW = 560  # pixels


def element(name: str, content: str | Iterable[Markup] = (), **attributes: Attribute) -> Markup:
    """``<name ...>content</name>``, everything escaped.

    The attribute ``class_`` is written as class, ``text_anchor`` as text-anchor; None is left out.
    """
    inner = escape(content) if isinstance(content, str) else Markup().join(content)
    pairs = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None]
    head = Markup().join(Markup(' {}="{}"').format(key, _number(value)) for key, value in pairs)
    return Markup("<{}{}>{}</{}>").format(name, head, inner, name)


def _number(value: str | float) -> str:
    """Hundredths of a pixel are enough."""
    return value if isinstance(value, str) else f"{round(value, 2):.10g}"


def drawing(width: float, height: float, label: str, content: Iterable[Markup]) -> Markup:
    """A whole figure, drawn at this size in CSS pixels and never larger. A narrow one stays legible on a telephone, where
    it is made to fit; others are scrolled there."""
    return element(
        "svg",
        content,
        class_="narrow" if width <= _NARROW else None,
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        xmlns="http://www.w3.org/2000/svg",
    )


def tooltip(text: str) -> Markup:
    return element("title", text)


def group(content: Iterable[Markup], **attributes: Attribute) -> Markup:
    return element("g", content, **attributes)


def text(x: float, y: float, content: str, class_: str = "label", anchor: str = "start") -> Markup:
    return element("text", content, x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor)


def rect(x: float, y: float, width: float, height: float, class_: str, radius: float | None = None) -> Markup:
    return element("rect", x=x, y=y, width=max(0.0, width), height=max(0.0, height), class_=class_, rx=radius)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


Place = tuple[float, float]


def polyline(places: Iterable[Place], class_: str) -> Markup:
    return element("polyline", points=_places(places), class_=class_)


def polygon(places: Iterable[Place], class_: str) -> Markup:
    return element("polygon", points=_places(places), class_=class_)


def _places(places: Iterable[Place]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in places)


def marker(x: float, y: float, series: str, hollow: bool = False, size: float = 4.5) -> Markup:
    """The point of a series. Series differ in shape as well as in colour: SDC is a disc, nonfinite a diamond."""
    class_ = f"mark {series}" + (" hollow" if hollow else "")
    if series == "nonfinite":
        s = size + 1
        return element("path", d=f"M{_number(x)} {_number(y - s)}l{s} {s}l{-s} {s}l{-s} {-s}z", class_=class_)
    return element("circle", cx=x, cy=y, r=size, class_=class_)


def whisker(x1: float, y1: float, x2: float, y2: float, series: str, cap: float = 3) -> Markup:
    """An interval, horizontal or vertical, with caps."""
    dx, dy = (0.0, cap) if y1 == y2 else (cap, 0.0)
    ends = [line(x - dx, y - dy, x + dx, y + dy, f"whisker {series}") for x, y in ((x1, y1), (x2, y2))]
    return group([line(x1, y1, x2, y2, f"whisker {series}"), *ends])
