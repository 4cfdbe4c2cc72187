"""One generated corpus written in each of the six forms that a source can have."""

import csv
import datetime
import gzip
import io
import json
import os
import pickle
import sys
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
from PIL import Image

from odmt.data.demo import generate

FIRST_DAY = datetime.date(2018, 9, 20)


class Corpus(NamedTuple):
    """Who met which items in what order, and the items.

    Attributes:
        users: items by user, oldest first.
        titles: by item.
        pictures: PNG bytes by item.
    """

    users: dict[str, list[str]]
    titles: dict[str, str]
    pictures: dict[str, bytes]

    def renamed(self, name):
        """Return the corpus with other item ids."""
        return Corpus(
            {user: [name(item) for item in items] for user, items in self.users.items()},
            {name(item): title for item, title in self.titles.items()},
            {name(item): content for item, content in self.pictures.items()},
        )


def make_corpus(folder, num_users=60, num_items=30, seed=5, image_size=32):
    """Generate a small demo set and read it back plainly."""
    generate(folder, num_users=num_users, num_items=num_items, seed=seed, image_size=image_size)
    users = {}
    for line in (folder / "demo_user_behaviours.tsv").read_text().splitlines():
        user, items = line.split("\t")
        users[user] = items.split()
    titles = dict(line.split("\t") for line in (folder / "demo_text.tsv").read_text().splitlines())
    return Corpus(users, titles, {item: (folder / "images" / f"{item}.png").read_bytes() for item in titles})


def write_amazon(folder, corpus, tag="Arts_Crafts_and_Sewing", records=False):
    """The authors' Amazon dialect; pictures as files, or as the LMDB that the authors build from them."""
    _write_behaviours(folder / f"{tag}_user_behaviours.tsv", corpus.users)
    _write(folder / f"{tag}_text.tsv", "".join(f"{item}\t{title}\n" for item, title in corpus.titles.items()))
    (folder / f"{tag}_valid_item_id.pkl").write_bytes(pickle.dumps(list(corpus.pictures)))
    if records:
        pixels = {item.encode(): _uint8(content) for item, content in corpus.pictures.items()}
        write_legacy_lmdb(folder / f"{tag}_image.lmdb", pixels)
    else:
        _write_pictures(folder / "images", corpus.pictures)
    return folder


def write_ks(folder, corpus, tag="10wu"):
    """The authors' KS dialect: titles keep their commas, pictures are normalised floats in an LMDB."""
    corpus = corpus.renamed(lambda item: str(int(item[1:])))
    _write_behaviours(folder / f"{tag}_ks_pairs.tsv", corpus.users)
    titles = "".join(f"{item},{title.replace(' ', ', ')}\n" for item, title in corpus.titles.items())
    _write(folder / f"{tag}_ks_title.csv", titles)
    floats = {item.encode(): normalised(content) for item, content in corpus.pictures.items()}
    write_legacy_lmdb(folder / f"{tag}_ks_cover.lmdb", floats, bare=True)
    return folder


def write_hm(folder, corpus):
    """The authors' hm dialect: items v0012, keys 12."""
    corpus = corpus.renamed(lambda item: f"v{item[1:]}")
    _write_behaviours(folder / "hm_pick_users_5W.tsv", corpus.users)
    _write(folder / "hm_pick_items_5W.tsv", "".join(f"{item}\t{title}\n" for item, title in corpus.titles.items()))
    pixels = {str(int(item[1:])).encode(): _uint8(content) for item, content in corpus.pictures.items()}
    write_legacy_lmdb(folder / "hm_image_20W.lmdb", pixels)
    return folder


def write_amazon_2018(folder, corpus, category="Arts_Crafts_and_Sewing", address=None):
    """Reviews and metadata; with an address the metadata point there, else pictures lie in images/."""
    reviews = [
        {"reviewerID": user, "asin": item, "unixReviewTime": 86400 * (1 + place), "reviewText": "x", "overall": 5.0}
        for user, items in corpus.users.items()
        for place, item in enumerate(items)
    ]
    order = np.random.default_rng(1).permutation(len(reviews))
    _write_gzip(folder / f"{category}_5.json.gz", [reviews[place] for place in order])
    meta = [
        {
            "asin": item, "title": title, "brand": "Acme", "category": ["Arts, Crafts &amp; Sewing", "Pens"],
            "imageURLHighRes": [f"{address}/{item}.png"] if address else [], "imageURL": [],
        }
        for item, title in corpus.titles.items()
    ]  # fmt: skip
    _write_gzip(folder / f"meta_{category}.json.gz", meta)
    if not address:
        _write_pictures(folder / "images", corpus.pictures)
    return folder


