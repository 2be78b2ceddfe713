import math

import pytest
import torch

from hypergen.data import TextDataModule
from hypergen.data.task import CLASSIFICATION, LANGUAGE_MODELLING
from hypergen.data.text import VOCABULARY, decode, encode

LINES = "".join(f"line {number}: {number**5}\n" for number in range(400))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(LINES, encoding="utf-8")
    return path


def test_splits_follow_one_another_and_are_the_whole_text(path):
    data = TextDataModule(path, held_out=0.1)
    parts = [decode(data.characters(split)) for split in ("train", "validation", "test")]
    assert "".join(parts) == LINES
    assert len(parts[1]) == len(parts[2]) == len(LINES) // 10


def test_next_tokens_come_one_later(path):
    data = TextDataModule(path, context=16, stride=4)
    tokens, following = data.tensors("train")
    assert tokens.shape == following.shape and tokens.shape[1] == 16
    assert torch.equal(tokens[:, 1:], following[:, :-1])
    assert torch.equal(tokens[1, :12], tokens[0, 4:])


def test_held_out_windows_do_not_overlap_and_are_spread(path):
    data = TextDataModule(path, context=8, most_held_out=5)
    tokens, _ = data.tensors("test")
    assert tokens.shape == (5, 8)
    text = decode(data.characters("test"))
    starts = [text.index(decode(window)) for window in tokens]
    assert starts[-1] > len(text) / 2
    assert all(later - earlier >= 8 for earlier, later in zip(starts, starts[1:], strict=False))


def test_unknown_characters_are_left_out():
    assert decode(encode("a\tb\r\néc→ d~")) == "ab\nc d~"
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 96


def test_the_standard_library_is_long_and_mostly_known():
    data = TextDataModule()
    assert len(data.characters("train")) > 2_000_000
    assert "def " in decode(data.characters("test"))


def test_loaders_give_whole_batches_in_the_same_order(path):
    first, second = (next(iter(TextDataModule(path, batch_size=4, seed=3).train_dataloader())) for _ in range(2))
    assert first[0].shape == (4, 64) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_bad_input_is_named(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.txt"):
        TextDataModule(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="context must be positive; got 0"):
        TextDataModule(path, context=0)
    with pytest.raises(ValueError, match="held_out"):
        TextDataModule(path, held_out=0.5)
    with pytest.raises(ValueError, match="too few for windows of 5000"):
        TextDataModule(path, context=5000).tensors("train")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        TextDataModule(path).tensors("dev")


def test_a_task_reads_classes_from_the_last_axis():
    logits = torch.randn(3, 5, 7)
    labels = torch.randint(7, (3, 5))
    expected = -logits.log_softmax(-1).gather(-1, labels[..., None]).mean()
    for task in (CLASSIFICATION, LANGUAGE_MODELLING):
        torch.testing.assert_close(task.loss(logits, labels), expected)
    assert LANGUAGE_MODELLING.measure(logits, labels) == pytest.approx(math.exp(expected.item()))
    assert CLASSIFICATION.measure(logits, logits.argmax(-1)) == 1.0


def test_perplexity_of_guessing_is_the_number_of_classes():
    assert LANGUAGE_MODELLING.measure(torch.zeros(4, 9, 96), torch.randint(96, (4, 9))) == pytest.approx(96)


def test_rows_of_a_parquet_file_become_lines(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = {"body": [f"line {number}" if number % 5 else None for number in range(200)], "label": [0] * 200}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "texts.parquet")
    data = TextDataModule(tmp_path / "texts.parquet", text_column="body", context=8)
    assert decode(data.characters("train")).startswith("line 1\nline 2\nline 3\nline 4\nline 6\n")
    with pytest.raises(ValueError, match=r"no column 'text'; its columns are \['body', 'label'\]"):
        TextDataModule(tmp_path / "texts.parquet", context=8).setup()
    (tmp_path / "texts.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable parquet file"):
        TextDataModule(tmp_path / "texts.parquet", context=8).setup()
