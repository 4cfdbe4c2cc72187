import io
import logging

import numpy as np
from PIL import Image

from odmt.features import contact_sheet as sheets
from odmt.features.contact_sheet import Card, contact_sheet
from odmt.features.images import blank_picture
from odmt.features.pictures import encode_png


def card(item, title="Red pen", colour=(255, 0, 0), size=(60, 90), is_blank=False):
    content = blank_picture() if is_blank else encode_png(np.full((*size, 3), colour, dtype=np.uint8))
    return Card(item, title, content, is_blank)


def drawn(cards):
    return np.asarray(Image.open(io.BytesIO(contact_sheet(cards))).convert("RGB")).astype(int)


def test_eight_cards_stand_in_a_row_and_the_ninth_below():
    one, eight, nine = (drawn([card(f"i{number}") for number in range(count)]) for count in (1, 8, 9))
    assert one.shape == eight.shape
    assert nine.shape[1] == eight.shape[1]
    assert nine.shape[0] > 1.8 * eight.shape[0] - 20


def test_each_picture_is_drawn_whole_in_its_own_place():
    pixels = drawn([card("a", colour=(255, 0, 0)), card("b", colour=(0, 0, 255))])
    half = pixels.shape[1] // 8
    for place, colour in ((0, (255, 0, 0)), (1, (0, 0, 255))):
        part = pixels[:, place * half : (place + 1) * half]
        assert (part == colour).all(axis=2).sum() == 60 * 90


def test_a_large_picture_is_made_smaller_and_keeps_its_shape():
    pixels = drawn([card("a", size=(1000, 500))])
    assert (pixels == (255, 0, 0)).all(axis=2).sum() == 144 * 72


def test_a_missing_picture_is_a_grey_square_and_its_name_says_so():
    pixels = drawn([card("a", is_blank=True)])
    assert (pixels == (128, 128, 128)).all(axis=2).sum() >= 144 * 144
    assert (pixels != drawn([card("a", is_blank=True)._replace(is_blank=False)])).any()


def test_long_titles_break_at_blanks_into_three_lines_and_are_cut():
    font = sheets._font_for("abc")
    lines = sheets._wrapped("one two three four five six seven eight nine ten eleven twelve thirteen fourteen", font)
    assert len(lines) == 3
    assert lines[0].startswith("one two three")
    assert lines[0].split()[-1] in ("four", "five", "six")
    assert lines[2].endswith("…")
    assert all(font.getlength(line) <= 144 for line in lines)
    assert sheets._wrapped("short", font) == ["short"]
    assert "".join(sheets._wrapped("x" * 60, font)[:2]) in "x" * 60


def test_letters_that_no_font_has_are_told(monkeypatch, caplog):
    monkeypatch.setattr(sheets, "_wide_fonts", list)
    with caplog.at_level(logging.WARNING, logger="odmt"):
        drawn([card("a", title="\u7ea2\u8272\u94a2\u7b14")])
    assert "no font here has all letters of the titles" in caplog.text
    caplog.clear()
    drawn([card("a", title="Red pen")])
    assert caplog.text == ""
