"""What metrics that generate text can know of its length before any job."""


def check(settings: dict, model: dict | None = None) -> None:
    """ValueError where `new_tokens` leave no position of the model to a prompt. model: its sizes, None where they are not known."""
    positions = model and (model.get("positions") or model.get("max_position_embeddings"))
    if isinstance(positions, int) and settings["new_tokens"] >= positions:
        asked = settings["new_tokens"]
        raise ValueError(f"new_tokens: {asked} leave no room for a prompt; allowed: below {positions}, the model's positions")
