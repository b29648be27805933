"""Which prompts are generated together, and which beginning they share."""

import random

from scripts.core.evaluation import generation


def test_batches_keep_the_budget_and_every_prompt():
    draw = random.Random(1)
    lengths = [draw.randrange(1, 90) for _ in range(57)]
    found = generation.batches(lengths, 10, 300)
    assert sorted(i for batch in found for i in batch) == list(range(57))
    for batch in found:
        assert len(batch) * (max(lengths[i] for i in batch) + 10) <= 300
    assert [len(batch) for batch in generation.batches([500, 3], 10, 300)] == [1, 1]


def test_the_common_prefix_leaves_each_prompt_a_token_of_its_own():
    head = list(range(20))
    assert generation.common_prefix([head + [1], head + [2, 3]]) == 20
    assert generation.common_prefix([head, head + [2]]) == 19  # each prompt keeps a token of its own
    assert generation.common_prefix([head]) == 0 and generation.common_prefix([[1, 2], [1, 3]]) == 0
