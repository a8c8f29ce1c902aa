"""Alt-texts in an XMP packet (ISO 16684-1), which is RDF in XML.

`Iptc4xmpCore:AltTextAccessibility` (IPTC Photo Metadata Standard 2021.1) and `dc:description` are
texts with alternatives by language. Packets are untrusted: expat reads them as a stream, a document
type, and with it every entity, is refused, and what is kept is bounded.

An alt-text that was written here is marked by its hash, beside it and in a namespace of our own,
and the alt-text that it replaced is kept there. So captions are not taken for alt-texts later on,
and a text that somebody has edited since counts as theirs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from altogether_rt.data.xmp.layout import MAX_PACKET_BYTES

__all__ = ["PacketTexts", "one_line", "parse_packet", "with_alt"]

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC: Final = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
_DC: Final = "http://purl.org/dc/elements/1.1/"
_XML: Final = "http://www.w3.org/XML/1998/namespace"
_OURS: Final = "urn:altogether-rt:xmp:1"

_ALT: Final = f"{_IPTC} AltTextAccessibility"
_DESCRIPTION: Final = f"{_DC} description"
_DIGEST: Final = f"{_OURS} AltTextDigest"
_FORMER: Final = f"{_OURS} FormerAltText"
_PROPERTIES: Final = frozenset({_ALT, _DESCRIPTION, _DIGEST, _FORMER})

_WRITTEN: Final = _PROPERTIES - {_DESCRIPTION}

_MAX_DEPTH: Final = 64
#: Characters of a text that are kept: several times what is read of an alt-text.
_MAX_CHARS: Final = 64 * 1024

_EMPTY_PACKET: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n<rdf:RDF xmlns:rdf="{_RDF}">\n'
    '</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>'
).encode()


@dataclass
class PacketTexts:
    """The texts of a packet, and where they are."""

    alt: str = ""  # AltTextAccessibility, on one line as all of them
    description: str = ""  # dc:description
    digest: str = ""  # of an alt-text that was written here
    former: str = ""  # the alt-text that it replaced
    about: str = ""  # rdf:about of the resource
    end: int | None = None  # offset of the end tag of rdf:RDF
    #: (start, end) in bytes of the elements that writing an alt-text replaces.
    replaced: list[tuple[int, int]] = field(default_factory=list)
    is_attribute: bool = False  # the alt-text is an attribute, which is not replaced

    @property
    def is_ours(self) -> bool:
        """Whether the alt-text was written here and nobody has edited it since."""
        return bool(self.alt) and self.digest == _digest(self.alt)

    @property
    def own_alt(self) -> str:
        """The alt-text that somebody gave the image: not ours, but the one before it."""
        return self.former if self.is_ours else self.alt


def parse_packet(data: bytes) -> PacketTexts:
    """The texts of a packet. Raises ValueError if it is broken, hostile or too large."""
    if len(data) > MAX_PACKET_BYTES:
        raise ValueError("its XMP is larger than a megabyte")
    reader = _Reader()
    try:
        reader.parser.Parse(data if b"\0" in data[:4] else data.rstrip(b"\0"), True)
    except (expat.ExpatError, LookupError, UnicodeError) as error:
        raise ValueError("its XMP is broken") from error
    return reader.finished()


def with_alt(data: bytes | None, alt: str) -> bytes:
    """The packet with `alt` as its alt-text, everything else as it was; None: a new packet.

    Raises ValueError if a packet cannot be changed so.
    """
    alt = one_line(alt)
    data = data or _EMPTY_PACKET
    texts = parse_packet(data)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("its XMP is not in UTF-8") from error
    if texts.end is None or texts.is_attribute:
        raise ValueError("its XMP is written in a way that cannot be added to")
    parts, start = [], 0
    for begin, end in sorted(texts.replaced):
        parts.append(data[start:begin])
        start = end
    parts += [data[start : texts.end], _element(alt, texts), data[texts.end :]]
    return b"".join(parts)


def _element(alt: str, texts: PacketTexts) -> bytes:
    """An rdf:Description that holds the alt-text, and declares every namespace it uses."""
    from xml.sax.saxutils import escape, quoteattr  # it imports urllib, and this is rarely called

    former = f"<ours:FormerAltText>{escape(one_line(texts.own_alt))}</ours:FormerAltText>\n"
    return (
        f'<rdf:Description xmlns:rdf="{_RDF}" rdf:about={quoteattr(texts.about)}\n'
        f' xmlns:Iptc4xmpCore="{_IPTC}" xmlns:ours="{_OURS}">\n'
        '<Iptc4xmpCore:AltTextAccessibility><rdf:Alt><rdf:li xml:lang="x-default">'
        f"{escape(alt)}</rdf:li></rdf:Alt></Iptc4xmpCore:AltTextAccessibility>\n"
        f"<ours:AltTextDigest>{_digest(alt)}</ours:AltTextDigest>\n"
        f"{former if texts.own_alt else ''}"
        "</rdf:Description>"
    ).encode()


def one_line(text: str) -> str:
    """The text as it is written: without what XML 1.0 cannot hold, and with single spaces."""
    kept = (
        character if character >= " " and not 0xD800 <= ord(character) <= 0xDFFF else " "
        for character in text
        if character not in "\ufffe\uffff"
    )
    return " ".join("".join(kept).split())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


@dataclass
class _Resource:
    """An rdf:Description that is being read."""

    start: int = 0
    num_others: int = 0  # properties that stay as they are
    written: list[tuple[int, int]] = field(default_factory=list)  # properties that are replaced

    def replace(self, texts: PacketTexts, end: int) -> None:
        """It ends at `end`: if it holds nothing that stays, all of it is replaced."""
        whole = self.written and not self.num_others
        texts.replaced += [(self.start, end)] if whole else self.written


class _Reader:
    """Handlers of expat. Element names are "namespace name"."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._data
        self.parser.DefaultHandlerExpand = self._other
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self._texts = PacketTexts()
        self._stack: list[str] = []
        self._property = ""  # the one of `_PROPERTIES` that we are in
        self._start_at = 0
        self._ended = ""  # the element whose end tag is over as soon as anything follows
        self._resource = _Resource()
        self._languages: dict[str, str] = {}  # of the property
        self._language = ""
        self._found: dict[str, str] = {}

    def finished(self) -> PacketTexts:
        texts = self._texts
        texts.alt = self._found.get(_ALT, "")
        texts.description = self._found.get(_DESCRIPTION, "")
        texts.digest = self._found.get(_DIGEST, "")
        texts.former = self._found.get(_FORMER, "")
        return texts

    def _refuse(self, *_: object) -> None:
        raise ValueError("its XMP declares a document type")

    def _other(self, data: str) -> None:
        self._close()

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._close()
        at_property = len(self._stack) >= 2 and self._stack[-1] == f"{_RDF} Description"
        at_property = at_property and self._stack[-2] == f"{_RDF} RDF"
        if at_property and name not in _WRITTEN:
            self._resource.num_others += 1
        if at_property and name in _PROPERTIES:
            self._property = name
            self._start_at = self.parser.CurrentByteIndex
            self._languages = {}
            self._language = ""
        if name == f"{_RDF} Description" and self._stack[-1:] == [f"{_RDF} RDF"]:
            self._describe(attributes)
        if self._property and name == f"{_RDF} li":
            self._language = attributes.get(f"{_XML} lang", "")
        self._stack.append(name)
        if len(self._stack) > _MAX_DEPTH:
            raise ValueError("its XMP is nested too deeply")

    def _describe(self, attributes: dict[str, str]) -> None:
        """Properties may be attributes of their resource."""
        num_others = len(attributes.keys() - {f"{_RDF} about"})
        self._resource = _Resource(self.parser.CurrentByteIndex, num_others)
        self._texts.about = attributes.get(f"{_RDF} about", self._texts.about)[:_MAX_CHARS]
        for name in _PROPERTIES & attributes.keys():
            self._found.setdefault(name, attributes[name][:_MAX_CHARS].strip())
            self._texts.is_attribute |= name == _ALT

    def _data(self, text: str) -> None:
        self._close()
        if self._property:
            held = self._languages.get(self._language, "")
            self._languages[self._language] = (held + text)[:_MAX_CHARS]

    def _end(self, name: str) -> None:
        self._close()
        self._stack.pop()
        if name == self._property and self._stack[-1:] == [f"{_RDF} Description"]:
            self._ended = name
        elif self._property and name == f"{_RDF} li":
            self._language = ""
        if name == f"{_RDF} Description" and self._stack[-1:] == [f"{_RDF} RDF"]:
            self._ended = name
        if name == f"{_RDF} RDF" and self._texts.end is None:
            self._texts.end = self.parser.CurrentByteIndex

    def _close(self) -> None:
        """What follows an element has begun: the element ends here."""
        ended, self._ended = self._ended, ""
        if not ended:
            return
        if ended != self._property:
            self._resource.replace(self._texts, self.parser.CurrentByteIndex)
            return
        texts = {language: " ".join(text.split()) for language, text in self._languages.items()}
        texts = {language: text for language, text in texts.items() if text}
        english = (text for language, text in texts.items() if language.startswith("en"))
        first = next(english, next(iter(texts.values()), ""))
        self._found.setdefault(self._property, texts.get("x-default", first))
        if self._property in _WRITTEN:
            self._resource.written.append((self._start_at, self.parser.CurrentByteIndex))
        self._property = ""
