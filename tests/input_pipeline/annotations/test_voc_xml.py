"""Short XML that expands to gigabytes, or reads another file, is an error."""

import time

import pytest

from errors import UserError
from input_pipeline.annotations.voc_xml import read_xml

OBJECT = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
LAUGHS = "".join(f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 10))


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        (f'<!DOCTYPE annotation [<!ENTITY a0 "ha">{LAUGHS}]>', OBJECT.format("&a9;"), "defines the entity a0"),
        (
            '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
            OBJECT.format("&a;"),
            "defines the entity a",
        ),
        ('<!DOCTYPE annotation [<!ENTITY % a SYSTEM "http://127.0.0.1:1/a">%a;]>', "", "defines the entity a"),
        ("", "<a>" * 100_000, "nested more than 50 deep"),
        ("", OBJECT.format("&unknown;"), "undefined entity"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_bombs_raise_a_one_line_error(tmp_path, head, body, reason, encoding):
    path, began = tmp_path / "a.xml", time.monotonic()
    path.write_bytes(f"{head}<annotation>{body}</annotation>".encode(encoding))
    with pytest.raises(UserError, match=f"a.xml .*{reason}"):
        read_xml(path)
    assert time.monotonic() - began < 5


def test_document_type_without_entities_is_accepted(tmp_path):
    (tmp_path / "a.xml").write_text(f"<!DOCTYPE annotation><annotation>{OBJECT.format('a &amp; b')}</annotation>")
    assert read_xml(tmp_path / "a.xml")[1][0].class_name == "a & b"
