"""Drawn documents of seventeen kinds: the stand-in for scanned and photographed papers, cards, plates and dashboards.

A kind is a function that lays out a page from blocks (titles, fields, tables, portraits, seals); the words, the
number of rows, the paper and the ink are random. Two pairs are look-alikes on purpose: the certificates of an admission
and of an outpatient visit share one form, and so do a diagnosis and a statement of opinion; only a heading and one
block tell them apart.

Pictures of the train part lie nearly straight, as scans do. Those of the test part are turned any way, flipped and
sometimes mixed with a second document, so a model has to learn more than what training shows; that gap is the point of
this set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from engine.synth.drawn.paint import (
    Colour,
    Exposure,
    Image,
    Points,
    Rng,
    encode_jpeg,
    expose,
    fill,
    gradient,
    mix,
    rectangle,
    shade,
    stamp,
    stroke,
    text_width,
    write,
)

TEXT = (
    "the patient was seen on and for with account number total service date name address general condition left right "
    "daily treatment rest advised three weeks pain fever normal test result city road north river office branch pay "
    "received item quantity price tax balance transfer card monthly report tablet after meals morning evening"
)
WORDS = TEXT.split()
FAMILY_NAMES = ("KIM", "LEE", "PARK", "CHOI", "JUNG", "KANG", "CHO", "YOON", "JANG", "LIM", "HAN", "OH", "SEO")
GIVEN_NAMES = ("MINJUN", "SEOYEON", "JIHO", "HAEUN", "DOYUN", "SOYUL", "YUJIN", "TAEYANG", "NARI", "BORA")
INK: Colour = (58, 48, 44)
RED: Colour = (50, 40, 190)
BLUE: Colour = (150, 84, 30)
HUNDRED = 100.0  # a page is this many units wide, whatever its pixels


class Page:
    """A sheet to lay out in units of a hundredth of its width; y runs down. All blocks return the y they end at."""

    def __init__(self, height: float, paper: Colour, rng: Rng, pixels: int = 620) -> None:
        self.rng, self.unit, self.height = rng, pixels / HUNDRED, height
        self.image: Image = np.full((round(height * self.unit), pixels, 3), paper, np.uint8)

    def text(self, x: float, y: float, words: str, size: float = 1.8, colour: Colour = INK, bold: int = 1) -> float:
        """Words whose capitals are `size` units tall and stand on the line y."""
        write(self.image, words, (x * self.unit, y * self.unit), size * self.unit, colour, bold)
        return y

    def title(self, y: float, words: str, size: float = 3.4, colour: Colour = INK) -> float:
        """A bold heading in the middle of the page."""
        wide = text_width(words, size * self.unit, 4) / self.unit
        return self.text((HUNDRED - wide) / 2, y, words, size, colour, 4)

    def box(self, x: float, y: float, width: float, height: float, colour: Colour, filled: bool = False) -> float:
        """A rectangle, as a frame or filled."""
        corners = rectangle(x, y, x + width, y + height) * self.unit
        if filled:
            fill(self.image, corners, colour)
        else:
            stroke(self.image, corners, colour, 0.25 * self.unit, closed=True)
        return y + height

    def rule(self, x: float, y: float, width: float, colour: Colour = INK) -> None:
        """A horizontal line."""
        stroke(self.image, np.array([[x, y], [x + width, y]]) * self.unit, colour, 0.2 * self.unit)

    def sentence(self, width: float, size: float) -> str:
        """About as many random words as fit a width."""
        count = max(1, int(width / size / 5.2))
        return " ".join(WORDS[i] for i in self.rng.integers(len(WORDS), size=count))

    def number(self, digits: int) -> str:
        return "".join(map(str, self.rng.integers(0, 10, digits)))

    def date(self) -> str:
        year, month, day = self.rng.integers([1960, 1, 1], [2025, 13, 29])
        return f"{year}.{month:02d}.{day:02d}"

    def name(self) -> str:
        return (
            f"{FAMILY_NAMES[self.rng.integers(len(FAMILY_NAMES))]} {GIVEN_NAMES[self.rng.integers(len(GIVEN_NAMES))]}"
        )

    def money(self) -> str:
        return f"{int(self.rng.integers(1, 900)) * 100:,}"

    def paragraph(self, x: float, y: float, width: float, lines: int, size: float = 1.5) -> float:
        """Random sentences, the last one cut short."""
        for k in range(lines):
            y = self.text(x, y, self.sentence(width * (1 if k < lines - 1 else 0.6), size), size) + 2 * size
        return y

    def fields(self, x: float, y: float, labels: tuple[str, ...], step: float = 4.0, size: float = 1.6) -> float:
        """Labels, each with a value that suits it."""
        for label in labels:
            self.text(x, y, label, size, mix(INK, (255, 255, 255), 0.25))
            lower = label.lower()
            if "date" in lower or "birth" in lower or "until" in lower:
                value = self.date()
            elif "no" in lower.split() or "phone" in lower:
                value = f"{self.number(3)}-{self.number(4)}-{self.number(4)}"
            elif "name" in lower or "holder" in lower or "doctor" in lower or "patient" in lower:
                value = self.name()
            elif "amount" in lower or "total" in lower:
                value = self.money()
            else:
                value = self.sentence(22, size)
            self.text(x + 10.5 * size, y, value, size)
            y += step
        return y

    def table(self, x: float, y: float, columns: dict[str, float], rows: int, tint: Colour, step: float = 3.8) -> float:
        """A ruled table of columns (heading to width in units); the first column holds words, the others figures."""
        heads, shares = list(columns), list(columns.values())
        width = sum(shares)
        self.box(x, y, width, step, tint, filled=True)
        edges = x + np.concatenate([[0], np.cumsum(shares)])
        for edge, head in zip(edges, heads, strict=False):
            self.text(edge + 0.8, y + 0.7 * step, head, 1.3, bold=2)
        for row in range(rows):
            top = y + (row + 1) * step
            self.rule(x, top, width)
            for column, edge in enumerate(edges[:-1]):
                value = self.sentence(shares[0] * 0.7, 1.3) if column == 0 else self.money()
                self.text(edge + 0.8, top + 0.7 * step, value, 1.3)
        bottom = y + (rows + 1) * step
        self.box(x, y, width, bottom - y, INK)
        for edge in edges[1:-1]:
            stroke(self.image, np.array([[edge, y], [edge, bottom]]) * self.unit, INK, 0.2 * self.unit)
        return bottom

    def portrait(self, x: float, y: float, width: float) -> float:
        """A passport photograph: head, hair and shoulders."""
        tall, wide = round(1.28 * width * self.unit), round(width * self.unit)
        photo: Image = np.full((tall, wide, 3), (228, 214, 200), np.uint8)
        skin = mix((150, 180, 224), (90, 120, 170), float(self.rng.random()))
        hair, coat = self.rng.uniform(15, 70, 3).tolist(), self.rng.uniform(30, 150, 3).tolist()
        for y_share, width_share, height_share, colour in (
            (1.05, 0.48, 0.36, coat),
            (0.40, 0.29, 0.27, hair),
            (0.46, 0.23, 0.25, skin),
        ):
            middle, size = (wide // 2, round(y_share * tall)), (round(width_share * wide), round(height_share * tall))
            cv2.ellipse(photo, middle, size, 0, 0, 360, colour, -1, cv2.LINE_AA)
        top, left = round(y * self.unit), round(x * self.unit)
        self.image[top : top + tall, left : left + wide] = photo
        return y + 1.28 * width

    def seal(self, x: float, y: float, radius: float, colour: Colour = RED, square: bool = False) -> None:
        """An official stamp."""
        u = self.unit
        if square:
            self.box(x - radius, y - radius, 2 * radius, 2 * radius, colour)
        else:
            cv2.circle(
                self.image, (round(x * u), round(y * u)), round(radius * u), colour, max(1, round(0.4 * u)), cv2.LINE_AA
            )
        self.text(x - 0.72 * radius, y, "SEAL", 0.38 * radius, colour, 2)
        self.rule(x - 0.6 * radius, y + 0.35 * radius, 1.2 * radius, colour)

    def bars(self, x: float, y: float, width: float, height: float) -> float:
        """A bar code."""
        at = x
        while at < x + width:
            wide = float(self.rng.choice([0.25, 0.5, 0.8]))
            self.box(at, y, wide, height, (20, 20, 20), filled=True)
            at += wide + float(self.rng.choice([0.3, 0.6]))
        return y + height

    def signature(self, x: float, y: float, width: float) -> None:
        """A scribble."""
        t = np.linspace(0, 1, 30)
        phase = self.rng.uniform(0, 6, 3)
        wave = 1.3 * np.sin(17 * t + phase[0]) * (1 - t) + 0.9 * np.sin(31 * t + phase[1])
        stroke(
            self.image, np.stack([x + width * t + 0.8 * np.cos(25 * t), y + wave], axis=1) * self.unit, (120, 50, 20), 2
        )


Layout = Callable[[Rng], Page]


def _paper(rng: Rng) -> Colour:
    return tuple(np.clip(rng.uniform(232, 252) + rng.normal(0, 3, 3), 200, 255))


def _tint(rng: Rng) -> Colour:
    return tuple(rng.uniform(200, 240, 3))


def _bank_statement(rng: Rng) -> Page:
    page = Page(138, _paper(rng), rng)
    page.box(0, 0, 100, 9, BLUE, filled=True)
    page.text(6, 6.4, "UNION BANK", 3, (250, 250, 250), 3)
    page.title(17, "STATEMENT OF ACCOUNT", 2.8)
    y = page.fields(8, 25, ("Holder", "Account No", "Date from"))
    columns: dict[str, float] = {"Text": 34, "Out": 18, "In": 18, "Balance": 18}
    y = page.table(6, y + 2, columns, int(rng.integers(12, 22)), _tint(rng))
    page.text(8, min(y + 5, page.height - 4), page.sentence(60, 1.2), 1.2)
    return page


def _hospital_form(rng: Rng, heading: str, admitted: bool) -> Page:
    """One form for two certificates: only the heading and the middle block differ."""
    page = Page(138, _paper(rng), rng)
    page.text(70, 7, f"No {page.number(6)}", 1.5)
    page.title(18, heading, 2.9)
    page.box(7, 26, 86, 30, INK)
    y = page.fields(11, 32, ("Patient name", "Birth date", "Address", "Ward", "Phone no"), 5)
    page.text(9, y + 6, "Period", 1.8, bold=3)
    if admitted:
        page.box(7, y + 9, 86, 14, INK)
        page.fields(11, y + 14, ("Date in", "Date out"), 5)
        page.box(62, y + 12, 24, 8, _tint(rng), filled=True)
        page.text(64, y + 17, f"{page.number(2)} days", 2)
    else:
        page.table(7, y + 9, {"Visit": 30, "Fee": 28, "Paid": 28}, 3, _tint(rng), 3.5)
    y = page.paragraph(9, y + 31, 80, int(rng.integers(3, 6)))
    return _signed(page, y + 6)


def _signed(page: Page, y: float) -> Page:
    """Date, hospital, doctor and seal at the foot of a medical form."""
    page.text(40, y, page.date(), 1.8)
    page.text(26, y + 7, "GENERAL HOSPITAL", 2.4, bold=3)
    page.text(26, y + 12, f"Doctor {page.name()}", 1.7)
    page.seal(74, y + 8, 5, square=bool(page.rng.random() < 0.5))
    return page


def _admission_certificate(rng: Rng) -> Page:
    return _hospital_form(rng, "CERTIFICATE OF ADMISSION", True)


def _outpatient_certificate(rng: Rng) -> Page:
    return _hospital_form(rng, "CERTIFICATE OF OUTPATIENT CARE", False)


def _doctors_letter(rng: Rng, heading: str, coded: bool) -> Page:
    """One form for two letters: a diagnosis has a row of codes where a statement of opinion has a line of text."""
    page = Page(138, _paper(rng), rng)
    page.title(14, heading, 3.2)
    page.box(7, 20, 86, 22, INK)
    y = page.fields(11, 26, ("Patient name", "Birth date", "Address"), 5.5)
    page.text(9, y + 8, "Finding", 1.8, bold=3)
    y += 11
    page.box(7, y, 86, 14, INK)
    if coded:
        for k in range(5):
            page.box(11 + 9 * k, y + 3, 7, 8, INK)
            page.text(13 + 9 * k, y + 8.6, str(rng.choice(list("ABCDEFGHJKM0123456789"))), 3.4, bold=2)
        page.text(60, y + 8, page.sentence(30, 1.5), 1.5)
    else:
        page.paragraph(10, y + 4, 78, 3)
    y = page.paragraph(9, y + 22, 80, int(rng.integers(6, 11)))
    return _signed(page, y + 6)


def _diagnosis(rng: Rng) -> Page:
    return _doctors_letter(rng, "DIAGNOSIS", True)


def _statement_of_opinion(rng: Rng) -> Page:
    return _doctors_letter(rng, "STATEMENT OF OPINION", False)


def _car_dashboard(rng: Rng) -> Page:
    page = Page(66, (34, 30, 28), rng)
    gradient(page.image, slice(0, None), (52, 46, 42), (16, 15, 15))
    u, glow = page.unit, ((230, 220, 210), (230, 160, 60), (60, 120, 240), (120, 220, 90))[rng.integers(4)]
    for x in (26, 74):
        centre = (round(x * u), round(33 * u))
        cv2.circle(page.image, centre, round(21 * u), (70, 66, 62), round(1.2 * u), cv2.LINE_AA)
        cv2.circle(page.image, centre, round(19 * u), (20, 18, 18), -1, cv2.LINE_AA)
        for k, angle in enumerate(np.linspace(0.75 * np.pi, 2.25 * np.pi, 13)):
            ray = np.array([np.cos(angle), np.sin(angle)])
            inner = (15.0 if k % 2 == 0 else 16.5) * ray
            stroke(page.image, (np.array([x, 33]) + np.array([inner, 18 * ray])) * u, glow, 0.4 * u)
            if k % 2 == 0:
                page.text(x + 12 * ray[0] - 1.5, 33 + 12 * ray[1] + 1, str(k * (20 if x < 50 else 1)), 1.6, glow)
        needle = rng.uniform(0.75 * np.pi, 2.0 * np.pi)
        tip = np.array([x, 33]) + 15 * np.array([np.cos(needle), np.sin(needle)])
        stroke(page.image, np.array([[x, 33], tip]) * u, (40, 40, 235), 0.9 * u)
        cv2.circle(page.image, centre, round(2.4 * u), (60, 58, 56), -1, cv2.LINE_AA)
    page.box(44, 24, 12, 20, (48, 40, 30), filled=True)
    page.text(45, 30, f"{page.number(6)}", 1.9, glow)
    page.text(45, 36, f"{rng.integers(-9, 35)} C", 1.9, glow)
    return page


def _driving_licence(rng: Rng) -> Page:
    page = Page(63, mix((232, 226, 196), (214, 232, 226), float(rng.random())), rng)
    page.text(6, 9, "DRIVING LICENCE", 3.6, (120, 70, 20), 3)
    page.text(70, 9, f"{rng.integers(11, 29)}-{page.number(2)}-{page.number(6)}", 2)
    page.portrait(5, 15, 25)
    page.fields(35, 20, ("Name", "Birth no", "Address", "Until", "Class"), 6.5, 1.9)
    page.text(35, 57, page.date(), 2)
    page.seal(84, 52, 5)
    return page


def _national_id_card(rng: Rng) -> Page:
    page = Page(63, mix((238, 234, 214), (226, 220, 232), float(rng.random())), rng)
    page.text(16, 12, "IDENTITY CARD", 3.6, (50, 70, 60), 3)
    page.text(8, 24, page.name(), 3.4, bold=2)
    page.text(8, 32, f"{page.number(6)}-{page.number(7)}", 2.6, bold=2)
    page.paragraph(8, 39, 48, 3, 1.8)
    page.text(20, 58, page.date(), 2)
    page.portrait(69, 10, 25)
    page.seal(60, 54, 5)
    return page


def _hospital_bill(rng: Rng) -> Page:
    page = Page(120, _paper(rng), rng)
    page.title(9, "MEDICAL BILL AND RECEIPT", 2.6)
    page.fields(6, 16, ("Patient name", "Date"), 4)
    columns: dict[str, float] = {"Item": 26, "Insured": 16, "Own": 16, "Other": 16, "Total": 18}
    y = page.table(4, 26, columns, int(rng.integers(14, 19)), _tint(rng), 3.6)
    page.table(50, y + 2, {"Sum": 22, "Amount": 24}, 3, _tint(rng), 3.6)
    page.seal(30, y + 9, 4.5)
    return page


def _invoice(rng: Rng) -> Page:
    page = Page(132, _paper(rng), rng)
    accent = (RED, BLUE, (60, 110, 50), (40, 40, 40))[rng.integers(4)]
    page.text(8, 13, "INVOICE", 5, accent, 6)
    page.box(70, 6, 22, 9, accent, filled=True)
    page.fields(60, 24, ("Invoice no", "Date"), 3.6, 1.4)
    page.paragraph(8, 24, 36, 3)
    columns: dict[str, float] = {"Item": 40, "Count": 12, "Price": 15, "Sum": 17}
    y = page.table(8, 42, columns, int(rng.integers(4, 11)), mix(accent, (255, 255, 255), 0.6), 4.6)
    page.text(60, y + 7, f"TOTAL {page.money()}", 2.6, accent, 3)
    page.paragraph(8, 116, 70, 3, 1.3)
    return page


def _licence_plate(rng: Rng) -> Page:
    paper: Colour = ((240, 240, 240), (70, 190, 235), (150, 120, 60))[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
    page = Page(float(rng.choice([24.0, 46.0])), paper, rng)
    ink: Colour = (245, 245, 245) if paper[0] == 150 else (30, 28, 28)
    page.box(1.5, 1.5, 97, page.height - 3, ink)
    if page.height > 30:
        page.text(30, 16, f"{page.number(2)} {rng.choice(list('ABCDEFGH'))}", 9, ink, 8)
        page.text(12, 40, page.number(4), 20, ink, 16)
    else:
        page.text(7, 17.5, f"{page.number(3)} {rng.choice(list('ABCDEFGH'))} {page.number(4)}", 10.8, ink, 10)
    return page


def _passport(rng: Rng) -> Page:
    page = Page(70, mix((222, 230, 214), (232, 216, 226), float(rng.random())), rng)
    page.text(5, 7, "PASSPORT", 2.8, (120, 60, 60), 3)
    page.text(70, 7, f"M{page.number(8)}", 2.2)
    page.portrait(5, 12, 26)
    page.fields(37, 15, ("Type", "Name", "Birth date", "Issue date", "Until", "Authority"), 5.6, 1.6)
    for k in range(2):
        page.text(4, 60 + 5 * k, f"P<KOR{page.name().replace(' ', '<<')}".ljust(26, "<") + page.number(8), 2.1, bold=2)
    return page


def _payment_confirmation(rng: Rng) -> Page:
    page = Page(105, _paper(rng), rng)
    page.title(12, "CONFIRMATION OF PAYMENT", 2.8)
    page.rule(8, 15, 84)
    y = page.fields(10, 24, ("Payer name", "Card no", "Amount", "Date", "Total", "Reference no"), 6.5, 1.9)
    page.box(8, 18, 84, y - 18, INK)
    page.paragraph(10, y + 7, 70, 3)
    page.title(y + 26, "PAID", 4.5, (70, 130, 60))
    page.seal(80, y + 24, 5)
    return page


def _pharmacy_receipt(rng: Rng) -> Page:
    page = Page(200, _paper(rng), rng, 420)
    page.title(14, "PHARMACY", 6)
    page.paragraph(8, 24, 80, 3, 2.8)
    y = 44.0
    for _ in range(rng.integers(5, 12)):
        page.text(8, y, page.sentence(40, 3), 3)
        y = page.text(72, y, page.money(), 3) + 8
    page.rule(6, y - 3, 88)
    page.text(8, y + 4, "TOTAL", 4, bold=3)
    page.text(66, y + 4, page.money(), 4, bold=3)
    page.bars(14, min(y + 14, 178), 70, 16)
    return page


def _prescription(rng: Rng) -> Page:
    page = Page(138, _paper(rng), rng)
    page.text(8, 13, "Rx", 6, BLUE, 5)
    page.title(13, "PRESCRIPTION", 3.2)
    page.fields(8, 22, ("Patient name", "Birth no", "Doctor"), 4.5)
    page.box(5, 17, 90, 20, INK)
    page.bars(66, 20, 22, 7)
    columns: dict[str, float] = {"Medicine": 52, "Dose": 12, "Times": 12, "Days": 14}
    y = page.table(5, 40, columns, int(rng.integers(4, 13)), _tint(rng), 4.4)
    page.paragraph(8, y + 7, 76, 4)
    page.seal(84, 126, 4.5)
    return page


def _resume(rng: Rng) -> Page:
    page = Page(138, _paper(rng), rng)
    page.title(11, "RESUME", 3.8)
    page.portrait(7, 16, 20)
    page.fields(32, 20, ("Name", "Birth date", "Phone no", "Address"), 6)
    y = 50.0
    for heading in ("Education", "Experience", "Skills"):
        page.text(7, y, heading, 2.2, bold=3)
        rows = int(rng.integers(2, 5))
        for k in range(rows):
            page.rule(7, y + 2 + 4.4 * k, 86)
            page.text(8, y + 5 + 4.4 * k, page.date(), 1.4)
            page.text(30, y + 5 + 4.4 * k, page.sentence(50, 1.4), 1.4)
        y += 9 + 4.4 * rows
    page.paragraph(8, y + 2, 80, 3)
    page.signature(66, 130, 22)
    return page


def _vehicle_registration(rng: Rng) -> Page:
    page = Page(138, mix(_paper(rng), (214, 236, 226), 0.6), rng)
    page.title(11, "VEHICLE REGISTRATION", 3)
    y = 17.0
    for k in range(9):
        page.box(6, y, 44, 6.5, INK)
        page.box(50, y, 44, 6.5, INK)
        page.text(7.5, y + 4.4, f"{k + 1}", 1.4)
        page.text(12, y + 4.4, page.sentence(26, 1.5), 1.5)
        page.text(52, y + 4.4, f"{page.number(3)} {page.sentence(16, 1.5)}", 1.5)
        y += 6.5
    y = page.table(6, y + 4, {"Inspection": 40, "From": 24, "To": 24}, int(rng.integers(5, 9)), _tint(rng), 4)
    page.title(y + 8, "TRANSPORT OFFICE", 2.2)
    page.seal(76, y + 7, 5.5, square=True)
    return page


KINDS: dict[str, Layout] = {
    "bank_statement": _bank_statement,
    "admission_certificate": _admission_certificate,
    "car_dashboard": _car_dashboard,
    "outpatient_certificate": _outpatient_certificate,
    "diagnosis": _diagnosis,
    "driving_licence": _driving_licence,
    "hospital_bill": _hospital_bill,
    "invoice": _invoice,
    "national_id_card": _national_id_card,
    "passport": _passport,
    "payment_confirmation": _payment_confirmation,
    "pharmacy_receipt": _pharmacy_receipt,
    "prescription": _prescription,
    "resume": _resume,
    "statement_of_opinion": _statement_of_opinion,
    "vehicle_registration": _vehicle_registration,
    "licence_plate": _licence_plate,
}
LOOK_ALIKES = (("admission_certificate", "outpatient_certificate"), ("diagnosis", "statement_of_opinion"))


@dataclass(frozen=True)
class Handling:
    """How one document came to be a picture."""

    height: int  # pixels
    width: int  # pixels
    turn: float  # radians
    flipped: bool
    filling: float  # share of the frame the page takes
    corners: tuple[float, ...]  # eight shifts of the page's corners, in shares of its size
    desk: Colour
    mixed: float  # share of a second document laid over it, 0 for none
    exposure: Exposure

    @staticmethod
    def draw(rng: Rng, disturbed: bool) -> Handling:
        """A nearly straight scan, or, `disturbed`, the way the test part is mistreated."""
        aspect = float(rng.choice([3 / 4, 4 / 3], p=[0.7, 0.3])) * float(rng.uniform(0.94, 1.06))
        longer = int(rng.integers(520, 760))
        shorter = round(longer * min(aspect, 1 / aspect))
        turn = rng.normal(0, 0.03)
        if disturbed:
            turn = rng.uniform(-np.pi, np.pi) if rng.random() < 0.7 else rng.integers(4) * np.pi / 2 + turn
        return Handling(
            height=longer if aspect < 1 else shorter,
            width=shorter if aspect < 1 else longer,
            turn=float(turn),
            flipped=bool(disturbed and rng.random() < 0.5),
            filling=float(rng.uniform(0.82, 1.0)),
            corners=tuple(rng.normal(0, 0.015, 8).tolist()),
            desk=tuple(np.clip(rng.uniform(40, 220) + rng.normal(0, 18, 3), 10, 250)),
            mixed=float(rng.uniform(0.2, 0.45)) if disturbed and rng.random() < 0.15 else 0.0,
            exposure=Exposure.draw(rng),
        )


def photograph_document(kind: str, rng: Rng, disturbed: bool) -> bytes:
    """One document of a kind as JPEG bytes; `disturbed` turns, flips and mixes it."""
    handling = Handling.draw(rng, disturbed)
    image = _lay(KINDS[kind](rng), handling)
    if handling.mixed:
        other = _lay(list(KINDS.values())[rng.integers(len(KINDS))](rng), handling)
        cv2.addWeighted(image, 1 - handling.mixed, other, handling.mixed, 0, dst=image)
    return encode_jpeg(expose(image, handling.exposure), handling.exposure.quality)


def _lay(page: Page, handling: Handling) -> Image:
    """The page on a desk, seen from above."""
    image: Image = np.full((handling.height, handling.width, 3), handling.desk, np.uint8)
    height, width = page.image.shape[:2]
    corners: Points = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    corners = corners + np.array(handling.corners).reshape(4, 2) * [width, height]
    if handling.flipped:
        corners = corners * [-1, 1]
    cos, sin = np.cos(handling.turn), np.sin(handling.turn)
    corners = corners @ np.array([[cos, sin], [-sin, cos]])
    frame = np.array([handling.width, handling.height])
    corners = corners * (handling.filling * min(frame / np.ptp(corners, axis=0))) + frame / 2
    shade(image, corners + 6, 0.5, 6)
    stamp(image, page.image, corners)
    return image
