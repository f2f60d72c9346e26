"""The text of an answer that viewers may have, as far as another provider call needs it."""

from __future__ import annotations

from workers.providers.blank import is_blank


class ShownText:
    """The text so far, or only whether there is any."""

    def __init__(self, partial: str, *, grows: bool) -> None:
        """`partial`: the text before this attempt. `grows`: keep what is added too, to continue it."""
        self._pieces = [partial]
        self._grows = grows
        self.blank = is_blank(partial)
        """Whether it is empty, or only white space and invisible characters."""

    def __bool__(self) -> bool:
        return not self.blank

    @property
    def text(self) -> str:
        """The text that the next call continues."""
        if len(self._pieces) > 1:
            joined = "".join(self._pieces)
            # Providers may split a character into UTF-16 units.
            self._pieces = [joined.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")]
        return self._pieces[0]

    def add(self, text: str) -> None:
        """Add a piece."""
        if self.blank and not is_blank(text):
            self.blank = False
        if self._grows:
            self._pieces.append(text)

    def drop_half_character(self) -> None:
        """Drop a high surrogate at the end: its other half will not come."""
        if "\ud800" <= self._pieces[-1][-1:] < "\udc00":
            self._pieces[-1] = self._pieces[-1][:-1]
