"""A played partition actor, and the page that shows it."""

import pytest
from played_actor import PlayedPartitionActor
from served_page import ServedPage


@pytest.fixture
def actor():
    played = PlayedPartitionActor()
    played.group("agents", ["a", "b", "c"])
    return played


@pytest.fixture
def serve(actor):
    pages = []

    def serve(**options):
        pages.append(ServedPage(actor, **options))
        return pages[-1].__enter__()

    yield serve
    for page in pages:
        page.__exit__()