def write_hm_kaggle(folder, corpus):
    """Articles, transactions and nested pictures."""
    corpus = corpus.renamed(lambda item: f"01{int(item[1:]):08d}")
    names = (
        "article_id product_code prod_name product_type_name graphical_appearance_name colour_group_name detail_desc"
    )
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(names.split())
    for item, title in corpus.titles.items():
        writer.writerow([item, item[:7], title, "Vest top", "Solid", "Black", 'Soft, with "quotes"'])
    _write(folder / "articles.csv", table.getvalue())
    sales = [
        (FIRST_DAY + datetime.timedelta(days=place), user, item)
        for user, items in corpus.users.items()
        for place, item in enumerate(items)
    ]
    lines = [f"{day},{user},{item},0.0508,2\n" for day, user, item in sorted(sales, key=lambda sale: sale[0])]
    _write(folder / "transactions_train.csv", f"t_dat,customer_id,article_id,price,sales_channel_id\n{''.join(lines)}")
    for item, content in corpus.pictures.items():
        _write_pictures(folder / "images" / item[:3], {item: content})
    return folder


def write_microlens(folder, corpus, tag="MicroLens-100k"):
    """Pairs with times, titles, covers."""
    corpus = corpus.renamed(lambda item: str(int(item[1:])))
    pairs = [
        (1_500_000_000_000 + 1000 * place, user, item)
        for user, items in corpus.users.items()
        for place, item in enumerate(items)
    ]
    lines = [f"{user},{item},{time}\n" for time, user, item in sorted(pairs)]
    _write(folder / f"{tag}_pairs.csv", f"user,item,timestamp\n{''.join(lines)}")
    titles = "".join(f"{item},{title}\n" for item, title in corpus.titles.items())
    _write(folder / f"{tag}_title_en.csv", titles)
    _write_pictures(folder / f"{tag}_covers", corpus.pictures)
    return folder


FORMS = {
    "amazon": write_amazon,
    "ks": write_ks,
    "hm": write_hm,
    "amazon-2018": write_amazon_2018,
    "hm-kaggle": write_hm_kaggle,
    "microlens": write_microlens,
}


class LMDB_Image:  # noqa: N801 (the authors' name)
    """The class that the authors pickle; ``bare`` as their older one for KS."""

    def __init__(self, image, key, bare=False):
        if not bare:
            self.channels = image.shape[2]
            self.size = image.shape[:2]
        self.image = image.tobytes()
        if not bare:
            self.id = key


LMDB_Image.__module__ = "__main__"


def pickled_image(image, key="x", bare=False, protocol=4):
    """Pickle pixels as the authors do: as an instance of ``__main__.LMDB_Image``."""
    main = sys.modules["__main__"]
    main.LMDB_Image = LMDB_Image
    try:
        return pickle.dumps(LMDB_Image(image, key, bare), protocol=protocol)
    finally:
        del main.LMDB_Image


def write_legacy_lmdb(path, images, bare=False, values=None):
    """Write an LMDB as the authors do; ``values`` are raw records besides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = {key: pickled_image(image, key.decode(), bare) for key, image in images.items()} | (values or {})
    environment = lmdb.open(os.fsencode(path), subdir=False, map_size=2**28)
    with environment.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key, value)
        transaction.put(b"__keys__", pickle.dumps(list(images)))
        transaction.put(b"__len__", pickle.dumps(len(images)))
    environment.close()
    Path(f"{path}-lock").unlink(missing_ok=True)


def normalised(content, side=224):
    """Do with a picture what the authors did before they stored it: resize, to 0..1, less 0.5, divided by 0.5."""
    resized = _uint8(content, side).transpose(2, 0, 1)
    return (resized.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def _uint8(content, side=None):
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR) if side else image)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_behaviours(path, users):
    _write(path, "".join(f"{user}\t{' '.join(items)}\n" for user, items in users.items()))


def _write_pictures(folder, pictures):
    folder.mkdir(parents=True, exist_ok=True)
    for item, content in pictures.items():
        (folder / f"{item}.png").write_bytes(content)


def _write_gzip(path, objects):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(value) + "\n" for value in objects)
