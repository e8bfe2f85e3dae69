"""Prompt: the line that a person types on, with history, completion and a status line, by prompt_toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Always
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style

# Shift+Enter, in the encodings of kitty (CSI u) and of xterm (modifyOtherKeys), is Alt+Enter.
NEW_LINE = (Keys.Escape, Keys.ControlM)
SHIFT_ENTER = ("\x1b[13;2u", "\x1b[27;2;13~")
STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "prompt": "bold"})
MARK = "> "


class Words(Completer):
    """Completion of commands and of what comes after them."""

    def __init__(self, commands: Sequence[str], paths: Sequence[str], values: Callable[[str], Iterable[str]]) -> None:
        """Complete `commands`; paths after some of them, and after others the `values` of the command."""
        self._commands, self._paths, self._values = commands, paths, values
        self._path = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what may come at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in document.text:
            return
        command, blank, rest = text.partition(" ")
        if not blank:
            yield from (Completion(name, -len(text)) for name in self._commands if name.startswith(text))
        elif command in self._paths:
            last = rest.rpartition(" ")[2]
            yield from self._path.get_completions(Document(last, len(last)), complete_event)
        else:
            yield from (Completion(word, -len(rest)) for word in self._values(command) if word.startswith(rest))


class Prompt:
    """A prompt on a terminal."""

    def __init__(self, completer: Completer, status: Callable[[], str]) -> None:
        """Show nothing yet; `status` returns the status line."""
        for sequence in SHIFT_ENTER:
            ANSI_SEQUENCES[sequence] = NEW_LINE
        self._session: PromptSession[str] = PromptSession(
            completer=completer,
            complete_while_typing=False,
            bottom_toolbar=status,
            key_bindings=_keys(),
            enable_suspend=True,
            multiline=True,
            prompt_continuation=lambda width, line, wrapped: " " * width,
            style=STYLE,
            reserve_space_for_menu=4,
        )
        for window in self._session.layout.find_all_windows():
            window.dont_extend_height = Always()  # the status line is below the text, not at the end of the screen
        self._session.app.renderer.cpr_not_supported_callback = None  # such a terminal works, too

    def refresh(self) -> None:
        """Show the status line anew."""
        self._session.app.invalidate()

    def remember(self, questions: Iterable[str]) -> None:
        """Have these as the history: it is that of the chat, and in no other file."""
        history = InMemoryHistory([*questions])
        self._session.history = history
        self._session.default_buffer.history = history

    async def read(self, default: str = "") -> str:
        """Return what a person enters.

        Raises:
            EOFError: the end is wanted, by Ctrl+C or Ctrl+D on an empty line.
        """
        with patch_stdout(raw=True):  # what is told meanwhile comes above it
            return await self._session.prompt_async(MARK, default=default)

    async def confirm(self, question: str) -> bool:
        """Return whether the answer is yes."""
        session: PromptSession[str] = PromptSession()
        try:
            return (await session.prompt_async(f"{question} [y/N] ")).strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False

    @contextmanager
    def listening(self, stop: Callable[[], object]) -> Iterator[None]:
        """Call `stop` at Ctrl+C meanwhile; other keys wait for the next prompt, and are not shown in between."""
        source, waiting = self._session.app.input, list[KeyPress]()

        def read() -> None:
            for key in source.read_keys():
                if key.key == Keys.ControlC:
                    stop()
                else:
                    waiting.append(key)

        with source.raw_mode(), source.attach(read):
            yield
        store_typeahead(source, waiting)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=EOFError)

    return keys
