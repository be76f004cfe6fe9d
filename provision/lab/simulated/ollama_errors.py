"""The ways in which a request ends without an answer."""


class RefusedError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status of the answer.
        text: text of the error.
        early: whether /v1 refuses the request before Ollama's own API sees the request: such an answer is written
            in another way.
    """

    def __init__(self, status: int, text: str, *, early: bool = False) -> None:
        super().__init__(text)
        self.status, self.text, self.early = status, text, early


class BusyError(Exception):
    """Too many requests wait for a load."""


class LoadError(Exception):
    """The model cannot be loaded."""


class GoneError(Exception):
    """The client left."""
