"""The published code's way of doing the work, written anew from its description; nothing here is used by the project itself."""
