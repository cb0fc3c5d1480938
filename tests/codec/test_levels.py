"""From the level that is asked for to what is stored and read."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec import container
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.forms import LOSSLESS, StorageForm
from kvquilt_codec.levels import (
    LOSSLESS_POINT,
    KlBound,
    OperatingPoint,
    level_cards,
    operating_point,
    parse_level,
)
from kvquilt_codec.profile import LevelCard
from kvquilt_codec.types import Level
from tests.codec.profiles import make_profile
from tests.codec.samples import make_chunk, make_container
from tests.hostile.draft import Draft

DIGEST = "0d" * 32
CARDS = (
    LevelCard("low", 1, 1.0, 2e-2, 0.95),
    LevelCard("medium", 2, 2.0, 4e-3, 0.97),
    LevelCard("high", 3, 3.5, 5e-4, 0.99),
)
PROFILE = replace(make_profile(), cards=CARDS)
CODED = StorageForm(Level.HIGH, DIGEST)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lossless", Level.LOSSLESS),
        (" Medium ", Level.MEDIUM),
        ("kl<1e-3", KlBound(1e-3)),
        ("KL < .5", KlBound(0.5)),
    ],
)
def test_levels_are_names_or_bounds(text, expected):
    assert parse_level(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "huge", "kl", "kl<", "kl<x", "kl>1", "kl<=1e-3", "kl<0", "kl<-1", "kl<nan", "kl<inf", "kl<1e-999", "1e-3"],
)
def test_what_is_neither_is_refused(text):
    with pytest.raises(BadRequestError, match=r"lossless|above 0"):
        parse_level(text)


@given(st.text())
def test_any_text_is_a_level_or_refused(text):
    try:
        found = parse_level(text)
    except BadRequestError:
        return
    assert isinstance(found, Level) or (math.isfinite(found.kl) and found.kl > 0)


def test_without_a_profile_there_are_two_levels_and_bounds_are_lossless():
    assert operating_point(Level.LOSSLESS, None) == LOSSLESS_POINT
    assert operating_point(Level.HIGH, None) == OperatingPoint(Level.HIGH, StorageForm(Level.HIGH))
    assert operating_point(KlBound(0.5), None) == LOSSLESS_POINT
    for level in (Level.MEDIUM, Level.LOW):
        with pytest.raises(BadRequestError, match="kvquilt calibrate") as caught:
            operating_point(level, None)
        assert caught.value.reason == "no_profile"


def test_with_a_profile_all_levels_but_lossless_share_one_form():
    points = {level: operating_point(level, PROFILE, DIGEST) for level in Level}
    assert points[Level.LOSSLESS] == LOSSLESS_POINT
    assert [points[level].quality_layers for level in (Level.HIGH, Level.MEDIUM, Level.LOW)] == [3, 2, 1]
    assert {points[level].form for level in Level} == {LOSSLESS, CODED}


@pytest.mark.parametrize(
    ("bound", "level"),
    [
        (1.0, Level.LOW),
        (2.0001e-2, Level.LOW),
        (2e-2, Level.MEDIUM),
        (1e-3, Level.HIGH),
        (5e-4, Level.LOSSLESS),
        (1e-30, Level.LOSSLESS),
    ],
)
def test_a_bound_takes_the_cheapest_level_that_was_measured_below_it(bound, level):
    assert operating_point(KlBound(bound), PROFILE, DIGEST).level is level


def test_a_level_that_the_profile_has_not_is_the_next_better_one_and_strange_cards_are_not_offered():
    strange = (LevelCard("lossless", 1, 1, 1, 1), LevelCard("huge", 1, 1, 1, 1), LevelCard("low", 4, 1, 1, 1))
    two = replace(PROFILE, cards=(*CARDS[1:], *strange))
    assert set(level_cards(two)) == {Level.HIGH, Level.MEDIUM}
    assert operating_point(Level.LOW, two, DIGEST) == operating_point(Level.MEDIUM, two, DIGEST)
    assert operating_point(Level.LOW, two, DIGEST).level is Level.MEDIUM, "a reader is told what it gets"
    finest = replace(PROFILE, cards=CARDS[2:])
    assert operating_point(Level.LOW, finest, DIGEST).level is Level.HIGH
    coarsest = replace(PROFILE, cards=CARDS[:1])
    assert operating_point(Level.HIGH, coarsest, DIGEST) == LOSSLESS_POINT, "never worse than asked"
    with pytest.raises(BadRequestError, match="measured levels"):
        operating_point(Level.HIGH, replace(PROFILE, cards=()), DIGEST)


@pytest.mark.parametrize("form", [LOSSLESS, StorageForm(Level.HIGH), CODED])
def test_a_form_comes_back_from_its_name(form):
    assert StorageForm.named(form.name) == form


@pytest.mark.parametrize("name", ["", "medium", "low", "profile", "0D" * 32, "0d" * 31])
def test_names_that_no_form_has_are_refused(name):
    with pytest.raises(BadRequestError, match="64 hex digits"):
        StorageForm.named(name)


@pytest.mark.parametrize(("level", "digest"), [(Level.MEDIUM, ""), (Level.LOW, DIGEST), (Level.LOSSLESS, DIGEST)])
def test_only_the_finest_level_of_a_form_is_stored(level, digest):
    with pytest.raises(BadRequestError, match="expected to store at"):
        StorageForm(level, digest)


@pytest.mark.parametrize("fields", [{"level": "medium"}, {"level": "low"}, {"profile_digest": DIGEST}], ids=str)
def test_a_container_of_a_form_that_nobody_stores_is_refused(fields):
    draft = Draft.parse(make_container(make_chunk()))
    draft.header.update(fields)
    with pytest.raises(IntegrityError, match="expected to store at"):
        container.parse_head(draft.build())
