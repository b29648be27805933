"""KnowMem: does the model answer questions about what it has read?

Question–answer pairs as in-context examples, then the question; the answer ends at a blank line or the next question
and is compared by ROUGE-L F1 (MUSE, Shi et al., arXiv 2407.06460). MUSE's prompt ends in "Answer: ", with a space. Most
tokenizers make a token of a space and the word after it, so the space splits what training text holds in one piece; a
model trained from scratch here has never seen that. `answer_space` chooses.
"""

from scripts.core.evaluation import rouge
from scripts.metrics import _length

PARAMETERS = {
    "split": {"type": "string", "enum": ["forget", "retain"], "default": "forget", "description": "whose questions"},
    "shots": {
        "type": "integer",
        "minimum": 0,
        "default": 10,
        "description": "in-context examples, as many as the corpus has",
    },
    "new_tokens": {"type": "integer", "minimum": 1, "default": 32, "description": "longest answer in tokens"},
    "answer_space": {
        "type": "boolean",
        "default": False,
        "description": "end the prompt in 'Answer: ' with a space, as MUSE's code does, instead of 'Answer:'",
    },
}
VERSION = 1
RECOVERED = True
check, rescore = _length.check, rouge.rescore
PAIR = "Question: {question}\nAnswer: {answer}"  # also the form of question-answer lines in training text
ASK = "Question: {question}\nAnswer:"
BREAK = "\n\n"
STOP = ("\n\n", "\nQuestion", "Question:")


def reads(settings: dict) -> list[str]:
    """The corpus's files that are read."""
    return [f"knowmem/{settings['split']}_qa", *([f"knowmem/{settings['split']}_qa_icl"] if settings["shots"] else [])]


def prompt(question: str, examples: list[dict], space: bool = False) -> str:
    """The examples {question, answer} and the question as one text."""
    shown = "".join(PAIR.format(question=one["question"], answer=one["answer"]) + BREAK for one in examples)
    return shown + ASK.format(question=question) + " " * space


def evaluate(engine, data, settings: dict) -> dict:
    """{"value": mean ROUGE-L F1 ×100, "n", "mean", "samples": [{question, gt, response, rougeL, …}]} on a corpus's data folder."""
    from scripts.core.evaluation.engine import read_items, unit_of

    split, shots = settings["split"], settings["shots"]
    items = read_items(data, f"knowmem/{split}_qa", "knowmem.split")
    examples = read_items(data, f"knowmem/{split}_qa_icl", "knowmem.shots")[:shots] if shots else []
    prompts = [prompt(item["question"], examples, settings["answer_space"]) for item in items]
    responses = engine.generate(prompts, settings["new_tokens"], stop=STOP)
    samples = [
        {
            "question": item["question"],
            "gt": item["answer"],
            "response": response,
            **unit_of(item),
            **rouge.score(item["answer"], response),
        }
        for item, response in zip(items, responses, strict=True)
    ]
    return {"samples": samples, "shots": len(examples), **rouge.summary(samples)}
