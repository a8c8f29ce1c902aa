"""Recognises alt-texts that software wrote: names of files, URLs, a camera's names, defaults.

Each pattern must match the whole text. A word too few recognised costs a poorer prompt; a word too
many throws away what somebody wrote, so in doubt a text is not noise.
"""

from __future__ import annotations

import html
import re
from typing import Final, Literal, get_args

from altogether_rt.data.alts import clean_text

__all__ = ["NOISE_KINDS", "NoiseKind", "noise_kind", "unescape"]

NoiseKind = Literal["camera", "file_name", "url", "placeholder"]

NOISE_KINDS: Final[tuple[NoiseKind, ...]] = get_args(NoiseKind)

#: No noise is longer, but for URLs.
_MAX_CHARS: Final = 200

_SUFFIX: Final = r"\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|heic|heif|avif|svg|psd|raw|cr2|nef|dng)"
_COPY: Final = r"(?:[ _-]?\(\d{1,3}\)|[ _-]copy(?:[ _-]?\d{1,2})?|[_-](?:edit(?:ed)?|\d{1,2}))?"

#: What cameras, telephones and programs call their files.
_CAMERA: Final = re.compile(
    r"(?:"
    r"_?(?:img|dsc[nf]?|dcim|mgl?_|pict|cimg|kif|hpim|imgp|mvi|gopr|dji|sany|sdc)"
    r"[ _-]?[a-z]?\d{4,8}(?:[ _-]\w{3,9})?(?:[ _-](?:hdr|pano|burst|portrait|cover)\w{0,20})?"
    r"|(?:img|vid|pxl|mvimg|wp|photo|burst|screenshot|signal)[ _-](?:19|20)\d{6}[ _-]?\w{0,30}"
    r"|pxl_\d{8}_\d{9}(?:\.\w{1,20}){0,2}"
    r"|p\d{7,8}|sam_\d{4}|1\d\d_\d{4}|(?:19|20)\d{6}_\d{6}"
    r"|screen ?shot[ _-]\d{4}-\d\d-\d\d[ _-](?:at[ _-])?\d{1,2}[._:-]\d\d[._:-]\d\d(?: ?[ap]m)?"
    r"|whatsapp[ _-]image[ _-]\d{4}-\d\d-\d\d[ _-]at[ _-][\d._:-]+(?: ?[ap]m)?"
    r")" + _COPY + f"(?:{_SUFFIX})?",
    re.IGNORECASE,
)

#: One word with the suffix of an image. What has several words says something besides.
_NAMED_FILE: Final = re.compile(rf"[^\s\"“”<>]*[^\s\"“”<>.,;:!?(/]{_SUFFIX}", re.IGNORECASE)
#: One word of parts joined by underscores, or by four hyphens or more with a number among them; or
#: a hash.
_SLUG: Final = re.compile(
    r"(?=[^_]*_)[^\W_][\w.-]{6,}[^\W_]"
    r"|(?=.*[a-z]{3})(?=.*\d)[a-z0-9]+(?:-[a-z0-9]+){4,}"
    r"|(?=.*\d)(?=.*[a-f])[0-9a-f]{16,}"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)

_URL: Final = re.compile(
    r"(?:https?|ftp|file|blob|cid)://?\S+|data:image/\S*|www\.[\w-]+\.\S+"
    r"|[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|edu|gov|io|co|uk|de|fr|es|it|nl|ru|cn|jp|br|eu)/\S*"
    r"|(?:\.{0,2}/)?(?:[\w%.-]+/)+[\w%.-]+" + _SUFFIX + r"(?:\?\S*)?",
    re.IGNORECASE,
)

_NUMBERED: Final = re.compile(
    r"(?:image|img|picture|pic|imagen|immagine|bild|foto|untitled|unnamed|slide|thumbnail)"
    r"[ _-]?(?:#|no\.? ?)?\d{1,6}|(?:photo|figure)\d{1,6}|untitled[ _-]design(?:[ _-]\(?\d+\)?)?",
    re.IGNORECASE,
)
_NOTHING: Final = re.compile(r"[\s!-/:-@\[-`{-~–—…·•]*")
_PLACEHOLDERS: Final = frozenset(
    (
        "alt", "alt image", "alt img", "alt tag", "alt text", "alt-text", "alternate text",
        "alternative text", "bild", "blank image", "default", "default image", "description",
        "dummy image", "featured image", "foto", "gallery image", "hero image", "image",
        "image alt", "image alt text", "image description", "image not available",
        "image not found", "image of", "image placeholder", "image unavailable", "images", "imagen",
        "image title", "img", "immagine", "insert alt text here", "lorem ipsum", "main image",
        "missing image", "n/a", "no alt", "no alt text", "no description",
        "no description available", "no image", "no image available", "no photo",
        "no photo available", "no photo description available", "no title", "null", "photo",
        "photo not available", "photograph", "photos", "pic", "picture", "pictures", "placeholder",
        "placeholder image", "post image", "post thumbnail", "preview image", "product image",
        "spacer", "thumbnail", "thumbnail image", "undefined", "unnamed", "untitled",
        "untitled design", "изображение", "фото", "картинка", "图片", "画像", "写真", "image vide",
        "sans titre", "sin título", "sem título", "senza titolo", "ohne titel", "kein bild",
    )
)  # fmt: skip


def unescape(text: str) -> str:
    """The text without HTML entities, also where it was escaped twice, as one clean line."""
    for _ in range(2):
        if "&" not in text:
            break
        text = html.unescape(text)
    return clean_text(text.replace("\N{NO-BREAK SPACE}", " "))


def noise_kind(text: str) -> NoiseKind | None:
    """What a text is if it was not written for the image; None if it may have been, or is empty."""
    text = unescape(text[: 20 * _MAX_CHARS])
    if not text:
        return None
    if _URL.fullmatch(text):
        return "url"
    if len(text) > _MAX_CHARS:
        return None
    if _CAMERA.fullmatch(text):
        return "camera"
    plain = text.strip(" .!*\"'“”[](){}<>|-–—_").casefold()
    if plain in _PLACEHOLDERS or _NOTHING.fullmatch(text) or _NUMBERED.fullmatch(text):
        return "placeholder"
    if _SLUG.fullmatch(text) or _NAMED_FILE.fullmatch(text):
        return "file_name"
    return None
