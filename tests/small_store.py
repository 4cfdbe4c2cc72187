"""Feature stores with features of the test's choice, written without an encoder."""

from odmt.data.interactions import Catalogue
from odmt.features.images import digest_of
from odmt.features.records import RecordFile
from odmt.features.store import FORMAT, encoder_spec, feature_records, feature_store_path


def write_store(home, dataset, encoder, catalogue, arrays, **manifest):
    """Write a whole store of an encoder of titles: item ``i`` of the catalogue has ``arrays[i]``, None = none."""
    path = feature_store_path(home, dataset, encoder)
    held = [array for array in arrays if array is not None]
    described = {
        "format": FORMAT,
        "encoder": encoder_spec(encoder, home.dataset(dataset)),
        "width": held[0].shape[1],
        "max_tokens": max(map(len, held)),
        "commit": None,
        "items": len(held),
        "complete": True,
        "precisions": ["fp32"],
    }
    records = {}
    for item, title, array in zip(*catalogue, arrays, strict=True):
        if array is not None:
            records |= feature_records(item, digest_of(title.encode()), array)
    with RecordFile(path, write=True) as store:
        store.write(records, described | manifest)
    return path


def catalogue_of(item_ids):
    """Make the items' titles up."""
    ids = list(item_ids)
    return Catalogue(ids, [f"Title of {item}" for item in ids])
