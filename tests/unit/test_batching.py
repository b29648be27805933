"""Chunks hold every token once and in order; forget and retain chunks meet as i and i mod n."""

import pytest
import torch

from scripts.core.training.batching import ForgetRetainDataset, TextDataset, chunks, collate


class Letters:
    """A tokenizer whose tokens are code points, so that expected chunks can be read off."""

    def __init__(self, bos=1):
        self.bos_token_id = bos

    def __call__(self, text, add_special_tokens, verbose):
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}


def read(rows):
    return ["".join(chr(token) for token in row[1:]) for row in rows.tolist()]


def test_chunks_are_bos_and_the_stream_in_order():
    rows = chunks(["abcd", "efgh"], Letters(), 6)
    assert rows.dtype == torch.long and rows[:, 0].tolist() == [1, 1]
    assert read(rows) == ["abcd\n", "\nefgh"]


def test_the_last_chunk_goes_on_with_the_first_tokens():
    assert read(chunks(["abcd", "ef"], Letters(), 6)) == ["abcd\n", "\nefab"]


def test_a_short_corpus_is_cycled():
    assert read(chunks(["abc"], Letters(), 9)) == ["abcabcab"]


@pytest.mark.parametrize(
    "texts, bos, length, word",
    [
        ([], 1, 8, "texts"),
        (["", ""], 1, 8, "texts"),
        ("abc", 1, 8, "texts"),
        (["a"], None, 8, "BOS"),
        (["a"], 1, 1, "max_length"),
        (["a"], 1, 8.0, "max_length"),
    ],
)
def test_bad_input_is_one_clear_line(texts, bos, length, word):
    with pytest.raises(ValueError, match=word) as error:
        chunks(texts, Letters(bos), length)
    assert "allowed" in str(error.value) and "\n" not in str(error.value)


def test_pairs_rotate_through_the_retain_chunks():
    forget, retain = torch.arange(20).view(5, 4), 100 + torch.arange(8).view(2, 4)
    data = ForgetRetainDataset(forget, retain)
    batch = collate([data[i] for i in range(len(data))])
    assert torch.equal(batch["forget"]["input_ids"], forget)
    assert batch["retain"]["index"].tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(batch["retain"]["labels"], retain[[0, 1, 0, 1, 0]])
    assert batch["forget"]["attention_mask"].min() == 1 and batch["forget"]["index"].tolist() == [0, 1, 2, 3, 4]


def test_without_retain_chunks_the_part_stays_none():
    data = ForgetRetainDataset(torch.zeros(3, 4, dtype=torch.long))
    batch = collate([data[0], data[2]])
    assert batch["retain"] is None and batch["forget"]["input_ids"].shape == (2, 4)


def test_labels_are_a_copy():
    rows = torch.arange(8).view(2, 4)
    item = TextDataset(rows)[1]
    item["labels"][0] = -100
    assert rows[1, 0] == 4


def test_an_empty_set_of_chunks_is_an_error():
    with pytest.raises(ValueError, match="at least one chunk"):
        TextDataset(torch.zeros(0, 4))
