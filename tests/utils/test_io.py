"""Files are complete or absent."""

import json

import pytest

from mmdiscard.utils import as_json, read_json, write_atomically, write_json


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / 'new' / 'file.txt'
    write_atomically(path, lambda partial: partial.write_text('first'))

    def cut_short(partial):
        partial.write_text('sec')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, cut_short)
    assert path.read_text() == 'first' and list(path.parent.iterdir()) == [path]


def test_what_json_has_no_type_for_is_written_as_text(tmp_path):
    content = dict(path=tmp_path, kind=int, pair=(1, 2))
    write_json(tmp_path / 'file.json', content)
    found = read_json(tmp_path / 'file.json')
    assert found == as_json(content) == dict(path=str(tmp_path), kind=str(int), pair=[1, 2])


@pytest.mark.parametrize('compact', [False, True])
def test_json_is_read_as_it_was_written(tmp_path, compact):
    content = {'states': [[0, 1], [2, 3]], 'words': ['a', 'b, c'], 'cost': 1.5, 'more': {'x': []}}
    path = tmp_path / 'file.json'
    write_json(path, content, compact)
    assert read_json(path) == json.loads(path.read_text()) == content
    assert (path.read_text().count('\n') == 1) == compact
    if not compact:
        assert '    [0, 1],\n' in path.read_text()
