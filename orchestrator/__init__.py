"""The conversation: it gathers, confirms and asks; it never calls anyone."""
