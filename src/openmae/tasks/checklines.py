"""The screen of `openmae data check`: what was found, in lines of a head and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_FEW = 500
_ODD = {
    "animated": "animated",
    "pages": "of several pages",
    "alpha": "with alpha",
    "palette": "with a palette",
    "cmyk": "CMYK",
    "turned": "turned by EXIF",
    "extension": "with a wrong extension",
    "no_data": "with no-data values",
}


def lines(
    found: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], leaks: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str]]:
    """(head, text), at most some twenty."""
    looked = "" if found["looked"] == found["n"] else f", {found['looked']:,} looked at"
    formats = f"; {_counts(found['formats'])}" if found["formats"] else ""  # of arrays: none
    yield "Data", f"{found['n']:,} images in {found['data']}{looked}{formats}"
    if found["classes"]:
        yield "Classes", _classes(found["classes"])
    yield "Sizes", _sizes(found["sizes"])
    for number, group in enumerate(found["values"][:3]):
        yield "" if number else "Values", _values(group)
    if len(found["values"]) > 3:
        yield "", f"and {len(found['values']) - 3} more, see the report"
    if found["value_range"] is not None:
        low, high = found["value_range"]
        yield "", f"value range {low:g}:{high:g}, stated by --value-range"
    yield from _mixed(found["values"])
    yield from _faults(found)
    yield "Twins", _twins(pairs, "the same file as another", "almost the same as another")
    if "leakage" in found:
        head = f"{found['leakage']['looked']:,} images in {found['leakage']['against']}"
        yield "Leakage", f"{head}: {_twins(leaks, 'in both sets', 'almost the same in both')}"
    if found["n"] < _FEW:
        yield "Few", f"{found['n']} images teach a model little. Start from weights: --init RUN"
    names = [name.lower() for name in (found["classes"] or {}).get("images", {})]
    parts = [p for p in ("train", "test", "val") if p in names]
    if len(parts) > 1 and "leakage" not in found:
        first, second = (f"{found['data'].rstrip('/')}/{p}" for p in parts[:2])
        yield "Parts", f"compare them: openmae data check {first} --against {second}"


def _counts(counts: Mapping[str, int], most: int = 4) -> str:
    shown = [f"{n:,} {word}" for word, n in list(counts.items())[:most]]
    return ", ".join(shown) + (f", {len(counts) - most} more" if len(counts) > most else "")


def _classes(classes: Mapping[str, Any]) -> str:
    (most, many), (least, few) = classes["largest"], classes["smallest"]
    total = max(1, sum(classes["images"].values()))
    text = f"{classes['count']:,}; largest {_name(most)} {many:,} ({many / total:.0%}), smallest"
    text += f" {_name(least)} {few:,}"
    if classes["ratio"] >= 10:
        text += f"; {classes['ratio']:,.0f} to 1: see --sampling balanced"
    return text + (f"; {classes['unlabelled']:,} without" if classes["unlabelled"] else "")


def _name(text: str) -> str:
    """On one line whatever a folder is called."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= 60 else f"{plain[:28]}..{plain[-30:]}"


def _sizes(sizes: Mapping[str, Any]) -> str:
    small, large = ("x".join(map(str, sizes[k])) for k in ("smallest", "largest"))
    middle = f"{sizes['width']['median']}x{sizes['height']['median']}"
    if sizes["different"] == 1:
        return f"all {small}"
    total = sizes["landscape"] + sizes["portrait"] + sizes["square"]
    shapes = ", ".join(
        f"{sizes[k] / total:.0%} {k}" for k in ("landscape", "portrait", "square") if sizes[k]
    )
    long = f", {sizes['long']:,} longer than 3:1" if sizes["long"] else ""
    return f"{small} .. {large}, median {middle}; {shapes}{long}"


def _values(group: Mapping[str, Any]) -> str:
    plural = "" if group["channels"] == 1 else "s"
    text = f"{group['count']:,} with {group['channels']} channel{plural} {group['type']}"
    shown = min(4, group["channels"])
    means, stds = (group[k][:shown] for k in ("mean", "std"))
    known = [v for v in (*group["low"], *group["high"]) if v is not None]
    if known:
        text += f", {min(known):g} to {max(known):g}"
    more = " .." if group["channels"] > shown else ""
    text += f", mean ({_row(means)}{more}), std ({_row(stds)}{more})"
    dead = [
        str(c + 1)
        for c, (low, high) in enumerate(zip(group["low"], group["high"], strict=True))
        if low == high
    ]
    return text + (f"; channel {' '.join(dead)} constant" if dead and group["count"] > 1 else "")


def _mixed(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What one run cannot read together, or reads on scales that do not fit."""
    main = groups[0]["channels"] if groups else 0
    fits = {main, 1 if main == 3 else main, 3 if main == 1 else main}
    others = sum(group["count"] for group in groups if group["channels"] not in fits)
    if others:
        total = sum(group["count"] for group in groups)
        yield "Mixed", f"{others:,} of {total:,} have another number of channels: not one run"
    kinds = sorted({group["type"] for group in groups})
    deep = [kind for kind in kinds if kind not in ("uint8", "bool")]
    if deep and len(kinds) > 1:
        scale = "8-bit ones are scaled by 255" if len(deep) < len(kinds) else "one value range"
        yield "" if others else "Mixed", f"types {', '.join(kinds)}: {scale}"


def _row(values: Sequence[float | None]) -> str:
    return " ".join("-" if v is None else f"{v:.4g}" for v in values)


def _faults(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    bad = found["bad"]
    if bad:
        kinds: dict[str, int] = {}
        for one in bad:
            kinds[one["kind"]] = kinds.get(one["kind"], 0) + 1
        first = f"first {_name(bad[0]['path'])}: {_name(bad[0]['reason'])}"
        yield "Bad", f"{len(bad):,} cannot be read: {_counts(kinds, 6)}; {first}"
    else:
        yield "Bad", "none: all can be read"
    for key, words in (
        ("tiny", "under 32 px"),
        ("constant", "of one value only"),
        ("nearly_empty", "nearly empty"),
    ):
        if found[key]:
            head = "Tiny" if key == "tiny" else "Empty" if key == "constant" else ""
            head = head or ("" if found["constant"] else "Empty")
            yield head, f"{len(found[key]):,} {words}; first {_name(found[key][0])}"
    if found["odd"]:
        parts = [f"{len(odd['paths']):,} {_ODD[name]}" for name, odd in found["odd"].items()]
        yield "Odd", f"{', '.join(parts)}; all of them are read"


def _twins(pairs: Sequence[Mapping[str, Any]], exact: str, near: str) -> str:
    if not pairs:
        return "none found"
    parts = []
    for kind, words in (("exact", exact), ("near", near)):
        some = [pair for pair in pairs if pair["kind"] == kind]
        if some:
            first = f"first {_name(some[0]['path'])} = {_name(some[0]['same_as'])}"
            parts.append(f"{len(some):,} {words} ({first})")
    return ", ".join(parts)
