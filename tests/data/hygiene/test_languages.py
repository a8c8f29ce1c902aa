"""Languages of alt-texts."""

from __future__ import annotations

import pytest

from altogether_rt.data.alts import Alts
from altogether_rt.data.hygiene.clean import AltHygiene, HygieneOptions
from altogether_rt.data.hygiene.languages import LanguageDetector
from altogether_rt.errors import MissingDependencyError

#: Four alt-texts in each of 16 languages, written for this test.
TEXTS = {
    "en": (
        "a brown dog running on the beach",
        "Portrait of a woman with a red hat",
        "Vintage car parked in front of the old town hall",
        "fresh bread on a wooden table",
    ),
    "de": (
        "ein brauner Hund läuft am Strand",
        "Porträt einer Frau mit rotem Hut",
        "Oldtimer vor dem alten Rathaus geparkt",
        "frisches Brot auf einem Holztisch",
    ),
    "fr": (
        "un chien brun qui court sur la plage",
        "Portrait d'une femme au chapeau rouge",
        "Voiture ancienne garée devant la mairie",
        "du pain frais sur une table en bois",
    ),
    "es": (
        "un perro marrón corriendo por la playa",
        "Retrato de una mujer con sombrero rojo",
        "Coche antiguo aparcado frente al ayuntamiento",
        "pan recién hecho sobre una mesa de madera",
    ),
    "it": (
        "un cane marrone che corre sulla spiaggia",
        "Ritratto di una donna con cappello rosso",
        "Auto d'epoca parcheggiata davanti al municipio",
        "pane fresco su un tavolo di legno",
    ),
    "pt": (
        "um cachorro marrom correndo na praia",
        "Retrato de uma mulher com chapéu vermelho",
        "Carro antigo estacionado em frente à prefeitura",
        "pão fresco em uma mesa de madeira",
    ),
    "nl": (
        "een bruine hond rent op het strand",
        "Portret van een vrouw met een rode hoed",
        "Oldtimer geparkeerd voor het oude stadhuis",
        "vers brood op een houten tafel",
    ),
    "pl": (
        "brązowy pies biegnący po plaży",
        "Portret kobiety w czerwonym kapeluszu",
        "Zabytkowy samochód zaparkowany przed ratuszem",
        "świeży chleb na drewnianym stole",
    ),
    "sv": (
        "en brun hund springer på stranden",
        "Porträtt av en kvinna med röd hatt",
        "Veteranbil parkerad framför det gamla rådhuset",
        "nybakat bröd på ett träbord",
    ),
    "ru": (
        "коричневая собака бежит по пляжу",
        "Портрет женщины в красной шляпе",
        "Старинный автомобиль перед ратушей",
        "свежий хлеб на деревянном столе",
    ),
    "tr": (
        "kumsalda koşan kahverengi bir köpek",
        "Kırmızı şapkalı bir kadının portresi",
        "Eski belediye binasının önünde park etmiş araba",
        "ahşap masanın üzerinde taze ekmek",
    ),
    "ja": (
        "浜辺を走る茶色い犬",
        "赤い帽子をかぶった女性の肖像",
        "古い市役所の前に停まったクラシックカー",
        "木のテーブルの上の焼きたてのパン",
    ),
    "zh": (
        "一只棕色的狗在沙滩上奔跑",
        "戴红帽子的女人肖像",
        "停在旧市政厅前的老爷车",
        "木桌上的新鲜面包",
    ),
    "ko": (
        "해변을 달리는 갈색 개",
        "빨간 모자를 쓴 여자의 초상",
        "오래된 시청 앞에 주차된 클래식 자동차",
        "나무 테이블 위의 신선한 빵",
    ),
    "ar": (
        "كلب بني يركض على الشاطئ",
        "صورة امرأة ترتدي قبعة حمراء",
        "سيارة قديمة متوقفة أمام مبنى البلدية",
        "خبز طازج على طاولة خشبية",
    ),
    "hi": (
        "समुद्र तट पर दौड़ता भूरा कुत्ता",
        "लाल टोपी पहने महिला का चित्र",
        "पुराने टाउन हॉल के सामने खड़ी पुरानी कार",
        "लकड़ी की मेज पर ताज़ी रोटी",
    ),
}


@pytest.fixture(scope="module")
def detector() -> LanguageDetector:
    pytest.importorskip("py3langid", reason="needs the extra lang")
    return LanguageDetector()


def test_most_short_texts_are_told_apart(detector: LanguageDetector) -> None:
    """The reference is who wrote them; the model takes a Swedish text for Danish, for example."""
    answers = [
        (code, detector.language(text), text) for code, texts in TEXTS.items() for text in texts
    ]
    wrong = [answer for answer in answers if answer[0] != answer[1]]
    assert len(answers) == 64
    assert len(wrong) <= 4, wrong


@pytest.mark.parametrize("text", ["", "...", "12345", "A", "★★★★☆"])
def test_too_little_to_say(detector: LanguageDetector, text: str) -> None:
    assert detector.language(text) == "und"


def test_rows_have_the_language_of_each_text(detector: LanguageDetector) -> None:
    hygiene = AltHygiene(HygieneOptions(language=True))
    cleaned = hygiene.clean(Alts((TEXTS["de"][0], "", TEXTS["ja"][0])))
    assert cleaned.languages == ("de", "und", "ja")
    assert cleaned.read == cleaned.texts
    assert hygiene.counts.languages == {"de": 1, "und": 1, "ja": 1}
    assert hygiene.clean(Alts()).languages == ()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "py3langid.langid", None)
    with pytest.raises(MissingDependencyError, match=r"altogether-rt\[lang\]"):
        LanguageDetector()
