import pytest

from errors import UserError
from input_pipeline.annotations.file_names import FileNames


@pytest.mark.parametrize(
    ("names", "asked", "place"),
    [
        (("a/x.jpg", "b/x.jpg"), "b/x.jpg", 1),
        (("a/x.jpg", "b/x.jpg"), "val/b/x.jpg", 1),
        (("val/a/x.jpg", "val/b/x.jpg"), "b/x.jpg", 1),
        (("a/x.jpg",), "x.jpg", 0),
        (("x.jpg",), "a/x.jpg", 0),
        (("a\\x.jpg", "b\\x.jpg"), "./b//x.jpg", 1),
        (("x.jpg", "a/x.jpg"), "x.jpg", 0),
        (("e\u0301.jpg",), "\u00e9.jpg", 0),
    ],
)
def test_names_are_matched_by_their_whole_path(names, asked, place):
    assert FileNames(names).find(asked) == place


def test_name_that_matches_two_images_raises_an_error():
    with pytest.raises(UserError, match=r"'x.jpg' may be 'a/x.jpg' and 'b/x.jpg'; add the folders"):
        FileNames(("a/x.jpg", "b/x.jpg")).find("x.jpg")


def test_two_names_for_one_image_raise_an_error():
    names = FileNames(("x.jpg",))
    assert names.find("a/x.jpg") == names.find("a\\x.jpg") == 0
    with pytest.raises(UserError, match="'a/x.jpg' and 'b/x.jpg' both match the image 'x.jpg'"):
        names.find("b/x.jpg")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("b/x.jpg", "list; it has 'a/x.jpg', in other folders"),
        ("x.png", "'x.png' is not in the list$"),
        ("", "'' is not"),
    ],
)
def test_name_that_matches_no_image_raises_an_error(asked, message):
    with pytest.raises(UserError, match=message):
        FileNames(("a/x.jpg",)).find(asked)
