import pytest

from odmt.data.events import Wanted
from odmt.data.sources.hm_kaggle import find, read
from odmt.errors import DataError

ALL = Wanted(1, 1, None, 1)
ARTICLES = (
    "article_id,prod_name,product_type_name,graphical_appearance_name,colour_group_name,detail_desc\n"
    '0108775015,Strap top,Vest top,Solid,Black,"Jersey top, narrow ""straps""."\n'
    "108775044,Strap  top,Vest top,Solid,White,\n"
)
HEADER = "t_dat,customer_id,article_id,price,sales_channel_id\n"


def folder_of(tmp_path, sales, articles=ARTICLES, header=HEADER):
    (tmp_path / "articles.csv").write_bytes(articles if isinstance(articles, bytes) else articles.encode())
    content = header + "".join(f"{sale}\n" for sale in sales)
    (tmp_path / "transactions_train.csv").write_text(content, newline="")
    return tmp_path


def sequences(source):
    ids = source.catalogue.item_ids
    bounds = zip(source.interactions.users, source.interactions.offsets, source.interactions.offsets[1:], strict=False)
    return {user: [ids[row] for row in source.interactions.items[start:end]] for user, start, end in bounds}


def test_sales_become_sequences_and_lost_zeros_are_put_back(tmp_path):
    sales = ["2018-09-21,u,0108775015,0.05,2", "2018-09-20,u,108775044,0.03,1", "2018-09-20,v,0108775044,0.03,1"]
    source = read(find(folder_of(tmp_path, sales)), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["0108775044", "0108775015"], "v": ["0108775044"]}
    assert source.catalogue.titles == [
        'Strap top Vest top Solid Black Jersey top, narrow "straps".', "Strap top Vest top Solid White"
    ]  # fmt: skip


def test_several_pieces_on_one_day_count_once_and_on_two_days_twice(tmp_path):
    sales = ["2018-09-20,u,0108775015,0.05,2"] * 3 + ["2018-09-21,u,0108775015,0.05,2"]
    source = read(find(folder_of(tmp_path, sales)), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["0108775015"] * 2}
    assert source.notes == {"further pieces of the same article on the same day": 2}


def test_sales_of_one_day_keep_the_order_of_the_file(tmp_path):
    sales = [f"2018-09-20,u,{item},0.05,2" for item in ("0108775044", "0108775015")]
    assert sequences(read(find(folder_of(tmp_path, sales)), ALL, tmp_path / "w")) == {"u": ["0108775044", "0108775015"]}


def test_articles_that_are_not_described_go(tmp_path):
    sales = ["2018-09-20,u,0108775015,0.05,2", "2018-09-21,u,0999999999,0.05,2"]
    source = read(find(folder_of(tmp_path, sales)), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["0108775015"]}
    assert source.notes == {"articles that articles.csv lacks": 1, "interactions with such items": 1}


@pytest.mark.parametrize(
    ("sale", "sentence"),
    [
        ("2018-09-20,u,0108775015", r"transactions_train\.csv:3: has 3 fields; expected 5: t_dat, customer_id"),
        ("20.9.2018,u,0108775015,0.05,2", r"transactions_train\.csv:3: t_dat is '20\.9\.2018'"),
        ("2018-09-20,,0108775015,0.05,2", r"transactions_train\.csv:3: customer_id is ''"),
        ("2018-09-20,u,shirt,0.05,2", r"transactions_train\.csv:3: article_id is 'shirt'"),
        ("2018-09-20,u,\u0661\u0662,0.05,2", r"transactions_train\.csv:3: article_id is "),
        ("2018-09-20,u\rx,0108775015,0.05,2", r"transactions_train\.csv:3: is not a line of CSV"),
        ('2018-09-20,"u,0108775015,0.05,2', r"transactions_train\.csv:3: is not a line of CSV"),
    ],
)
def test_a_few_damaged_sales_are_counted_with_the_first(sale, sentence, tmp_path):
    good = "2018-09-20,u,0108775015,0.05,2"
    source = read(find(folder_of(tmp_path, [good, sale])), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["0108775015"]}
    (note,) = source.notes
    assert source.notes[note] == 1
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(note)


def test_a_line_that_is_not_text_is_counted_too(tmp_path):
    folder = folder_of(tmp_path, ["2018-09-20,u,0108775015,0.05,2"])
    with open(folder / "transactions_train.csv", "ab") as file:
        file.write(b"2018-09-20,\xff,0108775015,0.05,2\n")
    (note,) = read(find(folder), ALL, tmp_path / "work").notes
    assert "transactions_train.csv:3: is not a line of CSV ('utf-8' codec can't decode byte 0xff" in note


def test_a_stray_quote_costs_its_own_line_and_no_other(tmp_path):
    sales = [f"2018-09-{day:02d},u,0108775015,0.05,2" for day in range(1, 29)]
    for place in (9, 19):
        sales[place] = sales[place].replace(",u,", ',"u,')
    source = read(find(folder_of(tmp_path, sales)), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["0108775015"] * 26}
    assert list(source.notes.values()) == [2]


