"""One prompt at a time through transformers' own generation, and one token's log-probability at a time.

The same questions as scripts.core.evaluation.engine.Engine answers, so that the same metrics run on either.
"""

import numpy as np
import torch

from scripts.core.evaluation.engine import Engine, before


class OneAtATime(Engine):
    """An engine without batches: each prompt alone to the full length, stop strings looked for afterwards."""

    @torch.no_grad()
    def generate(self, prompts, new_tokens, stop=(), temperature=0.0, seed=0):
        """The continuation of each prompt by greedy `model.generate`; sampling is not part of the comparison."""
        if temperature:
            raise ValueError(f"temperature: {temperature!r} is not allowed here; allowed: 0")
        responses = []
        for prompt in prompts:
            ids = torch.tensor(self.encode([prompt]), device=self.model.device)
            found = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            responses.append(before(self.decode([found[0, ids.shape[1] :].tolist()])[0], stop))
        return responses

    @torch.no_grad()
    def logprobs(self, texts, max_tokens=None):
        """Each text alone: log-softmax of all its logits in float32, then one `.item()` per token."""
        limit = min((n for n in (max_tokens, self.positions) if n), default=None)
        found = []
        for text in texts:
            ids = torch.tensor([self.encode([text])[0][:limit]], device=self.model.device)
            logits = self.model(input_ids=ids, labels=ids).logits
            probabilities = torch.nn.functional.log_softmax(logits[0].float(), dim=-1)
            values = [probabilities[i, token].item() for i, token in enumerate(ids[0, 1:])]
            found.append(np.array(values, dtype=np.float32))
        return found
