"""Alt-texts in XMP packets: all the ways in which they are written, and hostile ones."""

from __future__ import annotations

import pytest

from altogether_rt.data.xmp.packet import parse_packet, with_alt

pytestmark = pytest.mark.lean

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"


def packet(inner: str, attributes: str = "") -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<r:RDF xmlns:r="{RDF}" xmlns:i="{IPTC}" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<r:Description r:about="" {attributes}>{inner}</r:Description></r:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


def alternatives(*texts: tuple[str, str]) -> str:
    return "".join(f'<r:li xml:lang="{language}">{text}</r:li>' for language, text in texts)


def alt(inner: str) -> str:
    return f"<i:AltTextAccessibility><r:Alt>{inner}</r:Alt></i:AltTextAccessibility>"


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (alt(alternatives(("x-default", "a boat"))), "a boat"),
        (alt(alternatives(("de", "ein Boot"), ("x-default", "a boat"))), "a boat"),
        (alt(alternatives(("de", "ein Boot"), ("en-GB", "a boat"))), "a boat"),
        (alt(alternatives(("de", "ein Boot"), ("fr", "un bateau"))), "ein Boot"),
        ("<i:AltTextAccessibility>a boat</i:AltTextAccessibility>", "a boat"),
        (alt(alternatives(("x-default", "a &lt;b&gt; &#233;\n  <![CDATA[ & c]]>"))), "a <b> é & c"),
        (alt(""), ""),
        ("<i:AltTextAccessibility/>", ""),
        ("<i:Other>a boat</i:Other>", ""),
        (f"<i:Other>{alt(alternatives(('x-default', 'of a part')))}</i:Other>", ""),
    ],
)
def test_alt_texts(inner: str, expected: str) -> None:
    texts = parse_packet(packet(inner))
    assert (texts.alt, texts.own_alt, texts.is_ours) == (expected, expected, False)


def test_a_property_that_is_an_attribute() -> None:
    data = packet("", 'i:AltTextAccessibility="a boat" dc:description="more"')
    assert parse_packet(data).alt == "a boat"
    assert parse_packet(data).description == "more"
    with pytest.raises(ValueError, match="cannot be added to"):
        with_alt(data, "a ship")


def test_description_is_another_text() -> None:
    inner = f"<dc:description><r:Alt>{alternatives(('x-default', 'more'))}</r:Alt></dc:description>"
    texts = parse_packet(packet(inner))
    assert (texts.alt, texts.description) == ("", "more")


def test_writing_leaves_everything_else() -> None:
    before = packet("<i:Location>Porto &amp; Lindo</i:Location><!-- kept --><?kept too?>")
    after = with_alt(before, 'A <boat> & "more" 日本')
    texts = parse_packet(after)
    assert (texts.alt, texts.is_ours, texts.own_alt) == ('A <boat> & "more" 日本', True, "")
    again = with_alt(after, "second")
    assert len(again) < len(after)  # nothing is left of the first
    for data in (after, again):
        start = data.index(b"<rdf:Description xmlns:rdf")
        end = data.index(b"</rdf:Description>") + len(b"</rdf:Description>")
        assert data[:start] + data[end:] == before


def test_the_alt_text_that_is_replaced_is_kept() -> None:
    before = packet(f"<i:City>x</i:City>{alt(alternatives(('x-default', 'the Marigold')))}")
    first = with_alt(before, "A boat, the Marigold.")
    second = with_alt(first, "A large boat, the Marigold.")
    captions = ("A boat, the Marigold.", "A large boat, the Marigold.")
    for data, caption in zip((first, second), captions, strict=True):
        texts = parse_packet(data)
        assert (texts.alt, texts.own_alt, texts.is_ours) == (caption, "the Marigold", True)
    edited = parse_packet(second.replace(b"A large boat", b"A small boat"))
    assert (edited.is_ours, edited.own_alt) == (False, "A small boat, the Marigold.")
    assert b"<i:City>x</i:City>" in second


def test_what_xml_cannot_hold_is_left_out() -> None:
    texts = parse_packet(with_alt(None, "a\x00b\x1b[31m\ufffe\udc80 c\r\n\td"))
    assert texts.is_ours
    assert texts.alt == "a b [31m c d"


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)
).replace("&a0;", "&a;")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (BOMB.encode() + b"]>" + packet("<i:X>&a11;</i:X>"), "declares a document type"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "declares a document type"),
        (packet("<i:X>" * 100 + "</i:X>" * 100), "nested too deeply"),
        (packet(alt(alternatives(("x-default", "x" * (1 << 20))))), "larger than a megabyte"),
        (packet("&undeclared;"), "is broken"),
        (b"", "is broken"),
        (b"<x>", "is broken"),
        (b"\xff\xfe\x00\xd8", "is broken"),
        (b'<?xml version="1.0" encoding="no-such"?><x/>', "is broken"),
    ],
)
def test_hostile_packets(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_packet(data)


def test_long_texts_are_cut() -> None:
    inner = "<r:li>" + "x " * 200_000 + "</r:li>"
    assert len(parse_packet(packet(alt(inner))).alt) <= 64 * 1024


@pytest.mark.parametrize("data", [b"<x/>", packet("").replace(b"<r:Desc", b"<r:Desk", 1)])
def test_what_cannot_be_added_to(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"its XMP"):
        with_alt(data, "a boat")


def test_other_encodings_are_read_and_not_written() -> None:
    data = packet(alt(alternatives(("x-default", "böat")))).decode().replace("\ufeff", "")
    data16 = data.encode("utf-16")
    assert parse_packet(data16).alt == "böat"
    assert parse_packet(b"\xfe\xff" + data.encode("utf-16-be")).alt == "böat"
    with pytest.raises(ValueError, match="not in UTF-8"):
        with_alt(data16, "a boat")