def test_a_line_means_the_same_in_whichever_company_it_is_read(tmp_path):
    sales = ["2018-09-20,u\N{NO-BREAK SPACE},0108775015,0.05,2"]
    alone = sequences(read(find(folder_of(tmp_path, sales)), ALL, tmp_path / "work"))
    together = sequences(read(find(folder_of(tmp_path, [*sales, "bad,u,1,1,1"])), ALL, tmp_path / "work"))
    assert alone == together == {"u\N{NO-BREAK SPACE}": ["0108775015"]}


def test_rows_that_arrow_would_cut_out_of_lines_are_damaged_lines(tmp_path):
    sales = ["2018-09-20,u,0108775015,0.05,2", '2018-09-21,u,0108775015,0.05,"2', '2018-09-22,u,0108775015,0.05,2"']
    sales.append("2018-09-23,u,0108775015,0.05,2\r2018-09-24,u,0108775015,0.05,2")
    source = read(find(folder_of(tmp_path, sales)), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["0108775015"] * 2}
    assert list(source.notes.values()) == [2]


def test_rows_of_another_number_of_fields_than_the_header_are_told(tmp_path):
    with pytest.raises(
        DataError, match=r"transactions_train\.csv:2: has 2 fields; expected 5.*no line that means anything"
    ):
        read(find(folder_of(tmp_path, ["u,1"] * 3)), ALL, tmp_path / "work")


@pytest.mark.parametrize("header", ["a\rb", "x" * 140_000, '"t_dat'])
def test_a_header_that_is_none_is_told(header, tmp_path):
    folder = folder_of(tmp_path, [])
    (folder / "transactions_train.csv").write_bytes(header.encode())
    with pytest.raises(DataError, match=r"transactions_train\.csv:1: (is not a line of CSV|has no column t_dat)"):
        read(find(folder), ALL, tmp_path / "work")


def test_an_article_on_two_lines_is_counted_and_the_first_counts(tmp_path):
    articles = ARTICLES + "0108775015,Another,a,b,c,d\n"
    source = read(find(folder_of(tmp_path, ["2018-09-20,u,0108775015,0.05,2"], articles)), ALL, tmp_path / "work")
    assert source.catalogue.titles[0].startswith("Strap top")
    assert source.notes == {"further lines of articles in articles.csv; the first counts": 1}


@pytest.mark.parametrize(
    ("articles", "sentence"),
    [
        (
            "article_id,prod_name\n1,x\n",
            r"articles\.csv:1: has no column product_type_name, .*its columns are article_id",
        ),
        ("", r"articles\.csv: is empty"),
        (ARTICLES + "shirt,a,b,c,d,e\n", r"articles\.csv:4: article id 'shirt' is not a number"),
        (ARTICLES + "1,2\n", r"articles\.csv:4: has 2 fields; expected 6: article_id"),
        (ARTICLES.encode() + b"1,\xff,a,b,c,d\n", r"articles\.csv:4: is not UTF-8 text \(byte 0xff\)"),
        (ARTICLES + '2,a,b,c,d,"Soft top\n3,a,b,c,d,e\n', r"articles\.csv:4: is not CSV \(unexpected end of data\)"),
        (ARTICLES + '2,a,b,c,d,"Soft, wa', r"articles\.csv:4: is not CSV \(unexpected end of data\)"),
        (ARTICLES.replace("detail_desc", "article_id"), r"articles\.csv:1: has the column article_id 2 times"),
        (ARTICLES + "../x,a,b,c,d,e\n", r"articles\.csv:4: item id '\.\./x' holds '/'"),
    ],
)
def test_malformed_articles_are_refused_with_the_line(articles, sentence, tmp_path):
    with pytest.raises(DataError, match=sentence):
        read(find(folder_of(tmp_path, ["2018-09-20,u,0108775015,0.05,2"], articles)), ALL, tmp_path / "work")


def test_a_missing_column_of_the_sales_is_named(tmp_path):
    folder = folder_of(tmp_path, [], header="date,customer_id,article_id\n")
    with pytest.raises(
        DataError, match=r"transactions_train\.csv:1: has no column t_dat; its columns are date, customer"
    ):
        read(find(folder), ALL, tmp_path / "work")


def test_byte_order_mark_windows_line_ends_and_blanks_are_tolerated(tmp_path):
    folder = folder_of(tmp_path, [])
    (folder / "transactions_train.csv").write_bytes(
        b"\xef\xbb\xbf\r\n" + HEADER.replace("\n", "\r\n").encode() + b"2018-09-20 ,u,0108775015,0.05,2 \r\n"
    )
    (folder / "articles.csv").write_bytes(b"\xef\xbb\xbf" + ARTICLES.replace("\n", "\r\n").encode())
    source = read(find(folder), ALL, tmp_path / "work")
    assert sequences(source) == {"u": ["0108775015"]}
    assert source.notes == {}
