"""Which form lies in a folder; and that one corpus gives the same sequences in all six."""

import pytest
from corpora import FORMS as WRITERS
from corpora import make_corpus

from odmt.data.sources.forms import FORMS, find_source, wanted_of
from odmt.errors import DataError, MissingDataError

NAMES = {
    "amazon": lambda item: item,
    "ks": lambda item: f"i{int(item):04d}",
    "hm": lambda item: item.replace("v", "i"),
    "amazon-2018": lambda item: item,
    "hm-kaggle": lambda item: f"i{int(item[2:]):04d}",
    "microlens": lambda item: f"i{int(item):04d}",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus") / "source")


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_of_one_corpus_gives_the_same_sequences(name, corpus, tmp_path):
    found = find_source(WRITERS[name](tmp_path / "source", corpus))
    assert found.form == name
    form = FORMS[found.form]
    source = form.read(found, wanted_of(form, 1, 1, None, 1), tmp_path / "work")
    ids = [NAMES[name](item) for item in source.catalogue.item_ids]
    bounds = zip(source.interactions.users, source.interactions.offsets, source.interactions.offsets[1:], strict=False)
    rows = source.interactions.items.tolist()
    assert {user: [ids[row] for row in rows[start:end]] for user, start, end in bounds} == corpus.users
    first_words = {item: title.replace(",", "").split()[0] for item, title in corpus.titles.items()}
    titles = zip(ids, source.catalogue.titles, strict=True)
    assert {item: title.replace(",", "").split()[0] for item, title in titles} == first_words
    assert source.notes == {}


def test_a_folder_without_a_source_is_told_what_could_lie_there(tmp_path):
    with pytest.raises(MissingDataError, match="holds no source that is known; expected") as caught:
        find_source(tmp_path)
    for form in FORMS.values():
        assert f"{form.name}: {form.layout}" in str(caught.value)
    with pytest.raises(MissingDataError, match=r"expected articles\.csv, transactions_train\.csv"):
        find_source(tmp_path, "hm-kaggle")


def test_half_of_a_form_names_the_missing_half(tmp_path):
    for number, (there, sentence) in enumerate(
        [
            ("a_user_behaviours.tsv", r"a_text\.tsv: does not exist, but a_user_behaviours\.tsv does"),
            ("10wu_ks_pairs.tsv", r"10wu_ks_title\.csv: does not exist, but 10wu_ks_pairs\.tsv does"),
            ("hm_pick_users_5W.tsv", r"hm_pick_items_5W\.tsv: does not exist"),
            ("meta_Arts.json.gz", r"Arts_5\.json\.gz: does not exist, but meta_Arts\.json\.gz does"),
            ("transactions_train.csv", r"articles\.csv: does not exist, but transactions_train\.csv does"),
            ("MicroLens-100k_pairs.tsv", r"holds MicroLens-100k_pairs\.tsv but no file named <tag>_title\*\.csv"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / there).touch()
        with pytest.raises(MissingDataError, match=sentence):
            find_source(folder)


def test_two_forms_in_one_folder_want_a_choice(corpus, tmp_path):
    WRITERS["amazon"](tmp_path, corpus)
    WRITERS["microlens"](tmp_path, corpus)
    with pytest.raises(
        DataError, match=r"holds amazon \(.*\) and microlens \(.*\); say which with --set prepare\.form="
    ):
        find_source(tmp_path)
    assert find_source(tmp_path, "microlens").form == "microlens"


def test_two_data_sets_of_one_form_are_refused(tmp_path):
    for tag in ("arts", "office"):
        (tmp_path / f"{tag}_user_behaviours.tsv").touch()
    with pytest.raises(
        DataError, match=r"holds 2 files named \*_user_behaviours\.tsv \(arts_.*, office_.*\); leave one"
    ):
        find_source(tmp_path)


def test_ks_pairs_are_not_taken_for_microlens(corpus, tmp_path):
    assert find_source(WRITERS["ks"](tmp_path, corpus)).form == "ks"


def test_originals_have_a_core_of_their_own_and_the_release_has_none():
    cores = {name: wanted_of(form, None, None, None, 1)[:2] for name, form in FORMS.items()}
    assert cores == {
        "amazon": (1, 1), "ks": (1, 1), "hm": (1, 1), "amazon-2018": (5, 5), "hm-kaggle": (5, 1), "microlens": (5, 1)
    }  # fmt: skip
    assert wanted_of(FORMS["amazon-2018"], 3, 1, 9, 2) == (3, 1, 9, 2)
