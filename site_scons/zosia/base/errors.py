"""The one exception that users see."""


class ZosiaError(Exception):
    """A failure told as a sentence (what was wanted, what was found) and a remedy (what to type)."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message
